from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from unet_ray.imaging.regions.outline_rle import encode_outlines
from unet_ray.imaging.regions.outline_wkb import parse_outlines
from unet_ray.imaging.regions.regions import find_regions
from unet_ray.imaging.regions.separation import unseparated


@given(
    arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.sampled_from([1, 5, 2**22]),
)
def test_each_outline_is_encoded_as_pycocotools_encodes_its_pixels(
    mask: np.ndarray, group_px: int
) -> None:
    """Byte by byte, with holes, corners that touch, and runs that go on in the next column."""
    outlines = shapely.from_wkb(
        find_regions(unseparated(mask), np.full(mask.shape, 200, np.uint8)).geometry
    )
    found = encode_outlines(np.atleast_1d(outlines), *mask.shape, group_px)
    pixels = [coco.decode({"size": list(mask.shape), "counts": counts}) for counts in found]
    assert np.array_equal(sum(pixels, np.zeros(mask.shape, int)), mask)
    for drawn, counts, outline in zip(pixels, found, outlines, strict=True):
        assert drawn.sum() == outline.area
        assert counts == coco.encode(np.asfortranarray(drawn))["counts"]


@given(
    st.lists(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), max_size=4),
    st.sampled_from([1, 5, 2**22]),
)
def test_outlines_of_images_of_any_sizes_are_encoded_together_as_alone(
    masks: list[np.ndarray], group_px: int
) -> None:
    found = [
        find_regions(unseparated(mask), np.full(mask.shape, 200, np.uint8)).geometry
        for mask in masks
    ]
    outlines = [np.atleast_1d(shapely.from_wkb(codes)) for codes in found]
    alone = [
        code
        for mask, shapes in zip(masks, outlines, strict=True)
        for code in encode_outlines(shapes, *mask.shape)
    ]
    shapes = [mask.shape for mask in masks]
    sizes = np.repeat(np.reshape(shapes, (-1, 2)), [*map(len, outlines)], axis=0)
    together = np.concatenate([np.zeros(0, object), *outlines])
    assert encode_outlines(together, *sizes.T.astype(np.int64), group_px) == alone
    codes = [code for codes in found for code in codes]
    assert parse_outlines(codes, *sizes.T).tolist() == together.tolist()


def test_an_outline_that_takes_gigabytes_is_left_out() -> None:
    side = 2**26
    outlines = [
        shapely.box(0, 0, 3, 1),
        shapely.box(0, 0, side, 1),
        shapely.box(2**20, 1, 2**21, 2),
    ]
    first, wide, last = encode_outlines(np.array(outlines), 2, side)
    assert wide is None
    assert (
        first
        == coco.frPyObjects(
            {"size": [2, side], "counts": [0, 1, 1, 1, 1, 1, 2 * side - 5]}, 2, side
        )["counts"]
    )
    area = coco.area({"size": [2, side], "counts": last})
    assert area == 2**20


@pytest.mark.parametrize(
    "outline",
    [
        shapely.box(2, 2, 5, 1e9),
        shapely.box(-1, 2, 5, 8),
        shapely.Polygon([(0, 0), (4, 0), (4, float("inf"))]),
        shapely.Polygon(),
        None,
    ],
)
def test_an_outline_that_leaves_its_image_is_refused(outline: Any) -> None:
    good = shapely.box(0, 0, 20, 10)
    assert len(encode_outlines(np.array([good]), 10, 20)) == 1
    with pytest.raises(ValueError, match="an outline (that leaves its image of 20×10 px|without)"):
        encode_outlines(np.array([good, outline]), 10, 20)
