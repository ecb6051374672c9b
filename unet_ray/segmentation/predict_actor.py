"""The actor that predicts.

It has its own module because each of its processes loads everything that this module imports.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator

import pyarrow as pa
import ray

from unet_ray.errors import one_line
from unet_ray.network.devices import is_device_lost
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.deadline import Deadline
from unet_ray.segmentation.guard import Guard
from unet_ray.segmentation.stages.stages import Stages
from unet_ray.segmentation.stages.work_done import WorkDone

_logger = logging.getLogger("unet_ray")

_SWITCH_S = {"cpu": 5e-4, "cuda": 5e-5}
"""Time after which a thread that measures or copies yields to the one that drives the network (s).
Python's default is 5e-3, during which a GPU is idle."""


class PredictActor:
    """The network on its device, built once per actor.

    Args:
        model_ref: Reference of a Model in the object store.
        stages: The stages of the run.
        guard: Guard of the stage.
    """

    def __init__(self, model_ref: ray.ObjectRef, stages: Stages, guard: Guard) -> None:
        sys.setswitchinterval(_SWITCH_S[stages.predictor.device])
        self._guard, self._deadline = guard, guard.make_deadline()
        model: Model = ray.get(model_ref)
        self._predict = stages.build_predict(model, tell_tiles(guard.post, self._deadline))

    def __call__(self, pixels: pa.Table) -> Iterator[pa.Table]:
        """Predict a table of images.

        If the GPU is lost, the process ends, so that Ray starts another one and repeats the calls.
        An exception would end the run instead.
        """
        try:
            yield from self._guard.run("predict", self._predict, pixels, self._deadline)
        except Exception as error:
            if is_device_lost(error):
                _logger.warning(
                    "this process lost its GPU, another process takes over: %s", one_line(error)
                )
                os._exit(1)
            raise


def tell_tiles(post: Callable[[WorkDone], None], deadline: Deadline) -> Callable[[int, int], None]:
    """Return a function that reports tiles of large images and postpones the deadline."""

    def tell(tiles: int, of_tiles: int) -> None:
        deadline.postpone()
        post(WorkDone(tiles=tiles, of_tiles=of_tiles))

    return tell
