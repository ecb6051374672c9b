"""Counts at every threshold at once: histograms of prob_u8, for tuning class thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.metrics.metrics import PixelCounts
from unet_ray.imaging.regions.run_lengths import threshold_level

_AS_GOOD = 1e-3
"""Dice differences up to this count as ties.

Among tied thresholds the one nearest to ½ owes the least to chance.
"""


def count_prob_u8(
    prob_u8_khw: NDArray[np.uint8], targets_khw: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return histograms of prob_u8 for the pixels outside and inside each class.

    Args:
        prob_u8_khw: round(255·probability); KHW uint8.
        targets_khw: 0, 1, or IGNORED, which is not counted; KHW uint8.

    Returns:
        Histograms (classes, 2, 256), int64: pixels that are not the class, then pixels that are.
    """
    histograms = np.empty((len(prob_u8_khw), 2, 256), np.int64)
    for index, (prob_u8, target) in enumerate(zip(prob_u8_khw, targets_khw, strict=True)):
        for value in (0, 1):
            histograms[index, value] = np.bincount(prob_u8[target == value], minlength=256)
    return histograms


def counts_at(histograms: NDArray[np.int64], thresholds: tuple[float, ...]) -> PixelCounts:
    """Return the counts at one threshold per class.

    A pixel is the class where prob_u8 ≥ ceil(255·threshold).
    """
    rows = []
    for (without, within), threshold in zip(histograms, thresholds, strict=True):
        level = threshold_level(threshold)
        true_positive = within[level:].sum()
        false_positive = without[level:].sum()
        false_negative = within[:level].sum()
        total = without.sum() + within.sum()
        rows.append([true_positive, false_positive, false_negative, total])
    return PixelCounts.of_array(np.array(rows, np.int64).T)


def best_thresholds(histograms: NDArray[np.int64]) -> tuple[float, ...]:
    """Return the threshold with the best Dice over all pixels, per class.

    It is ½ for a class that has no pixels.
    """
    best = []
    for without, within in histograms:
        if not within.sum():
            best.append(0.5)
            continue
        # Pixels of prob_u8 ≥ 1, 2, …, 255: all of them, and those that are the class.
        found = np.cumsum((without + within)[::-1])[::-1][1:]
        right = np.cumsum(within[::-1])[::-1][1:]
        dice = 2 * right / np.maximum(1, found + within.sum())
        good = np.flatnonzero(dice >= dice.max() - _AS_GOOD) + 1
        thresholds = np.where(good == 128, 0.5, good / 255)  # prob_u8 ≥ 128 is what ½ means
        best.append(float(thresholds[np.argmin(np.abs(thresholds - 0.5))]))
    return tuple(best)
