"""Postprocessing turns probabilities into masks and objects.

Segmenting, evaluating and tuning all use this code, so that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unet_ray.flags import check_range
from unet_ray.imaging.regions.filter import RegionFilter
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.imaging.regions.separation import (
    WHOLE,
    SeparatedMask,
    separate_touching,
    unseparated,
)

_MAX_AREA_PX = 2**31 - 1
"""Upper limit of `min_area`, the same as of `--min-area` (px)."""
_MAX_STEPS = 256
"""Largest number of steps: each tile of a large image is read with a halo of as many pixels."""


@dataclass(frozen=True)
class ObjectRule:
    """The four numbers by which the probabilities of one class become its objects.

    Raises:
        InputError: A number is out of bounds.
    """

    threshold: float = 0.5
    """Smallest probability at which a pixel belongs to the class."""
    marker_threshold: float | None = None
    """Smallest probability at which a pixel belongs to a marker. None: there are no markers, and
    the objects are the components of the mask."""
    min_area: int = 1
    """Smallest area of an object that is kept (px)."""
    min_score: float | None = None
    """Smallest mean probability of an object that is kept. None: none was chosen, and objects of
    any probability are kept, as with 0; the digest of a model differs between the two."""

    def __post_init__(self) -> None:
        check_range("thresholds", [self.threshold], 0, 1)
        if self.marker_threshold is not None:
            check_range("thresholds of markers", [self.marker_threshold], 0, 1)
        check_range("min_areas", [self.min_area], 0, _MAX_AREA_PX)
        if self.min_score is not None:
            check_range("min_scores", [self.min_score], 0, 1)

    @property
    def filter(self) -> RegionFilter:
        """Filter that an object must pass to be kept."""
        return RegionFilter(self.min_area, 0.0 if self.min_score is None else self.min_score)


@dataclass(frozen=True)
class Postprocessing:
    """The rules that turn prob_u8 into masks and objects."""

    rules: tuple[ObjectRule, ...]
    """Rule of each class. Either all rules have a threshold of markers, or none has one."""
    steps: int | None = None
    """Largest number of pixels by which markers grow. None: there are no markers."""

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_range("steps", [self.steps], 0, _MAX_STEPS)
        assert all((rule.marker_threshold is not None) == self.separates for rule in self.rules)

    @property
    def separates(self) -> bool:
        """True if markers separate touching objects; else objects are components of the mask."""
        return self.steps is not None

    @property
    def halo(self) -> int:
        """Width of the surroundings of a part of an image that affect the objects in it (px)."""
        return self.steps or 0

    def override(
        self, threshold: float | None, min_area: int | None, min_score: float | None
    ) -> Postprocessing:
        """Return the same postprocessing with the given values in the rules of all classes.

        Args:
            threshold: Smallest probability of a pixel; None keeps that of each rule, as below.
            min_area: Smallest area of an object (px).
            min_score: Smallest mean probability of an object.

        Raises:
            InputError: A value is out of bounds.
        """
        rules = []
        for rule in self.rules:
            if threshold is not None:
                rule = replace(rule, threshold=threshold)
            if min_area is not None:
                rule = replace(rule, min_area=min_area)
            if min_score is not None:
                rule = replace(rule, min_score=min_score)
            rules.append(rule)
        return replace(self, rules=tuple(rules))

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
        rule = self.rules[index]
        mask = binary_mask(prob_u8_khw[index], rule.threshold)
        if rule.marker_threshold is None or self.steps is None:
            return mask[inner], unseparated(mask[inner])
        markers = binary_mask(prob_u8_khw[len(self.rules) + index], rule.marker_threshold)
        return mask[inner], separate_touching(mask, markers, self.steps, inner)

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
        is_kept = self.rules[index].filter.met_by(area, prob_u8_sum)
        return mask, np.where(is_kept[labels], labels, 0)
