"""Counts of pixels first, metrics from counts: counts add up over images, workers and nights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
"""Target value of a pixel that is not counted."""


@dataclass(frozen=True)
class PixelCounts:
    """Per class: how many pixels were found rightly, wrongly, not at all, and counted."""

    true_positive: NDArray[np.int64]
    false_positive: NDArray[np.int64]
    false_negative: NDArray[np.int64]
    total: NDArray[np.int64]

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts.of_array(self.as_array() + other.as_array())

    def as_array(self) -> NDArray[np.int64]:
        """Return the counts as (4, classes), in the order of the fields."""
        return np.stack([self.true_positive, self.false_positive, self.false_negative, self.total])

    @staticmethod
    def of_array(counts: NDArray[np.int64]) -> PixelCounts:
        """Return the inverse of `as_array`."""
        return PixelCounts(*counts)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class; NaN for a class that is neither present nor found."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient (F1) per class; NaN for a class that is neither present nor found."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def pixel_error(self) -> NDArray[np.float64]:
        """Share of the counted pixels that are wrong, per class."""
        return _ratio(self.false_positive + self.false_negative, self.total)


def count_pixels(masks_khw: NDArray[np.bool_], targets_khw: NDArray[np.uint8]) -> PixelCounts:
    """Count a prediction against its targets.

    Args:
        masks_khw — predicted masks, one per class.
        targets_khw — 0, 1, or IGNORED.
    """
    wanted, counted = targets_khw == 1, targets_khw != IGNORED
    axes = (1, 2)
    return PixelCounts(
        (masks_khw & wanted).sum(axes, dtype=np.int64),
        (masks_khw & ~wanted & counted).sum(axes, dtype=np.int64),
        (~masks_khw & wanted).sum(axes, dtype=np.int64),
        counted.sum(axes, dtype=np.int64),
    )


def no_counts(classes: int) -> PixelCounts:
    """Return the counts of no pixel."""
    return PixelCounts.of_array(np.zeros((4, classes), np.int64))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
