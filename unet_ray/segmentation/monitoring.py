"""Progress of a running segmentation: log lines for people, metrics for Prometheus.

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
"""Time left to measure images that were read before the credentials ended (s)."""


class RunMetrics:
    """Metrics of one run, updated from the reports of its workers.

    In Prometheus they are named `ray_unet_ray_images_measured_total` and so on, each with the label
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
            "Largest number of predictors; the rate of predict_seconds over it is their busy share"
        )
        self._gauges = (
            (self._gauge("images_planned", "Images that the run has to do"), todo),
            (self._gauge("predictors", busy), predictors),
        )
        self._set_gauges()

    def _set_gauges(self) -> None:
        """Set the constant gauges again.

        Ray drops a gauge that is not set for about twenty seconds.
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
    """Ends a run whose workers have not reported for too long.

    Args:
        stall_minutes: Longest time without a report (min).
    """

    def __init__(self, stall_minutes: float) -> None:
        self._stall_minutes, self._heard_at = stall_minutes, time.monotonic()

    def hear(self) -> None:
        """Restart the timer after a report."""
        self._heard_at = time.monotonic()

    def check(self, done: str, num_done: str) -> None:
        """Raise UnetRayError if no worker has reported for too long.

        Args:
            done: Word for a finished image in the message, such as `measured`.
            num_done: Number of finished images, for the message.
        """
        if time.monotonic() - self._heard_at > 60 * self._stall_minutes:
            raise UnetRayError(
                f"no image was {done} for {self._stall_minutes:g} min (--stall-minutes), after "
                f"{num_done}; what was {done} is kept: run again with the same flags to go on"
            )


class Progress:
    """Counts and logs the reports of workers, and updates the result and the metrics."""

    def __init__(
        self, result: SegmentResult, todo: int, stall_minutes: float, metrics: RunMetrics
    ) -> None:
        self._result, self._todo, self._metrics = result, todo, metrics
        self._started, self._watch = time.perf_counter(), StallWatch(stall_minutes)
        self.measured = 0
        """Images measured so far."""
        self.set_aside: list[list[str]] = []
        """Blocks set aside since this list was last emptied."""
        self._lost: tuple[CredentialsError, float] | None = None
        """Reported error of credentials that ended, and the time of the report."""
        self._tiles = self._of_tiles = 0
        """Tiles of large images, done and to do."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the chain began."""
        return time.perf_counter() - self._started

    def check_credentials(self, patience_s: float = 0.0) -> None:
        """Raise CredentialsError if a worker reported one.

        Args:
            patience_s: Time to wait after the report (s).
        """
        if self._lost and time.monotonic() - self._lost[1] >= patience_s:
            raise self._lost[0]

    def check(self) -> None:
        """Raise UnetRayError if no worker has reported for too long, or credentials ended.

        After credentials end, images that were already read have a moment to be measured.
        """
        self.check_credentials(_LAST_BLOCKS_S)
        self._watch.check("measured", f"{self.measured} of {self._todo}")

    def __call__(self, messages: list[WorkDone]) -> None:
        """Count the reports of workers, and log a line."""
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
        """Count a decoder process, and log once if the kernel lacks a confinement measure."""
        counts = self._result.decoder_confinement
        counts[active] = counts.get(active, 0) + 1
        missing = [name for name in MEASURES if name not in active]
        if missing and counts[active] == 1:
            _logger.info(
                f"note: decoders run without {', '.join(missing)}, which this machine lacks; "
                "limits of time and memory still apply"
            )
