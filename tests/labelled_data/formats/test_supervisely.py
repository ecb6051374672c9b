"""Supervisely annotations: polygons with holes, and masks."""

from __future__ import annotations

import base64
import json
import random
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.labelled_data.formats.parsed import (
    damage,
    damage_bytes,
    draw_mask,
    list_errors,
    list_objects,
    parse,
)
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, LabelError

L_SHAPE = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]], bool)


def entry(kind: Any = "polygon", exterior: Any = None, **more: Any) -> dict[str, Any]:
    """Return an object as Supervisely writes it."""
    corners = [[1, 2], [9, 2], [5, 8]] if exterior is None else exterior
    return {
        "id": 497521359,
        "classId": 1661571,
        "description": "",
        "geometryType": kind,
        "labelerLogin": "me",
        "tags": [],
        "classTitle": "leaf",
        "points": {"exterior": corners, "interior": []},
    } | more


def pack(mask: np.ndarray, with_palette: bool = True) -> str:
    """Return a mask as the SDK packs it: a PNG with a transparent colour, or grey."""
    file, image = BytesIO(), Image.fromarray(mask.astype(np.uint8), "L")
    if with_palette:
        image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(file, "PNG", **({"transparency": 0} if with_palette else {}))
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def bitmap(data: Any, origin: Any = (5, 7)) -> dict[str, Any]:
    points = {"exterior": [], "interior": []}
    return entry("bitmap", points=points, bitmap={"data": data, "origin": list(origin)})


def document(*objects: Any, **more: Any) -> dict[str, Any]:
    size = {"height": 24, "width": 32}
    return {"description": "", "tags": [], "size": size, "objects": list(objects)} | more


def test_corners_that_are_whole_numbers_are_centres_of_pixels() -> None:
    hole = [[4, 3], [6, 3], [5, 5]]
    points = {"exterior": [[1, 2], [9, 2], [5, 8]], "interior": [hole]}
    found = parse(document(entry(points=points)), "ds/ann/a.jpg.json")
    (each,) = found.objects_of(0)
    assert [(part["points"], part["is_hole"]) for part in each["parts"]] == [
        ([1.5, 2.5, 9.5, 2.5, 5.5, 8.5], False),
        ([4.5, 3.5, 6.5, 3.5, 5.5, 5.5], True),
    ]
    (image,) = found.images.to_pylist()
    assert (image["name"], image["places"]) == ("ds/ann/a.jpg", ["ds/img/a.jpg"])
    assert (image["width"], image["height"]) == (32, 24)


def test_corners_with_fractions_are_places() -> None:
    found = parse(document(entry(exterior=[[1.25, 2], [9, 2], [5, 8]])), "a.json")
    assert list_objects(found) == [("leaf", [[1.25, 2, 9, 2, 5, 8]])]


@pytest.mark.parametrize("with_palette", [True, False])
def test_bitmaps_begin_at_their_origin(with_palette: bool) -> None:
    found = parse(document(bitmap(pack(L_SHAPE, with_palette))), "a.json")
    (part,) = found.objects_of(0)[0]["parts"]
    expected = np.zeros((24, 32), bool)
    expected[7:11, 5:8] = L_SHAPE
    assert np.array_equal(draw_mask(part, 24, 32), expected)


def test_a_bitmap_may_be_drawn_everywhere() -> None:
    found = parse(document(bitmap(pack(np.ones((3, 4), bool)))), "a.json")
    (part,) = found.objects_of(0)[0]["parts"]
    assert draw_mask(part, 24, 32).sum() == 12


def test_older_files_do_not_say_what_a_geometry_is() -> None:
    old = bitmap(pack(L_SHAPE))
    del old["geometryType"]
    plain = entry(bitmap=None)
    del plain["geometryType"]
    found = parse(document(old, plain), "a.json")
    assert [len(each["parts"][0]["points"]) for each in found.objects_of(0)] == [0, 6]


def test_rectangles_include_their_last_pixels() -> None:
    found = parse(document(entry("rectangle", [[8, 7], [2, 3]])), "a.json")
    assert list_objects(found) == [("leaf", [[2, 3, 9, 3, 9, 8, 2, 8]])]


def test_what_is_no_area_is_counted_and_left_out() -> None:
    found = parse(
        document(
            entry("point", [[1, 2]]),
            entry("line"),
            entry("graph", nodes={}),
            entry("alpha_mask"),
            entry("unheard"),
            entry("polygon", [[1, 2]]),
        ),
        "a.json",
    )
    assert len(found.objects) == 0
    assert found.left_out == {
        "points": 1,
        "lines": 1,
        "graphs of keypoints": 1,
        "alpha masks": 1,
        "objects of an unknown geometry": 1,
        "outlines of fewer than three points": 1,
    }


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (entry(classTitle=None), "its classTitle is None; give text"),
        (entry(points=None), "its points are None; give exterior and interior"),
        (entry("rectangle"), "the rectangle has 3 corners; give two"),
        (entry("bitmap"), "its bitmap is None; give data and origin"),
        (bitmap(base64.b64encode(b"PNG").decode()), "its bitmap is not compressed by zlib"),
        (bitmap(base64.b64encode(zlib.compress(b"a")).decode()), "its mask cannot be read"),
        (bitmap(pack(L_SHAPE), [None, 1]), "the coordinate None is not a number in px"),
        (
            bitmap(pack(L_SHAPE), [2**40, 1]),
            "its mask begins at 1099511627776, 1, outside of the image",
        ),
    ],
)
def test_an_object_that_cannot_be_drawn_is_named(wrong: Any, error: str) -> None:
    ((label, found),) = list_errors(parse(document(entry(), wrong), "a.json"))
    assert label == "objects[1]"
    assert found.startswith(error)


def test_a_file_that_is_broken_is_refused() -> None:
    with pytest.raises(LabelError, match=r"objects\[0\] is 7; give an object"):
        parse(document(7), "a.json")
    with pytest.raises(LabelError, match="objects is 7; give a list"):
        parse(document(objects=7), "a.json")


def test_damaged_files_are_refused_or_read() -> None:
    good = document(entry(), bitmap(pack(L_SHAPE)), entry("rectangle", [[8, 7], [2, 3]]))
    content = json.dumps(good).encode()
    numbers = random.Random(7)
    for _ in range(1000):
        data = damage_bytes(content, numbers)
        if numbers.random() < 0.5:
            data = json.dumps(damage(good, numbers)).encode()
        try:
            Annotations.from_bytes(parse(data, "a.json").to_bytes())
        except LabelError:
            continue


def test_the_confined_child_reads_the_same() -> None:
    content = json.dumps(document(entry(), bitmap(pack(L_SHAPE)))).encode()
    decoder = Decoder(module="unet_ray.labelled_data.formats.parsing")
    try:
        answer = decoder.call({"name": "a.json"}, len(content), lambda: [content])
    finally:
        decoder.close()
    assert bytes(answer) == parse(content, "a.json").to_bytes()
