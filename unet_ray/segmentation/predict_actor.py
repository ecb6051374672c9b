"""The actor that predicts; in a module of its own, since each of its processes loads all that this one names."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ray

from unet_ray.errors import one_line
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor, is_device_lost
from unet_ray.segmentation.stages.large_image import PredictLarge
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.predict import Predict
from unet_ray.storage.storage import Storage

_SWITCH_S = {"cpu": 5e-4, "cuda": 5e-5}
"""After how long a thread that measures or copies lets one go on that drives the network; by default 5e-3. A GPU has
nothing to do in the meantime."""


class PredictActor:
    """The network on its device, built once per actor.

    Args:
        model_ref — a Model in the object store.
        config — how to cut and compute.
        access — opens the URIs of large images.
        check_etags — whether the plan's etags are the store's.
        measure — thresholds and rows of large images.
        tell — told of tiles of large images: (done, to do) since the last call.
    """

    def __init__(
        self,
        model_ref: Any,
        config: PredictorConfig,
        access: Storage,
        check_etags: bool,
        measure: Measure,
        tell: Callable[[int, int], None],
    ) -> None:
        sys.setswitchinterval(_SWITCH_S[config.device])
        model: Model = ray.get(model_ref)
        predictor = Predictor(model.build(), model.preprocessing, config)
        self._predict = Predict(
            predictor, PredictLarge(access, predictor, measure, check_etags, tell)
        )

    def __call__(self, pixels: Any) -> Iterator[Any]:
        """Predict a table of images.

        Where the GPU is lost the process ends: Ray starts another and repeats the calls, while it would take an
        exception for the end of the run.
        """
        try:
            yield from self._predict(pixels)
        except Exception as error:
            if is_device_lost(error):
                print(
                    f"this process lost its GPU, another takes over: {one_line(error)}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
            raise
