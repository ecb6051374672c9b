"""From probabilities to masks and objects: one rule for segmenting, evaluating and tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.filter import Least
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.imaging.regions.separation import WHOLE, Parted, Parting, part_touching, unparted


@dataclass(frozen=True)
class ObjectRule:
    """What of q is a class, and what its objects."""

    thresholds: tuple[float, ...]
    """Per class: the probability from which on a pixel is the class."""
    least: tuple[Least, ...]
    """Per class: what an object must come to, to count."""
    parting: Parting | None = None
    """Of networks that part touching objects; None: objects are the components of the mask."""

    def cut(
        self, index: int, q_khw: NDArray[np.uint8], inner: tuple[slice, slice] = WHOLE
    ) -> tuple[NDArray[np.bool_], Parted]:
        """Return the mask of a class, and its objects, small ones too.

        Args:
            index — of the class.
            q_khw — round(255·probability) per class, then per class of its cores where there are any.
            inner — rows and columns of the piece that is wanted; what surrounds it is there for its sake.
        """
        mask = binary_mask(q_khw[index], self.thresholds[index])
        if self.parting is None:
            return mask[inner], unparted(mask[inner])
        core = binary_mask(q_khw[len(self.thresholds) + index], self.parting.thresholds[index])
        return mask[inner], part_touching(mask, core, self.parting.steps, inner)

    def objects(self, index: int, q_khw: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Return the mask of a class, and the objects that count as a label image (HW, 0 background)."""
        mask, parted = self.cut(index, q_khw)
        labels = parted.labels
        area, q_sum = np.bincount(labels.ravel()), np.bincount(labels.ravel(), q_khw[index].ravel())
        return mask, np.where(self.least[index].met_by(area, q_sum)[labels], labels, 0)
