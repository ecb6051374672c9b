"""From probabilities to masks and objects: one rule for segmenting, evaluating and tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.filter import RegionFilter
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.imaging.regions.separation import (
    WHOLE,
    SeparatedMask,
    Separation,
    separate_touching,
    unseparated,
)


@dataclass(frozen=True)
class Postprocessing:
    """What of prob_u8 is a class, and what its objects."""

    thresholds: tuple[float, ...]
    """Per class: the probability from which on a pixel is the class."""
    least: tuple[RegionFilter, ...]
    """Per class: what an object must come to, to count."""
    separation: Separation | None = None
    """Of networks that part touching objects; None: objects are the components of the mask."""

    def cut(
        self, index: int, prob_u8_khw: NDArray[np.uint8], inner: tuple[slice, slice] = WHOLE
    ) -> tuple[NDArray[np.bool_], SeparatedMask]:
        """Return the mask of a class, and its objects, small ones too.

        Args:
            index — of the class.
            prob_u8_khw — round(255·probability) per class, then per class of its cores where there are any.
            inner — rows and columns of the piece that is wanted; what surrounds it is there for its sake.
        """
        mask = binary_mask(prob_u8_khw[index], self.thresholds[index])
        if self.separation is None:
            return mask[inner], unseparated(mask[inner])
        core = binary_mask(
            prob_u8_khw[len(self.thresholds) + index], self.separation.thresholds[index]
        )
        return mask[inner], separate_touching(mask, core, self.separation.steps, inner)

    def objects(
        self, index: int, prob_u8_khw: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Return the mask of a class, and the objects that count as a label image (HW, 0 background)."""
        mask, separated = self.cut(index, prob_u8_khw)
        labels = separated.labels
        area, prob_u8_sum = (
            np.bincount(labels.ravel()),
            np.bincount(labels.ravel(), prob_u8_khw[index].ravel()),
        )
        return mask, np.where(self.least[index].met_by(area, prob_u8_sum)[labels], labels, 0)
