"""Progress of a running segmentation: lines for people, metrics for Prometheus.

The metrics port of every node serves the metrics.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from ray.util.metrics import Counter, Gauge

from unet_ray.errors import CredentialsError, UnetRayError
from unet_ray.imaging.codecs.confinement import MEASURES
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.stages.work_done import WorkDone

_logger = logging.getLogger("unet_ray")

_LAST_BLOCKS_S = 20.0
"""Time in which images that were read before the credentials ended may still be measured."""


class RunMetrics:
    """Counters of one run, fed by what its workers tell the driver.

    Prometheus knows them as `ray_unet_ray_images_measured_total` and so on, each with the label
    `run_id`.

    Args:
        run_id: Value of the label `run_id`.
        todo: Images that the run has to do.
        predictors: Largest number of predictor actors.
    """

    def __init__(self, run_id: str, todo: int, predictors: int) -> None:
        self._tags = {"run_id": run_id}
        self._images = self._counter(
            "images_measured", "Images that were measured, failed ones included"
        )
        self._failed = self._counter("images_failed", "Images that became rows with an error")
        self._megapixels = self._counter(
            "megapixels", "Megapixels of the images that were measured"
        )
        self._predict_s = self._counter(
            "predict_seconds", "Seconds that predictors worked, summed over them"
        )
        busy = (
            "Largest number of predictors; their busy share is the rate of predict_seconds over it"
        )
        self._gauges = (
            (self._gauge("images_planned", "Images that the run has to do"), todo),
            (self._gauge("predictors", busy), predictors),
        )
        self._set_gauges()

    def _set_gauges(self) -> None:
        """Set the constant gauges again.

        Ray forgets a gauge that is not set for some twenty seconds.
        """
        for gauge, value in self._gauges:
            gauge.set(value, self._tags)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"unet_ray_{name}", text, tag_keys=("run_id",))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"unet_ray_{name}", text, tag_keys=("run_id",))

    def add(self, work: WorkDone) -> None:
        """Count the work that a worker reports."""
        self._set_gauges()
        for counter, value in (
            (self._images, work.images),
            (self._failed, work.failed),
            (self._megapixels, work.megapixels),
            (self._predict_s, work.predict_s),
        ):
            if value:
                counter.inc(value, self._tags)


class StallWatch:
    """Ends a run in which nothing is heard of the workers for too long.

    Args:
        stall_minutes: Longest time in which nothing is heard (min).
    """

    def __init__(self, stall_minutes: float) -> None:
        self._stall_minutes, self._heard_at = stall_minutes, time.monotonic()

    def hear(self) -> None:
        """Start the time anew, since something was heard."""
        self._heard_at = time.monotonic()

    def check(self, done: str, num_done: str) -> None:
        """Raise UnetRayError if nothing was heard for too long.

        Args:
            done: What workers do with images, such as `measured`.
            num_done: Number of images of which they have done it.
        """
        if time.monotonic() - self._heard_at > 60 * self._stall_minutes:
            raise UnetRayError(
                f"no image was {done} for {self._stall_minutes:g} min (--stall-minutes), after "
                f"{num_done}; what was {done} is kept: run again with the same flags to go on"
            )


class Progress:
    """Counts and logs the messages of a run, and feeds result and metrics with them."""

    def __init__(
        self, result: SegmentResult, todo: int, stall_minutes: float, metrics: RunMetrics
    ) -> None:
        self._result, self._todo, self._metrics = result, todo, metrics
        self._started, self._watch = time.perf_counter(), StallWatch(stall_minutes)
        self.measured = 0
        """Images measured so far."""
        self.set_aside: list[list[str]] = []
        """Blocks that the chain set aside since this list was emptied."""
        self._lost: tuple[CredentialsError, float] | None = None
        """Error of credentials that ended, and the time at which it was heard of."""
        self._tiles = self._of_tiles = 0
        """Tiles of large images, done and to do."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the chain began."""
        return time.perf_counter() - self._started

    def check_credentials(self, patience_s: float = 0.0) -> None:
        """Raise CredentialsError if a worker told of one.

        Args:
            patience_s: Time that has to pass after that (s).
        """
        if self._lost and time.monotonic() - self._lost[1] >= patience_s:
            raise self._lost[0]

    def check(self) -> None:
        """Raise UnetRayError if nothing was heard for too long, or credentials ended.

        What was measured until then is given a moment to come in.
        """
        self.check_credentials(_LAST_BLOCKS_S)
        self._watch.check("measured", f"{self.measured} of {self._todo}")

    def __call__(self, messages: list[WorkDone]) -> None:
        """Take the messages of workers, and log a line."""
        self._watch.hear()
        for message in messages:
            self._metrics.add(message)
            if message.set_aside:
                self.set_aside.append(list(message.set_aside))
            if message.confinement is not None:
                self._count_confinement(message.confinement)
            if self._lost is None and (lost := CredentialsError.find(message.lost_credentials)):
                self._lost = lost, time.monotonic()
                _logger.warning(f"the run stops: {lost}")
        blocks = [message for message in messages if message.images]
        if blocks and not self.measured:
            first = min(blocks, key=lambda block: block.at)
            self._result.first_images = first.images
            self._result.first_images_at = datetime.fromtimestamp(first.at, UTC)
        self.measured += sum(block.images for block in blocks)
        self._tiles += sum(message.tiles for message in messages)
        self._of_tiles += sum(message.of_tiles for message in messages)
        large = f"; large images: {self._tiles}/{self._of_tiles} tiles" if self._of_tiles else ""
        rate = self.measured / self.elapsed_s
        _logger.info(f"{self.measured}/{self._todo} images, {rate:.1f}/s{large}")

    def _count_confinement(self, active: str) -> None:
        """Count the decoder of a process, and say it once if the kernel lacks a measure."""
        counts = self._result.decoder_confinement
        counts[active] = counts.get(active, 0) + 1
        missing = [name for name in MEASURES if name not in active]
        if missing and counts[active] == 1:
            _logger.info(
                f"note: decoders run without {', '.join(missing)}, which this machine lacks; "
                "limits of time and memory hold"
            )
