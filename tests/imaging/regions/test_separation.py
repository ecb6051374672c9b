import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label

from tests.builders import draw_touching_discs
from unet_ray.imaging.regions.separation import (
    CORE,
    DIRECTIONS,
    LEFTOVER,
    SeparatedMask,
    separate_touching,
)


def reference(mask: NDArray[np.bool_], markers: NDArray[np.bool_], steps: int) -> NDArray[np.int64]:
    """Separate a mask pixel by pixel."""
    labels = label(markers & mask, connectivity=2)
    for _ in range(steps):
        before = labels.copy()
        for y, x in np.argwhere(mask & (before == 0)):
            for down, right in DIRECTIONS:
                if (
                    0 <= y + down < len(mask)
                    and 0 <= x + right < mask.shape[1]
                    and before[y + down, x + right]
                ):
                    labels[y, x] = before[y + down, x + right]
                    break
    left = label(mask & (labels == 0), connectivity=2)
    return np.where(left > 0, left + labels.max(), labels)


SHAPES = (st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 8))


@settings(max_examples=200, deadline=None)
@given(*SHAPES)
def test_labels_are_those_of_the_slow_reference(
    height: int, width: int, seed: int, steps: int
) -> None:
    mask, markers = draw_touching_discs(height, width, seed)
    found, expected = separate_touching(mask, markers, steps), reference(mask, markers, steps)
    pairs = np.unique(np.stack([found.labels[mask], expected[mask]]), axis=1)
    assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]  # labels map one to one
    assert np.array_equal(found.labels > 0, mask)
    assert np.array_equal(found.origin == CORE, markers & mask)


@settings(max_examples=100, deadline=None)
@given(*SHAPES)
def test_a_region_is_in_one_piece_and_origins_lead_to_its_marker(
    height: int, width: int, seed: int, steps: int
) -> None:
    mask, markers = draw_touching_discs(height, width, seed)
    found = separate_touching(mask, markers, steps)
    for number in np.unique(found.labels[mask]):
        assert label(found.labels == number, connectivity=2).max() == 1
    assert np.array_equal(found.origin == 0, ~mask)
    for y, x in np.argwhere(found.origin > LEFTOVER):
        for _ in range(steps):
            if found.origin[y, x] == CORE:
                break
            down, right = DIRECTIONS[found.origin[y, x] - LEFTOVER - 1]
            assert found.labels[y + down, x + right] == found.labels[y, x]
            y, x = y + down, x + right
        assert found.origin[y, x] == CORE


def test_separation_of_the_docstring_example() -> None:
    mask, markers = np.ones((1, 6), bool), np.array([[1, 0, 0, 0, 0, 1]], bool)
    assert separate_touching(mask, markers, 2).labels.tolist() == [[1, 1, 1, 2, 2, 2]]
    found: SeparatedMask = separate_touching(mask, markers, 1)
    assert found.labels.tolist() == [[1, 1, 3, 3, 2, 2]]
    assert found.origin.tolist()[0][2:4] == [LEFTOVER, LEFTOVER]
