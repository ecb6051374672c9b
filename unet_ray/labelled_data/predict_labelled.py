"""A model over labelled images: a pool of predictor actors, and whatever is to be counted of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.cluster.ray_data import ordinals
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor

_IMAGES_PER_TASK = 4

Count = Callable[[NDArray[np.uint8], list[NDArray[Any]]], NDArray[np.float64]]
"""Counts of an image, from its prob_u8 (KHW) and its masks."""


def predict_labelled(
    model: Model, reader: Reader, indices: Sequence[int], pool: PoolPlan, count: Count
) -> NDArray[np.float64]:
    """Predict labelled images and return their counts, stacked in the order of the indices.

    Args:
        model — what predicts.
        reader, indices — the images.
        pool — the actors.
        count — of one image.
    """
    shared = ray.put((model, reader, indices))
    predictor = PredictorConfig(device="cuda" if pool.uses_gpu else "cpu", threads=pool.threads)
    rows = (
        ordinals(len(indices), len(indices) // _IMAGES_PER_TASK)
        .map_batches_internal(  # `map_batches` takes no whole blocks where GPUs are asked for
            _CountActor,
            fn_constructor_args=(shared, predictor, count),
            compute=pool.strategy(),
            **pool.remote_args,
            batch_size=None,
        )
        .take_all()
    )
    return np.stack([row["counts"] for row in sorted(rows, key=lambda row: int(row["id"]))])


class _CountActor:
    """Predicts and counts labelled images, the network built once."""

    def __init__(self, shared: Any, config: PredictorConfig, count: Count) -> None:
        model: Model
        model, self._reader, self._indices = ray.get(shared)
        self._predictor, self._count = Predictor(model.build(), model.preprocessing, config), count

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        read = [self._reader.read(self._indices[i]) for i in batch["id"].tolist()]
        check = self._predictor.preprocessing.check
        found = self._predictor.predict(
            [check(image) for image, _ in read]
        )  # together: lanes take one each
        return {
            "id": batch["id"],
            "counts": np.stack(
                [
                    self._count(prob_u8, masks)
                    for prob_u8, (_, masks) in zip(found, read, strict=True)
                ]
            ),
        }
