"""Pixel-exact outlines of a label image as OGC-valid polygons.

Sides of pixels that separate a label from anything else are joined to straight runs, the runs to
rings, and the rings to polygons with holes. Each 4-connected part of a label becomes one polygon.
Parts that touch only at a corner become a multipolygon, because a ring must not touch itself there.

Each side leads in one direction, clockwise around its pixel:

          LOW_Y →
         ┌───────┐              x goes to the right, y down
 LOW_X ↑ │ pixel │ ↓ HIGH_X
         └───────┘
          ← HIGH_Y

So the side that continues a ring is one that leaves the vertex where the last side arrives. Only
where a part touches itself at a corner are there two: A and B are pixels of one part, c and d are
not. Each ring turns around the pixel beside it that is not of the part. So it follows one
4-connected piece of what lies around the part, and passes no vertex twice.

       A ↓ c         A's HIGH_X → B's LOW_Y, around c
       ← · →         B's LOW_X → A's HIGH_Y, around d
       d ↑ B

`_next_sides` finds the side that continues each side, `split_cycles` follows them from ring to
ring. Both are array operations on all outlines at once; the tests compare them with a walk from
pixel to pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        upper, lower = runs.pairs(corners=False)
        same = runs.label[upper] == runs.label[lower]
        part = components(np.stack([upper[same], lower[same]]), len(runs))
        first = np.zeros(int(part.max(initial=-1)) + 1, np.int64)
        # When several runs write to one place, the last write stays: that of the first run.
        first[part[::-1]] = np.arange(len(runs))[::-1]
        places = np.stack([runs.row[first] + top, runs.start[first] + left], axis=1)
        return Parts(
            runs=runs,
            part=part,
            label=runs.label[first],
            first=places,
            left=left,
            top=top,
            _pairs=(upper, lower),
        )

    def sides(self, group: NDArray[np.int64] | None = None) -> Sides:
        """Return all sides of the parts, ordered as by `Sides.join`: LOW_Y, HIGH_Y, HIGH_X, LOW_X.

        Args:
            group: Group of each part; there are no sides between parts of one group. None: each
                part is its own group.
        """
        runs = self.runs
        upper, lower = self._pairs
        run_group = self.part if group is None else group[self.part]
        same = run_group[upper] == run_group[lower]
        upper, lower = upper[same], lower[same]
        start, stop = overlaps(runs, (upper, lower))
        below = uncovered(runs, upper, start, stop)
        # The keys are unique, and sorting them is twice as fast as a stable sort.
        by_lower = np.argsort(lower * len(runs) + upper)
        above = uncovered(runs, lower[by_lower], start[by_lower], stop[by_lower])
        # Marks runs that start where the previous run of their group ends, in the same row.
        goes_on = np.zeros(len(runs) + 1, bool)
        goes_on[1:-1] = runs.meets_next() & (run_group[:-1] == run_group[1:])
        high_x = self._vertical(HIGH_X, runs.stop, ~goes_on[1:])
        low_x = self._vertical(LOW_X, runs.start, ~goes_on[:-1])
        return Sides.concatenate(
            [
                self._horizontal(LOW_Y, runs.row, *above),
                self._horizontal(HIGH_Y, runs.row + 1, *below),
                Sides.concatenate([high_x, low_x]).join(),
            ]
        )

    def _horizontal(
        self,
        kind: int,
        line: NDArray[np.int64],
        run: NDArray[np.int64],
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
    ) -> Sides:
        """Return the horizontal sides of runs.

        Args:
            kind: LOW_Y or HIGH_Y.
            line: Row of vertices for each run, in the piece (px).
            run: Run of each side.
            start: First column of each side, in the piece (px).
            stop: Last column + 1 of each side, in the piece (px).
        """
        return Sides.of_kind(
            kind,
            line=line[run] + self.top,
            start=start + self.left,
            stop=stop + self.left,
            part=self.part[run],
        )

    def _vertical(self, kind: int, line: NDArray[np.int64], is_outer: NDArray[np.bool_]) -> Sides:
        """Return the vertical sides of runs, a pixel long each.

        Args:
            kind: LOW_X or HIGH_X.
            line: Column of vertices for each run, in the piece (px).
            is_outer: True for each run that has the side.
        """
        row = self.runs.row[is_outer] + self.top
        return Sides.of_kind(
            kind,
            line=line[is_outer] + self.left,
            start=row,
            stop=row + 1,
            part=self.part[is_outer],
        )

    def find_contacts(self) -> tuple[PartPairs, PartPairs]:
        """Find where different parts share a side of a pixel.

        Returns:
            The shared sides along rows of vertices, then those along columns.
        """
        runs = self.runs
        upper, lower = self._pairs
        differ = self.part[upper] != self.part[lower]
        upper, lower = upper[differ], lower[differ]
        start, stop = overlaps(runs, (upper, lower))
        length = stop - start
        along_rows = PartPairs(
            line=np.repeat(runs.row[lower] + self.top, length),
            along=ranges(start, length) + self.left,
            before=np.repeat(self.part[upper], length),
            after=np.repeat(self.part[lower], length),
        )
        last = np.flatnonzero(runs.meets_next())
        along_columns = PartPairs(
            line=runs.stop[last] + self.left,
            along=runs.row[last] + self.top,
            before=self.part[last],
            after=self.part[last + 1],
        )
        return along_rows, along_columns


@dataclass(frozen=True)
class PartPairs(Columns):
    """Sides of pixels that two parts share, all along rows of vertices or all along columns."""

    line: NDArray[np.int64]
    """Row or column of vertices that the side lies on, in the image (px)."""
    along: NDArray[np.int64]
    """Column or row of the two pixels, in the image (px)."""
    before: NDArray[np.int64]
    """Part of the pixel before the line."""
    after: NDArray[np.int64]
    """Part of the pixel after the line."""


def outlines_wkb(
    sides: Sides, part_number: NDArray[np.int64], num_outlines: int
) -> NDArray[np.object_]:
    """Draw outlines.

    Coordinates are pixel edges: pixel (x, y) covers [x, x+1] × [y, y+1], y down. The area of a
    polygon is the number of pixels of its part.

    Args:
        sides: All sides of all parts, ordered as by `Sides.join`.
        part_number: Index of the outline that each part belongs to; −1: none.
        num_outlines: Number of outlines.

    Returns:
        Little-endian WKB of each outline; (num_outlines,) objects of bytes.

    Example:
        A single pixel at the origin → POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0)).
    """
    if num_outlines == 0:
        return np.zeros(0, object)
    is_drawn = part_number >= 0
    drawn = sides.of(is_drawn[sides.part])
    drawn_part = number_chosen(is_drawn).astype(np.int32)[drawn.part]
    rings, ring_part = _find_rings(replace(drawn, part=drawn_part))
    is_hole = ~shapely.is_ccw(rings)
    grouped = np.lexsort((is_hole, ring_part))  # a part's shell, then its holes
    polygons = shapely.polygons(rings[grouped], indices=ring_part[grouped])
    # an outline is the polygon of its only part, or a multipolygon of its parts
    polygon_outline = part_number[is_drawn]
    num_parts = np.bincount(polygon_outline, minlength=num_outlines)
    is_only = num_parts[polygon_outline] == 1
    outlines = np.empty(num_outlines, object)
    outlines[polygon_outline[is_only]] = polygons[is_only]
    several = np.flatnonzero(~is_only)
    if len(several):
        several = several[np.argsort(polygon_outline[several], kind="stable")]
        numbers, index = np.unique(polygon_outline[several], return_inverse=True)
        outlines[numbers] = shapely.multipolygons(polygons[several], indices=index)
    return np.asarray(shapely.to_wkb(outlines, byte_order=1), object)


def _find_rings(sides: Sides) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """Return the rings that sides make, as geometries, and the part of each."""
    vertices = _Vertices.of(sides)
    order, ring_starts = split_cycles(_next_sides(vertices, sides.part))
    points = np.stack([vertices.x[order], vertices.y[order]], axis=1).astype(np.float64)
    ring_lengths = np.diff(ring_starts, append=len(order))
    rings = shapely.linearrings(
        points, indices=np.repeat(np.arange(len(ring_starts)), ring_lengths)
    )
    return rings, sides.part[order[ring_starts]]


@dataclass(frozen=True)
class Sides(Columns):
    """Straight runs of pixel sides between a part and anything else: arrays of one length.

    Horizontal sides run along a row of vertices, vertical ones along a column.
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
    def of_kind(
        kind: int,
        *,
        line: NDArray[np.int64],
        start: NDArray[np.int64],
        stop: NDArray[np.int64],
        part: NDArray[np.int64],
    ) -> Sides:
        """Return sides of one kind.

        They take 17 bytes each: those of a large image are kept until all its tiles have arrived.
        """
        return Sides(
            kind=np.full(len(line), kind, np.int8),
            line=line.astype(np.int32),
            start=start.astype(np.int32),
            stop=stop.astype(np.int32),
            part=part.astype(np.int32),
        )

    def join(self) -> Sides:
        """Sort by kind, line and start, and join sides that continue in the same direction."""
        if not len(self):
            return self
        num_lines = int(self.line.max()) + 1
        num_starts = int(self.start.max()) + 1
        # The keys are unique, and sorting them takes half the time of three keys.
        key = (self.kind.astype(np.int64) * num_lines + self.line) * num_starts + self.start
        ordered = self.of(np.argsort(key))
        goes_on = (
            (ordered.kind[1:] == ordered.kind[:-1])
            & (ordered.line[1:] == ordered.line[:-1])
            & (ordered.part[1:] == ordered.part[:-1])
            & (ordered.start[1:] == ordered.stop[:-1])
        )
        is_first = np.append(True, ~goes_on)
        is_last = np.append(~goes_on, True)
        return replace(ordered.of(is_first), stop=ordered.stop[is_last])


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
        is_vertical = sides.kind >= HIGH_X
        is_backwards = (sides.kind == HIGH_Y) | (sides.kind == LOW_X)
        begin = np.where(is_backwards, sides.stop, sides.start)
        end = np.where(is_backwards, sides.start, sides.stop)
        return _Vertices(
            x=np.where(is_vertical, sides.line, begin),
            y=np.where(is_vertical, begin, sides.line),
            end_x=np.where(is_vertical, sides.line, end),
            end_y=np.where(is_vertical, end, sides.line),
            # LOW_Y and LOW_X leave first, LOW_Y and HIGH_X arrive first. So HIGH_X is continued by
            # LOW_Y, LOW_X by HIGH_Y (at A and B above), LOW_Y by LOW_X and HIGH_Y by HIGH_X.
            leaves_late=is_vertical != is_backwards,
            arrives_late=is_backwards,
        )


def _next_sides(vertices: _Vertices, part: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the index of the side that continues where each side ends.

    Both ends of each side get a key from their vertex, their part and which of two they are. At
    each vertex, as many sides of a part leave as arrive. So the leaving sides, sorted by key,
    continue the arriving sides, sorted by key, place by place.
    """
    # numpy's own numbers, whose products are int64
    width = np.int64(max(vertices.x.max(), vertices.end_x.max())) + 1
    num_parts = np.int64(part.max()) + 1
    leaving = (vertices.y * width + vertices.x) * num_parts + part
    leaving = leaving * 2 + vertices.leaves_late
    arriving = (vertices.end_y * width + vertices.end_x) * num_parts + part
    arriving = arriving * 2 + vertices.arrives_late
    following = np.empty(len(part), np.int64)
    following[np.argsort(arriving)] = np.argsort(leaving)
    return following


def split_cycles(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split a permutation into its cycles.

    One depth-first walk finds them all. Guides form a chain, one per member. Each guide leads first
    to its member, from which the whole of a new cycle is visited, and then to the next guide. For
    0 → 2 → 0 and 1 → 3 → 1, with the guides g:

        g0 ───→ g1 ───→ g2 ───→ g3         visited: g0 0 2, g1 1 3, g2, g3
        ↓       ↓       ↓       ↓          members: 0 2 1 3
        0 ⇄ 2   1 ⇄ 3   2       3          cycles start where a guide led to a member: 0 and 2

    Args:
        following: Member that follows each member; (members,).

    Returns:
        The members cycle by cycle, and where each cycle starts among them.

    Example:
        following 2 3 0 1 → members 0 2 1 3, starts 0 2.
    """
    count = len(following)
    members = np.arange(count)
    # Links of a node lie between two starts. Members are nodes 0 to count − 1 with one link each;
    # guides are the nodes after them with two links each, the last one with one.
    links = np.empty(3 * count - 1, np.int32)
    links[:count] = following
    links[count::2] = members
    links[count + 1 :: 2] = count + members[1:]
    starts = np.empty(2 * count + 1, np.int32)
    starts[:count] = members
    starts[count:-1] = count + 2 * members
    starts[-1] = len(links)
    graph = csr_array((np.ones(len(links)), links, starts), (2 * count, 2 * count))
    visited, came_from = depth_first_order(graph, count)
    order = visited[visited < count]
    return order, np.flatnonzero(came_from[order] >= count)
