import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.metrics import count_pixels
from unet_ray.imaging.metrics.thresholds import best_thresholds, count_prob_u8, counts_at
from unet_ray.imaging.regions.run_lengths import binary_mask

CLASSES = 2
THRESHOLDS = st.one_of(
    st.floats(0, 1),
    st.integers(0, 255).map(lambda n: n / 255),
    st.integers(0, 100).map(lambda n: n / 100),
)


def draw(seed: int, side: int, few: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return prob_u8 and targets of an image; with few values, many thresholds tie."""
    rng = np.random.default_rng(seed)
    values = np.sort(rng.choice(256, 3)) if few else np.arange(256)
    prob_u8 = rng.choice(values, (CLASSES, side, side)).astype(np.uint8)
    chance = rng.choice([0.0, 0.05, 0.5, 1.0])
    wanted = rng.random(prob_u8.shape) < np.where(
        rng.random() < 0.5, chance, chance * prob_u8 / 255
    )
    return prob_u8, np.where(rng.random(prob_u8.shape) < 0.2, IGNORED, wanted).astype(np.uint8)


@given(st.integers(0, 10**6), st.integers(1, 24), THRESHOLDS, THRESHOLDS)
@settings(deadline=None)
def test_histograms_give_the_counts_of_the_masks_of_segmentation(
    seed: int, side: int, one: float, other: float
) -> None:
    prob_u8, targets = draw(seed, side)
    masks = np.stack(
        [binary_mask(plane, t) for plane, t in zip(prob_u8, (one, other), strict=True)]
    )
    found = counts_at(count_prob_u8(prob_u8, targets), (one, other)).as_array()
    assert np.array_equal(found, count_pixels(masks, targets).as_array())


def test_a_threshold_a_rounding_error_above_a_level_is_that_level() -> None:
    threshold = 3 * 0.2  # 0.6000000000000001, which times 255 is above 153
    prob_u8, targets = np.array([[[152, 153]]], np.uint8), np.ones((1, 1, 2), np.uint8)
    assert binary_mask(prob_u8, threshold).tolist() == [[[False, True]]]
    assert counts_at(count_prob_u8(prob_u8, targets), (threshold,)).true_positive == 1


@given(st.integers(0, 10**6), st.integers(1, 24), st.booleans())
@settings(deadline=None, max_examples=40)
def test_the_best_threshold_is_the_one_nearest_to_one_half_among_the_best(
    seed: int, side: int, few: bool
) -> None:
    prob_u8, targets = draw(seed, side, few)
    chosen = best_thresholds(count_prob_u8(prob_u8, targets))
    for index, threshold in enumerate(chosen):
        dice = {
            t: float(
                count_pixels(
                    binary_mask(prob_u8[index : index + 1], t), targets[index : index + 1]
                ).dice[0]
            )
            for t in [0.5 if level == 128 else level / 255 for level in range(1, 256)]
        }
        if not (targets[index] == 1).any():
            assert threshold == 0.5
            continue
        good = [t for t, value in dice.items() if value >= max(dice.values()) - 1e-3]
        assert dice[threshold] >= max(dice.values()) - 1e-3
        assert abs(threshold - 0.5) == min(abs(t - 0.5) for t in good)


def test_a_network_that_is_always_sure_keeps_one_half() -> None:
    targets = np.zeros((1, 8, 8), np.uint8)
    targets[:, 2:5] = 1
    assert best_thresholds(count_prob_u8(targets * 255, targets)) == (0.5,)


@pytest.mark.parametrize(
    ("level", "expected"), [(60, 60 / 255), (128, 0.5), (127, 127 / 255), (255, 0.5)]
)
def test_a_network_with_low_probabilities_gets_a_low_threshold(level: int, expected: float) -> None:
    targets = np.zeros((1, 8, 8), np.uint8)
    targets[:, 2:5] = 1
    assert best_thresholds(
        count_prob_u8(np.where(targets == 1, level, 10).astype(np.uint8), targets)
    ) == (expected,)


def test_a_class_without_counted_pixels_keeps_one_half() -> None:
    prob_u8 = np.random.default_rng(0).integers(0, 256, (2, 9, 9), dtype=np.uint8)
    targets = np.stack([np.zeros((9, 9), np.uint8), np.full((9, 9), IGNORED, np.uint8)])
    histograms = count_prob_u8(prob_u8, targets)
    assert best_thresholds(histograms) == (0.5, 0.5)
    assert histograms[0].sum() == 81  # all pixels of 9×9
    assert not histograms[1].any()


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 12)), min_size=1, max_size=4),
    THRESHOLDS,
)
@settings(deadline=None)
def test_histograms_of_images_add_up_to_that_of_all(
    images: list[tuple[int, int]], threshold: float
) -> None:
    """Workers add up to the histograms and counts of one worker, at every threshold."""
    parts = [draw(*image) for image in images]
    flat = [
        np.concatenate([part[which].reshape(CLASSES, 1, -1) for part in parts], axis=2)
        for which in (0, 1)
    ]
    added = sum(count_prob_u8(*part) for part in parts)
    assert np.array_equal(added, count_prob_u8(*flat))
    together = sum(
        (counts_at(count_prob_u8(*part), (threshold,) * CLASSES).as_array() for part in parts),
        start=0,
    )
    assert np.array_equal(counts_at(added, (threshold,) * CLASSES).as_array(), together)
