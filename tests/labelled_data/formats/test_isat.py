"""ISAT JSON: polygons with groups and layers."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.labelled_data.formats.parsed import (
    damage,
    damage_bytes,
    list_errors,
    list_ignored,
    list_objects,
    parse,
)
from unet_ray.labelled_data.annotations import Annotations, LabelError

TRIANGLE = [[1.5, 2.0], [9.0, 2.0], [5.0, 8.25]]
FLAT = [1.5, 2.0, 9.0, 2.0, 5.0, 8.25]


def entry(category: Any = "leaf", layer: Any = 1.0, group: Any = 1, **more: Any) -> dict[str, Any]:
    """Return an object as ISAT writes it."""
    return {
        "category": category,
        "group": group,
        "segmentation": TRIANGLE,
        "area": 23.4,
        "layer": layer,
        "bbox": [1.5, 2.0, 9.0, 8.25],
        "iscrowd": False,
        "note": "",
    } | more


def document(*objects: Any, **info: Any) -> dict[str, Any]:
    """Return a file as ISAT writes it."""
    head = {
        "description": "ISAT",
        "folder": "D:/field/images",
        "name": "a.jpg",
        "width": 32,
        "height": 24,
        "depth": 3,
        "note": "",
    }
    return {"info": head | info, "objects": list(objects)}


def test_objects_are_drawn_layer_by_layer() -> None:
    found = parse(
        document(entry("spot", 3.0, 2), entry("leaf", 1.0, 1), entry("stem", 2.0, 3)), "b/a.json"
    )
    assert list_objects(found) == [("leaf", [FLAT]), ("stem", [FLAT]), ("spot", [FLAT])]
    (image,) = found.images.to_pylist()
    assert (image["name"], image["places"]) == ("b/a.jpg", ["b/a", "D:/field/images/a.jpg"])
    assert (image["width"], image["height"]) == (32, 24)
    assert found.left_out == {}


def test_polygons_of_a_group_and_a_category_are_one_object() -> None:
    """Files that ISAT made of those of other tools have the group 0 or none."""
    found = parse(
        document(
            entry(),
            entry(segmentation=[[20, 2], [25, 2], [25, 8]]),
            entry(group=0),
            entry(group=""),
            entry(group=None),
        ),
        "a.json",
    )
    assert [len(parts) for _, parts in list_objects(found)] == [2, 1, 1, 1]


def test_crowds_and_background_and_short_outlines_are_told() -> None:
    found = parse(
        document(
            entry(),
            entry("__background__", 2.0, 2),
            entry("tree", iscrowd=1, group=4),
            entry(segmentation=[[1, 2]], group=5),
        ),
        "a.json",
    )
    leaf, crowd = found.objects_of(0)
    assert [part["is_hole"] for part in leaf["parts"]] == [False, True]
    assert [part["is_hole"] for part in crowd["parts"]] == [False, True]
    assert crowd["is_ignored"]
    assert len(list_ignored(found)) == 1
    assert found.left_out == {
        "objects of __background__: taken as background": 1,
        "crowds: their pixels are not counted": 1,
        "outlines of fewer than three points": 1,
    }


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (entry(None), "its category is None; give text"),
        (entry(segmentation=None), "its corners are None; give a list of [x, y]"),
        (entry(group=[1]), "its group is [1]; give a whole number"),
    ],
)
def test_an_object_that_cannot_be_drawn_is_named(wrong: Any, error: str) -> None:
    assert list_errors(parse(document(wrong, entry()), "a.json")) == [("objects[0]", error)]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (document(7), r"objects\[0\] is 7; give an object"),
        (document(width="x"), "the width of the image is 'x'; give a size in px"),
        ({"info": {}, "objects": 7}, "objects is 7; give a list"),
        ({"info": 7, "objects": []}, "info is 7; give an object"),
    ],
)
def test_a_file_that_is_broken_is_refused(content: Any, error: str) -> None:
    with pytest.raises(LabelError, match=error):
        parse(content, "a.json")


def test_damaged_files_are_refused_or_read() -> None:
    good = document(entry(), entry("__background__", 2.0), entry(iscrowd=True))
    content = json.dumps(good).encode()
    numbers = random.Random(7)
    for _ in range(800):
        data = damage_bytes(content, numbers)
        if numbers.random() < 0.5:
            data = json.dumps(damage(good, numbers)).encode()
        try:
            Annotations.from_bytes(parse(data, "a.json").to_bytes())
        except LabelError:
            continue
