"""Pixel-exact outlines of a label image as OGC-valid polygons.

Sides of pixels that separate a label from anything else are joined to straight runs, the runs to
rings, and the rings to polygons with holes. Each 4-connected part of a label becomes one polygon.
Parts that touch only at a corner become a multipolygon, because a ring must not touch itself there.
All steps are array operations; rings are walks in a graph of sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import depth_first_order

from unet_ray.imaging.regions.columns import Columns, number_chosen
from unet_ray.imaging.regions.runs import Runs, components, overlaps, ranges, uncovered

LOW_Y, HIGH_Y, HIGH_X, LOW_X = range(4)
"""Kinds of sides of a pixel. Along an outline they lead towards +x, −x, +y and −y."""


@dataclass(frozen=True)
class Parts:
    """The 4-connected parts of the labels of an image, or of a piece of an image."""

    runs: Runs
    """Runs of the piece."""
    part: NDArray[np.int64]
    """Part of each run, numbered by first pixels in raster order."""
    label: NDArray[np.int64]
    """Label of each part."""
    first: NDArray[np.int64]
    """Row and column of each part's first pixel, in the image (px); (parts, 2)."""
    left: int
    """First column of the piece in the image (px)."""
    top: int
    """First row of the piece in the image (px)."""
    _pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
    """Pairs of runs in neighbouring rows that share a column."""

    @staticmethod
    def of(runs: Runs, left: int = 0, top: int = 0) -> Parts:
        """Find the parts of labelled runs.

        Args:
            runs: Labelled runs of the piece.
            left: First column of the piece in the image (px).
            top: First row of the piece in the image (px).
        """
        upper, lower = pairs = runs.pairs(corners=False)
        same = runs.label[upper] == runs.label[lower]
        part = components(np.stack([upper[same], lower[same]]), len(runs))
        first = np.zeros(int(part.max(initial=-1)) + 1, np.int64)
        # When several runs write to one place, the last write stays: that of the first run.
        first[part[::-1]] = np.arange(len(runs))[::-1]
        places = np.stack([runs.row[first] + top, runs.start[first] + left], axis=1)
        return Parts(runs, part, runs.label[first], places, left, top, pairs)

    def sides(self, group: NDArray[np.int64] | None = None) -> Sides:
        """Return all sides of the parts, ordered as by `Sides.join`: LOW_Y, HIGH_Y, HIGH_X, LOW_X.

        Args:
            group: Group of each part; there are no sides between parts of one group. None: each
                part is its own group.
        """
        runs, (upper, lower) = self.runs, self._pairs
        grouped = self.part if group is None else group[self.part]
        same = grouped[upper] == grouped[lower]
        shared = [np.array(columns) for columns in overlaps(runs, (upper[same], lower[same]))]
        # The keys are unique, and sorting them is twice as fast as a stable sort.
        order = np.argsort(lower[same] * len(runs) + upper[same])
        # Marks runs that are followed directly by one of their group, in the same row.
        goes_on = np.zeros(len(runs) + 1, bool)
        goes_on[1:-1] = runs.meets_next() & (grouped[:-1] == grouped[1:])
        above = uncovered(runs, lower[same][order], shared[0][order], shared[1][order])
        below = uncovered(runs, upper[same], *shared)
        right, left = (
            self._vertical(kind, ~flags)
            for kind, flags in ((HIGH_X, goes_on[1:]), (LOW_X, goes_on[:-1]))
        )
        vertical = Sides.concatenate([right, left]).join()
        return Sides.concatenate(
            [self._horizontal(LOW_Y, *above), self._horizontal(HIGH_Y, *below), vertical]
        )

    def _horizontal(
        self, kind: int, run: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> Sides:
        line = self.runs.row[run] + self.top + int(kind == HIGH_Y)
        return Sides.of_columns(kind, line, start + self.left, stop + self.left, self.part[run])

    def _vertical(self, kind: int, run: NDArray[np.bool_]) -> Sides:
        line = (self.runs.stop if kind == HIGH_X else self.runs.start)[run] + self.left
        row = self.runs.row[run] + self.top
        return Sides.of_columns(kind, line, row, row + 1, self.part[run])

    def find_contacts(self) -> list[tuple[NDArray[np.int64], ...]]:
        """Find where different parts share a side: first sides along rows, then along columns.

        Returns:
            For either direction: line, along, part before the line and part after it, of each
            pixel's side, in the image (px).
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


def outlines_wkb(sides: Sides, part_number: NDArray[Any], count: int) -> NDArray[Any]:
    """Draw `count` outlines.

    Coordinates are pixel edges: pixel (x, y) covers [x, x+1] × [y, y+1], y down. The area of a
    polygon is the number of pixels of its part.

    Args:
        sides: All sides of all parts, ordered as by `Sides.join`.
        part_number: Index of the outline that each part belongs to; −1: none.
        count: Number of outlines.

    Returns:
        Little-endian WKB of each outline; (count,) objects of bytes.

    Example:
        A single pixel at the origin → POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0)).
    """
    if count == 0:
        return np.zeros(0, object)
    chosen = part_number >= 0
    kept = sides.of(chosen[sides.part])
    return _polygons_wkb(
        replace(kept, part=number_chosen(chosen).astype(np.int32)[kept.part]),
        part_number[chosen],
        count,
    )


def _polygons_wkb(sides: Sides, part_label: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Draw the outline of each label.

    Args:
        sides: All sides of all parts, ordered as by `Sides.join`.
        part_label: Label of each part, from 0.
        count: Number of labels.

    Returns:
        WKB of each outline.
    """
    rings, ring_part = _find_rings(sides)
    is_hole = ~shapely.is_ccw(rings)
    grouped = np.lexsort((is_hole, ring_part))  # a part's shell, then its holes
    polygons = shapely.polygons(rings[grouped], indices=ring_part[grouped])
    return np.asarray(
        shapely.to_wkb(_collect_geometries(polygons, part_label, count), byte_order=1), object
    )


def _find_rings(sides: Sides) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the rings that sides make, as geometries, and the part of each."""
    vertices = _Vertices.of(sides)
    order, ring_starts = _split_cycles(_next_sides(vertices, sides.part))
    rings = shapely.linearrings(
        np.stack([vertices.x[order], vertices.y[order]], axis=1).astype(np.float64),
        indices=np.repeat(np.arange(len(ring_starts)), np.diff(np.append(ring_starts, len(order)))),
    )
    return rings, sides.part[order[ring_starts]]


@dataclass(frozen=True)
class Sides(Columns):
    """Straight runs of pixel sides between a part and anything else: arrays of one length.

    Horizontal sides run along a row of vertices, vertical ones along a column. In the direction in
    which a side leads, its part is on the left hand (with x to the right and y up, in numbers).
    """

    kind: NDArray[np.int8]
    """LOW_Y, HIGH_Y, HIGH_X or LOW_X."""
    line: NDArray[np.int32]
    """Row or column of vertices that the side lies on (px)."""
    start: NDArray[np.int32]
    """First vertex along the line (px)."""
    stop: NDArray[np.int32]
    """Last vertex along the line (px)."""
    part: NDArray[np.int32]
    """Part that the side belongs to, from 0."""

    @staticmethod
    def none() -> Sides:
        """Return an empty table."""
        return Sides(np.zeros(0, np.int8), *np.zeros((4, 0), np.int32))

    @staticmethod
    def of_columns(kind: int, *columns: NDArray[np.int64]) -> Sides:
        """Return sides of one kind: line, start, stop and part of each.

        They take 17 bytes each: those of a large image are kept until all its tiles are there.
        """
        kinds = np.full(len(columns[0]), kind, np.int8)
        return Sides(kinds, *(column.astype(np.int32) for column in columns))

    def join(self) -> Sides:
        """Sort by kind, line and start, and join sides that continue in the same direction."""
        lines, places = (int(values.max(initial=0)) + 1 for values in (self.line, self.start))
        one_key = (self.kind.astype(np.int64) * lines + self.line) * places + self.start
        ordered = self.of(np.argsort(one_key))  # unique: takes half the time of three keys
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
    """Vertices where sides begin and end, and which of two sides continues at a shared vertex."""

    x: NDArray[np.int32]
    """Column of the vertex that a side leaves."""
    y: NDArray[np.int32]
    """Row of the vertex that a side leaves."""
    end_x: NDArray[np.int32]
    """Column of the vertex that a side arrives at."""
    end_y: NDArray[np.int32]
    """Row of the vertex that a side arrives at."""
    leaves_late: NDArray[np.bool_]
    """True if the side leaves as the second of two, where a part touches itself at a corner."""
    arrives_late: NDArray[np.bool_]
    """True if the side arrives as the second of two, in the same way."""

    @staticmethod
    def of(sides: Sides) -> _Vertices:
        """Return the two ends of each side, in the direction in which it leads."""
        vertical = sides.kind >= HIGH_X
        backwards = (sides.kind == HIGH_Y) | (sides.kind == LOW_X)
        begin = np.where(backwards, sides.stop, sides.start)
        end = np.where(backwards, sides.start, sides.stop)
        x, y = np.where(vertical, sides.line, begin), np.where(vertical, begin, sides.line)
        end_x, end_y = np.where(vertical, sides.line, end), np.where(vertical, end, sides.line)
        # Where a part touches itself at a corner, two sides arrive and two leave. Turn so that the
        # background separates the part there: +y → +x and −y → −x; +x → −y and −x → +y.
        return _Vertices(x, y, end_x, end_y, vertical != backwards, backwards)


def _next_sides(vertices: _Vertices, part: NDArray[Any]) -> NDArray[np.int64]:
    """Return the index of the side that continues where each side ends."""
    # numpy's own, whose products are int64
    width = np.int64(max(vertices.x.max(), vertices.end_x.max())) + 1
    parts = np.int64(part.max()) + 1
    leaving = ((vertices.y * width + vertices.x) * parts + part) * 2 + vertices.leaves_late
    arriving = (
        (vertices.end_y * width + vertices.end_x) * parts + part
    ) * 2 + vertices.arrives_late
    following = np.empty(len(leaving), np.int64)
    # At each vertex, equally many sides of a part leave and arrive, so both orders name the same
    # vertices, place by place.
    following[np.argsort(arriving)] = np.argsort(leaving)
    return following


def _split_cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a permutation into its cycles.

    One walk finds them all: a chain of guides, one per member, leads on to the next guide, but each
    guide first leads to its member, from which the whole of a new cycle is visited.

    Args:
        following: Member that follows each member.

    Returns:
        The members cycle by cycle, and where each cycle starts among them.
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


def _collect_geometries(
    polygons: NDArray[Any], part_label: NDArray[np.int64], count: int
) -> NDArray[Any]:
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
