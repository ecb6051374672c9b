import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.metrics import PixelCounts, count_pixels
from unet_ray.imaging.regions.run_lengths import (
    binary_mask,
    decode_rle,
    decompress_counts,
    encode_rle,
    threshold_level,
)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_run_lengths_give_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)


@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=9))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(counts: list[int]) -> None:
    listed = {"size": [1, sum(counts)], "counts": counts}
    assert decompress_counts(coco.frPyObjects(listed, 1, 1)["counts"]).tolist() == counts


@given(st.binary(max_size=12) | st.text("0123456789:;<=>?@AOPQRo", max_size=12).map(str.encode))
def test_run_lengths_that_are_taken_fill_their_mask_exactly(counts: bytes) -> None:
    """Each other byte string is refused; none shows what lay in memory."""
    try:
        mask = decode_rle(counts, 3, 4)
    except ValueError:
        return
    assert np.array_equal(mask, coco.decode({"size": [3, 4], "counts": counts}))
    assert sum(decompress_counts(counts).tolist()) == 12


@pytest.mark.parametrize(
    ("counts", "height", "width", "message"),
    [
        (b"55", 64, 64, "run lengths that fill 10 px of a mask of 64×64 px"),
        (b"", 64, 64, "run lengths that fill 0 px"),
        (b"5", 1, 4, "run lengths of 0 to 5 px in a mask of 4×1 px"),
        (b"5", 2**40, 2**40, "run lengths that fill 5 px"),
        (b"5", -5, -1, "in a mask of -1×-5 px"),
        (b"5O", 2, 2, "run lengths of -1 to 5 px"),
        (b"5\x00", 2, 2, "characters other than 0 to o"),
        (b"5o", 2, 2, "cut off or too long"),
    ],
)
def test_run_lengths_that_do_not_fill_their_mask_are_refused(
    counts: bytes, height: int, width: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(counts, height, width)


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
