"""Outlines are compared with a walk around each part, one side of a pixel at a time."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.measure import label

from unet_ray.imaging.regions.outlines import Parts, outlines_wkb, split_cycles
from unet_ray.imaging.regions.runs import Runs

Side = tuple[int, int, int, int]
"""Vertex that a side of a pixel leaves (x, y), and the step to the next one (x, y)."""
Ring = tuple[tuple[int, int], ...]
"""Corners of a ring in order, from the smallest (x, y) on; each once."""
Polygon = tuple[Ring, frozenset[Ring]]
"""Shell and holes."""

SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
CLOSED_AT_A_CORNER = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]])
TWO_HOLES_THAT_TOUCH = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]])


def list_sides(part: NDArray[np.bool_]) -> set[Side]:
    """Return the sides between a part and anything else, clockwise around each pixel."""
    around = np.pad(part, 1)
    sides = set()
    for y, x in np.argwhere(part).tolist():
        if not around[y, x + 1]:  # above the pixel
            sides.add((x, y, 1, 0))
        if not around[y + 1, x + 2]:  # to the right
            sides.add((x + 1, y, 0, 1))
        if not around[y + 2, x + 1]:  # below
            sides.add((x + 1, y + 1, -1, 0))
        if not around[y + 1, x]:  # to the left
            sides.add((x, y + 1, 0, -1))
    return sides


def walk_ring(start: Side, sides: set[Side]) -> tuple[Ring, set[Side]]:
    """Walk from side to side until the first one comes again; turn left where there are two ways.

    Returns:
        The ring, and the sides that it consists of.
    """
    corners, visited, side = [], set(), start
    while side not in visited:
        visited.add(side)
        x, y, dx, dy = side
        x, y = x + dx, y + dy
        left, ahead, right = (x, y, dy, -dx), (x, y, dx, dy), (x, y, -dy, dx)
        side = next(way for way in (left, ahead, right) if way in sides)
        if side != ahead:
            corners.append((x, y))
    return order_ring(corners), visited


def walk_around(part: NDArray[np.bool_]) -> Polygon:
    """Return the rings of a 4-connected part; the one with the leftmost corner is the shell."""
    sides = list_sides(part)
    left, rings = set(sides), []
    while left:
        ring, visited = walk_ring(min(left), sides)
        rings.append(ring)
        left -= visited
    return min(rings), frozenset(rings) - {min(rings)}


def order_ring(corners: list[tuple[int, int]]) -> Ring:
    first = corners.index(min(corners))
    return tuple(corners[first:] + corners[:first])


def read_ring(ring: shapely.LinearRing) -> Ring:
    return order_ring([(int(x), int(y)) for x, y in ring.coords[:-1]])


def read_polygons(geometry: shapely.Geometry) -> set[Polygon]:
    return {
        (read_ring(polygon.exterior), frozenset(map(read_ring, polygon.interiors)))
        for polygon in shapely.get_parts(geometry)
    }


@settings(deadline=None, max_examples=300)
@given(arrays(np.int64, SHAPES, elements=st.integers(0, 2)))
@example(CLOSED_AT_A_CORNER)
@example(TWO_HOLES_THAT_TOUCH)
@example(1 - TWO_HOLES_THAT_TOUCH)
@example(np.eye(4, dtype=np.int64) + 1)
def test_rings_are_those_of_a_walk_around_each_part(labels: NDArray[np.int64]) -> None:
    """Corners, directions, holes and multipolygons; only the corner that comes first is free."""
    labels = labels.astype(np.int32)
    parts = Parts.of(Runs.of_labels(labels))
    outlines = outlines_wkb(parts.sides(), parts.label, int(labels.max()))
    for number, outline in enumerate(outlines, 1):
        if not (labels == number).any():
            continue
        pieces, count = label(labels == number, connectivity=1, return_num=True)
        expected = {walk_around(pieces == piece) for piece in range(1, count + 1)}
        assert read_polygons(shapely.from_wkb(outline)) == expected


def test_a_part_that_touches_itself_at_a_corner_has_two_rings() -> None:
    """The walk itself is right: around the pixel in the middle, the hole has four corners."""
    shell, holes = walk_around(CLOSED_AT_A_CORNER == 1)
    assert shell == ((0, 1), (1, 1), (1, 0), (3, 0), (3, 3), (0, 3))
    assert holes == {((1, 1), (1, 2), (2, 2), (2, 1))}


@given(st.integers(1, 20).flatmap(lambda count: st.permutations(range(count))))
def test_a_permutation_is_split_into_its_cycles(following: list[int]) -> None:
    order, starts = split_cycles(np.array(following))
    found = [cycle.tolist() for cycle in np.split(order, starts[1:])]
    expected, seen = [], set()
    for first in range(len(following)):
        cycle, member = [], first
        while member not in seen:
            seen.add(member)
            cycle.append(member)
            member = following[member]
        if cycle:
            expected.append(cycle)
    assert starts[0] == 0
    assert found == expected


def test_cycles_of_the_docstring_example() -> None:
    order, starts = split_cycles(np.array([2, 3, 0, 1]))
    assert order.tolist() == [0, 2, 1, 3]
    assert starts.tolist() == [0, 2]
