"""Train a U-Net on labelled images and write a model folder.

unet-ray train --images data/images --masks data/masks --output model --classes leaf,symptom
ray job submit --working-dir . -- python jobs/train.py --images s3://b/images --masks s3://b/masks --output s3://b/m
"""  # noqa: E501

from __future__ import annotations

from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.training.config import TrainConfig


def main(config: TrainConfig, ray_address: str) -> None:
    """Train, and print where the model is."""
    from unet_ray.training.train import train

    result = train(config, ray_address)
    epoch = result.progress.best_epoch
    show(
        f"model: {result.output} (digest {result.model.digest[:12]}), of epoch {epoch}",
        f"curves, worst images, TensorBoard, checkpoints: {result.run_folder}",
    )


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(TrainConfig, main, __doc__)
