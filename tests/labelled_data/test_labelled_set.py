"""Labelled folders: files that are left out are counted, and pages have names."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, parse_classes
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode

CELL = (ClassSpec(1, "cell"),)


def test_files_that_are_not_images_are_counted(tmp_path: Path) -> None:
    png = encode(np.zeros((8, 8, 3), np.uint8), "png")
    for name, data in (
        ("images/a.png", png),
        ("images/notes.txt", b""),
        ("masks/a.png", png),
        ("masks/b.npy", b""),
    ):
        Storage.of(str(tmp_path)).write(name, data)
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    assert [item.image.uri for item in found.items] == [f"{tmp_path}/images/a.png"]
    assert found.notes == (
        f"skipped 1 files in {tmp_path}/images that do not have an image suffix",
        f"skipped 1 files in {tmp_path}/masks that do not have an image suffix",
    )


def test_files_whose_names_are_not_utf8_cost_themselves(tmp_path: Path) -> None:
    png = encode(np.zeros((8, 8, 3), np.uint8), "png")
    for folder, names in (("images", ("a.png", b"b\xff.png")), ("masks", ("a.png", b"b\xff.png"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / os.fsdecode(name)).write_bytes(png)
    (tmp_path / "masks" / os.fsdecode(b"notes\xff.doc")).write_bytes(b"")
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    assert found.names == ("a.png",)
    first = r"b\xff.png"
    left_out = (
        "1 images are left out because their file names are not UTF-8, "
        f"the first is {first}; rename"
    )
    assert found.notes == (
        f"skipped 1 files in {tmp_path}/masks that do not have an image suffix",
        f"--images {tmp_path}/images: {left_out} them",
        f"--masks {tmp_path}/masks: {left_out} them",
    )


@pytest.mark.parametrize(
    "name", ["", " ", "a\x1b]0;x\x07", "a\nb", "\x9b", "\u202egnp", "\ud800", 7]
)
def test_a_class_whose_name_cannot_be_shown_is_refused(tmp_path: Path, name: Any) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(encode(np.zeros((8, 8, 3), np.uint8), "png"))
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": name}]
    labels = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match="choose a text of 1 to 256|has the name .* give text"):
        find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels.json", LabelOptions())
    if isinstance(name, str) and name.isascii() and "," not in name:
        with pytest.raises(InputError, match="choose a text of 1 to 256"):
            parse_classes(f"cell,{name}")


def test_a_folder_whose_name_cannot_be_shown_is_no_class(tmp_path: Path) -> None:
    png = encode(np.zeros((8, 8, 3), np.uint8), "png")
    for name in ("images/a.png", "masks/cell/a.png", "masks/\x1b[8m/a.png"):
        Storage.of(str(tmp_path)).write(name, png)
    with pytest.raises(InputError, match=r"class name '\\x1b\[8m': choose a text"):
        find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    assert (
        len(find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions(CELL)).items) == 1
    )
