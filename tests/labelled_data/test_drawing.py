"""Objects of label files: numbers are checked before anything is drawn."""

import json
from collections.abc import Sequence
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.labelled_data import drawing
from unet_ray.labelled_data.annotations import NO_CATEGORY, Annotations, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.drawing import Drawing, Size, count_objects, resize_nearest
from unet_ray.labelled_data.formats.parsing import parse_labels

HEIGHT, WIDTH = 48, 64
TRIANGLE = [5, 5, 20, 5, 5, 20]
COORDINATES = st.floats(-20, 80, allow_subnormal=False) | st.integers(-20, 80)
CELL, FIBRE = ClassSpec(1, "cell"), ClassSpec(2, "fibre")
IGNORED, FIRST = 1, 2
"""Values in the mask of a single class: pixels that are not counted, and the first object."""


def parse_coco(*segmentations: Any, **image: int) -> Annotations:
    """Return what a COCO file with one image and a class says."""
    document = {
        "categories": [{"id": 1, "name": "cell"}],
        "images": [{"id": 1, "file_name": "a.png"} | image],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "segmentation": s, "bbox": [0, 0, 1, 1]}
            for i, s in enumerate(segmentations, 1)
        ],
    }
    return parse_labels(BufferedReader(BytesIO(json.dumps(document).encode())), "a.json")  # type: ignore[arg-type]


def draw(*segmentations: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return object ids from 1, as drawn from a COCO file."""
    (mask,) = Drawing(parse_coco(*segmentations), (CELL,), {0: 0}).draw(0, (height, width))
    return np.where(mask < FIRST, 0, mask.astype(int) - IGNORED)


Part = Polygon | Runs


def build(
    *objects: tuple[int, Sequence[Part], bool],
    size_of_labels: tuple[int, int] | None = None,
    is_normalised: bool = False,
) -> Annotations:
    """Return annotations of one image; objects have a category, parts, and whether they count."""
    builder = AnnotationsBuilder()
    image = builder.add_image("a.png", size=size_of_labels, is_normalised=is_normalised)
    for name in ("cell", "fibre", "area"):
        builder.add_category(name)
    for category, parts, is_ignored in objects:
        builder.add_object(image, category, parts, label="object", is_ignored=is_ignored)
    return builder.build()


def draw_parts(*parts: Part, size: Size = (HEIGHT, WIDTH), **image: Any) -> np.ndarray:
    """Return where an object of some parts is."""
    annotations = build((0, parts, False), **image)
    return Drawing(annotations, (CELL,), {0: 0}).draw(0, size)[0] == FIRST


def make_box(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def list_counts(mask: np.ndarray) -> list[int]:
    """Return the plain run lengths of a mask, counted pixel by pixel."""
    counts = [0]
    for pixel in mask.T.ravel():
        if pixel != (len(counts) - 1) % 2:
            counts.append(0)
        counts[-1] += 1
    return counts


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_run_lengths_of_both_kinds_give_the_mask_back(mask: np.ndarray) -> None:
    height, width = mask.shape
    for counts in (list_counts(mask), encode_rle(mask).decode()):
        drawn = draw({"size": [height, width], "counts": counts}, height=height, width=width)
        assert np.array_equal(drawn, mask)


@given(st.lists(st.lists(COORDINATES, min_size=6, max_size=14), min_size=1, max_size=3))
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons: list[list[float]]) -> None:
    """What leaves the image is cut off; several polygons are one object."""
    polygons = [polygon[: len(polygon) // 2 * 2] for polygon in polygons]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH)))
    assert np.array_equal(draw(polygons), expected)


def test_later_objects_are_drawn_over_earlier_ones() -> None:
    whole = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    assert set(np.unique(draw(whole, [TRIANGLE]))) == {1, 2}
    assert (draw([TRIANGLE], whole) == 2).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[5, 5, 1e9, 5, 30, 30]], r"the coordinate 1e\+09 is farther than 64 px from the image"),
        ([[-1e9, 5, 8, 5, 30, 30]], r"the coordinate -1e\+09 is farther than 64 px"),
        ([[5, 5, 8, 5, 30, 2**62]], r"the coordinate 4.61169e\+18 is farther"),
        ([[5, 5, 10**400, 5, 30, 30]], "the coordinate 1000.* is not a number"),
        (json.loads("[[5, 5, 1e999, 5, 30, 30]]"), "the coordinate inf is farther"),
        ([[5, 5, float("nan"), 5, 30, 30]], "the coordinate nan is farther"),
        ([[5, 5, "8", 5, 30, 30]], "the coordinate '8' is not a number"),
        ([[5, 5, None, 5, 30, 30]], "the coordinate None is not a number"),
        ([[5, 5, 8, 8, 9, 9, 1]], "an outline has 7 numbers, which are not pairs"),
        (5, "its segmentation is 5"),
        ([TRIANGLE, 5], "an outline is 5"),
        ({"size": [64, 48], "counts": [0, 3072]}, "have 48×64 px, but the image has 64×48 px"),
        ({"size": [24, 32], "counts": [0, 768]}, "have 32×24 px, but the image has 64×48 px"),
        ({"size": [2**40, 2**40], "counts": [2**63 - 1]}, r"size \[1099511627776, "),
        ({"size": [2**16, 2**16], "counts": "PPP"}, "have 65536×65536 px, but the image has 64"),
        ({"size": "48", "counts": []}, "its run lengths have the size '48'"),
        ({"size": [48, 64]}, "its run lengths have the size .* and None"),
        ({"size": [48, 64], "counts": [5, 5]}, "run lengths that fill 10 px of a mask of 64×48 px"),
        ({"size": [48, 64], "counts": []}, "run lengths that fill 0 px"),
        ({"size": [48, 64], "counts": ""}, "run lengths that fill 0 px"),
        ({"size": [48, 64], "counts": [3073, -1]}, "its run lengths have the count -1"),
        ({"size": [48, 64], "counts": [2**31 - 1] * 3}, "px in a mask of 64×48 px"),
        (
            {"size": [48, 64], "counts": [2**64]},
            "its run lengths have the count 18446744073709551616",
        ),
        ({"size": [48, 64], "counts": [1.5, 3070.5]}, "its run lengths have the count 1.5"),
        ({"size": [48, 64], "counts": "é"}, "its run lengths have the counts 'é'"),
        ({"size": [48, 64], "counts": "z"}, "characters other than 0 to o"),
        ({"size": [48, 64], "counts": "o"}, "a number that is cut off or too long"),
        ({"size": [48, 64], "counts": "o" * 9 + "0"}, "a number that is cut off or too long"),
    ],
)
def test_an_annotation_that_does_not_fit_costs_its_image(segmentation: Any, message: str) -> None:
    with pytest.raises(ImageError, match=f"unreadable: annotation 2: .*{message}") as error:
        draw([TRIANGLE], segmentation)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "segmentation",
    [
        TRIANGLE,
        [[[5, 5], [20, 5], [5, 20]]],
        [[5, 5], [20, 5], [5, 20]],
        [{"x": 5, "y": 5}, {"x": 20, "y": 5}, {"x": 5, "y": 20}],
        [TRIANGLE, []],
        [TRIANGLE, [1, 2]],
        [{"size": [HEIGHT, WIDTH], "counts": list_counts(draw([TRIANGLE]))}],
    ],
)
def test_outlines_are_read_in_all_forms_that_tools_write(segmentation: Any) -> None:
    assert np.array_equal(draw(segmentation), draw([TRIANGLE]))


@pytest.mark.parametrize("segmentation", [[], [[]], None, {}, [[5, 5, 9, 9]], [[1, 2], [3, 4]]])
def test_the_box_of_an_object_without_an_outline_is_not_counted(segmentation: Any) -> None:
    annotations = parse_coco(segmentation)
    (mask,) = Drawing(annotations, (CELL,), {0: 0}).draw(0, (HEIGHT, WIDTH))
    assert (mask[0, 0], (mask != 0).sum()) == (IGNORED, 1)
    assert annotations.left_out["boxes without an outline: their pixels are not counted"] == 1


def test_an_outline_that_would_take_gigabytes_is_refused() -> None:
    zigzag = [[0, 0, 60, 40] * 150_000]
    with pytest.raises(ImageError, match="an outline has 18000000 px; the limit is 4194304 px"):
        draw(zigzag)


def test_outlines_that_would_take_minutes_together_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "_MOST_IMAGE_OUTLINE_PX", 1000)
    monkeypatch.setattr(drawing, "_OUTLINE_PX_PER_CORNER", 10)
    strips = [[[0, y, 60, y, 60, y + 1]] for y in range(40)]
    draw(*strips[:8])
    with pytest.raises(ImageError, match="annotation 11: it and the outlines before it in the im"):
        draw(*strips)


# --- holes, boxes, scales


@given(arrays(bool, (9, 11)), st.integers(0, 5), st.integers(0, 7))
def test_run_lengths_of_a_box_lie_at_its_place(inside: np.ndarray, left: int, top: int) -> None:
    expected = np.zeros((20, 22), bool)
    expected[top : top + 9, left : left + 11] = inside
    found = draw_parts(Runs(encode_rle(inside), 9, 11, left, top), size=(20, 22))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("left", "top"), [(-1, 0), (0, -1), (12, 0), (0, 12), (2**31 - 1, 0)])
def test_run_lengths_of_a_box_that_leaves_the_image_are_refused(left: int, top: int) -> None:
    with pytest.raises(
        ImageError, match=f"run lengths have 11×9 px at {left}, {top}, but the image"
    ):
        draw_parts(Runs(encode_rle(np.ones((9, 11))), 9, 11, left, top), size=(20, 22))


@given(
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_run_lengths_are_scaled_to_the_nearest_pixel(
    inside: np.ndarray, margins: tuple[int, int, int, int], size: Size
) -> None:
    """A slow reference asks each pixel which drawn pixel its centre lies in."""
    whole = np.pad(inside, (margins[:2], margins[2:]))
    (height, width), (top, _, left, _) = whole.shape, margins
    expected = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = (y + 0.5) * height / size[0], (x + 0.5) * width / size[1]
            expected[y, x] = whole[int(row), int(column)]
    box = Runs(encode_rle(inside), *inside.shape, left, top)
    for part in (box, Runs(encode_rle(whole), height, width)):
        found = draw_parts(part, size=size, size_of_labels=(width, height))
        assert np.array_equal(found, expected)
    assert np.array_equal(resize_nearest(whole, size), expected)


def test_run_lengths_of_an_absurd_size_take_no_memory() -> None:
    side = 2**31 - 1
    runs = Runs(b"0" + b"ooooo1", side, side)
    with pytest.raises(ImageError, match="run lengths"):
        draw_parts(runs, size=(8, 8), size_of_labels=(side, side))


@given(st.lists(COORDINATES, min_size=6, max_size=10), st.sampled_from([2, 3, 0.5]))
def test_outlines_are_scaled_with_the_size_for_which_they_were_drawn(
    corners: list[float], factor: float
) -> None:
    corners = corners[: len(corners) // 2 * 2]
    size = (int(HEIGHT * factor), int(WIDTH * factor))
    scaled = [corner * factor for corner in corners]
    found = draw_parts(Polygon(corners), size=size, size_of_labels=(WIDTH, HEIGHT))
    assert np.array_equal(found, draw_parts(Polygon(scaled), size=size))


def test_shares_of_width_and_height_become_pixels() -> None:
    shares = [0.25, 0.5, 0.75, 0.5, 0.75, 1, 0.25, 1]
    found = draw_parts(Polygon(shares), is_normalised=True)
    assert np.array_equal(found, draw_parts(Polygon(make_box(16, 24, 48, 48))))
    with pytest.raises(ImageError, match="the coordinate .* is farther than"):
        draw_parts(Polygon([part * 64 for part in shares]), is_normalised=True)


BOXES = st.builds(
    lambda left, top, width, height: (left, top, min(left + width, 24), min(top + height, 24)),
    *[st.integers(0, 23)] * 2,
    *[st.integers(1, 24)] * 2,
)


@given(st.lists(BOXES, min_size=1, max_size=4))
def test_holes_are_cut_out_of_their_own_outline_only(boxes: list[tuple[int, ...]]) -> None:
    outer, *holes = boxes
    expected = np.zeros((24, 24), bool)
    expected[outer[1] : outer[3], outer[0] : outer[2]] = True
    for left, top, right, bottom in holes:
        expected[top:bottom, left:right] = False
    other = np.zeros((24, 24), bool)
    other[3:9, 4:10] = True
    ring = Polygon(make_box(*outer), [make_box(*hole) for hole in holes])
    island = Polygon(make_box(4, 3, 10, 9))
    for parts in ([ring, island], [island, ring]):
        assert np.array_equal(draw_parts(*parts, size=(24, 24)), expected | other)


def test_holes_are_checked_as_outlines_are() -> None:
    with pytest.raises(ImageError, match=r"the coordinate 1e\+09 is farther"):
        draw_parts(Polygon(make_box(0, 0, 9, 9), [[1, 1, 1e9, 1, 5, 5]]))


# --- classes and pixels that are not counted


def draw_classes(annotations: Annotations, *area: int) -> list[np.ndarray]:
    places = {row: row for row in (0, 1)}
    return Drawing(annotations, (CELL, FIBRE), places, frozenset(area)).draw(0, (10, 10))


def test_each_class_has_a_mask_of_its_own() -> None:
    cell, fibre = draw_classes(
        build(
            (0, [Polygon(make_box(0, 0, 6, 6))], False),
            (1, [Polygon(make_box(4, 4, 9, 9))], False),
            (2, [Polygon(make_box(0, 0, 9, 9))], False),
        )
    )
    assert (np.unique(cell).tolist(), np.unique(fibre).tolist()) == ([0, 1], [0, 1])
    assert (cell.sum(), fibre.sum()) == (36, 25)


def test_objects_lie_on_pixels_that_are_not_counted_whatever_their_order() -> None:
    crowd, cell = [Polygon(make_box(0, 0, 9, 9))], [Polygon(make_box(2, 2, 4, 4))]
    objects = [(0, cell, False), (0, crowd, True)]
    for order in (objects, objects[::-1]):
        mask, other = draw_classes(build(*order))
        assert (mask[3, 3], mask[0, 0], mask[9, 9]) == (1, 255, 0)
        assert other[0, 0] == 255
        (ids,) = Drawing(build(*order), (CELL,), {0: 0}).draw(0, (10, 10))
        assert (ids[3, 3] >= FIRST, ids[0, 0], ids[9, 9]) == (True, IGNORED, 0)
    (mask,) = Drawing(build((NO_CATEGORY, crowd, False)), (CELL,), {0: 0}).draw(0, (10, 10))
    assert set(mask.ravel()) == {0, IGNORED}


def test_crowds_of_classes_that_are_not_learnt_are_background() -> None:
    crowd = [Polygon(make_box(0, 0, 9, 9))]
    (mask,) = Drawing(build((1, crowd, True)), (CELL,), {0: 0}).draw(0, (10, 10))
    assert not mask.any()


def test_nothing_is_counted_outside_of_the_area_class() -> None:
    objects = (
        (0, [Polygon(make_box(1, 1, 3, 3))], False),
        (0, [Polygon(make_box(7, 7, 9, 9))], False),
        (2, [Polygon(make_box(0, 0, 5, 5))], False),
    )
    cell, fibre = draw_classes(build(*objects), 2)
    assert (cell[2, 2], cell[0, 0], cell[8, 8], cell[9, 9]) == (1, 0, 255, 255)
    assert (fibre[2, 2], fibre[8, 8]) == (0, 255)
    cell, _ = draw_classes(build(*objects[:2]), 2)
    assert (cell == 255).all()


def test_objects_are_counted_by_class() -> None:
    part = [Polygon(make_box(1, 1, 3, 3))]
    annotations = build(
        (0, part, False), (0, part, True), (1, part, False), (1, part, False), (2, part, False)
    )
    counts, others = count_objects(Drawing(annotations, (FIBRE, CELL), {1: 0, 0: 1}))
    assert (counts.tolist(), others) == ([2, 1], 1)
    counts, others = count_objects(Drawing(annotations, (CELL,), {0: 0}, frozenset({2})))
    assert (counts.tolist(), others) == ([1], 2)
