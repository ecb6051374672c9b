"""Objects of COCO annotations: numbers are checked before anything is drawn."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from unet_ray.errors import ImageError
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.labelled_data.formats.coco_objects import CocoObject, draw_objects

HEIGHT, WIDTH = 48, 64
TRIANGLE = [5, 5, 20, 5, 5, 20]
COORDINATES = st.floats(-20, 80, allow_subnormal=False) | st.integers(-20, 80)


def draw(*segmentations: Any, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    objects = [CocoObject.parse(f"annotation {i}", s) for i, s in enumerate(segmentations, 1)]
    return draw_objects(tuple(objects), height, width)


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
        ([[5, 5, 10**400, 5, 30, 30]], "a polygon with the coordinate 1000"),
        (json.loads("[[5, 5, 1e999, 5, 30, 30]]"), "a polygon with the coordinate inf"),
        ([[5, 5, float("nan"), 5, 30, 30]], "a polygon with the coordinate nan"),
        ([[5, 5, "8", 5, 30, 30]], "a polygon with the coordinate '8'"),
        ([[5, 5, True, 5, 30, 30]], "a polygon with the coordinate True"),
        ([[[5, 5], [8, 5], [30, 30]]], r"a polygon with the coordinate \[5, 5\]"),
        ([[5, 5, 8, 8]], "a polygon of 4 numbers; it needs x and y of 3 points"),
        ([[5, 5, 8, 8, 9, 9, 1]], "a polygon of 7 numbers"),
        ([], "no polygon"),
        (None, "its segmentation holds None, not polygons or run lengths"),
        (5, "its segmentation holds 5"),
        ([TRIANGLE, 5], "its segmentation holds 5"),
        ({"size": [64, 48], "counts": [0, 3072]}, r"size \[64, 48\], but the image has \[48, 64\]"),
        ({"size": [2**40, 2**40], "counts": [2**63 - 1]}, r"size \[1099511627776, "),
        ({"size": "48", "counts": []}, "run lengths of the size '48'; it must be"),
        ({"size": [48, 64]}, "run lengths with the counts None"),
        ({"size": [48, 64], "counts": [5, 5]}, "run lengths that fill 10 px of a mask of 64×48 px"),
        ({"size": [48, 64], "counts": []}, "run lengths that fill 0 px"),
        ({"size": [48, 64], "counts": ""}, "run lengths that fill 0 px"),
        ({"size": [48, 64], "counts": [3073, -1]}, "run lengths of -1 to 3073 px in a mask"),
        ({"size": [48, 64], "counts": [2**63 - 1] * 3}, "px in a mask of 64×48 px"),
        ({"size": [48, 64], "counts": [2**64]}, "run lengths with the count 18446744073709551616"),
        ({"size": [48, 64], "counts": [1.5, 3070.5]}, "run lengths with the count 1.5"),
        ({"size": [48, 64], "counts": "é"}, "run lengths with the counts 'é'"),
        ({"size": [48, 64], "counts": "z"}, "characters other than 0 to o"),
        ({"size": [48, 64], "counts": "o"}, "a number that is cut off or too long"),
        ({"size": [48, 64], "counts": "o" * 9 + "0"}, "a number that is cut off or too long"),
    ],
)
def test_an_annotation_that_does_not_fit_costs_its_image(segmentation: Any, message: str) -> None:
    with pytest.raises(ImageError, match=f"unreadable: annotation 2: .*{message}") as error:
        draw([TRIANGLE], segmentation)
    assert "\n" not in str(error.value)


def test_an_outline_that_would_take_gigabytes_is_refused() -> None:
    zigzag = [[0, 0, 60, 40] * 150_000]
    with pytest.raises(ImageError, match="an outline of 18000000 px; the longest is 16777216 px"):
        draw(zigzag)
