"""The predict stage, from pixels to prob_u8: the network in batches of images of equal shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.network.devices import as_image_error, is_device_lost
from unet_ray.network.predictor import Predictor, clear_missing
from unet_ray.network.resampled_predictor import ResampledPredictor
from unet_ray.segmentation.stages.columns import probability_table, read_pixels, read_records
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.large_image import PredictLarge


@dataclass(frozen=True)
class Predict:
    """Turns pixels into prob_u8, class by class."""

    predictor: Predictor
    large: PredictLarge
    pixel_size_um: tuple[float, float] | None = None
    """Width and height of pixels for the network (µm); None: images are not resampled."""

    def __call__(self, pixels: pa.Table) -> Iterator[pa.Table]:
        """Predict the images with pixels together, then those without pixels one by one."""
        has_pixels = pc.or_(pixels["pixels"].is_valid(), pixels["error_type"].is_valid())
        if pc.all(has_pixels).as_py():  # nearly always; a filter would copy all pixels
            yield self._predict(pixels)
            return
        small, large = pixels.filter(has_pixels), pixels.filter(pc.invert(has_pixels))
        if len(small):
            yield self._predict(small)
        for record in read_records(large):
            yield self.large(record)

    def _predict(self, pixels: pa.Table) -> pa.Table:
        """Predict all images together; if that fails, one by one to find the one that fails."""
        records = read_records(pixels)
        images = {
            index: image for index, image in enumerate(read_pixels(pixels)) if image is not None
        }
        try:
            chosen = [records[index] for index in images]
            outputs, seconds = self._predict_images(chosen, list(images.values()))
            found = dict(zip(images, outputs, strict=True))
        except Exception:
            started = time.perf_counter()
            found = self._predict_singly(records, images)
            seconds = time.perf_counter() - started
        each_s = seconds / max(1, len(images))
        predicted = []
        for index, record in enumerate(records):
            prob_u8 = found.get(index)
            if prob_u8 is not None:
                clear_missing(prob_u8, record.valid_hw)
            predict_s = each_s if index in images else 0.0
            record = replace(
                record, predict_s=predict_s, batch_divisor=self.predictor.batch_divisor
            )
            predicted.append((record, prob_u8))
        return probability_table(predicted)

    def _predict_images(
        self, records: list[ImageRecord], images: list[NDArray[Any]]
    ) -> tuple[list[NDArray[np.uint8]], float]:
        """Predict images, resampled if need be; return what `Predictor.predict_timed` does."""
        if self.pixel_size_um is None:
            return self.predictor.predict_timed(images)
        resamplings = [
            Resampling.to_pixel_size(*record.size, record.pixel_size_um, self.pixel_size_um)
            for record in records
        ]
        pixels = [
            Pixels(image, record.valid_hw) for record, image in zip(records, images, strict=True)
        ]
        return ResampledPredictor(self.predictor).predict_timed(pixels, resamplings)

    def _predict_singly(
        self, records: list[ImageRecord], images: dict[int, NDArray[Any]]
    ) -> dict[int, NDArray[np.uint8]]:
        """Predict images one by one; the records of those that fail are replaced in the list."""
        found = {}
        for index, image in images.items():
            try:
                found[index] = self._predict_images([records[index]], [image])[0][0]
            except Exception as error:
                if is_device_lost(error):
                    raise
                records[index] = records[index].fail(as_image_error(error), "predict")
        return found
