"""Pixel-exact outlines of a label image as OGC-valid polygons.

The sides of pixels that part a label from what is not it are joined to straight runs, the runs to rings, the rings to
polygons with holes. Each 4-connected part of a label is one polygon; parts that touch only at a corner make a
multipolygon, since a ring must not touch itself there. All steps are array operations: rings are found by pointer
jumping (Wyllie 1979, list ranking), in log₂(ring length) rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import shapely
from numpy.typing import NDArray


def outlines_wkb(labels_hw: NDArray[np.int32], count: int) -> NDArray[Any]:
    """Return the outline of each label 1..count as little-endian WKB (objects of bytes).

    Coordinates are pixel edges: pixel (x, y) covers [x, x+1] × [y, y+1], y down; a polygon's area is its label's
    number of pixels.

    Example: a single pixel at the origin → POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0)).
    """
    if count == 0:
        return np.zeros(0, object)
    parts = cc3d.connected_components(np.ascontiguousarray(labels_hw), connectivity=4, out_dtype=np.uint32)
    runs = _boundary_runs(parts)
    order, ring_starts = _rings(_next_runs(runs))
    rings = shapely.linearrings(
        np.stack([runs.x[order], runs.y[order]], axis=1).astype(np.float64),
        indices=np.repeat(np.arange(len(ring_starts)), np.diff(np.append(ring_starts, len(order)))),
    )
    ring_part = runs.part[order[ring_starts]]
    is_hole = ~shapely.is_ccw(rings)
    grouped = np.lexsort((is_hole, ring_part))  # a part's shell, then its holes
    polygons = shapely.polygons(rings[grouped], indices=ring_part[grouped] - 1)
    part_label = np.zeros(len(polygons), np.int64)
    inside = np.flatnonzero(parts)
    part_label[parts.ravel()[inside] - 1] = labels_hw.ravel()[inside] - 1
    return np.asarray(shapely.to_wkb(_gathered(polygons, part_label, count), byte_order=1), object)


@dataclass(frozen=True)
class _Runs:
    """Straight runs of pixel sides, the label on the left hand (x right, y down as numbers): arrays of one length."""

    x: NDArray[np.int64]
    """Start vertex."""
    y: NDArray[np.int64]
    end_x: NDArray[np.int64]
    end_y: NDArray[np.int64]
    part: NDArray[np.int64]
    """4-connected part that the run bounds."""
    pairs_late: NDArray[np.bool_]
    """Where a part touches itself at a corner two runs arrive and two leave; this one leaves as the second."""
    arrives_late: NDArray[np.bool_]
    """As `pairs_late`, on arrival."""


def _boundary_runs(parts: NDArray[np.uint32]) -> _Runs:
    """Return all runs: along the low-y side of pixels towards +x, high-x +y, high-y −x, low-x −y."""
    pieces = []
    turned = np.ascontiguousarray(parts.T)
    for vertical, far in ((False, False), (True, True), (False, True), (True, False)):
        field = turned if vertical else parts  # a row of `field` is the line along which runs go
        line, start, stop, part = _side_runs(field, far)
        across = line + int(far)
        backwards = (far and not vertical) or (vertical and not far)
        begin, end = (stop, start) if backwards else (start, stop)
        x, y, end_x, end_y = (across, begin, across, end) if vertical else (begin, across, end, across)
        # Turn so that a part that touches itself at a corner is parted by its background there:
        # +y → +x and −y → −x; +x → −y and −x → +y.
        leaves_late = np.full(len(part), not backwards if vertical else backwards)
        pieces.append((x, y, end_x, end_y, part, leaves_late, np.full(len(part), backwards)))
    return _Runs(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _side_runs(
    parts: NDArray[np.uint32], far: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the runs of pixel sides between rows: (row, first column, last column + 1, part).

    Args:
        far — sides towards the next row, or towards the one before.
    """
    differs = np.ones(parts.shape, bool)
    if far:
        np.not_equal(parts[:-1], parts[1:], out=differs[:-1])
    else:
        np.not_equal(parts[1:], parts[:-1], out=differs[1:])
    differs &= parts > 0
    at = np.flatnonzero(differs)
    part = parts.ravel()[at].astype(np.int64)
    row, column = np.divmod(at, parts.shape[1])
    starts = np.ones(len(at), bool)
    starts[1:] = (at[1:] != at[:-1] + 1) | (column[1:] == 0) | (part[1:] != part[:-1])
    stops = np.append(starts[1:], True)
    return row[starts], column[starts], column[stops] + 1, part[starts]


def _next_runs(runs: _Runs) -> NDArray[np.int64]:
    """Return for each run the one that goes on where it ends."""
    width = int(max(runs.x.max(), runs.end_x.max())) + 1
    parts = int(runs.part.max()) + 1
    leaving = ((runs.y * width + runs.x) * parts + runs.part) * 2 + runs.pairs_late
    arriving = ((runs.end_y * width + runs.end_x) * parts + runs.part) * 2 + runs.arrives_late
    following = np.empty(len(leaving), np.int64)
    # As many runs of a part leave a vertex as arrive there, so both orders name the same vertices, place by place.
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
