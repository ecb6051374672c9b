"""Prediction of labelled images by a pool of actors, which count something for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
"""Function that returns the counts of an image from its prob_u8 (KHW), which is 0 where a pixel is
not there, and the image with its masks."""


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
    shared = ray.put((model, reader, indices, factors or [(1.0, 1.0)] * len(indices)))
    predictor = PredictorConfig(device="cuda" if pool.uses_gpu else "cpu", threads=pool.threads)
    rows = map_blocks(
        ordinals(len(indices), len(indices) // _IMAGES_PER_TASK),
        _CountActor,
        fn_constructor_args=(shared, predictor, count),
        compute=pool.strategy(),
        **pool.remote_args,
    ).take_all()
    errors = [row["error"] for row in rows if row["error"]]
    if errors:
        raise InputError(f"the model cannot predict a labelled image: {errors[0]}")
    return np.stack([row["counts"] for row in sorted(rows, key=lambda row: int(row["id"]))])


class _CountActor:
    """Predicts labelled images and counts the results; it builds the network once."""

    def __init__(self, shared: Any, config: PredictorConfig, count: Count) -> None:
        model: Model
        model, self._reader, self._indices, self._factors = ray.get(shared)
        self._predictor, self._count = Predictor(model.build(), model.preprocessing, config), count
        self._planes = model.network.num_classes

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        places = batch["id"].tolist()
        read = [self._reader.read(self._indices[place]) for place in places]
        check = self._predictor.preprocessing.check
        images, error = [check(image, valid) for image, _, valid in read], ""
        try:
            # all images in one call, so that each lane can take one
            found = self._predict(images, read, [self._factors[place] for place in places])
        except ImageError as failure:  # Ray would log it with all of its stack
            error = str(failure)
            found = [np.zeros((self._planes, *image.shape[:2]), np.uint8) for image in images]
        return {
            "id": batch["id"],
            "error": np.array([error] * len(read)),
            "counts": np.stack(
                [
                    self._count(clear_missing(prob_u8, labelled.valid), labelled)
                    for prob_u8, labelled in zip(found, read, strict=True)
                ]
            ),
        }

    def _predict(
        self,
        images: list[NDArray[Any]],
        read: list[LabelledPixels],
        factors: list[tuple[float, float]],
    ) -> list[NDArray[np.uint8]]:
        resamplings = [
            Resampling.of(image.shape[0], image.shape[1], factor)
            for image, factor in zip(images, factors, strict=True)
        ]
        pixels = [
            Pixels(image, labelled.valid) for image, labelled in zip(images, read, strict=True)
        ]
        return ResampledPredictor(self._predictor).predict_timed(pixels, resamplings)[0]
