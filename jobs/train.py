"""Train a U-Net on labelled images and write a model folder.

python jobs/train.py --images data/images --masks data/masks --output model --classes leaf,symptom
ray job submit --working-dir . -- python jobs/train.py --images s3://b/images --masks s3://b/masks --output s3://b/m
"""

from _command import run

from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train


def main(config: TrainConfig, ray_address: str) -> None:
    """Train and say where the model is."""
    result = train(config, ray_address)
    print(
        f"model: {result.output} (digest {result.model.digest[:12]}), of epoch {result.progress.best_epoch}"
    )
    print(f"curves, worst images, TensorBoard, checkpoints: {result.run_folder}")


if __name__ == "__main__":
    run(TrainConfig, main, __doc__)
