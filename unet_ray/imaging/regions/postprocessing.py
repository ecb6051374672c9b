"""Postprocessing turns probabilities into masks and objects.

Segmenting, evaluating and tuning all use this code, so that they agree.
"""

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
    """Thresholds and filters that turn prob_u8 into masks and objects, per class."""

    thresholds: tuple[float, ...]
    """Per class: the smallest probability at which a pixel belongs to the class."""
    least: tuple[RegionFilter, ...]
    """Per class: the filter that an object must pass to count."""
    separation: Separation | None = None
    """Settings for separating touching objects by markers; None: objects are mask components."""

    def cut(
        self, index: int, prob_u8_khw: NDArray[np.uint8], inner: tuple[slice, slice] = WHOLE
    ) -> tuple[NDArray[np.bool_], SeparatedMask]:
        """Return the mask of a class and its objects, including those that the filter would drop.

        Args:
            index: Index of the class.
            prob_u8_khw: round(255·probability), uint8, KHW: a plane per class, then a plane of
                markers per class if the network has any.
            inner: Rows and columns that are returned; the pixels around them serve only as halo.

        Returns:
            The mask, HW bool, and the separated objects, both of `inner`.
        """
        mask = binary_mask(prob_u8_khw[index], self.thresholds[index])
        if self.separation is None:
            return mask[inner], unseparated(mask[inner])
        marker_prob_u8 = prob_u8_khw[len(self.thresholds) + index]
        markers = binary_mask(marker_prob_u8, self.separation.thresholds[index])
        return mask[inner], separate_touching(mask, markers, self.separation.steps, inner)

    def objects(
        self, index: int, prob_u8_khw: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Return the mask of a class and the objects that pass its filter.

        Args:
            index: Index of the class.
            prob_u8_khw: Probabilities as for `cut`.

        Returns:
            The mask, HW bool, and the objects as a label image, HW int32; 0 is background.
        """
        mask, separated = self.cut(index, prob_u8_khw)
        labels = separated.labels
        area = np.bincount(labels.ravel())
        prob_u8_sum = np.bincount(labels.ravel(), prob_u8_khw[index].ravel())
        is_kept = self.least[index].met_by(area, prob_u8_sum)
        return mask, np.where(is_kept[labels], labels, 0)
