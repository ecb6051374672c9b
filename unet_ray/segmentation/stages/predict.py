"""The predict stage, from pixels to prob_u8: the network in batches of images of equal shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.network.devices import as_image_error, is_device_lost
from unet_ray.network.predictor import Predictor, clear_missing
from unet_ray.network.resampled_predictor import ResampledPredictor
from unet_ray.segmentation.stages.columns import (
    PROBABILITIES,
    failure,
    read_pixel_size,
    valid_mask,
)
from unet_ray.segmentation.stages.large_image import PredictLarge
from unet_ray.tables.binary_columns import table_with, view_samples


@dataclass(frozen=True)
class Predict:
    """Turns pixels into prob_u8, class by class."""

    predictor: Predictor
    large: PredictLarge
    pixel_size_um: tuple[float, float] | None = None
    """Width and height of pixels for the network (µm); None: images are not resampled."""

    def __call__(self, pixels: Any) -> Iterator[Any]:
        """Predict the images with pixels together, then those without pixels one by one."""
        has_pixels = pc.or_(pixels["pixels"].is_valid(), pixels["error_type"].is_valid())
        if pc.all(has_pixels).as_py():  # nearly always; a filter would copy all pixels
            yield self._predict(pixels)
            return
        small, large = pixels.filter(has_pixels), pixels.filter(pc.invert(has_pixels))
        if len(small):
            yield self._predict(small)
        for row in large.drop_columns(["pixels"]).to_pylist():
            yield self.large(row)

    def _predict(self, pixels: Any) -> Any:
        """Predict all images together; if that fails, one by one to find the one that fails."""
        rows = pixels.drop_columns(["pixels"]).to_pylist()
        samples = zip(rows, view_samples(pixels["pixels"]), strict=True)
        images = {
            i: self._as_image(row, found)
            for i, (row, found) in enumerate(samples)
            if found is not None
        }
        try:
            chosen = [rows[index] for index in images]
            outputs, seconds = self._predict_images(chosen, list(images.values()))
            found = dict(zip(images, outputs, strict=True))
        except Exception:
            started = time.perf_counter()
            found = self._predict_singly(rows, images)
            seconds = time.perf_counter() - started
        each_s = seconds / max(1, len(images))
        for index, row in enumerate(rows):
            row["prob_u8"] = found.get(index)
            if index in found:
                clear_missing(found[index], valid_mask(row))
            row["predict_s"] = each_s if index in images else 0.0
            row["batch_divisor"] = self.predictor.batch_divisor
        return table_with(rows, PROBABILITIES, "prob_u8")

    @staticmethod
    def _as_image(row: dict[str, Any], samples: NDArray[np.uint8]) -> NDArray[Any]:
        return samples.view(row["dtype"]).reshape(row["height"], row["width"], row["channels"])

    def _predict_images(
        self, rows: list[dict[str, Any]], images: list[NDArray[Any]]
    ) -> tuple[list[NDArray[np.uint8]], float]:
        """Predict images, resampled if need be; return what `Predictor.predict_timed` does."""
        if self.pixel_size_um is None:
            return self.predictor.predict_timed(images)
        resamplings = [
            Resampling.to_pixel_size(
                row["height"], row["width"], read_pixel_size(row), self.pixel_size_um
            )
            for row in rows
        ]
        pixels = [Pixels(image, valid_mask(row)) for row, image in zip(rows, images, strict=True)]
        return ResampledPredictor(self.predictor).predict_timed(pixels, resamplings)

    def _predict_singly(
        self, rows: list[dict[str, Any]], images: dict[int, NDArray[Any]]
    ) -> dict[int, NDArray[np.uint8]]:
        found = {}
        for index, image in images.items():
            try:
                found[index] = self._predict_images([rows[index]], [image])[0][0]
            except Exception as error:
                if is_device_lost(error):
                    raise
                rows[index].update(failure(as_image_error(error), "predict"))
        return found
