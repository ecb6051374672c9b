import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from unet_ray.imaging.object_runs import encode_objects
from unet_ray.imaging.tiling import Box

_SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(arrays(np.int64, _SIDES, elements=st.integers(0, 3)), st.integers(0, 3), st.integers(0, 3), _SIDES)
def test_each_label_is_encoded_as_pycocotools_would(labels: np.ndarray, top: int, left: int, rest: tuple) -> None:
    """Byte by byte, in a window anywhere in the image, also where it is as high as the image."""
    box = Box(top, left, top + labels.shape[0], left + labels.shape[1])
    whole = np.zeros((box.bottom + rest[0] - 1, box.right + rest[1] - 1), np.int64)
    whole[box.top : box.bottom, box.left : box.right] = labels
    found = encode_objects(labels, box, *whole.shape)
    assert set(found) == set(np.unique(labels)) - {0}
    for label, counts in found.items():
        assert counts == coco.encode(np.asfortranarray(whole == label, np.uint8))["counts"]
