"""The leak that groups close: pages of one stack on both sides make a validation worthless."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.builders import small_training
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode
from unet_ray.training.train import TrainResult, train

SIDE, PAGES = 48, 20
GREYS = [20, 60, 100, 140, 180, 220]
"""Brightness of the background of six stacks; that of a seventh is 250."""
RED, BLUE = (230, 30, 30), (30, 30, 230)


def write_stack(folder: Storage, number: int, grey: int) -> None:
    """Write a stack of nearly equal pages as files, in which red or blue discs are labelled.

    Which ones they are alternates from stack to stack. That can be learnt by heart for the stacks
    that are seen, and tells nothing about another one but the wrong thing.
    """
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
    mask = Image.new("L", (SIDE, SIDE))
    for index, (y, x) in enumerate([(2, 2), (2, 26), (26, 26), (26, 2)]):
        down, right = (int(step) for step in rng.integers(0, 5, 2))
        box = (x + right, y + down, x + right + 15, y + down + 15)
        ImageDraw.Draw(picture).ellipse(box, fill=(RED, BLUE)[index % 2])
        if index % 2 == number % 2:
            ImageDraw.Draw(mask).ellipse(box, fill=1)
    image = np.asarray(picture, np.float64)
    for page in range(PAGES):
        noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        name = f"stack{number}/{page:02}.png"
        folder.write(f"images/{name}", encode(noisy, "png"))
        folder.write(f"masks/{name}", encode(np.asarray(mask), "png"))


def train_grouped(folder: Path, group_by: str) -> TrainResult:
    """Train on the stacks of a folder."""
    return train(
        small_training(
            str(folder),
            images=f"{folder}/seen/images",
            masks=f"{folder}/seen/masks",
            classes="disc",
            output=f"{folder}/model{group_by}",
            storage=f"{folder}/run{group_by}",
            group_by=group_by,
            val_fraction=0.15,
            epochs=20,
            crop=48,
            base_channels=8,
            learning_rate=1e-2,
            augment="none",
        )
    )


@pytest.mark.soak
@pytest.mark.usefixtures("ray_local")
def test_image_by_image_a_stack_is_on_both_sides_and_the_dice_is_that_of_no_other_stack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, grey in enumerate(GREYS):
        write_stack(Storage.of(f"{tmp_path}/seen"), number, grey)
    write_stack(Storage.of(f"{tmp_path}/new"), len(GREYS), 250)
    with caplog.at_level("INFO", "unet_ray"):
        leaking = train_grouped(tmp_path, "none")
    assert "of 18 validation images look like images to learn from" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "unet_ray"):
        honest = train_grouped(tmp_path, "-1")
    assert "look like images to learn from" not in caplog.text

    new = evaluate(
        EvaluateConfig(
            model=leaking.output,
            images=f"{tmp_path}/new/images",
            masks=f"{tmp_path}/new/masks",
            group_by="none",
        )
    )
    dice_of_new = new.metrics()["classes"]["disc"]["dice"]
    assert leaking.progress.best.dice["disc"] > 0.9
    assert dice_of_new < 0.7
    assert honest.progress.best.dice["disc"] < 0.7

    split = json.loads((tmp_path / "run-1/summary.json").read_text())["split"]
    assert split["by"] == "--group-by -1"
    assert split["training"]["groups"] == 5
    assert [*split["validation"]["images_of"].values()] == [PAGES]
    record = json.loads((tmp_path / "run-1/train.json").read_text())["decisions"]
    assert {record["groups"][name] for name in record["validation"]} == {
        *split["validation"]["images_of"]
    }
