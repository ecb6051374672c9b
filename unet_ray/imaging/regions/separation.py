"""Touching objects separated: cores are labelled and grow inside the mask until they meet.

The network finds the cores of objects, which do not touch. Each is labelled (8-connected) and grows by so many
synchronous steps over the 8-neighbourhood; a pixel takes the label of its first labelled neighbour in a fixed order of
directions. What is left of the mask is labelled by itself. So a pixel's label depends on nothing farther away than the
steps reach, but for the connections of cores and leftovers: tiles that are read with that much around them give what
the whole image gives, once cores and leftovers are joined over their seams (`imaging.seams`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.components import label_image
from unet_ray.imaging.regions.runs import Runs

DIRECTIONS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""(row, column) steps to the neighbours of a pixel, in the order in which it asks them: sides before corners."""
STEPS = 8
"""By how many pixels cores grow: they are trained to lie a few pixels inside their objects."""
CORE = 1
LEFTOVER = 2
_GROWN = 3
WHOLE = slice(None), slice(None)
"""Rows and columns of a piece that is the whole."""


@dataclass(frozen=True)
class Separation:
    """How a network's output parts the objects of each class."""

    thresholds: tuple[float, ...]
    """Per class: the probability from which on a pixel is of an object's core."""
    min_areas: tuple[int, ...]
    """Per class: smaller objects are dropped (px)."""
    steps: int = STEPS
    """By how many pixels cores grow at most."""
    min_scores: tuple[float, ...] = ()
    """Per class: objects of a smaller mean probability are dropped; none given: none are."""


@dataclass(frozen=True)
class SeparatedMask:
    """The objects of a mask, and how each pixel came to its label."""

    runs: Runs
    """With the objects as labels."""
    origin: NDArray[np.uint8]
    """HW: 0 outside the mask, CORE, LEFTOVER, or 3 + the index in DIRECTIONS of the neighbour that gave the label."""
    may_touch: bool
    """Whether pixels of different objects may be neighbours."""

    @property
    def count(self) -> int:
        """Largest number of an object, + 1: their number, where this is a whole image."""
        return int(self.runs.label.max(initial=-1)) + 1

    @property
    def labels(self) -> NDArray[np.int32]:
        """The objects as a label image, from 1; 0 where the mask is not."""
        return self.runs.image(*self.origin.shape)


def unseparated(mask_hw: NDArray[np.bool_]) -> SeparatedMask:
    """Return the 8-connected components of a mask, whose objects do not touch: all of it is core."""
    return SeparatedMask(
        Runs.of_mask(mask_hw), np.ascontiguousarray(mask_hw).view(np.uint8) * np.uint8(CORE), False
    )


def grown_from(direction: tuple[int, int]) -> int:
    """Return the origin of a pixel that got its label from its neighbour in a direction of DIRECTIONS."""
    return _GROWN + DIRECTIONS.index(direction)


def separate_touching(
    mask_hw: NDArray[np.bool_],
    core_hw: NDArray[np.bool_],
    steps: int,
    inner: tuple[slice, slice] = WHOLE,
) -> SeparatedMask:
    """Part a mask into objects.

    Args:
        mask_hw — pixels of one class.
        core_hw — pixels of its objects' cores; those outside the mask do not count.
        steps — by how many pixels cores grow at most.
        inner — rows and columns of the piece that is wanted; what surrounds it is there for its sake.

    Example: mask 1 1 1 1 1 1, cores 1 0 0 0 0 1, 2 steps → labels 1 1 1 2 2 2; 1 step → 1 1 3 3 2 2.
    """
    mask, labelled = _framed(mask_hw), _framed(core_hw & mask_hw)
    labels, origin, is_open = (
        label_image(labelled),
        labelled.astype(np.uint8) * np.uint8(CORE),
        mask & ~labelled,
    )
    for _ in range(steps):
        reached_hw = is_open & _near(labelled)
        reached = np.flatnonzero(reached_hw)
        if not len(reached):
            break
        _take_labels(
            labels.ravel(),
            origin.ravel(),
            reached,
            _first_labelled(labelled, reached),
            mask.shape[1],
        )
        is_open ^= reached_hw
        labelled |= reached_hw
    labels, origin, is_open = (
        labels[1:-1, 1:-1][inner],
        origin[1:-1, 1:-1][inner],
        is_open[1:-1, 1:-1][inner],
    )
    if (
        is_open.any()
    ):  # what joins leftovers outside the piece may be none there: they are labelled by themselves
        labels = np.where(is_open, label_image(is_open) + labels.max(initial=0), labels)
        origin = np.where(is_open, np.uint8(LEFTOVER), origin)
    return SeparatedMask(Runs.of_labels(labels), origin, True)


def _framed(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with a pixel of nothing all around: so no neighbour lies outside."""
    framed = np.zeros((mask_hw.shape[0] + 2, mask_hw.shape[1] + 2), bool)  # half the time of np.pad
    framed[1:-1, 1:-1] = mask_hw
    return framed


def _near(framed_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a framed mask and their neighbours."""
    mask, width = (
        framed_hw.ravel(),
        framed_hw.shape[1],
    )  # flat: a row's end and the next one's begin are empty
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    near = wide.copy()
    near[width:] |= wide[:-width]
    near[:-width] |= wide[width:]
    return near.reshape(framed_hw.shape)


def _first_labelled(labelled_hw: NDArray[np.bool_], reached: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return the index in DIRECTIONS of the first labelled neighbour of pixels, each of which has one.

    Args:
        labelled_hw — framed.
        reached — the pixels, as places in it when flat.
    """
    labelled, width = labelled_hw.ravel().view(np.uint8), labelled_hw.shape[1]
    rank = np.zeros(
        len(reached), np.uint8
    )  # the first direction ranks highest: comparing costs less than branching
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
        labels, origin — flat; changed in place.
        reached — the pixels.
        first — the neighbour of each, as index in DIRECTIONS.
        width — of the image (px).
    """
    offsets = np.array([down * width + right for down, right in DIRECTIONS])
    labels[reached], origin[reached] = labels.take(reached + offsets.take(first)), _GROWN + first
