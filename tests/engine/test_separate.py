"""Touching objects, from instance masks to tables: training learns to separate them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.network.model_folder import load_model
from unet_ray.output.config import VerifyConfig
from unet_ray.output.reader import Tables, image_masks, image_objects, read_tables
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

pytestmark = pytest.mark.usefixtures("ray_local")


def draw_cells(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of bright cells that touch, H×W×3 uint8, and their ids, H×W uint16.

    Ids have gaps: 3, 10, 17, …
    """
    y, x = np.mgrid[:size, :size]
    nearest, ids = np.full((size, size), np.inf), np.zeros((size, size), np.uint16)
    count, centre = size * size // 350, rng.uniform(0, size, 2)
    for number in range(count):
        if number % 3 == 0:
            centre = rng.uniform(0, size, 2)
        distance = np.hypot(y - centre[0], x - centre[1])
        ids = np.where((distance < 9) & (distance < nearest), 7 * number + 3, ids)
        nearest = np.minimum(nearest, distance)
        angle = rng.uniform(0, 2 * np.pi)
        centre = centre + 14 * np.array([np.sin(angle), np.cos(angle)])
    grey = gaussian_filter(np.where(ids > 0, 150 - 6 * nearest.clip(0, 9), 30.0), 1) + rng.normal(
        0, 4, ids.shape
    )
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2), ids


def write_cells(folder: Path, count: int, size: int = 96) -> None:
    images, masks = Storage.of(f"{folder}/images"), Storage.of(f"{folder}/masks")
    rng = np.random.default_rng(0)
    for index in range(count):
        image, ids = draw_cells(size, rng)
        images.write(f"{index}.png", encode(image, "png"))
        masks.write(f"{index}.png", encode(ids, "png"))


def config(folder: Path, **more: object) -> TrainConfig:
    given = {
        "base_channels": 8,
        "depth": 2,
        "crop": 64,
        "epochs": 1,
        "batch_size": 4,
        "val_fraction": 0.2,
    }
    places = {"images": f"{folder}/images", "masks": f"{folder}/masks", "output": f"{folder}/model"}
    return TrainConfig(**(places | given | {"mask_kind": "instances", "separate": True} | more))  # type: ignore[arg-type]


@pytest.mark.slow
def test_touching_cells_are_separated_from_training_to_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cells(tmp_path, 20, size=256)
    train(config(tmp_path, epochs=8, learning_rate=5e-3, loss="bce_dice", border_weight=5.0))
    assert "objects of object: AP@0.5" in capsys.readouterr().out
    model = load_model(Storage.of(f"{tmp_path}/model"))
    assert model.network.num_classes == 2
    objects = model.metrics["objects"]["classes"]["object"]
    assert objects["ap50"] > objects["ap50_of_components"] + 0.2
    labelled = {
        "images": f"{tmp_path}/images",
        "masks": f"{tmp_path}/masks",
        "mask_kind": "instances",
    }
    metrics = evaluate(EvaluateConfig(model=f"{tmp_path}/model", bootstrap=0, **labelled)).metrics()  # type: ignore[arg-type]
    found = metrics["classes"]["object"]
    assert found["ap50"] > 0.7
    assert found["merged_objects"] < 0.1 * found["true_objects"]

    tables = []
    for tile in (32, 1024):  # the tile does not show in the tables, though 32 px cut many objects
        segmented = SegmentConfig(
            model=f"{tmp_path}/model",
            images=f"{tmp_path}/images",
            output=f"{tmp_path}/{tile}",
            tile=tile,
        )
        assert segment(segmented).images_done == 20
        assert not verify(VerifyConfig(tables=segmented.output, images=segmented.images)).problems
        tables.append(read_tables(segmented.output))
    same = ["image_uri", "region_id", "area", "geometry", "centroid_x"]
    one, other = (
        t.regions.select(same).sort_by([(name, "ascending") for name in same[:2]]) for t in tables
    )
    assert one.equals(other)
    assert len(one) == found["found_objects"]
    check_objects(tables[0], model.postprocessing.rules[0].filter)


def check_objects(tables: Tables, region_filter: RegionFilter) -> None:
    """Check that label images agree with masks and rows."""
    for uri in tables.images["image_uri"].to_pylist()[:5]:
        labels, mask = image_objects(tables, uri)["object"], image_masks(tables, uri)["object"]
        rows = [row for row in tables.regions.to_pylist() if row["image_uri"] == uri]
        assert np.array_equal(
            np.bincount(labels.ravel(), minlength=len(rows) + 1)[1:], [r["area"] for r in rows]
        )
        assert not (labels > 0)[~mask].any()
        if region_filter == ANY:
            assert np.array_equal(labels > 0, mask)
        window = Box(11, 40, 75, 90)
        assert np.array_equal(image_objects(tables, uri, window)["object"], labels[11:75, 40:90])


def test_masks_without_anything_to_separate_are_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    write_cells(tmp_path, 3)
    masks = Storage.of(f"{tmp_path}/masks")
    for index in range(3):
        ids = np.zeros((96, 96), np.uint16)
        ids[10:20, 10:20] = 5
        masks.write(f"{index}.png", encode(ids, "png"))
    with pytest.raises(InputError, match="no mask holds more than one object"):
        train(config(tmp_path))


@pytest.mark.slow
def test_masks_without_ids_and_a_model_that_separates_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cells(tmp_path, 3)
    masks = Storage.of(f"{tmp_path}/masks")
    binary = [np.zeros((96, 96), np.uint8) for _ in range(3)]
    for index, mask in enumerate(binary):
        mask[10:20, 10:20] = mask[40:60, 40:60] = 1
        masks.write(f"{index}.png", encode(mask, "png"))
    train(config(tmp_path, mask_kind="binary"))
    printed = capsys.readouterr().out
    assert (
        "masks of the kind binary have no ids, so objects that touch are learnt as one" in printed
    )
    assert load_model(Storage.of(f"{tmp_path}/model")).postprocessing.separates
    start = {"init_from": f"{tmp_path}/model", "base_channels": None, "depth": None}
    train(config(tmp_path, mask_kind="binary", separate=False, output=f"{tmp_path}/m2", **start))
    assert "separates touching objects, but this one will not" in capsys.readouterr().out
    assert load_model(Storage.of(f"{tmp_path}/m2")).network.num_classes == 1
