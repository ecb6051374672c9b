"""Metrics from counts: those of one image, of many images, and their confidence intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.metrics import (
    COUNTS,
    MEANS,
    METRICS,
    add_up_groups,
    bootstrap_intervals,
    compute_metrics,
    count_image,
    count_pixels,
    pool_metrics,
)
from unet_ray.imaging.regions.components import label_image

TWO_SQUARES = np.zeros((12, 12), bool)
TWO_SQUARES[1:5, 1:5] = TWO_SQUARES[7:11, 6:11] = True
ONE_SQUARE = TWO_SQUARES & (np.arange(12)[:, None] < 6)
NOTHING = np.zeros_like(TWO_SQUARES)


def count(found: np.ndarray, true: np.ndarray, tolerance: int = 1) -> np.ndarray:
    """Return the counts of an image of one class, shape (1, COUNTS)."""
    targets = true[None].astype(np.uint8)
    objects = [label_image(found)], [label_image(true)]
    return count_image(found[None], targets, *objects, tolerance)


def compute_metrics_of(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {name: float(values[0]) for name, values in compute_metrics(count(found, true)).items()}


def test_metrics_of_perfect_half_and_empty_predictions_by_hand() -> None:
    perfect = dict.fromkeys(METRICS, 1.0) | {"pixel_error": 0.0, "adapted_rand_error": 0.0}
    assert compute_metrics_of(TWO_SQUARES, TWO_SQUARES) == perfect
    half = compute_metrics_of(ONE_SQUARE, TWO_SQUARES)
    assert half["iou"] == 16 / 36  # squares of 4×4 and 4×5 px, of which the first is found
    assert (half["ap50"], half["map"], half["f1"], half["pq"]) == pytest.approx(
        (1 / 2, 1 / 2, 2 / 3, 2 / 3)
    )
    # boundaries of 12 and 14 px: precision 1, recall 12/26
    assert half["boundary_f1"] == pytest.approx(2 * (12 / 26) / (1 + 12 / 26))
    for found, true in ((NOTHING, TWO_SQUARES), (TWO_SQUARES, NOTHING)):
        nothing = compute_metrics_of(found, true)
        assert {
            nothing[name] for name in ("iou", "dice", "ap50", "map", "f1", "pq", "boundary_f1")
        } == {0}
    undefined = compute_metrics_of(NOTHING, NOTHING)
    assert {name for name, value in undefined.items() if np.isnan(value)} == METRICS.keys() - {
        "pixel_error"
    }


@given(
    arrays(bool, (1, 6, 7)), arrays(np.uint8, (1, 6, 7), elements=st.sampled_from([0, 1, IGNORED]))
)
@settings(deadline=None)
def test_counts_of_an_image_hold_its_pixel_counts_and_metrics_stay_between_0_and_1(
    found: np.ndarray, targets: np.ndarray
) -> None:
    counts = count_image(found, targets, [label_image(found[0])], [label_image(targets[0] == 1)], 2)
    pixels = count_pixels(found, targets)
    assert counts[:, :4].T.tolist() == pixels.as_array().tolist()
    metrics = compute_metrics(counts)
    for name in ("iou", "dice"):
        assert np.array_equal(metrics[name], getattr(pixels, name), equal_nan=True)
    wrong = pixels.false_positive + pixels.false_negative
    if pixels.total[0]:
        assert metrics["pixel_error"] == pytest.approx(wrong / pixels.total)
    assert all(0 <= value[0] <= 1 for value in metrics.values() if not np.isnan(value[0]))


def test_ignored_pixels_change_nothing() -> None:
    targets = TWO_SQUARES[None].astype(np.uint8)
    targets[:, 6:] = IGNORED
    counts = count_image(
        TWO_SQUARES[None], targets, [label_image(TWO_SQUARES)], [label_image(targets[0] == 1)], 1
    )
    assert dict(zip(COUNTS, counts[0], strict=True)) == dict(
        zip(COUNTS, count(ONE_SQUARE, ONE_SQUARE)[0], strict=True)
    ) | {"pixels": 6 * 12}


def test_pooled_metrics_add_counts_up_and_means_leave_undefined_images_out() -> None:
    images = [
        (TWO_SQUARES, TWO_SQUARES),
        (ONE_SQUARE, TWO_SQUARES),
        (TWO_SQUARES, NOTHING),
        (NOTHING, NOTHING),
    ]
    counts = np.stack([count(found, true) for found, true in images])
    pooled = {name: float(values[0, 0]) for name, values in pool_metrics(counts).items()}
    assert pooled.keys() == METRICS.keys() | MEANS.keys()
    assert pooled["iou"] == (36 + 16) / (36 + 36 + 36)
    assert pooled["ap50"] == 3 / (4 + 5 - 3)  # of 4 true and 5 found objects 3 match
    assert pooled["image_iou"] == pytest.approx((1 + 16 / 36 + 0) / 3)
    single = compute_metrics(counts)["adapted_rand_error"][:2, 0]
    assert pooled["adapted_rand_error"] == pytest.approx(single.mean())


def test_a_weight_counts_an_image_as_often_as_copies_of_it() -> None:
    counts = np.stack([count(TWO_SQUARES, TWO_SQUARES), count(ONE_SQUARE, TWO_SQUARES)])
    weighted = pool_metrics(counts, np.array([[2.0, 1.0], [0.0, 1.0]]))
    copied = pool_metrics(counts[[0, 0, 1]]), pool_metrics(counts[1:])
    for name, values in weighted.items():
        assert values[:, 0] == pytest.approx([set_[name][0, 0] for set_ in copied])


def test_intervals_hold_the_estimate_are_the_same_again_and_need_two_images() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((30, 16, 16)) < 0.3
    counts = np.stack([count(mask ^ (rng.random((16, 16)) < 0.1), mask) for mask in true])
    intervals, pooled = bootstrap_intervals(counts, 200, seed=0), pool_metrics(counts)
    for name, values in intervals.items():
        low, high = values[0]
        assert low < pooled[name][0, 0] < high
        assert high - low < 0.4
    again = bootstrap_intervals(counts, 200, seed=0)
    assert all(np.array_equal(again[name], values) for name, values in intervals.items())
    alone = np.stack([count(TWO_SQUARES, TWO_SQUARES)] + [count(NOTHING, NOTHING)] * 5)
    of_one = bootstrap_intervals(alone, 20, seed=0)
    assert {name for name, values in of_one.items() if not np.isnan(values).any()} == {
        "pixel_error"
    }


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """The reference is the textbook's: the mean Dice of resampled images, thousands of times."""
    rng = np.random.default_rng(1)
    true = rng.random((12, 16, 16)) < 0.3
    counts = np.stack(
        [count(mask ^ (rng.random((16, 16)) < rng.random() / 4), mask) for mask in true]
    )
    dice = compute_metrics(counts)["dice"][:, 0]
    means = [rng.choice(dice, len(dice)).mean() for _ in range(4000)]
    found = bootstrap_intervals(counts, 4000, seed=2)["image_dice"][0]
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.01)


def test_copies_of_an_image_in_one_group_are_no_more_evidence_than_the_image() -> None:
    rng = np.random.default_rng(3)
    true = rng.random((12, 16, 16)) < 0.3
    counts = np.stack([count(mask ^ (rng.random((16, 16)) < 0.1), mask) for mask in true])
    alone = bootstrap_intervals(counts, 100, 0)
    copied = np.repeat(counts, 5, axis=0)
    grouped = bootstrap_intervals(copied, 100, 0, np.repeat(np.arange(12), 5))
    ungrouped = bootstrap_intervals(copied, 100, 0)
    for name, values in alone.items():
        assert grouped[name] == pytest.approx(values)
        assert np.ptp(ungrouped[name]) < np.ptp(values)


def test_a_single_group_has_no_interval() -> None:
    counts = np.stack([count(TWO_SQUARES, TWO_SQUARES), count(ONE_SQUARE, TWO_SQUARES)])
    intervals = bootstrap_intervals(counts, 20, 0, np.zeros(2, np.int64))
    assert all(np.isnan(values).all() for values in intervals.values())


def test_counts_of_groups_are_sums_over_their_images() -> None:
    counts = np.arange(24, dtype=np.float64).reshape(3, 2, 4)
    sums = add_up_groups(counts, np.array([1, 0, 1]))
    assert np.array_equal(sums, [counts[1], counts[0] + counts[2]])
