"""labelme JSON, as labelme of several versions and the tools after it write it."""

from __future__ import annotations

import base64
import json
import math
import random
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
    list_ignored,
    list_objects,
    parse,
)
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, LabelError

TRIANGLE = [[1.5, 2.0], [9.0, 2.0], [5.0, 8.25]]
FLAT = [1.5, 2.0, 9.0, 2.0, 5.0, 8.25]
L_SHAPE = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]], bool)


def shape(points: Any = TRIANGLE, label: Any = "leaf", kind: Any = "polygon", **more: Any) -> Any:
    """Return a shape as labelme 5.4 writes it."""
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    } | more


def document(*shapes: Any, **more: Any) -> dict[str, Any]:
    """Return a file as labelme 5.4 writes it."""
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": 24,
        "imageWidth": 32,
    } | more


def read(*shapes: Any, name: str = "a.json", **more: Any) -> Annotations:
    return parse(document(*shapes, **more), name)


def to_base64(mask: np.ndarray, **options: Any) -> str:
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", **options)
    return base64.b64encode(file.getvalue()).decode()


def mask_shape(drawn: np.ndarray, left: float, top: float, **more: Any) -> Any:
    """Return a mask as labelme's AI tools write it: both corners are pixels of it."""
    height, width = drawn.shape[:2]
    corners = [[left, top], [left + width - 1, top + height - 1]]
    code = to_base64(drawn.astype(np.uint8))
    return shape(kind="mask") | {"points": corners, "mask": code} | more


def test_polygons_are_objects_in_their_order() -> None:
    found = read(shape(), shape([[0, 0], [4, 0], [4, 4], [0, 4]], "stem"))
    assert list_objects(found) == [
        ("leaf", [FLAT]),
        ("stem", [[0, 0, 4, 0, 4, 4, 0, 4]]),
    ]
    (image,) = found.images.to_pylist()
    assert (image["name"], image["places"]) == ("a.jpg", ["a"])
    assert (image["width"], image["height"], image["is_normalised"]) == (32, 24, False)
    assert (found.left_out, found.notes) == ({}, ())
    assert [each["label"] for each in found.objects_of(0)] == ["shapes[0]", "shapes[1]"]


def test_a_file_of_the_first_versions_has_polygons_without_a_type_and_no_size() -> None:
    old = {
        "fillColor": [255, 0, 0, 128],
        "imageData": "iVBORw0KGgo" * 200_000,
        "imagePath": "a.jpg",
        "lineColor": [0, 255, 0, 128],
        "shapes": [{"fill_color": None, "label": "leaf", "line_color": None, "points": TRIANGLE}],
    }
    found = parse(old, "a.json")
    assert list_objects(found) == [("leaf", [FLAT])]
    assert found.images["width"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("name", "path", "image", "places"),
    [
        ("a.json", "a.jpg", "a.jpg", ["a"]),
        ("field/a.json", "a.jpg", "field/a.jpg", ["field/a"]),
        ("field/a.json", "..\\images\\a.jpg", "images/a.jpg", ["field/a"]),
        ("a.json", "../images/a.jpg", "../images/a.jpg", ["a"]),
        ("a.json", "C:\\Users\\me\\a.jpg", "C:/Users/me/a.jpg", ["a"]),
        ("field/a.json", "/data/a.jpg", "/data/a.jpg", ["field/a"]),
        ("a.json", "https://host/x//a.jpg?d=1", "https://host/x//a.jpg?d=1", ["a"]),
        ("a.jpg.json", "b.jpg", "b.jpg", ["a.jpg"]),
        ("field/a.json", None, "field/a", ["field/a"]),
        ("field/a.json", "", "field/a", ["field/a"]),
        ("field/a.json", "\ud800.jpg", "field/a", ["field/a"]),
    ],
)
def test_the_image_is_where_the_file_says_or_beside_it(
    name: str, path: Any, image: str, places: list[str]
) -> None:
    (row,) = read(name=name, imagePath=path).images.to_pylist()
    assert (row["name"], row["places"]) == (image, places)


@pytest.mark.parametrize("corners", [[[2, 3], [8, 7]], [[8, 7], [2, 3]], [[2, 7], [8, 3]]])
def test_rectangles_have_two_corners_in_any_order(corners: Any) -> None:
    found = read(shape(corners, kind="rectangle"))
    assert list_objects(found) == [("leaf", [[2, 3, 8, 3, 8, 7, 2, 7]])]
    assert found.left_out == {"rectangles: all of their pixels are taken as the object": 1}


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle", "quadrilateral"])
def test_rectangles_of_newer_tools_have_four_corners(kind: str) -> None:
    corners = [[5, 1], [9, 5], [5, 9], [1, 5]]
    found = read(shape(corners, kind=kind, direction=0.78, score=0.9, difficult=False))
    assert list_objects(found) == [("leaf", [[5, 1, 9, 5, 5, 9, 1, 5]])]


def test_a_circle_is_its_centre_and_a_point_of_its_rim() -> None:
    ((_, (points,)),) = list_objects(read(shape([[10, 12], [13, 16]], kind="circle")))
    corners = np.reshape(points, (-1, 2)) - (10, 12)
    assert np.allclose(np.hypot(*corners.T), 5)
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(math.pi * 25, rel=0.02)


def test_circles_of_any_size_stay_within_a_twentieth_of_a_pixel() -> None:
    for radius in (0.01, 1, 100, 5000):
        ((_, (points,)),) = list_objects(read(shape([[0, 0], [radius, 0]], kind="circle")))
        corners = np.reshape(points, (-1, 2))
        middles = (corners + np.roll(corners, 1, axis=0)) / 2
        assert radius - np.hypot(*middles.T).min() < 0.051
        assert 16 <= len(corners) <= 2048


def test_masks_lie_at_their_first_corner() -> None:
    found = read(mask_shape(L_SHAPE, 5, 7))
    ((part,),) = [each["parts"] for each in found.objects_of(0)]
    expected = np.zeros((24, 32), bool)
    expected[7:11, 5:8] = L_SHAPE
    assert np.array_equal(draw_mask(part, 24, 32), expected)


@pytest.mark.parametrize(
    "code",
    [
        to_base64(L_SHAPE),
        to_base64(255 * L_SHAPE.astype(np.uint8)),
        to_base64(L_SHAPE.astype(np.uint16) * 40_000),
        to_base64(np.repeat(L_SHAPE[:, :, None], 3, axis=2).astype(np.uint8)),
        to_base64(np.repeat(L_SHAPE[:, :, None], 4, axis=2).astype(np.uint8) * 255),
        "data:image/png;base64," + to_base64(L_SHAPE),
    ],
)
def test_masks_may_be_png_of_any_kind(code: str) -> None:
    found = read(mask_shape(L_SHAPE, 0, 0, mask=code))
    (part,) = found.objects_of(0)[0]["parts"]
    assert np.array_equal(draw_mask(part, 4, 3), L_SHAPE)


def test_masks_that_end_outside_of_the_image_are_cut_off_there() -> None:
    (part,) = read(mask_shape(L_SHAPE, 30, 21)).objects_of(0)[0]["parts"]
    assert (part["left"], part["top"], part["width"], part["height"]) == (30, 21, 2, 3)
    assert np.array_equal(draw_mask(part, 24, 32)[21:, 30:], L_SHAPE[:3, :2])


def test_masks_that_begin_outside_of_the_image_are_cut_off_there() -> None:
    (part,) = read(mask_shape(L_SHAPE, -1.2, -2)).objects_of(0)[0]["parts"]
    assert np.array_equal(draw_mask(part, 2, 2), L_SHAPE[2:, 1:])


def test_corners_of_a_mask_may_be_fractions_and_a_pixel_off() -> None:
    entry = mask_shape(L_SHAPE, 5, 7)
    entry["points"] = [[5.2, 6.8], [8.4, 11.3]]
    (part,) = read(entry).objects_of(0)[0]["parts"]
    assert (part["left"], part["top"], part["width"], part["height"]) == (5, 7, 3, 4)


def test_what_is_no_area_is_counted_and_left_out() -> None:
    found = read(
        shape([[1, 1]], kind="point"),
        shape([[1, 1], [2, 2]], kind="points"),
        shape([[1, 1], [2, 2]], kind="line"),
        shape([[1, 1], [2, 2], [3, 1]], kind="linestrip"),
        shape([[1, 1]] * 8, kind="cuboid"),
        shape([[1, 1], [2, 2]]),
        shape([[1, 1]], kind="rectangle"),
        shape([[3, 3], [3, 3]], kind="circle"),
        shape(kind="spline"),
        flags={"blurred": True, "checked": False},
    )
    assert list_objects(found) == list_errors(found) == []
    assert found.left_out == {
        "points": 2,
        "lines": 2,
        "cuboids": 1,
        "outlines of fewer than three points": 2,
        "rectangles: all of their pixels are taken as the object": 1,
        "circles without area": 1,
        "shapes of an unknown type": 1,
        "flags of images": 1,
    }


def test_shapes_of_a_group_and_a_label_are_one_object() -> None:
    other = [[20, 2], [25, 2], [25, 8]]
    found = read(
        shape(group_id=3),
        shape(label="stem", group_id=3, points=[[28, 20], [30, 20], [30, 22]]),
        shape(other, group_id=3),
        shape(other, group_id=0),
        shape(other),
        shape(other),
    )
    assert [(name, len(parts)) for name, parts in list_objects(found)] == [
        ("leaf", 2),
        ("stem", 1),
        ("leaf", 1),
        ("leaf", 1),
        ("leaf", 1),
    ]
    assert list_objects(found)[0][1] == [FLAT, [20, 2, 25, 2, 25, 8]]
    assert found.left_out == {}


def test_an_object_between_the_shapes_of_a_group_is_said_to_lie_above() -> None:
    found = read(shape(group_id=3), shape(label="stem"), shape(group_id=3))
    assert [name for name, _ in list_objects(found)] == ["leaf", "stem"]
    text = "groups with another object between their shapes: drawn below that object"
    assert found.left_out == {text: 1}


def test_ignored_pixels_and_background_are_those_of_labelmes_converters() -> None:
    """Both take their pixels from what was drawn before, not from what comes later."""
    hole = [[4, 3], [6, 3], [5, 5]]
    found = read(
        shape(),
        shape([[20, 20], [22, 20], [22, 22]], "far"),
        shape(hole, "_background_"),
        shape(hole, "later"),
        shape([[4, 3], [9, 3], [9, 9]], "__ignore__"),
        shape([[1, 1], [2, 1], [2, 2]], "__ignore__"),
    )
    first, far, later, ignored, corner = found.objects_of(0)
    assert [(part["points"], part["is_hole"]) for part in first["parts"]] == [
        (FLAT, False),
        ([4, 3, 6, 3, 5, 5], True),
        ([4, 3, 9, 3, 9, 9], True),
    ]
    assert [len(each["parts"]) for each in (far, later, ignored, corner)] == [1, 2, 1, 1]
    assert (ignored["category"], ignored["is_ignored"]) == (-1, True)
    assert list_ignored(found) == [[[4, 3, 9, 3, 9, 9]], [[1, 1, 2, 1, 2, 2]]]
    assert [each.name for each in found.categories] == ["leaf", "far", "later"]
    assert found.left_out == {
        "shapes labelled _background_: taken as background": 1,
        "shapes labelled __ignore__: their pixels are not counted": 2,
    }


def test_background_over_a_mask_costs_the_image() -> None:
    found = read(mask_shape(L_SHAPE, 2, 2), shape(label="_background_"))
    ((label, error),) = list_errors(found)
    assert label == "shapes[0]"
    assert error.startswith("shapes[1] lies over it and takes its pixels, but one of them is a mas")


def test_an_image_without_shapes_has_no_objects() -> None:
    found = read()
    assert (len(found.images), len(found.objects)) == (1, 0)


def test_labels_may_be_whole_numbers() -> None:
    assert list_objects(read(shape(label=7)))[0][0] == "7"


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (shape(label=None), "its label is None; give text"),
        (shape(label="\ud800"), "its label is '\\ud800'; give text"),
        (shape(7), "its corners are 7; give a list of [x, y]"),
        (shape([[1, 2], [3]]), "one of its corners is [3]; give [x, y]"),
        (shape([[1, 2], [3, None], [3, 3]]), "the coordinate None is not a number in px"),
        (shape([[1, 2], [3, math.inf], [3, 3]]), "the coordinate inf is not a number in px"),
        (shape([[1, 2], [3, 10**400], [3, 3]]), "the coordinate 1"),
        (shape(kind="circle"), "the circle has 3 points; give centre and rim"),
        (shape(group_id=[1]), "its group_id is [1]; give a whole number"),
        (mask_shape(L_SHAPE, 5, 7, mask=None), "its mask is None; give a PNG as base64"),
        (mask_shape(L_SHAPE, 5, 7, mask="a?b"), "its mask is not valid base64"),
        (mask_shape(L_SHAPE, 5, 7, mask="aaaa"), "its mask cannot be read: not an image"),
        (mask_shape(L_SHAPE, 5, 7, points=TRIANGLE), "its mask has 3 corners; give two"),
        (mask_shape(L_SHAPE, 40, 7), "its mask begins at 40, 7, outside of the image"),
        (mask_shape(L_SHAPE, -9, 7), "its mask begins at -9, 7, outside of the image"),
        (
            mask_shape(L_SHAPE, 5, 7, points=[[5, 7], [15, 9]]),
            "its mask has 3×4 px, but its corners span 11×3 px",
        ),
        (
            mask_shape(np.ones((24, 32)), 0, 0, points=[[5, 7], [15, 9]]),
            "its mask has the size of the image, 32×24 px, but its corners are those of a",
        ),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named(entry: Any, error: str) -> None:
    ((label, found),) = list_errors(read(shape(), entry))
    assert label == "shapes[1]"
    assert found.startswith(error)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (document(7), "shapes[0] is 7; give an object"),
        (document(shapes={}), "shapes is {}; give a list"),
        ({"imagePath": "a.jpg", "imageData": None}, "it has no list of shapes"),
        (document(imageWidth="wide"), "the width of the image is 'wide'; give a size in px"),
        (document(imageHeight=2.5), "the height of the image is 2.5; give a size in px"),
        (json.dumps(document(shape()), indent=2)[:-80], "line "),
    ],
)
def test_a_file_that_is_broken_is_refused_in_one_line(content: Any, error: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse(content, "a.json")
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(None, None), (-1, -1), (0, 24), (None, 24)])
def test_a_size_that_is_not_known_is_none(size: tuple[Any, Any]) -> None:
    found = read(imageWidth=size[0], imageHeight=size[1])
    assert found.images["width"].to_pylist() == [None]


def test_masks_that_expand_to_too_many_pixels_are_refused() -> None:
    file = BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    code = base64.b64encode(file.getvalue()).decode()
    ((_, error),) = list_errors(read(mask_shape(L_SHAPE, 0, 0, mask=code)))
    assert error.startswith("its mask ")


def test_damaged_files_are_refused_or_read() -> None:
    good = document(
        shape(),
        shape([[2, 3], [8, 7]], kind="rectangle", group_id=1),
        shape([[2, 3], [8, 7]], kind="circle", group_id=1),
        mask_shape(L_SHAPE, 5, 7),
        shape(label="_background_"),
        shape(label="__ignore__"),
    )
    content = json.dumps(good, indent=1).encode()
    numbers = random.Random(7)
    refused = 0
    for _ in range(1500):
        data = damage_bytes(content, numbers)
        if numbers.random() < 0.5:
            data = json.dumps(damage(good, numbers)).encode()
        try:
            Annotations.from_bytes(parse(data, "a.json").to_bytes())
        except LabelError:
            refused += 1
    assert 100 < refused < 1400


def test_the_confined_child_reads_the_same() -> None:
    shapes = [shape(), mask_shape(L_SHAPE, 5, 7), shape([[2, 3], [8, 7]], kind="circle")]
    palette = Image.fromarray(L_SHAPE.astype(np.uint8), "L").convert("P")
    file = BytesIO()
    palette.save(file, "PNG", transparency=0)
    code = base64.b64encode(file.getvalue()).decode()
    content = json.dumps(document(*shapes, mask_shape(L_SHAPE, 1, 1, mask=code))).encode()
    decoder = Decoder(module="unet_ray.labelled_data.formats.parsing")
    try:
        answer = decoder.call({"name": "a.json"}, len(content), lambda: [content])
    finally:
        decoder.close()
    assert Annotations.from_bytes(answer).objects.equals(parse(content, "a.json").objects)
