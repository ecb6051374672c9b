import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from unet_ray.imaging.labels import border_weights as module
from unet_ray.imaging.labels.border_weights import border_weights, colour_objects, context_px

SMALL = arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 0, 1, 2, 5]),
)
SIGMAS = st.sampled_from([0.3, 0.7, 1.0, 5.0])


def weights_by_hand(labels: NDArray[Any], strength: float, sigma: float) -> NDArray[np.float64]:
    """Compute the weights of the docstring's formula pixel by pixel."""
    weights = np.ones(labels.shape)
    for place in np.ndindex(labels.shape):
        distances = sorted(
            min(math.dist(place, other) for other in np.argwhere(labels == number).tolist())
            for number in set(labels.ravel().tolist()) - {0}
        )
        if len(distances) < 2:
            continue
        reach = distances[0] + distances[1]
        if reach <= 4 * sigma and (labels[place] == 0 or distances[1] < 2):
            weights[place] += strength * math.exp(-(reach**2) / (2 * sigma**2))
    return weights


def discs(side: int, count: int, seed: int) -> NDArray[np.uint16]:
    """Draw objects that lie close or touch; later ones cover earlier ones."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((side, side), np.uint16)
    for number in range(1, count + 1):
        top, left, radius = rng.integers(0, side), rng.integers(0, side), rng.integers(2, 9)
        labels[(y - top) ** 2 + (x - left) ** 2 <= radius**2] = number
    return labels


@settings(max_examples=60, deadline=None)
@given(SMALL, SIGMAS)
def test_weights_are_those_of_the_formula(labels: NDArray[Any], sigma: float) -> None:
    found = border_weights(labels, 10.0, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights_by_hand(labels, 10.0, sigma), rtol=1e-6)


def test_objects_that_are_near_have_two_colours_and_few_are_needed() -> None:
    labels = np.kron(np.arange(1, 101).reshape(10, 10), np.pad(np.ones((8, 8), int), 1))
    colours = colour_objects(labels, 4)
    assert ((colours > 0) == (labels > 0)).all()
    assert colours.max() == 4
    for shift in [(0, 5), (5, 0), (5, 5)]:  # pixels of neighbours, 3 to 5 px apart
        here, there = (
            labels[shift[0] :, shift[1] :],
            labels[: -shift[0] or None, : -shift[1] or None],
        )
        near = (here > 0) & (there > 0) & (here != there)
        assert near.any()
        first, second = (
            colours[shift[0] :, shift[1] :],
            colours[: -shift[0] or None, : -shift[1] or None],
        )
        assert (first[near] != second[near]).all()


@pytest.mark.parametrize("side", [7, 16, 33])
def test_squares_leave_no_seams(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    labels = discs(60, 40, 1)
    whole = border_weights(labels)
    monkeypatch.setattr(module, "_SQUARE_PX", side)
    np.testing.assert_array_equal(border_weights(labels), whole)


def test_an_object_of_parts_far_apart_costs_no_more_than_others() -> None:
    labels = np.tile(discs(60, 40, 2), (40, 40))  # each id has 1,600 parts, 2,400 px apart
    whole = border_weights(labels)
    np.testing.assert_array_equal(whole[600:660, 600:660], whole[1200:1260, 660:720])


def test_the_cut_at_four_sigma_loses_less_than_a_hundredth() -> None:
    labels = discs(40, 6, 0)
    whole = weights_by_hand(labels, 10.0, 500.0)  # 4 σ reach beyond the image
    assert (whole[labels == 0] > 10.9).all()  # nearly 1 + 10 on all of the background
    near, far = border_weights(labels), border_weights(labels, sigma_px=5.0 * 100)
    np.testing.assert_allclose(far, whole, rtol=1e-6)
    assert near.min() == 1
    assert near[near > 1].min() >= 1 + 10 * math.exp(-8)  # the weight at the cut, 4 σ


def test_one_object_or_none_has_weights_of_one() -> None:
    labels = np.zeros((30, 30), np.int32)
    assert (border_weights(labels) == 1).all()
    labels[4:9, 4:9] = labels[12:15, 20:] = 3  # one object in two pieces
    assert (border_weights(labels) == 1).all()


def test_weights_of_a_gap_and_of_a_seam_by_hand() -> None:
    gap = border_weights(np.array([[1, 0, 2]]))
    assert gap[0].tolist() == pytest.approx([1, 1 + 10 * math.exp(-4 / 50), 1])
    seam = border_weights(np.array([[1, 1, 2, 2]]))
    assert seam[0].tolist() == pytest.approx(
        [1, 1 + 10 * math.exp(-1 / 50), 1 + 10 * math.exp(-1 / 50), 1]
    )
    corner = border_weights(np.array([[1, 0], [0, 2]]), sigma_px=0.3)  # √2 px is beyond 4 σ
    assert (corner == 1).all()


@settings(max_examples=30, deadline=None)
@given(SMALL, SIGMAS)
def test_ids_and_directions_do_not_matter(labels: NDArray[Any], sigma: float) -> None:
    weights = border_weights(labels, sigma_px=sigma)
    renamed = np.array([0, 90_000, 7, 0, 0, 3_000_000], np.int64)[labels]
    np.testing.assert_array_equal(border_weights(renamed, sigma_px=sigma), weights)
    np.testing.assert_array_equal(border_weights(labels[::-1], sigma_px=sigma), weights[::-1])
    np.testing.assert_array_equal(
        border_weights(labels[:, ::-1].T, sigma_px=sigma), weights[:, ::-1].T
    )


@pytest.mark.parametrize("sigma", [0.2, 1.0, 2.5, 5.0])
def test_a_window_with_its_context_has_the_weights_of_the_whole(sigma: float) -> None:
    labels, context = discs(120, 60, 1), context_px(sigma)
    weights = border_weights(labels, sigma_px=sigma)
    assert (weights > 1.5).any() or sigma < 0.5
    for top, left, height, width in (
        (0, 0, 30, 40),
        (33, 47, 25, 1),
        (60, 50, 60, 70),
        (50, 3, 7, 9),
    ):
        first = max(0, top - context), max(0, left - context)
        piece = labels[first[0] : top + height + context, first[1] : left + width + context]
        inner = border_weights(piece, sigma_px=sigma)[top - first[0] :, left - first[1] :][
            :height, :width
        ]
        np.testing.assert_array_equal(inner, weights[top : top + height, left : left + width])
