import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import encode_pillow, small_training
from unet_ray.errors import InputError
from unet_ray.training.train import train


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 1, "name": "\x1b[31m"}], r"class name '\x1b[31m': choose a text of 1 to 256"),
    ],
)
def test_labels_whose_classes_no_model_could_hold_are_refused_before_training(
    tmp_path: Path, categories: list[dict[str, Any]], message: str
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(encode_pillow(np.zeros((8, 8), np.uint8)))
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}]
    labels = {"images": images, "categories": categories, "annotations": []}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    config = small_training(
        str(tmp_path), images=f"{tmp_path}/images", masks=f"{tmp_path}/labels.json", classes=None
    )
    with pytest.raises(InputError) as error:
        train(config)
    assert str(error.value).startswith(f"--masks {tmp_path}/labels.json: {message}")
    assert not (tmp_path / "model").exists()
