"""Pixel sizes from training images to a model, and from an archive to tables and the summary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.builders import SMALL_NETWORK, encode_pillow
from unet_ray.cli.segment import summary
from unet_ray.network.model_folder import load_model
from unet_ray.output.reader import read_tables
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import CLASSES, draw_scene
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]

UM_PER_CM = 10_000


def write_image(file: Path, samples: np.ndarray, size_um: tuple[float, float] | None) -> None:
    """Write a TIFF file with resolution tags."""
    per_cm = size_um and tuple(UM_PER_CM / side for side in size_um)
    tifffile.imwrite(file, samples, resolution=per_cm, resolutionunit="CENTIMETER")


def test_a_model_knows_the_size_that_it_learnt_and_a_run_counts_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks", "archive"):
        (tmp_path / folder).mkdir()
    for index, size_um in enumerate([(0.5, 0.5), (0.5, 0.5), (0.52, 0.52), None]):
        image, mask = draw_scene(96, 96, rng)
        write_image(tmp_path / f"images/{index}.tif", image, size_um)
        (tmp_path / f"masks/{index}.png").write_bytes(encode_pillow(mask))
    config = TrainConfig(
        images=f"{tmp_path}/images",
        masks=f"{tmp_path}/masks",
        output=f"{tmp_path}/model",
        classes=CLASSES,
        epochs=1,
        val_fraction=0.0,
        **SMALL_NETWORK,  # type: ignore[arg-type]
    )
    with caplog.at_level("INFO", "unet_ray"):
        train(config)
    model = load_model(Storage.of(f"{tmp_path}/model"))
    assert model.pixel_size_um == pytest.approx((0.5, 0.5))
    assert "pixel size: 0.5 µm, the median of the images" in caplog.text
    sizes = {"same.tif": (0.5, 0.5), "near.tif": (0.6, 0.6), "fine.tif": (0.25, 0.25)}
    sizes |= {"flat.tif": (0.5, 2.0)}
    for name, size in sizes.items():
        write_image(tmp_path / "archive" / name, draw_scene(60, 70, rng)[0], size)
    (tmp_path / "archive/bare.png").write_bytes(encode_pillow(draw_scene(60, 70, rng)[0]))
    (tmp_path / "archive/broken.tif").write_bytes(b"no image")
    flags = SegmentConfig(
        model=f"{tmp_path}/model",
        images=f"{tmp_path}/archive",
        output=f"{tmp_path}/tables",
        max_error_rate=0.5,
    )
    result = segment(flags)
    assert result.other_pixel_sizes == {"0.25 µm": 1, "0.5 × 2 µm": 1}
    line = "1 image at 0.25 µm, 1 image at 0.5 × 2 µm, the model was trained at 0.5 µm"
    assert f"pixel sizes: {line}" in summary(flags, result)
    record = json.loads((tmp_path / f"tables/runs/{result.run_id}.json").read_text())
    assert record["other_pixel_sizes"] == result.other_pixel_sizes
    assert record["model_pixel_size_um"] == pytest.approx([0.5, 0.5])
    found = {
        Path(row["image_uri"]).name: (row["pixel_size_x_um"], row["pixel_size_y_um"])
        for row in read_tables(flags.output).images.to_pylist()
    }
    assert found.pop("bare.png") == (None, None)
    assert found == {name: pytest.approx(size) for name, size in sizes.items()}
