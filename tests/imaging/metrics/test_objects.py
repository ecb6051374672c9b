"""Counts of objects and boundaries equal those of slow references.

The references are sets of pixels, optimal assignment, distance transforms and scikit-image.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from skimage.measure import label
from skimage.metrics import adapted_rand_error

from unet_ray.imaging.metrics.boundaries import count_boundaries, find_boundary, grow
from unet_ray.imaging.metrics.objects import IOU_PERCENT, count_objects, matches_by_filter
from unet_ray.imaging.regions.components import label_image
from unet_ray.imaging.regions.filter import ANY, RegionFilter

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@st.composite
def label_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    made = arrays(np.uint16, shape, elements=st.integers(0, 4))
    return draw(made), draw(made)


@st.composite
def mask_triples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    made = arrays(bool, shape)
    return draw(made), draw(made), draw(made | st.just(np.ones(shape, bool)))


def slow_counts(true: np.ndarray, found: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Count with sets of pixels, exact fractions, and an optimal assignment at each threshold."""

    def objects(labels: np.ndarray) -> list[set[tuple[int, ...]]]:
        return [
            set(map(tuple, np.argwhere(labels == label)))
            for label in np.unique(labels[labels != 0])
        ]

    valid = set(map(tuple, np.argwhere(counted)))
    wanted = [pixels & valid for pixels in objects(true) if pixels & valid]
    seen = [pixels & valid for pixels in objects(found) if 2 * len(pixels & valid) >= len(pixels)]
    iou = np.array([[Fraction(len(a & b), len(a | b)) for b in seen] for a in wanted], object)
    iou = iou.reshape(len(wanted), len(seen))
    split = sum(sum(2 * len(a & b) > len(b) for b in seen) > 1 for a in wanted)
    merged = sum(sum(2 * len(a & b) > len(a) for a in wanted) > 1 for b in seen)
    counts: dict[str, float] = {"true_objects": len(wanted), "found_objects": len(seen)}
    counts |= {"split_objects": split, "merged_objects": merged}
    for percent in IOU_PERCENT:
        rows, columns = linear_sum_assignment(
            (iou >= Fraction(percent, 100)).astype(float), maximize=True
        )
        matches = [
            iou[i, j]
            for i, j in zip(rows, columns, strict=True)
            if iou[i, j] >= Fraction(percent, 100)
        ]
        counts[f"matched_{percent}"] = len(matches)
        if percent == 50:
            counts["iou_sum"] = float(sum(matches))
    return counts


TWO_HALVES = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]])


@given(label_pairs(), st.data())
@example(TWO_HALVES, None)
@example(TWO_HALVES[::-1], None)
@settings(deadline=None)
def test_matches_are_those_of_the_optimal_assignment(
    labels: tuple[np.ndarray, np.ndarray], data: st.DataObject | None
) -> None:
    true, found = labels
    counted = data.draw(arrays(bool, true.shape)) if data else np.ones(true.shape, bool)
    counts = count_objects(true, found, counted)
    expected = slow_counts(true, found, counted)
    assert {name: counts[name] for name in expected} == pytest.approx(expected)


def test_of_two_objects_that_tie_at_an_iou_of_one_half_one_is_matched() -> None:
    counts = count_objects(*TWO_HALVES)
    assert (counts["matched_50"], counts["matched_55"], counts["iou_sum"]) == (1, 0, 0.5)
    assert (counts["true_objects"], counts["found_objects"]) == (1, 2)


def test_an_iou_of_exactly_sixty_percent_is_matched_at_sixty() -> None:
    counts = count_objects(np.array([[1, 1, 1, 1, 1]]), np.array([[1, 1, 1, 0, 0]]))
    assert (counts["matched_60"], counts["matched_65"]) == (1, 0)


@given(
    label_pairs(), st.integers(1, 12), st.sampled_from([0.0, 0.4, 0.6]), st.integers(0, 2**32 - 1)
)
def test_matches_leave_out_objects_that_the_filter_drops(
    labels: tuple[np.ndarray, np.ndarray], area: int, score: float, seed: int
) -> None:
    """The reference removes the dropped objects and counts again."""
    # objects are single pieces: then no two of them tie for one
    true, found = label(labels[0], connectivity=2), label_image(labels[1] > 0)
    counted = np.ones(true.shape, bool)
    prob_u8 = np.random.default_rng(seed).integers(0, 256, found.shape, np.uint8)
    kept = found.copy()
    for number in np.unique(found):
        if (found == number).sum() < area or prob_u8[found == number].mean() < 255 * score:
            kept[found == number] = 0
    counts = count_objects(true, kept)
    expected = counts["matched_50"], counts["found_objects"], counts["true_objects"]
    assert matches_by_filter(true, found, counted, prob_u8, [ANY, RegionFilter(area, score)])[
        1
    ].tolist() == list(expected)


@given(label_pairs(), st.permutations([1, 2, 3, 70000]))
def test_ids_do_not_matter_and_swapping_sides_swaps_their_counts(
    labels: tuple[np.ndarray, np.ndarray], ids: list[int]
) -> None:
    true, found = labels
    counts = count_objects(true, found)
    assert count_objects(np.array([0, *ids])[true], found) == counts
    assert count_objects(true, np.array([0, *ids])[found]) == counts
    swapped = count_objects(found, true)
    for name, value in counts.items():
        if not name.endswith("_pairs"):
            swaps = {"true_objects": "found_objects", "split_objects": "merged_objects"}
            other = (swaps | {theirs: ours for ours, theirs in swaps.items()}).get(name, name)
            assert swapped[other] == pytest.approx(value)


@given(label_pairs())
def test_a_perfect_prediction_matches_everything(labels: tuple[np.ndarray, np.ndarray]) -> None:
    true, _ = labels
    counts = count_objects(true, true)
    assert (
        {counts[f"matched_{p}"] for p in IOU_PERCENT}
        == {counts["true_objects"]}
        == {counts["found_objects"]}
    )
    assert counts["iou_sum"] == counts["true_objects"]
    assert counts["true_pairs"] == counts["found_pairs"] == counts["common_pairs"]


@given(label_pairs())
def test_pairs_give_the_rand_error_of_skimage(labels: tuple[np.ndarray, np.ndarray]) -> None:
    true, found = labels
    counts = count_objects(true, found)
    assume(counts["true_pairs"] > 0 and counts["found_pairs"] > 0)
    error, *_ = adapted_rand_error(true.astype(int), found.astype(int))
    assert 1 - 2 * counts["common_pairs"] / (
        counts["found_pairs"] + counts["true_pairs"]
    ) == pytest.approx(error)


def test_a_found_object_that_lies_mostly_on_ignored_pixels_is_left_out() -> None:
    found = label_image(np.array([[1, 1, 1, 1, 0, 1, 1, 1]], bool))
    counted = np.array([[0, 0, 1, 1, 1, 0, 0, 1]], bool)
    counts = count_objects(np.array([[0, 0, 1, 1, 0, 0, 0, 2]]), found, counted)
    assert (counts["true_objects"], counts["found_objects"], counts["matched_95"]) == (2, 1, 1)


def test_objects_that_touch_at_a_corner_are_one() -> None:
    assert label_image(np.eye(3, dtype=bool)).max() == 1


@given(st.integers(0, 9), arrays(bool, SHAPES))
def test_growing_is_a_thresholded_distance_transform(radius: int, mask: np.ndarray) -> None:
    expected = distance_transform_edt(~mask) <= radius if mask.any() else mask
    assert np.array_equal(grow(mask, radius), expected)


@given(mask_triples(), st.integers(0, 3))
@settings(deadline=None)
def test_boundaries_match_within_the_tolerance(
    masks: tuple[np.ndarray, np.ndarray, np.ndarray], tolerance: int
) -> None:
    true, found, counted = masks

    def boundary(mask: np.ndarray) -> list[tuple[int, int]]:
        inside = {(int(y), int(x)) for y, x in np.argwhere(mask & counted)}
        outside = {(int(y), int(x)) for y, x in np.argwhere(~mask & counted)}
        return [
            (y, x) for y, x in inside if {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & outside
        ]

    def near(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> int:
        return sum(
            any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in others) for y, x in some
        )

    wanted, seen = boundary(true), boundary(found)
    assert count_boundaries(true, found, counted, tolerance) == {
        "true_boundary": len(wanted),
        "true_boundary_matched": near(wanted, seen),
        "found_boundary": len(seen),
        "found_boundary_matched": near(seen, wanted),
    }


def test_edges_of_the_image_and_of_ignored_pixels_are_no_boundary() -> None:
    mask = np.ones((2, 4), bool)
    mask[:, 3] = False
    counted = np.ones((2, 4), bool)
    assert find_boundary(mask, counted).sum(0).tolist() == [0, 0, 2, 0]
    counted[:, 3] = False
    assert not find_boundary(mask, counted).any()
