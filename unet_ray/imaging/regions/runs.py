"""Label images as runs of equal pixels along the rows, which are far fewer than the pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.columns import Columns


@dataclass(frozen=True)
class Runs(Columns):
    """Runs of pixels with the same label, in raster order: arrays of one length."""

    row: NDArray[np.int64]
    """Row of each run (px)."""
    start: NDArray[np.int64]
    """First column (px)."""
    stop: NDArray[np.int64]
    """Last column + 1 (px)."""
    label: NDArray[np.int64]
    """Label of each run, from 0."""

    @staticmethod
    def of_mask(mask_hw: NDArray[np.bool_]) -> Runs:
        """Return the 8-connected components of a mask, labelled by first pixels in raster order."""
        height, width = mask_hw.shape[0], mask_hw.shape[1] + 1
        # An empty pixel precedes the first row and follows every row.
        padded = np.zeros(1 + height * width, bool)
        padded[1:].reshape(height, width)[:, :-1] = mask_hw
        # Each row has a start, its stop, the next start, …
        changes = np.flatnonzero(padded[1:] != padded[:-1])
        row, start = np.divmod(changes[::2], width)
        found = Runs(row, start, changes[1::2] - row * width, np.arange(len(row)))
        return replace(found, label=components(np.stack(found.pairs(corners=True)), len(found)))

    @staticmethod
    def of_labels(labels_hw: NDArray[np.int32]) -> Runs:
        """Return a label image as runs, whose labels are those of the image less 1.

        Pixels with label 0 are background and have no run.
        """
        differs = np.ones(labels_hw.shape, bool)
        np.not_equal(labels_hw[:, 1:], labels_hw[:, :-1], out=differs[:, 1:])
        starts = np.flatnonzero(differs)
        label = labels_hw.ravel()[starts].astype(np.int64) - 1
        length = np.diff(starts, append=labels_hw.size)
        row, start = np.divmod(starts, labels_hw.shape[1])
        return Runs(row, start, start + length, label).of(label >= 0)

    def image(self, height: int, width: int) -> NDArray[np.int32]:
        """Return the label image: 1 + the label where there is a run, 0 elsewhere; HW int32."""
        changes = np.zeros(height * width + 1, np.int32)
        at, values = self.row * width, (self.label + 1).astype(np.int32)
        np.add.at(changes, at + self.start, values)
        np.subtract.at(changes, at + self.stop, values)
        return np.cumsum(changes[:-1], dtype=np.int32).reshape(height, width)

    def pairs(self, corners: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the pairs of runs in neighbouring rows that share a column.

        Args:
            corners: Include pairs that meet only at a corner.

        Returns:
            Indices of the upper runs and of the lower runs; (pairs,) each.
        """
        reach, stride = int(corners), int(self.stop.max(initial=0)) + 2
        below = (self.row + 1) * stride
        first = np.searchsorted(
            self.row * stride + self.stop, below + self.start - reach, side="right"
        )
        after = np.searchsorted(
            self.row * stride + self.start, below + self.stop + reach, side="left"
        )
        upper = np.repeat(np.arange(len(self)), after - first)
        return upper, ranges(first, after - first)

    def meets_next(self) -> NDArray[np.bool_]:
        """Tell whether the next run starts where each run ends, in the same row.

        Two such runs have different labels. The last run has no entry.
        """
        return (self.stop[:-1] == self.start[1:]) & (self.row[:-1] == self.row[1:])


def components(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Group members that pairs connect, and number the groups by their first members.

    The later member of each pair is led by the earlier one; if it is in several pairs, by the first
    of them. Then leaders replace the members in the pairs, until no pair has two different leaders.
    The runs of an image take one or two such rounds, noise takes six (minimum labelling with
    shortcutting: Liu and Tarjan, arXiv 1812.06177).

    Args:
        pairs: Members that belong together; (2, n).
        count: Number of members.

    Returns:
        Component of each member, from 0; (count,).
    """
    members = np.arange(count)
    leader, (one, other) = members.copy(), pairs
    while len(one):
        np.minimum.at(leader, np.maximum(one, other), np.minimum(one, other))
        while np.any((further := leader[leader]) != leader):
            leader = further
        one, other = leader[one], leader[other]
        apart = np.flatnonzero(one != other)
        one, other = one[apart], other[apart]
    return (np.cumsum(leader == members) - 1)[leader]


def ranges(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first, first + 1, … of each range, one range after the other.

    Example:
        first 4 9, counts 2 1 → 4 5 9.
    """
    before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(before - first, counts)


def overlaps(
    runs: Runs, pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns that pairs of runs share: the first, and the last + 1, of each pair."""
    one, other = pairs
    return np.maximum(runs.start[one], runs.start[other]), np.minimum(
        runs.stop[one], runs.stop[other]
    )


def uncovered(
    runs: Runs, covered: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pieces of runs that no cover hides.

    Args:
        runs: Runs that are partly covered.
        covered: The run that each cover lies on, ascending; covers of one run go from left to
            right.
        starts: First column of each cover (px).
        stops: Last column + 1 of each cover (px).

    Returns:
        Run, first column and last column + 1 of each piece, in the order of the runs.
    """
    covers = np.bincount(covered, minlength=len(runs))
    first = np.cumsum(covers + 1) - (covers + 1)
    pieces = np.repeat(np.arange(len(runs)), covers + 1)
    begin, end = runs.start[pieces], runs.stop[pieces]
    place = np.arange(len(covered)) + covered  # a run has one more piece than it has covers
    begin[place + 1], end[place] = stops, starts
    begin[first] = runs.start
    kept = begin < end
    return pieces[kept], begin[kept], end[kept]


def line_of(runs: Runs, values: NDArray[Any], which: str, height: int, width: int) -> NDArray[Any]:
    """Return the values of runs along one edge of an image; −1 where there is no run.

    Args:
        runs: Runs of the image.
        values: Value of each run; (runs,).
        which: `top`, `bottom`, `left` or `right`.
        height: Height of the image (px).
        width: Width of the image (px).

    Returns:
        Value of each pixel along the edge; (width,) or (height,).
    """
    if which in ("left", "right"):
        line = np.full(height, -1, values.dtype)
        at = runs.start == 0 if which == "left" else runs.stop == width
        line[runs.row[at]] = values[at]
        return line
    at = np.flatnonzero(runs.row == (0 if which == "top" else height - 1))
    line = np.full(width, -1, values.dtype)
    counts = runs.stop[at] - runs.start[at]
    line[ranges(runs.start[at], counts)] = np.repeat(values[at], counts)
    return line
