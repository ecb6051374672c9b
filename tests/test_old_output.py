"""An output of the version of 2026-11-28 is read and continued, and nothing is done again.

tests/old_output/make.py made it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unet_ray.network.model_folder import load_model
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import config_digest
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

OLD = Path(__file__).parent / "old_output"
EXPECTED = json.loads((OLD / "expected.json").read_text())
BUCKET = "s3://old-output"
FAILED = (1, 2, 2)
"""Images that each model fails on: a damaged one, and one in colour where the model takes grey."""
CONFIGURATIONS = {
    "default": {},
    "threshold and area": {"threshold": 0.25, "min_area": 3},
    "bfloat16, score": {"precision": "bfloat16", "min_score": 0.5},
    "inexact": {"tile": 64, "context": 8},
}


@pytest.mark.parametrize("model", EXPECTED["models"])
def test_digests_are_what_they_were(model: str) -> None:
    """A new digest of the same model or settings would make every archive be done again."""
    loaded = load_model(Storage.of(str(OLD / "models" / model)))
    assert loaded.digest == EXPECTED["models"][model]
    config = SegmentConfig(model=model, images="archive", output="tables")
    digests = {
        name: config_digest(replace(config, **settings), loaded)  # type: ignore[arg-type]
        for name, settings in CONFIGURATIONS.items()
    }
    assert digests == EXPECTED["configurations"][model]


@pytest.fixture
def old(tmp_path: Path, s3_server: str) -> Path:
    """Copy the output to where a test may write, and put its archive where it was."""
    bucket = Storage.of(BUCKET)
    if not bucket.exists():
        bucket.filesystem.mkdir(BUCKET)
    for entry in bucket.entries():
        bucket.delete(entry.path)
    for file in (OLD / "bucket").rglob("*.*"):
        bucket.write(str(file.relative_to(OLD / "bucket")), file.read_bytes())
    assert {entry.path: entry.etag for entry in bucket.entries("archive")} == EXPECTED["etags"]
    for name in ("tables", "training"):
        shutil.copytree(OLD / name, tmp_path / name)
    return tmp_path


@pytest.mark.usefixtures("ray_local")
def test_an_output_is_continued(old: Path) -> None:
    """The output has a stack, failed rows, and rows of three kinds of models."""
    archive = Storage.of(f"{BUCKET}/archive")
    files = {path: path.read_bytes() for path in (old / "tables").rglob("*.parquet")}
    configs = [
        SegmentConfig(
            model=str(OLD / "models" / model),
            images=archive.uri,
            output=f"{old}/tables",
            max_error_rate=1.0,
        )
        for model in EXPECTED["models"]
    ]
    for config, failed in zip(configs, FAILED, strict=True):
        for expected in (failed, 0):  # what failed under an earlier reader is tried once more
            result = segment(config)
            assert (result.images_listed, result.images_done) == (8, 0)
            assert result.images_failed == expected
    assert not verify(VerifyConfig(tables=f"{old}/tables", images=archive.uri)).problems
    archive.write("new.png", encode(draw_scene(40, 50, np.random.default_rng(5))[0][..., 0], "png"))
    for config in configs:
        result = segment(config)
        assert (result.images_listed, result.images_done, result.images_failed) == (9, 1, 0)
    assert not verify(VerifyConfig(tables=f"{old}/tables", images=archive.uri)).problems
    assert (
        files.items()
        <= {path: path.read_bytes() for path in (old / "tables").rglob("*.parquet")}.items()
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_is_continued(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = json.loads((old / "training/train.json").read_text())
    settings |= {"output": f"{old}/trained", "storage": f"{old}/training", "epochs": 3}
    settings.pop("labelled_images")
    result = train(TrainConfig(**settings))
    assert result.progress.epochs == 3
    shown = capsys.readouterr().out
    assert "from epoch 3" in shown
    # that version did not record which files it learnt from
    assert shown.count("the 8 files found now are assumed to be the same, and listed") == 1
    assert len(json.loads((old / "training/train.json").read_text())["files"]) == 8
