"""Labels of the planes of a file that holds several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, parse_planes
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelledSet, LabelOptions
from unet_ray.labelled_data.readers import FileReader

Z, C, H, W = 3, 2, 16, 20
IMAGES = np.random.default_rng(0).integers(0, 60_000, (Z, C, H, W), np.uint16)
MASKS = np.stack([np.full((H, W), z + 1, np.uint8) for z in range(Z)])
CLASSES = tuple(ClassSpec(z + 1, f"class{z + 1}") for z in range(Z))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", IMAGES, ome=True, metadata={"axes": "ZCYX"})
    return tmp_path


def find(folder: Path, **options: Any) -> LabelledSet:
    return find_labelled(
        f"{folder}/images", f"{folder}/masks", LabelOptions(classes=CLASSES, **options)
    )


def read(labelled: LabelledSet) -> list[tuple[np.ndarray, int]]:
    """Return the samples of each image, and the only value of its mask."""
    reader = FileReader(labelled.access, labelled.items)
    found = []
    for index in range(len(labelled.items)):
        image, (mask,), _ = reader.read(index)
        (value,) = np.unique(mask).tolist()
        found.append((image, value))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True},  # tifffile calls the axis C
        {"imagej": True},
        {},
    ],
    ids=str,
)
def test_a_mask_stack_has_a_page_for_each_plane(folder: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(folder / "masks/a.tif", MASKS, photometric="minisblack", **options)
    labelled = find(folder)
    assert labelled.names == ("a.tif#z=0", "a.tif#z=1", "a.tif#z=2")
    for z, (image, value) in enumerate(read(labelled)):
        assert np.array_equal(image, np.moveaxis(IMAGES[z], 0, 2))
        assert value == z + 1


def test_stacks_of_other_axes_do_not_belong_together(folder: Path) -> None:
    tifffile.imwrite(folder / "masks/a.tif", MASKS, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(
        InputError,
        match="z=0 is paired with .*t=0, but their axes differ; save both with the same axes",
    ):
        find(folder)


@pytest.mark.parametrize("form", ["mask", "label file"])
def test_labels_of_one_plane_need_to_say_which(folder: Path, form: str) -> None:
    if form == "mask":
        tifffile.imwrite(folder / "masks/a.tif", MASKS[1])
    else:
        box = [0, 0, W, 0, W, H, 0, H]
        coco = {
            "images": [{"id": 1, "file_name": "a.tif", "height": H, "width": W}],
            "categories": [{"id": spec.id, "name": spec.name} for spec in CLASSES],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": [box]}],
        }
        (folder / "masks/a.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match=r"holds 3 images, z=0 to z=2.*--planes z=0"):
        find(folder)
    with pytest.raises(InputError, match=r"--planes selects 0 of them"):
        find(folder, planes={"z": 7})
    labelled = find(folder, planes={"z": 2})
    assert labelled.names == ("a.tif#z=2",)
    image = FileReader(labelled.access, labelled.items).read(0).image
    assert np.array_equal(image, np.moveaxis(IMAGES[2], 0, 2))


def test_planes_are_axes_with_a_number() -> None:
    assert parse_planes(None) == {}
    assert parse_planes("t=0, z=7") == {"t": 0, "z": 7}
    for text in ("", "z", "z=", "z=-1", "z=7,z=8", "c=1", "z=07", "z=7;t=1"):
        with pytest.raises(InputError, match="give each axis once, as in z=7"):
            parse_planes(text)
