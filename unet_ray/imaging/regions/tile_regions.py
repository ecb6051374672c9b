"""The regions of one tile of an image: finished, or in pieces where they touch a seam.

A region that lies inside a tile is finished there. Of one that touches a seam the tile keeps a *piece*: its sums, the
sides of its pixels, and its labels along the tile's edges; `seams` joins them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.columns import Columns, numbered
from unet_ray.imaging.regions.outlines import (
    HIGH_X,
    HIGH_Y,
    LOW_X,
    LOW_Y,
    Parts,
    Sides,
    outlines_wkb,
)
from unet_ray.imaging.regions.regions import Sums, sum_pixels
from unet_ray.imaging.regions.runs import line_of
from unet_ray.imaging.regions.separation import SeparatedMask

_EDGES: dict[str, Any] = {
    "top": np.s_[0],
    "bottom": np.s_[-1],
    "left": np.s_[:, 0],
    "right": np.s_[:, -1],
}


@dataclass(frozen=True)
class TileRegions:
    """The regions of one class in one tile."""

    core: Box
    """The tile's pixels, in the image."""
    inner: Sums
    """Regions that touch no seam, finished."""
    geometry: NDArray[Any]
    """Their outlines, WKB."""
    pieces: Sums
    """What the tile has of regions that touch a seam."""
    part_piece: NDArray[np.int64]
    """Piece of each 4-connected part."""
    part_first: NDArray[np.int64]
    """(parts, 2) row, column of each part's first pixel."""
    sides: Sides
    """Of the parts, but for those along seams and contacts."""
    contacts: Contacts
    """Between parts within the tile, which may turn out to be of one region."""
    edges: tuple[Edge, ...]
    """Along the first row, last row, first column, last column of the tile."""


@dataclass(frozen=True)
class Edge:
    """The pixels along a tile's edge."""

    part: NDArray[np.int64]
    """Part of each; −1: none."""
    origin: NDArray[np.uint8]
    """As `SeparatedMask.origin`."""


@dataclass(frozen=True)
class Contacts(Columns):
    """Sides between two pixels of which at least one has a part: arrays of one length."""

    vertical: NDArray[np.bool_]
    """Whether the side runs along a column of vertices."""
    line: NDArray[np.int64]
    """That column, or row (px)."""
    along: NDArray[np.int64]
    """Row, or column, of the two pixels (px)."""
    before: NDArray[np.int64]
    """Part of the pixel before the line; −1: none."""
    after: NDArray[np.int64]
    """Part of the pixel after it."""

    @staticmethod
    def none() -> Contacts:
        """Return no contact."""
        return Contacts(np.zeros(0, bool), *np.zeros((4, 0), np.int64))

    def touching(self, part_region: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (2, n) the pairs of parts that are of one region."""
        pairs = np.stack([self.before, self.after])
        return pairs[:, (pairs >= 0).all(axis=0) & (part_region[pairs[0]] == part_region[pairs[1]])]

    def sides(self, part_region: NDArray[np.int64]) -> Sides:
        """Return the sides of the others: of pixels that have none of their region beyond the line."""
        pieces = []
        both = (
            (self.before, self.after, (HIGH_Y, HIGH_X)),
            (self.after, self.before, (LOW_Y, LOW_X)),
        )
        for parts, other, kinds in both:
            at = np.flatnonzero(
                (parts >= 0) & ((other < 0) | (part_region[parts] != part_region[other]))
            )
            kind = np.array(kinds, np.int8)[self.vertical[at].astype(int)]
            pieces.append(Sides(kind, self.line[at], self.along[at], self.along[at] + 1, parts[at]))
        return Sides.concatenated(pieces)

    def shifted(self, offset: int) -> Contacts:
        """Return them with other numbers for the parts, all of which are there."""
        return replace(self, before=self.before + offset, after=self.after + offset)


def find_tile_regions(
    separated: SeparatedMask, prob_u8_hw: NDArray[np.uint8], core: Box, height: int, width: int
) -> TileRegions:
    """Measure one tile.

    Args:
        separated, prob_u8_hw — of the tile's core; separated with as much around it as cores grow.
        core — where that lies.
        height, width — of the image (px).
    """
    runs, place = separated.runs, (core.left, core.top)
    sums, parts = sum_pixels(runs, prob_u8_hw, *place), Parts.of(runs, *place)
    seams = core.top > 0, core.bottom < height, core.left > 0, core.right < width
    at_edge = runs.row == 0, runs.row == core.height - 1, runs.start == 0, runs.stop == core.width
    is_open = np.zeros(len(sums), bool)
    for at, is_seam in zip(at_edge, seams, strict=True):
        is_open[runs.label[at]] |= is_seam
    is_inner, open_part = ~is_open & (sums.area > 0), is_open[parts.label]
    inner_number, piece_number, part_number = map(numbered, (is_inner, is_open, open_part))
    # parts of pieces that touch may turn out to be of one region: what lies between them is told apart
    group = np.where(open_part, -1, np.arange(len(open_part))) if separated.may_touch else None
    sides = parts.sides(group)
    open_sides = _without_seams(sides.of(open_part[sides.part]), core, seams)
    edges = (line_of(runs, part_number[parts.part], which, *prob_u8_hw.shape) for which in _EDGES)
    return TileRegions(
        core=core,
        inner=sums.of(is_inner),
        geometry=outlines_wkb(sides, inner_number[parts.label], int(is_inner.sum())),
        pieces=sums.of(is_open),
        part_piece=piece_number[parts.label[open_part]],
        part_first=parts.first[open_part],
        sides=replace(open_sides, part=part_number[open_sides.part]),
        contacts=_contacts(parts, part_number) if separated.may_touch else Contacts.none(),
        edges=tuple(
            Edge(edge, separated.origin[_EDGES[at]].copy())
            for at, edge in zip(_EDGES, edges, strict=True)
        ),
    )


def _contacts(parts: Parts, part_number: NDArray[np.int64]) -> Contacts:
    """Return where parts touch that have a number."""
    found = []
    for vertical, (line, along, *sides) in zip((False, True), parts.touching(), strict=True):
        before, after = (part_number[part] for part in sides)
        every = Contacts(np.full(len(line), vertical), line, along, before, after)
        found.append(every.of((before >= 0) & (after >= 0)))
    return Contacts.concatenated(found)


def _without_seams(sides: Sides, core: Box, seams: tuple[bool, ...]) -> Sides:
    """Return the sides but for those along seams: whether there are any, the neighbour's pixels tell."""
    lines = core.top, core.bottom, core.left, core.right
    along = np.zeros(len(sides), bool)
    for kind, line, is_seam in zip((LOW_Y, HIGH_Y, LOW_X, HIGH_X), lines, seams, strict=True):
        along |= is_seam & (sides.kind == kind) & (sides.line == line)
    return sides.of(~along)
