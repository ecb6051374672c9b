"""Make this folder: an output, three models and a training as the version of 2026-11-28 (7d2907f) left them.

    git worktree add /tmp/start 7d2907f && cd /tmp/start && PYTHONPATH=. python …/tests/old_output/make.py FOLDER

It runs with the code of that commit only. Archive and labels lie in a bucket, `s3://old-output`, so that their URIs and
etags are the same wherever a test puts them again.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
import torch
from unet_ray.archive.storage import Storage
from unet_ray.imaging.parting import Parting
from unet_ray.network.unet_config import UNetConfig
from unet_ray.segment import segment
from unet_ray.segment_config import SegmentConfig, config_digest
from unet_ray.train import train
from unet_ray.train_config import TrainConfig

from tests.conftest import S3Server
from unet_ray.imaging.labels import ClassSpec
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.synthetic import draw_scene, encode

BUCKET = "s3://old-output"
CLASSES = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
CONFIGURATIONS = {
    "default": {},
    "threshold and area": {"threshold": 0.25, "min_area": 3},
    "bfloat16, score": {"precision": "bfloat16", "min_score": 0.5},
    "inexact": {"tile": 64, "context": 8},
}


def make_models() -> dict[str, Model]:
    grey = {"in_channels": 1, "base_channels": 2, "depth": 2}
    torch.manual_seed(7)
    networks = {
        "plain": UNetConfig(3, 2, 2, 2, "same", "batch"),
        "separated": UNetConfig(classes=4, **grey),
        "valid": UNetConfig(classes=2, padding="valid", **grey),
    }
    models = {}
    for name, network in networks.items():
        channels = network.in_channels
        preprocessing = Preprocessing("uint8", (120.5,) * channels, (60.25,) * channels)
        parting = Parting((0.5, 0.6), (3, 5), min_scores=(0.0, 0.25)) if name == "separated" else None
        models[name] = Model(network, state_bytes(UNet(network)), CLASSES, preprocessing, (0.5, 0.4375), parting)
    return models


def main() -> None:
    folder = Path(sys.argv[1])
    server = S3Server(Path(tempfile.mkdtemp()))
    os.environ.update(AWS_ACCESS_KEY_ID="unetray", AWS_SECRET_ACCESS_KEY="unetray-secret")
    os.environ.update(AWS_ENDPOINT_URL=server.endpoint, AWS_DEFAULT_REGION="us-east-1")
    bucket, rng = Storage.of(BUCKET), np.random.default_rng(11)
    bucket.filesystem.mkdir(BUCKET)
    scenes = [draw_scene(48, 56, rng)[0] for _ in range(7)]
    for index, scene in enumerate(scenes[:3]):
        bucket.write(f"archive/{index}.png", encode(scene[..., 0], "png"))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack([scene[..., 0] for scene in scenes[3:6]]), photometric="minisblack")
    bucket.write("archive/stack.tif", buffer.getvalue())
    bucket.write("archive/corrupt.png", encode(scenes[6], "png")[:500])
    bucket.write("archive/colour.png", encode(scenes[6], "png"))  # colour: the models of grey images refuse it
    for index in range(4):
        image, mask = draw_scene(64, 64, rng)
        bucket.write(f"labelled/images/{index}.png", encode(image, "png"))
        bucket.write(f"labelled/masks/{index}.png", encode(mask, "png"))
    expected = {"models": {}, "configurations": {}}
    for name, model in make_models().items():
        save_model(model, Storage.of(f"{folder}/models/{name}"))
        model = load_model(Storage.of(f"{folder}/models/{name}"))
        expected["models"][name] = model.digest
        config = SegmentConfig(
            model=f"{folder}/models/{name}", images=f"{BUCKET}/archive", output=f"{folder}/tables",
            date="2026-11-27", max_error_rate=1.0, shard_images=4,
        )  # fmt: skip
        segment(config)
        expected["configurations"][name] = {
            key: config_digest(replace(config, **settings), model) for key, settings in CONFIGURATIONS.items()
        }
    train(
        TrainConfig(
            images=f"{BUCKET}/labelled/images", masks=f"{BUCKET}/labelled/masks", output=f"{folder}/trained",
            storage=f"{folder}/training", classes="cell=1,fibre=2", base_channels=2, depth=2, crop=64, epochs=2,
            batch_size=4, val_fraction=0.25,
        )
    )  # fmt: skip
    for entry in bucket.entries():
        target = folder / "bucket" / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bucket.read(entry.path))
    for extra in ("training/tensorboard", "training/curves.png", "training/worst.png"):
        path = folder / extra
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    expected["etags"] = {entry.path: entry.etag for entry in bucket.entries("archive")}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
    server.stop()


if __name__ == "__main__":
    main()
