"""Prometheus metrics of a running segmentation, served by the metrics port of every node."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from unet_ray.segmentation.stages.work_done import WorkDone


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
