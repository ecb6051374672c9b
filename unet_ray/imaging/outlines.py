"""Pixel-exact outlines of a label image as OGC-valid polygons.

The sides of pixels that part a label from what is not it are joined to straight runs, the runs to rings, the rings to
polygons with holes. Each 4-connected part of a label is one polygon; parts that touch only at a corner make a
multipolygon, since a ring must not touch itself there. All steps are array operations: rings are found by pointer
jumping (Wyllie 1979, list ranking), in log₂(ring length) rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cc3d
import numpy as np
import shapely
from numpy.typing import NDArray

from unet_ray.imaging.columns import Columns


@dataclass(frozen=True)
class Parts:
    """The 4-connected parts of the labels of a label image, or of a piece of one."""

    image: NDArray[np.uint32]
    """HW: 1 + the part of each pixel; 0 outside the labels."""
    first: NDArray[np.int64]
    """(parts, 2) row, column of each part's first pixel, of the whole image (px)."""
    label: NDArray[np.int64]
    """Label of each part, less 1."""
    sides: Sides
    """In the order of `joined`."""

    @staticmethod
    def of(labels_hw: NDArray[np.int32], left: int = 0, top: int = 0) -> Parts:
        """Find the parts of a label image (0 background), whose first pixel lies at (left, top) in px."""
        image: NDArray[np.uint32] = cc3d.connected_components(
            np.ascontiguousarray(labels_hw), connectivity=4, out_dtype=np.uint32
        )
        sides = sides_of(image, left, top)
        first = np.zeros((int(sides.part.max(initial=-1)) + 1, 2), np.int64)
        above = np.flatnonzero(sides.kind == 0)[::-1]  # a part's first pixel has the first of its low-y sides
        first[sides.part[above]] = np.stack([sides.line[above], sides.start[above]], axis=1)
        label = labels_hw[first[:, 0] - top, first[:, 1] - left].astype(np.int64) - 1
        return Parts(image, first, label, sides)

    def outlines_wkb(self, labels: NDArray[np.intp]) -> NDArray[Any]:
        """Return the outlines of some labels (from 0) as little-endian WKB (objects of bytes).

        Coordinates are pixel edges: pixel (x, y) covers [x, x+1] × [y, y+1], y down; a polygon's area is its label's
        number of pixels.

        Example: a single pixel at the origin → POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0)).
        """
        number = np.full(max(int(self.label.max(initial=-1)), int(labels.max(initial=-1))) + 1, -1)
        number[labels] = np.arange(len(labels))
        return outlines_wkb(self.sides, number[self.label], len(labels))


def outlines_wkb(sides: Sides, part_number: NDArray[np.int64], count: int) -> NDArray[Any]:
    """Return `count` outlines as WKB.

    Args:
        sides — all sides of all parts, in the order of `joined`.
        part_number — which outline each part belongs to; −1: none.
    """
    if count == 0:
        return np.zeros(0, object)
    chosen, place = part_number >= 0, np.cumsum(part_number >= 0) - 1
    kept = sides.of(chosen[sides.part])
    return _polygons_wkb(replace(kept, part=place[kept.part]), part_number[chosen], count)


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
    """Place of (vertical, far) in `_KINDS`; far: the side of the pixels towards larger coordinates."""
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
        ordered = self.of(np.lexsort((self.start, self.line, self.kind)))
        goes_on = (
            (ordered.kind[1:] == ordered.kind[:-1])
            & (ordered.line[1:] == ordered.line[:-1])
            & (ordered.part[1:] == ordered.part[:-1])
            & (ordered.start[1:] == ordered.stop[:-1])
        )
        first, last = (np.append(*ends)[: len(self)] for ends in ((True, ~goes_on), (~goes_on, True)))
        return replace(ordered.of(first), stop=ordered.stop[last])


_KINDS = ((False, False), (True, True), (False, True), (True, False))


def sides_of(
    parts_hw: NDArray[np.uint32], left: int = 0, top: int = 0, groups_hw: NDArray[np.uint32] | None = None
) -> Sides:
    """Return all sides of parts 1..n, in the order of `joined`: low-y sides of pixels, high-x, high-y, low-x.

    Args:
        groups_hw — between pixels of one group there are no sides; None: the parts.
    """
    groups_hw = parts_hw if groups_hw is None else groups_hw
    pieces = {}
    for vertical in (False, True):
        across, along = (left, top) if vertical else (top, left)
        for far, places in zip((False, True), _pixel_sides(parts_hw, groups_hw, vertical), strict=True):
            line, start, stop, part = _runs(*places)
            kind = _KINDS.index((vertical, far))
            kinds = np.full(len(part), kind, np.int8)
            pieces[kind] = Sides(kinds, line + across, start + along, stop + along, part - 1)
    return Sides.concatenated([pieces[kind] for kind in range(4)])


_PixelSides = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _pixel_sides(
    parts: NDArray[np.uint32], groups: NDArray[np.uint32], vertical: bool
) -> tuple[_PixelSides, _PixelSides]:
    """Return the sides of pixels that lie after a line between columns, or rows, and those of pixels before one.

    Returns: of each (line, along, part), in the order of lines.
    """
    if vertical:
        differs, ends = groups[:, 1:] != groups[:, :-1], (parts[:, 0], parts[:, -1])
        y, x = np.divmod(np.flatnonzero(differs), max(1, differs.shape[1]))
        order = np.argsort(x, kind="stable")
        line, along = x[order] + 1, y[order]
        before, after = parts[along, line - 1], parts[along, line]
    else:
        differs, ends = groups[1:] != groups[:-1], (parts[0], parts[-1])
        line, along = np.divmod(np.flatnonzero(differs), parts.shape[1])
        line = line + 1
        before, after = parts[line - 1, along], parts[line, along]
    (first, last), size = map(np.flatnonzero, ends), parts.shape[1 if vertical else 0]
    lines = np.zeros_like(first), line[after > 0], line[before > 0], np.full_like(last, size)
    places = first, along[after > 0], along[before > 0], last
    owners = ends[0][first], after[after > 0], before[before > 0], ends[1][last]
    near, far = ([np.append(*column[at]) for column in (lines, places, owners)] for at in (np.s_[:2], np.s_[2:]))
    return (near[0], near[1], near[2]), (far[0], far[1], far[2])


def _runs(
    line: NDArray[np.int64], along: NDArray[np.int64], part: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Join sides that go on: (line, first, last + 1, part) of each run."""
    starts = np.ones(len(along), bool)
    starts[1:] = (along[1:] != along[:-1] + 1) | (line[1:] != line[:-1]) | (part[1:] != part[:-1])
    stops = np.append(starts[1:], True)[: len(along)]
    return line[starts], along[starts], along[stops] + 1, part[starts].astype(np.int64)


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
        """Low-y sides run towards +x, high-x ones +y, high-y −x, low-x −y."""
        vertical, far = (np.array(flags)[sides.kind] for flags in zip(*_KINDS, strict=True))
        backwards = far != vertical
        begin, end = np.where(backwards, sides.stop, sides.start), np.where(backwards, sides.start, sides.stop)
        x, y = np.where(vertical, sides.line, begin), np.where(vertical, begin, sides.line)
        end_x, end_y = np.where(vertical, sides.line, end), np.where(vertical, end, sides.line)
        # Turn so that a part that touches itself at a corner is parted by its background there:
        # +y → +x and −y → −x; +x → −y and −x → +y.
        return _Vertices(x, y, end_x, end_y, np.where(vertical, ~backwards, backwards), backwards)


def _next_sides(vertices: _Vertices, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each side the one that goes on where it ends."""
    width = int(max(vertices.x.max(), vertices.end_x.max())) + 1
    parts = int(part.max()) + 1
    leaving = ((vertices.y * width + vertices.x) * parts + part) * 2 + vertices.leaves_late
    arriving = ((vertices.end_y * width + vertices.end_x) * parts + part) * 2 + vertices.arrives_late
    following = np.empty(len(leaving), np.int64)
    # As many sides of a part leave a vertex as arrive there, so both orders name the same vertices, place by place.
    following[np.argsort(arriving, kind="stable")] = np.argsort(leaving, kind="stable")
    return following


def _rings(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part a permutation into its cycles: (members in order, cycle by cycle; where each cycle starts)."""
    count = len(following)
    ring, jump = np.arange(count), following
    while True:
        lowest = np.minimum(ring, ring[jump])
        if (lowest == ring).all():
            break
        ring, jump = lowest, jump[jump]
    root = ring == np.arange(count)
    steps, jump = np.where(root, 0, 1), np.where(root, np.arange(count), following)
    while not root[jump].all():
        steps, jump = steps + steps[jump], jump[jump]
    steps[root] = count  # the root is a ring's first member, then those farthest from coming back to it
    order = np.lexsort((-steps, ring))
    return order, np.flatnonzero(root[order])


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
