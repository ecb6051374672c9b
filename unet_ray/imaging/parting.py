"""Touching objects parted: cores are labelled and grow inside the mask until they meet.

The network finds the cores of objects, which do not touch. Each is labelled (8-connected) and grows by so many
synchronous steps over the 8-neighbourhood; a pixel takes the label of its first labelled neighbour in a fixed order of
directions. What is left of the mask is labelled by itself. So a pixel's label depends on nothing farther away than the
steps reach, but for the connections of cores and leftovers: tiles that are read with that much around them give what
the whole image gives, once cores and leftovers are joined over their seams (`imaging.seams`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

DIRECTIONS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""(row, column) steps to the neighbours of a pixel, in the order in which it asks them: sides before corners."""
STEPS = 8
"""By how many pixels cores grow: they are trained to lie a few pixels inside their objects."""
CORE = 1
LEFTOVER = 2
_GROWN = 3


@dataclass(frozen=True)
class Parting:
    """How a network's output parts the objects of each class."""

    thresholds: tuple[float, ...]
    """Per class: the probability from which on a pixel is of an object's core."""
    steps: int = STEPS
    """By how many pixels cores grow at most."""


@dataclass(frozen=True)
class Parted:
    """A mask as a label image, and how each pixel came to its label."""

    labels: NDArray[np.int32]
    """HW, 0 where the mask is not."""
    origin: NDArray[np.uint8]
    """HW: 0 outside the mask, CORE, LEFTOVER, or 3 + the index in DIRECTIONS of the neighbour that gave the label."""

    def of(self, rows: slice, columns: slice) -> Parted:
        """Return a piece, its leftovers labelled by themselves: what joins them outside may be no leftover there."""
        labels, origin = self.labels[rows, columns], self.origin[rows, columns]
        return _with_leftovers(labels, origin, origin == LEFTOVER)


def unparted(mask_hw: NDArray[np.bool_]) -> Parted:
    """Return a mask whose objects do not touch: all of it is core."""
    return Parted(label_image(mask_hw), mask_hw.astype(np.uint8) * CORE)


def grown_from(direction: tuple[int, int]) -> int:
    """Return the origin of a pixel that got its label from its neighbour in a direction of DIRECTIONS."""
    return _GROWN + DIRECTIONS.index(direction)


def part_touching(mask_hw: NDArray[np.bool_], core_hw: NDArray[np.bool_], steps: int) -> Parted:
    """Part a mask into objects.

    Args:
        mask_hw — pixels of one class.
        core_hw — pixels of its objects' cores; those outside the mask do not count.
        steps — by how many pixels cores grow at most.

    Example: mask 1 1 1 1 1 1, cores 1 0 0 0 0 1, 2 steps → labels 1 1 1 2 2 2; 1 step → 1 1 3 3 2 2.
    """
    width = mask_hw.shape[1] + 2  # a pixel of nothing all around: no neighbour lies outside
    mask, core = np.pad(mask_hw, 1), np.pad(core_hw & mask_hw, 1)
    labels = label_image(core)
    origin = np.where(core, np.uint8(CORE), np.uint8(0))
    is_open = mask & ~core
    grown = _Growth(labels.ravel(), origin.ravel(), is_open.ravel(), width)
    front = np.flatnonzero(core & _near(is_open))
    for _ in range(steps):
        if not len(front):
            break
        front = grown.step(front)
    inner = np.s_[1:-1, 1:-1]
    return _with_leftovers(labels[inner], origin[inner], is_open[inner])


def _with_leftovers(labels: NDArray[np.int32], origin: NDArray[np.uint8], left: NDArray[np.bool_]) -> Parted:
    """Label the components of what is left, after all other labels."""
    numbers = label_image(left) + labels.max(initial=0)
    return Parted(np.where(left, numbers, labels), np.where(left, np.uint8(LEFTOVER), origin))


@dataclass(frozen=True)
class _Growth:
    """The state of growing labels, flat; changed in place."""

    labels: NDArray[np.int32]
    origin: NDArray[np.uint8]
    is_open: NDArray[np.bool_]
    """Of the mask, and without label yet."""
    width: int

    def step(self, front: NDArray[np.intp]) -> NDArray[np.intp]:
        """Give the labels of the front, the pixels labelled last, to its open neighbours; return those."""
        reached = []
        for index in reversed(range(len(DIRECTIONS))):  # of several writes to a pixel the last stays: the first asked
            down, right = DIRECTIONS[index]
            asking = front - (down * self.width + right)
            chosen = self.is_open[asking]
            at = asking[chosen]
            self.labels[at] = self.labels[front[chosen]]
            self.origin[at] = grown_from(DIRECTIONS[index])
            reached.append(at)
        new = np.concatenate(reached)
        self.is_open[new] = False
        return _distinct(new, len(self.labels))


def _distinct(indices: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return the indices, each once."""
    if len(indices) * 20 < size:
        return np.unique(indices)
    marked = np.zeros(size, bool)
    marked[indices] = True
    return np.flatnonzero(marked)


def _near(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask and their neighbours; its outermost ones are empty."""
    wide = mask_hw.copy()
    wide[:, 1:] |= mask_hw[:, :-1]
    wide[:, :-1] |= mask_hw[:, 1:]
    near = wide.copy()
    near[1:] |= wide[:-1]
    near[:-1] |= wide[1:]
    return near


def label_image(mask_hw: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the 8-connected components of a mask as a label image, 0 where the mask is not."""
    as_bytes = np.ascontiguousarray(mask_hw).view(np.uint8)  # cc3d 4.1.1 labels boolean images wrongly
    labels: NDArray[np.uint32] = cc3d.connected_components(as_bytes, connectivity=8, out_dtype=np.uint32)
    return labels.view(np.int32)
