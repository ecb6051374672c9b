"""A training resumes on the images and masks that it began with, and on no others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.builders import encode_pillow, small_training
from unet_ray.errors import InputError
from unet_ray.network.model_folder import load_model
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.training.record import RECORD
from unet_ray.training.train import train


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_resumes_on_the_same_contents_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=4, check=0, archive=0)
    record, mask = tmp_path / "run" / RECORD, tmp_path / "data/labelled/masks/0001.png"
    config = small_training(str(tmp_path), storage=f"{tmp_path}/run")
    first = train(config)
    assert len(json.loads(record.read_text())["files"]) == 8

    # a mask without its objects, as a file of the same size
    good = mask.read_bytes()
    empty = encode_pillow(np.zeros_like(np.asarray(Image.open(mask))))
    mask.write_bytes(empty + bytes(len(good) - len(empty)))
    with pytest.raises(InputError, match=r"1 is changed \(first: masks/0001.png\); restore"):
        train(replace(config, epochs=2))

    # the right files again, at another time and in another place
    mask.write_bytes(good)
    shutil.copytree(tmp_path / "data/labelled", tmp_path / "copy", copy_function=shutil.copyfile)
    for file in (tmp_path / "copy").rglob("*.png"):
        os.utime(file, (1e9, 1e9))
    decided = json.loads(record.read_text())
    (validation,) = decided["decisions"]["validation"]
    other = "0000.png" if validation == "0003.png" else "0003.png"
    decided["decisions"]["validation"] = [validation, other]
    decided["decisions"]["preprocessing"]["offset"] = [7.0, 8.0, 9.0]
    record.write_text(json.dumps(decided))
    capsys.readouterr()
    images, masks = f"{tmp_path}/copy/images", f"{tmp_path}/copy/masks"
    second = train(replace(config, epochs=2, images=images, masks=masks))
    assert "from epoch 2\n" in capsys.readouterr().out
    assert (first.progress.epochs, second.progress.epochs) == (1, 2)
    assert second.model.digest != first.model.digest
    assert load_model(Storage.of(second.output)).digest == second.model.digest
    # decisions come from the run folder, not from the files
    assert second.model.preprocessing == replace(first.model.preprocessing, offset=(7.0, 8.0, 9.0))
    validated = {f"{index:04d}.png" for index, _ in second.progress.history[-1].worst}
    assert validated == {validation, other}
    assert json.loads(record.read_text())["files"] == decided["files"]
