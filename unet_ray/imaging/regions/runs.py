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
        height, width = mask_hw.shape
        stride = width + 1
        # An empty pixel precedes the first row and follows every row.
        padded = np.zeros(1 + height * stride, bool)
        padded[1:].reshape(height, stride)[:, :-1] = mask_hw
        # Each row has a start, its stop, the next start, …
        changes = np.flatnonzero(padded[1:] != padded[:-1])
        row, start = np.divmod(changes[::2], stride)
        stop = changes[1::2] - row * stride
        runs = Runs(row, start, stop, label=np.arange(len(row)))
        touching = np.stack(runs.pairs(corners=True))
        return replace(runs, label=components(touching, len(runs)))

    @staticmethod
    def of_labels(labels_hw: NDArray[np.int32]) -> Runs:
        """Return a label image as runs, whose labels are those of the image less 1.

        Pixels with label 0 are background and have no run.
        """
        is_start = np.ones(labels_hw.shape, bool)
        np.not_equal(labels_hw[:, 1:], labels_hw[:, :-1], out=is_start[:, 1:])
        starts = np.flatnonzero(is_start)
        length = np.diff(starts, append=labels_hw.size)
        row, start = np.divmod(starts, labels_hw.shape[1])
        label = labels_hw.ravel()[starts].astype(np.int64) - 1
        return Runs(row, start, start + length, label).of(label >= 0)

    def image(self, height: int, width: int) -> NDArray[np.int32]:
        """Return the label image: 1 + the label where there is a run, 0 elsewhere; HW int32."""
        row_start = self.row * width
        values = (self.label + 1).astype(np.int32)
        changes = np.zeros(height * width + 1, np.int32)
        np.add.at(changes, row_start + self.start, values)
        np.subtract.at(changes, row_start + self.stop, values)
        return np.cumsum(changes[:-1], dtype=np.int32).reshape(height, width)

    def pairs(self, corners: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the pairs of runs in neighbouring rows that share a column.

        Args:
            corners: Include pairs that meet only at a corner.

        Returns:
            Indices of the upper runs and of the lower runs; (pairs,) each, ordered by both.

        Example:
            Run 0 meets 1 and 2. With corners it also meets 3.

                0 0 0 0 0 .
                . 1 . 2 . 3
        """
        reach = int(corners)
        # Rows lie one after the other on one line, so that starts and stops ascend. Of the runs in
        # the next row, those that a run meets stop after its start and start before its stop.
        stride = int(self.stop.max(initial=0)) + 2
        starts = self.row * stride + self.start
        stops = self.row * stride + self.stop
        first = np.searchsorted(stops, starts + stride - reach, side="right")
        after = np.searchsorted(starts, stops + stride + reach, side="left")
        num_met = after - first
        return np.repeat(np.arange(len(self)), num_met), ranges(first, num_met)

    def meets_next(self) -> NDArray[np.bool_]:
        """Tell whether the next run starts where each run ends, in the same row.

        Two such runs have different labels. The last run has no entry.
        """
        return (self.stop[:-1] == self.start[1:]) & (self.row[:-1] == self.row[1:])


def components(pairs: NDArray[np.integer[Any]], num_members: int) -> NDArray[np.int64]:
    """Group members that pairs connect, and number the groups by their first members.

    Every member has a leader, at first itself. The later member of each pair is led by the earlier
    one; if it is in several pairs, by the first of them. Each member then takes the leader of its
    leader until that changes nothing, and leaders replace the members in the pairs. This repeats
    until no pair has two different leaders: after one or two rounds for the runs of an image, after
    six for noise (minimum labelling with shortcutting: Liu and Tarjan, arXiv 1812.06177).

    Args:
        pairs: Members that belong together; (2, n).
        num_members: Number of members.

    Returns:
        Component of each member, from 0; (num_members,).

    Example:
        The runs 0 to 5 of a mask. The pairs of runs that meet are 0 2, 1 2, 1 3 and 3 4.

            0 0 . 1 1 . . . .
            . 2 2 2 . 3 3 . .
            . . . . . . 4 . 5

            members     0 1 2 3 4 5
            leaders     0 1 0 1 3 5    2 is led by 0, 3 by 1, 4 by 3
                        0 1 0 1 1 5    4 is led by the leader of 3
            leaders     0 0 0 1 1 5    of the pairs, 1 0 is left: 1 is led by 0
                        0 0 0 0 0 5    3 and 4 are led by the leader of 1
            components  0 0 0 0 0 1
    """
    members = np.arange(num_members)
    leader = members.copy()
    one, other = pairs
    while len(one):
        np.minimum.at(leader, np.maximum(one, other), np.minimum(one, other))
        led_by = leader[leader]
        while np.any(led_by != leader):
            leader = led_by
            led_by = leader[leader]
        one, other = leader[one], leader[other]
        apart = np.flatnonzero(one != other)
        one, other = one[apart], other[apart]
    is_first = leader == members
    return (np.cumsum(is_first) - 1)[leader]


def ranges(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return first, first + 1, … of each range, one range after the other.

    Example:
        first 4 9, counts 2 1 → 4 5 9.
    """
    num_before = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(num_before - first, counts)


def overlaps(
    runs: Runs, pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns that pairs of runs share: the first, and the last + 1, of each pair."""
    one, other = pairs
    start = np.maximum(runs.start[one], runs.start[other])
    stop = np.minimum(runs.stop[one], runs.stop[other])
    return start, stop


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

    Example:
        A run from 2 to 9 with covers from 3 to 5 and from 5 to 6 has the pieces 2 to 3 and 6 to 9.
    """
    # A run has one more piece than it has covers; a piece may be empty. A piece before a cover
    # ends where the cover starts, and the piece after it begins where the cover stops.
    num_covers = np.bincount(covered, minlength=len(runs))
    piece_run = np.repeat(np.arange(len(runs)), num_covers + 1)
    before_cover = np.arange(len(covered)) + covered
    begin = runs.start[piece_run]
    end = runs.stop[piece_run]
    end[before_cover] = starts
    begin[before_cover + 1] = stops
    kept = begin < end
    return piece_run[kept], begin[kept], end[kept]


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
    line = np.full(width, -1, values.dtype)
    at = runs.row == (0 if which == "top" else height - 1)
    length = runs.stop[at] - runs.start[at]
    line[ranges(runs.start[at], length)] = np.repeat(values[at], length)
    return line
