import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.metrics import PixelCounts, count_pixels
from unet_ray.imaging.regions.run_lengths import (
    binary_mask,
    decode_rle,
    encode_rle,
    threshold_level,
)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)


@given(st.integers(1, 255))
def test_the_threshold_of_a_level_is_that_level(level: int) -> None:
    assert threshold_level(level / 255) == level


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 128), (0.2, 51), (1.0, 255), (0.001, 1)])
def test_a_threshold_is_a_level_from_which_pixels_are_foreground(
    threshold: float, level: int
) -> None:
    assert threshold_level(threshold) == level
    assert binary_mask(np.array([[level - 1, level]], np.uint8), threshold).tolist() == [
        [False, True]
    ]


def test_metrics_come_from_counts_and_leave_ignored_pixels_out() -> None:
    found = np.array([[[1, 1, 0, 0, 1]]], bool)
    wanted = np.array([[[1, 0, 1, 0, IGNORED]]], np.uint8)
    none = PixelCounts.of_array(np.zeros((4, 1), np.int64))
    counts = count_pixels(found, wanted)
    # true positive, false positive, false negative, counted pixels
    assert counts.as_array().ravel().tolist() == [1, 1, 1, 4]
    assert (counts.iou[0], counts.dice[0]) == (1 / 3, 0.5)
    assert np.isnan(none.iou[0])
