"""Settings that the driver hands to the workers of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

from unet_ray.network.config import Precision, parse_augmentations
from unet_ray.network.learner import LearnerConfig
from unet_ray.storage.storage import Storage
from unet_ray.training.config import TrainConfig
from unet_ray.training.setup import TrainingSetup


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that a worker needs apart from the crops."""

    config: TrainConfig
    """Flags of training."""
    setup: TrainingSetup = field(repr=False)
    """Everything that was derived from the flags and the labelled images."""
    cpu_precision: Precision
    """Arithmetic of workers on CPUs."""
    run_folder: Storage
    """Run folder, for pictures and event files."""

    @property
    def learner(self) -> LearnerConfig:
        """Settings of the training step."""
        config, sampler = self.config, self.setup.sampler
        weights = config.parse_class_weights(len(sampler.labelling.classes))
        return LearnerConfig(
            learning_rate=config.learning_rate,
            loss=config.loss,
            class_weights=weights * sampler.config.filters_per_class if weights else None,
            augmentations=parse_augmentations(config.augment),
            cpu_precision=self.cpu_precision,
            gpu_precision="float32" if config.precision == "float32" else "bfloat16",
        )
