import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from unet_ray.imaging.regions.components import label_image, label_values
from unet_ray.imaging.regions.runs import Runs

VALUES = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.integers(0, 3),
)


def flood(values: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Label equal values that touch, also at a corner, pixel by pixel; 0 stays 0."""
    labels = np.zeros(values.shape, np.int32)
    for y, x in np.argwhere(values).tolist():
        if labels[y, x]:
            continue
        labels[y, x] = labels.max() + 1
        front = [(y, x)]
        while front:
            row, column = front.pop()
            top, left = max(0, row - 1), max(0, column - 1)
            near = np.s_[top : row + 2, left : column + 2]
            is_new = (values[near] == values[y, x]) & (labels[near] == 0)
            labels[near][is_new] = labels[y, x]
            front += [(top + down, left + right) for down, right in np.argwhere(is_new).tolist()]
    return labels


def assert_same_objects(found: NDArray[np.int32], expected: NDArray[np.int32]) -> None:
    """Compare label images whose objects may be numbered in another order."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert np.array_equal(found > 0, expected > 0)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


@given(VALUES)
def test_components_of_equal_values_are_those_of_a_flood(values: NDArray[np.uint8]) -> None:
    assert_same_objects(label_values(values), flood(values))


@given(VALUES)
def test_components_of_a_mask_are_those_of_a_flood(values: NDArray[np.uint8]) -> None:
    """Both ways to label a mask: as an image, and as runs, which are numbered in raster order."""
    mask = values > 1
    expected = flood(mask.astype(np.uint8))
    assert_same_objects(label_image(mask), expected)
    assert np.array_equal(Runs.of_mask(mask).image(*mask.shape), expected)
