"""Separation of touching objects: markers are labelled and grow inside the mask until they meet.

The network finds the markers of objects: their insides, which do not touch. Each marker is labelled
(8-connected) and grows by a number of synchronous steps over the 8-neighbourhood; a pixel takes the
label of its first labelled neighbour in a fixed order of directions. What then remains of the mask
is labelled on its own (the leftovers). So, apart from the connections of markers and of leftovers,
a pixel's label depends only on pixels that are at most as far away as the number of steps. Tiles
read with a halo of that size give the labels of the whole image, once markers and leftovers are
joined over the seams (`imaging.regions.merge`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.components import label_image
from unet_ray.imaging.regions.runs import Runs

DIRECTIONS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""(row, column) steps to the neighbours of a pixel, in the order in which they are searched.

Sides come before corners.
"""
STEPS = 8
"""Pixels by which markers grow: they are trained to lie a few pixels inside their objects."""
CORE = 1
"""Origin of a pixel that lies in a marker."""
LEFTOVER = 2
"""Origin of a pixel that no marker reaches."""
_GROWN = 3
WHOLE = slice(None), slice(None)
"""Rows and columns that select the whole of a piece."""


@dataclass(frozen=True)
class SeparatedMask:
    """The objects of a mask, and how each pixel got its label."""

    runs: Runs
    """Runs of the mask, labelled by object."""
    origin: NDArray[np.uint8]
    """Source of each pixel's label, HW: 0 outside the mask, CORE, LEFTOVER, or 3 + an index.

    The index is that of the neighbour in DIRECTIONS that gave the label.
    """
    may_touch: bool
    """True if pixels of different objects may be neighbours."""

    @property
    def count(self) -> int:
        """Largest label of an object + 1: the number of objects if this is a whole image."""
        return int(self.runs.label.max(initial=-1)) + 1

    @property
    def labels(self) -> NDArray[np.int32]:
        """The objects as a label image, from 1; 0 is background."""
        return self.runs.image(*self.origin.shape)


def unseparated(mask_hw: NDArray[np.bool_]) -> SeparatedMask:
    """Return the 8-connected components of a mask as its objects.

    They do not touch, and all their pixels count as marker.
    """
    origin = np.ascontiguousarray(mask_hw).view(np.uint8) * np.uint8(CORE)
    return SeparatedMask(Runs.of_mask(mask_hw), origin, may_touch=False)


def encode_direction(direction: tuple[int, int]) -> int:
    """Return the origin of a pixel that got its label from its neighbour in `direction`."""
    return _GROWN + DIRECTIONS.index(direction)


def separate_touching(
    mask_hw: NDArray[np.bool_],
    marker_hw: NDArray[np.bool_],
    steps: int,
    inner: tuple[slice, slice] = WHOLE,
) -> SeparatedMask:
    """Separate a mask into objects.

    Args:
        mask_hw: Pixels of one class.
        marker_hw: Pixels of the markers of its objects; those outside the mask do not count.
        steps: Largest number of pixels by which markers grow.
        inner: Rows and columns that are returned; the pixels around them serve only as halo.

    Example:
        mask 1 1 1 1 1 1, markers 1 0 0 0 0 1, 2 steps → labels 1 1 1 2 2 2; 1 step → 1 1 3 3 2 2.
    """
    mask = _add_frame(mask_hw)
    labelled = _add_frame(marker_hw & mask_hw)
    labels = label_image(labelled)
    origin = labelled.astype(np.uint8) * np.uint8(CORE)
    is_open = mask & ~labelled
    for _ in range(steps):
        reached_hw = is_open & _dilate(labelled)
        reached = np.flatnonzero(reached_hw)
        if not len(reached):
            break
        _take_labels(
            labels=labels.ravel(),
            origin=origin.ravel(),
            reached=reached,
            first=_find_first_labelled(labelled, reached),
            width=mask.shape[1],
        )
        is_open ^= reached_hw
        labelled |= reached_hw
    labels = labels[1:-1, 1:-1][inner]
    origin = origin[1:-1, 1:-1][inner]
    is_open = is_open[1:-1, 1:-1][inner]
    # A halo pixel that connects two leftovers may not be a leftover in the whole image, so the
    # leftovers of the inner piece are labelled without the halo.
    if is_open.any():
        labels = np.where(is_open, label_image(is_open) + labels.max(initial=0), labels)
        origin = np.where(is_open, np.uint8(LEFTOVER), origin)
    return SeparatedMask(Runs.of_labels(labels), origin, True)


def _add_frame(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Surround a mask with a frame of empty pixels, so that every pixel has all its neighbours."""
    framed = np.zeros((mask_hw.shape[0] + 2, mask_hw.shape[1] + 2), bool)  # half the time of np.pad
    framed[1:-1, 1:-1] = mask_hw
    return framed


def _dilate(framed_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a framed mask and all their neighbours."""
    # The flat mask can be shifted as a whole: the ends of neighbouring rows are empty.
    mask, width = framed_hw.ravel(), framed_hw.shape[1]
    widened = mask.copy()
    widened[1:] |= mask[:-1]
    widened[:-1] |= mask[1:]
    near = widened.copy()
    near[width:] |= widened[:-width]
    near[:-width] |= widened[width:]
    return near.reshape(framed_hw.shape)


def _find_first_labelled(
    labelled_hw: NDArray[np.bool_], reached: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Find the first labelled neighbour of pixels that have at least one.

    Args:
        labelled_hw: Labelled pixels, with a frame.
        reached: Flat indices of the pixels.

    Returns:
        Index of the neighbour in DIRECTIONS; (pixels,).
    """
    labelled = labelled_hw.ravel().view(np.uint8)
    width = labelled_hw.shape[1]
    # The first direction ranks highest: a maximum costs less than branching.
    rank = np.zeros(len(reached), np.uint8)
    for index, (down, right) in enumerate(DIRECTIONS):
        there = labelled.take(reached + (down * width + right))
        np.maximum(rank, there * np.uint8(len(DIRECTIONS) - index), out=rank)
    return np.uint8(len(DIRECTIONS)) - rank


def _take_labels(
    labels: NDArray[np.int32],
    origin: NDArray[np.uint8],
    reached: NDArray[np.intp],
    first: NDArray[np.uint8],
    width: int,
) -> None:
    """Give pixels the labels of their neighbours, all at once.

    Args:
        labels: Labels, flat; changed in place.
        origin: Origins, flat; changed in place.
        reached: Flat indices of the pixels.
        first: Neighbour of each pixel, as an index of DIRECTIONS.
        width: Width of the framed image (px).
    """
    offsets = np.array([down * width + right for down, right in DIRECTIONS])
    labels[reached] = labels.take(reached + offsets.take(first))
    origin[reached] = _GROWN + first
