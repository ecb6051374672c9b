import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from unet_ray.imaging.regions.outline_rle import encode_outlines
from unet_ray.imaging.regions.regions import find_regions
from unet_ray.imaging.regions.separation import unseparated


@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_each_outline_is_encoded_as_pycocotools_encodes_its_pixels(mask: np.ndarray) -> None:
    """Byte by byte, with holes, corners that touch, and runs that go on in the next column."""
    outlines = shapely.from_wkb(
        find_regions(unseparated(mask), np.full(mask.shape, 200, np.uint8)).geometry
    )
    found = encode_outlines(np.atleast_1d(outlines), *mask.shape)
    pixels = [coco.decode({"size": list(mask.shape), "counts": counts}) for counts in found]
    assert np.array_equal(sum(pixels, np.zeros(mask.shape, int)), mask)
    for drawn, counts, outline in zip(pixels, found, outlines, strict=True):
        assert drawn.sum() == outline.area
        assert counts == coco.encode(np.asfortranarray(drawn))["counts"]
