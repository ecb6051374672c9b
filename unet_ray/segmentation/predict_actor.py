"""The actor that predicts.

It has a module of its own because each of its processes loads everything that this module imports.
"""

from __future__ import annotations

import logging
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

_logger = logging.getLogger("unet_ray")

_SWITCH_S = {"cpu": 5e-4, "cuda": 5e-5}
"""Time after which a thread that measures or copies yields to the one that drives the network;
Python's default is 5e-3. A GPU is idle in the meantime."""


class PredictActor:
    """The network on its device, built once per actor.

    Args:
        model_ref: Reference of a Model in the object store.
        config: Settings of tiling and of the network.
        access: Storage that opens the URIs of large images.
        check_etags: True if the plan's etags are those of the store.
        measure: Stage that turns the prob_u8 of large images into rows.
        tell: Function that is called with tiles of large images, (done, to do) since the last call.
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

        If the GPU is lost, the process ends, so that Ray starts another one and repeats the calls.
        An exception would end the run instead.
        """
        try:
            yield from self._predict(pixels)
        except Exception as error:
            if is_device_lost(error):
                _logger.warning(
                    "this process lost its GPU, another process takes over: %s", one_line(error)
                )
                os._exit(1)
            raise
