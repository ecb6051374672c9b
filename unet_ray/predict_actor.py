"""The actor that predicts; in a module of its own, since each of its processes loads all that this one names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import ray

from unet_ray.network.model_folder import Model
from unet_ray.network.predictor import Predictor, PredictorConfig
from unet_ray.stages.large import PredictLarge
from unet_ray.stages.predict import Predict

_SWITCH_S = 5e-4
"""After how long a thread that measures lets the one go on that drives the network; by default ten times as long."""


class PredictActor:
    """The network on its device, built once per actor."""

    def __init__(self, model_ref: Any, config: PredictorConfig, large: Callable[[Predictor], PredictLarge]) -> None:
        sys.setswitchinterval(_SWITCH_S)
        model: Model = ray.get(model_ref)
        predictor = Predictor(model.build(), model.preprocessing, config)
        self._predict = Predict(predictor, large(predictor))

    def __call__(self, pixels: Any) -> Iterator[Any]:
        """Predict a table of images."""
        return self._predict(pixels)
