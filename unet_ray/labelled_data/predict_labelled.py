"""Prediction of labelled images by a pool of actors, which return counts for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.cluster.ray_data import ordinals
from unet_ray.cluster.ray_internals import map_blocks
from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor, clear_missing
from unet_ray.network.resampled_predictor import ResampledPredictor

_IMAGES_PER_TASK = 4

Count = Callable[[NDArray[np.uint8], LabelledPixels], NDArray[np.float64]]
"""Function that returns the counts of an image from its prob_u8 (KHW), which is 0 for missing
pixels, and from the image with its masks."""


def predict_labelled(
    model: Model,
    reader: Reader,
    indices: Sequence[int],
    pool: PoolPlan,
    count: Count,
    factors: Sequence[tuple[float, float]] | None = None,
) -> NDArray[np.float64]:
    """Predict labelled images and return their counts.

    Args:
        model: Model that predicts.
        reader: Reader of the labelled images.
        indices: Indices of the images in the reader.
        pool: Size and resources of the pool of actors.
        count: Function that returns the counts of one image.
        factors: Factors by which each image is resampled for the network, down and across; None:
            images are not resampled.

    Returns:
        Counts of each image, stacked in the order of `indices`.

    Raises:
        InputError: The network's output for an image is not finite.
    """
    factors = factors or [(1.0, 1.0)] * len(indices)
    work = _Work(model, reader, indices, factors)
    predictor = PredictorConfig(device="cuda" if pool.uses_gpu else "cpu", threads=pool.threads)
    rows = map_blocks(
        ordinals(len(indices), len(indices) // _IMAGES_PER_TASK),
        _CountActor,
        fn_constructor_args=(ray.put(work), predictor, count),
        compute=pool.strategy(),
        **pool.remote_args,
    ).take_all()
    errors = [row["error"] for row in rows if row["error"]]
    if errors:
        raise InputError(f"the model cannot predict a labelled image: {errors[0]}")
    rows.sort(key=lambda row: int(row["id"]))
    return np.stack([row["counts"] for row in rows])


@dataclass(frozen=True)
class _Work:
    """The arguments of `predict_labelled` that all actors share through the object store."""

    model: Model
    reader: Reader
    indices: Sequence[int]
    factors: Sequence[tuple[float, float]]


class _CountActor:
    """Predicts labelled images and counts the results; it builds the network once."""

    def __init__(self, work: ray.ObjectRef, config: PredictorConfig, count: Count) -> None:
        self._work: _Work = ray.get(work)
        model = self._work.model
        self._predictor = Predictor(model.build(), model.preprocessing, config)
        self._count = count

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        places = batch["id"].tolist()
        read = [self._work.reader.read(self._work.indices[place]) for place in places]
        check = self._predictor.preprocessing.check
        pixels = [Pixels(check(image, valid), valid) for image, _, valid in read]
        resamplings = [
            Resampling.of(each.samples.shape[0], each.samples.shape[1], self._work.factors[place])
            for each, place in zip(pixels, places, strict=True)
        ]
        error = ""
        try:
            # all images in one call, so that each lane can take one
            predictor = ResampledPredictor(self._predictor)
            found, _ = predictor.predict_timed(pixels, resamplings)
        except ImageError as failure:  # Ray would log it with its whole stack
            error = str(failure)
            num_planes = self._work.model.network.num_classes
            shapes = [(num_planes, *image.shape[:2]) for image, _, _ in read]
            found = [np.zeros(shape, np.uint8) for shape in shapes]
        counts = [
            self._count(clear_missing(prob_u8, labelled.valid), labelled)
            for prob_u8, labelled in zip(found, read, strict=True)
        ]
        return {
            "id": batch["id"],
            "error": np.array([error] * len(read)),
            "counts": np.stack(counts),
        }
