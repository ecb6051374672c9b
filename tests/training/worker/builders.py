"""Settings of a worker that learns from squares of 16 px in batches of two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tests.builders import make_learner, small_training
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.network.config import UNetConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage
from unet_ray.training.crop_stream import CropSampler
from unet_ray.training.progress import Progress
from unet_ray.training.record import DataDecisions
from unet_ray.training.setup import TrainingSetup
from unet_ray.training.worker.group import WorkerGroup
from unet_ray.training.worker.settings import WorkerSettings
from unet_ray.training.worker.state import TrainingState

LABELLING = Labelling("classes", (ClassSpec(1, "a"), ClassSpec(2, "b")))
PREPROCESSING = Preprocessing("uint8", (128.0,), (64.0,))
ALONE = WorkerGroup(0, 1, torch.device("cpu"))
SECOND = WorkerGroup(1, 2, torch.device("cpu"))
CROPS_PER_EPOCH = 6


class Squares:
    """A reader of grey squares without objects."""

    def read(self, index: int) -> LabelledPixels:
        return LabelledPixels(np.full((16, 16, 1), index, np.uint8), [np.zeros((16, 16), np.uint8)])


def make_settings(folder: Path, *, markers: bool = False, **flags: object) -> WorkerSettings:
    """Return settings for two classes; flags are those of `small_training` and these."""
    config = replace(small_training(str(folder), batch_size=2, epochs=2), **flags)  # type: ignore[arg-type]
    crops = CropConfig(side=16, margin=0, markers=markers)
    visits = np.array([[0, CROPS_PER_EPOCH]])
    sampler = CropSampler(Squares(), visits, LABELLING, PREPROCESSING, crops, config.seed)
    setup = TrainingSetup(
        network=UNetConfig(1, 2, 4, 1, "same", "none"),
        initial=None,
        sampler=sampler,
        crops_per_epoch=CROPS_PER_EPOCH,
        shuffle_buffer=0,
        validation_reader=Squares(),
        validation=((0, "0.png"),),
        decisions=DataDecisions(LABELLING, PREPROCESSING, (), None),
        pixel_size_um=None,
    )
    return WorkerSettings(config, setup, "float32", Storage.of(str(folder / "run")))


def make_state() -> TrainingState:
    """Return the state of a training that begins."""
    return TrainingState(make_learner("none"), Progress(), None)
