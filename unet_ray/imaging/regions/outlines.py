"""Pixel-exact outlines of a label image as OGC-valid polygons.

The sides of pixels that part a label from what is not it are joined to straight runs, the runs to rings, the rings to
polygons with holes. Each 4-connected part of a label is one polygon; parts that touch only at a corner make a
multipolygon, since a ring must not touch itself there. All steps are array operations, rings are walks in a graph of
sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import depth_first_order

from unet_ray.imaging.regions.columns import Columns, numbered
from unet_ray.imaging.regions.runs import Runs, components, overlaps, ranges, uncovered

LOW_Y, HIGH_Y, HIGH_X, LOW_X = range(4)
"""Which sides of their pixels: along an outline they lead towards +x, −x, +y, −y."""


@dataclass(frozen=True)
class Parts:
    """The 4-connected parts of the labels of an image, or of a piece of one."""

    runs: Runs
    """Of the piece."""
    part: NDArray[np.int64]
    """Part of each run, numbered by first pixels in raster order."""
    label: NDArray[np.int64]
    """Label of each part."""
    first: NDArray[np.int64]
    """(parts, 2) row, column of each part's first pixel, in the image (px)."""
    left: int
    """Where the piece lies in the image (px)."""
    top: int
    _pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Runs of neighbouring rows that share a column."""

    @staticmethod
    def of(runs: Runs, left: int = 0, top: int = 0) -> Parts:
        """Find the parts of labelled runs, of a piece that lies at (left, top) in px."""
        upper, lower = pairs = runs.pairs(corners=False)
        same = runs.label[upper] == runs.label[lower]
        part = components(np.stack([upper[same], lower[same]]), len(runs))
        first = np.zeros(int(part.max(initial=-1)) + 1, np.int64)
        first[part[::-1]] = np.arange(len(runs))[
            ::-1
        ]  # of several writes to one place the last stays: the first run
        places = np.stack([runs.row[first] + top, runs.start[first] + left], axis=1)
        return Parts(runs, part, runs.label[first], places, left, top, pairs)

    def sides(self, group: NDArray[np.int64] | None = None) -> Sides:
        """Return all sides of the parts, in the order of `joined`: low-y sides of pixels, high-y, high-x, low-x.

        Args:
            group — of each part: between parts of one group there are no sides; None: of its own.
        """
        runs, (upper, lower) = self.runs, self._pairs
        grouped = self.part if group is None else group[self.part]
        same = grouped[upper] == grouped[lower]
        shared = [np.array(columns) for columns in overlaps(runs, (upper[same], lower[same]))]
        order = np.argsort(
            lower[same] * len(runs) + upper[same]
        )  # unique keys: twice as fast as a stable sort
        goes_on = np.zeros(
            len(runs) + 1, bool
        )  # whether a run is followed by one of its group, in its row
        goes_on[1:-1] = runs.meets_next() & (grouped[:-1] == grouped[1:])
        above = uncovered(runs, lower[same][order], shared[0][order], shared[1][order])
        below = uncovered(runs, upper[same], *shared)
        right, left = (
            self._vertical(kind, ~flags)
            for kind, flags in ((HIGH_X, goes_on[1:]), (LOW_X, goes_on[:-1]))
        )
        vertical = Sides.concatenated([right, left]).joined()
        return Sides.concatenated(
            [self._horizontal(LOW_Y, *above), self._horizontal(HIGH_Y, *below), vertical]
        )

    def _horizontal(
        self, kind: int, run: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Sides:
        line = self.runs.row[run] + self.top + int(kind == HIGH_Y)
        return Sides(
            np.full(len(run), kind, np.int8),
            line,
            start + self.left,
            stop + self.left,
            self.part[run],
        )

    def _vertical(self, kind: int, run: NDArray[np.bool_]) -> Sides:
        line = (self.runs.stop if kind == HIGH_X else self.runs.start)[run] + self.left
        row = self.runs.row[run] + self.top
        return Sides(np.full(len(row), kind, np.int8), line, row, row + 1, self.part[run])

    def touching(self) -> list[tuple[NDArray[np.int64], ...]]:
        """Return where different parts have a common side: first for sides along rows, then along columns.

        Returns: (line, along, part before the line, part after it) of each pixel's side, in the image (px).
        """
        runs, (upper, lower) = self.runs, self._pairs
        differ = self.part[upper] != self.part[lower]
        upper, lower = upper[differ], lower[differ]
        first, after = overlaps(runs, (upper, lower))
        at, along = np.repeat(np.arange(len(upper)), after - first), ranges(first, after - first)
        rows = (
            runs.row[lower][at] + self.top,
            along + self.left,
            self.part[upper][at],
            self.part[lower][at],
        )
        next_to = np.flatnonzero(runs.meets_next())
        places = runs.stop[next_to] + self.left, runs.row[next_to] + self.top
        return [rows, (*places, self.part[next_to], self.part[next_to + 1])]


def outlines_wkb(sides: Sides, part_number: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Return `count` outlines as little-endian WKB (objects of bytes).

    Coordinates are pixel edges: pixel (x, y) covers [x, x+1] × [y, y+1], y down; a polygon's area is its parts' number
    of pixels.

    Args:
        sides — all sides of all parts, in the order of `joined`.
        part_number — which outline each part belongs to; −1: none.

    Example: a single pixel at the origin → POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0)).
    """
    if count == 0:
        return np.zeros(0, object)
    chosen = part_number >= 0
    kept = sides.of(chosen[sides.part])
    return _polygons_wkb(
        replace(kept, part=numbered(chosen)[kept.part]), part_number[chosen], count
    )


def _polygons_wkb(sides: Sides, part_label: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Return the outlines of labels as WKB.

    Args:
        sides — all sides of all parts, in the order of `joined`.
        part_label — label of each part, from 0.
        count — labels.
    """
    vertices = _Vertices.of(sides)
    order, ring_starts = _rings(_next_sides(vertices, sides.part))
    rings = shapely.linearrings(
        np.stack([vertices.x[order], vertices.y[order]], axis=1).astype(np.float64),
        indices=np.repeat(np.arange(len(ring_starts)), np.diff(np.append(ring_starts, len(order)))),
    )
    ring_part = sides.part[order[ring_starts]]
    is_hole = ~shapely.is_ccw(rings)
    grouped = np.lexsort((is_hole, ring_part))  # a part's shell, then its holes
    polygons = shapely.polygons(rings[grouped], indices=ring_part[grouped])
    return np.asarray(shapely.to_wkb(_gathered(polygons, part_label, count), byte_order=1), object)


@dataclass(frozen=True)
class Sides(Columns):
    """Straight runs of pixel sides between a part and what is not it: arrays of one length.

    Horizontal ones run along a row of vertices, vertical ones along a column, the part on their left hand (x right, y
    down as numbers).
    """

    kind: NDArray[np.int8]
    """LOW_Y, HIGH_Y, HIGH_X or LOW_X."""
    line: NDArray[np.int64]
    """The row or column of vertices (px)."""
    start: NDArray[np.int64]
    """First vertex along the line (px)."""
    stop: NDArray[np.int64]
    """Last vertex along the line (px)."""
    part: NDArray[np.int64]
    """From 0."""

    def joined(self) -> Sides:
        """Return them sorted by kind, line and start; what goes on in the same direction becomes one."""
        lines, places = (int(values.max(initial=0)) + 1 for values in (self.line, self.start))
        one_key = (self.kind.astype(np.int64) * lines + self.line) * places + self.start
        ordered = self.of(np.argsort(one_key))  # unique: half the time that three keys take
        goes_on = (
            (ordered.kind[1:] == ordered.kind[:-1])
            & (ordered.line[1:] == ordered.line[:-1])
            & (ordered.part[1:] == ordered.part[:-1])
            & (ordered.start[1:] == ordered.stop[:-1])
        )
        first, last = (
            np.append(*ends)[: len(self)] for ends in ((True, ~goes_on), (~goes_on, True))
        )
        return replace(ordered.of(first), stop=ordered.stop[last])


@dataclass(frozen=True)
class _Vertices:
    """Where each of some sides begins and ends, and which of two goes on there."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    end_x: NDArray[np.int64]
    end_y: NDArray[np.int64]
    leaves_late: NDArray[np.bool_]
    """Where a part touches itself at a corner two sides arrive and two leave; this one leaves as the second."""
    arrives_late: NDArray[np.bool_]
    """As `leaves_late`, on arrival."""

    @staticmethod
    def of(sides: Sides) -> _Vertices:
        """Return the two ends of sides, in the direction in which each leads."""
        vertical = sides.kind >= HIGH_X
        backwards = (sides.kind == HIGH_Y) | (sides.kind == LOW_X)
        begin, end = (
            np.where(backwards, sides.stop, sides.start),
            np.where(backwards, sides.start, sides.stop),
        )
        x, y = np.where(vertical, sides.line, begin), np.where(vertical, begin, sides.line)
        end_x, end_y = np.where(vertical, sides.line, end), np.where(vertical, end, sides.line)
        # Turn so that a part that touches itself at a corner is separated by its background there:
        # +y → +x and −y → −x; +x → −y and −x → +y.
        return _Vertices(x, y, end_x, end_y, vertical != backwards, backwards)


def _next_sides(vertices: _Vertices, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each side the one that goes on where it ends."""
    width = int(max(vertices.x.max(), vertices.end_x.max())) + 1
    parts = int(part.max()) + 1
    leaving = ((vertices.y * width + vertices.x) * parts + part) * 2 + vertices.leaves_late
    arriving = (
        (vertices.end_y * width + vertices.end_x) * parts + part
    ) * 2 + vertices.arrives_late
    following = np.empty(len(leaving), np.int64)
    # As many sides of a part leave a vertex as arrive there, so both orders name the same vertices, place by place.
    following[np.argsort(arriving)] = np.argsort(leaving)
    return following


def _rings(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part a permutation into its cycles: (members in order, cycle by cycle; where each cycle starts).

    One walk: a chain of as many guides as members leads on, and each guide, before the next one, to its member, from
    which all of a new cycle is visited.
    """
    count = len(following)
    links, starts = np.empty(3 * count - 1, np.int32), np.empty(2 * count + 1, np.int32)
    links[:count], starts[:count] = following, np.arange(count)
    links[count::2], starts[count:-1] = np.arange(count), np.arange(count, 3 * count, 2)
    links[count + 1 :: 2], starts[-1] = np.arange(count + 1, 2 * count), len(links)
    graph = csr_array((np.ones(len(links)), links, starts), (2 * count, 2 * count))
    visited, came_from = depth_first_order(graph, count)
    order = visited[visited < count]
    return order, np.flatnonzero(came_from[order] >= count)


def _gathered(polygons: NDArray[Any], part_label: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Return one geometry per label: its polygon, or a multipolygon of its parts."""
    order = np.argsort(part_label, kind="stable")
    parts_of = np.bincount(part_label, minlength=count)
    geometries = np.empty(count, object)
    single = parts_of[part_label[order]] == 1
    geometries[part_label[order][single]] = polygons[order][single]
    several = order[~single]
    if len(several):
        labels, index = np.unique(part_label[several], return_inverse=True)
        geometries[labels] = shapely.multipolygons(polygons[several], indices=index)
    return geometries
