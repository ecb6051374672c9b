"""The regions of one tile of an image: finished, or in pieces where they touch a seam.

A region that lies inside a tile is finished there. Of a region that touches a seam the tile keeps a
*piece*: its sums, the sides of its pixels, and its parts along the tile's edges. `merge` joins the
pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.columns import Columns, number_chosen
from unet_ray.imaging.regions.outlines import (
    HIGH_X,
    HIGH_Y,
    LOW_X,
    LOW_Y,
    Parts,
    Sides,
    outlines_wkb,
)
from unet_ray.imaging.regions.regions import RegionSums, sum_pixels
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
    """Box of the tile's core in the image."""
    inner: RegionSums
    """Sums of the regions that touch no seam; they are finished."""
    geometry: NDArray[Any]
    """Outlines of the finished regions, WKB."""
    pieces: RegionSums
    """Sums of the tile's pieces of regions that touch a seam."""
    part_piece: NDArray[np.int64]
    """Piece of each 4-connected part."""
    part_first: NDArray[np.int64]
    """Row and column of each part's first pixel, in the image; (parts, 2)."""
    sides: Sides
    """Sides of the parts, without those along seams and contacts."""
    contacts: Contacts
    """Contacts between parts within the tile, which may turn out to belong to one region."""
    edges: tuple[Edge, ...]
    """Pixels along the first row, last row, first column and last column of the tile."""


@dataclass(frozen=True)
class Edge:
    """The pixels along an edge of a tile."""

    part: NDArray[np.int32]
    """Part of each pixel; −1: none."""
    origin: NDArray[np.uint8]
    """Origin of each pixel, as in `SeparatedMask.origin`."""


@dataclass(frozen=True)
class Contacts(Columns):
    """Sides between two pixels at least one of which has a part: arrays of one length."""

    vertical: NDArray[np.bool_]
    """True if the side runs along a column of vertices."""
    line: NDArray[np.int32]
    """Column or row of vertices that the side lies on (px)."""
    along: NDArray[np.int32]
    """Row or column of the two pixels (px)."""
    before: NDArray[np.int32]
    """Part of the pixel before the line; −1: none."""
    after: NDArray[np.int32]
    """Part of the pixel after the line; −1: none."""

    @staticmethod
    def none() -> Contacts:
        """Return an empty table."""
        return Contacts(np.zeros(0, bool), *np.zeros((4, 0), np.int32))

    def find_joined_parts(self, part_region: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the pairs of parts on either side that belong to one region; (2, n)."""
        pairs = np.stack([self.before, self.after])
        return pairs[:, (pairs >= 0).all(axis=0) & (part_region[pairs[0]] == part_region[pairs[1]])]

    def sides(self, part_region: NDArray[np.int64]) -> Sides:
        """Return the sides of the other contacts, whose two pixels do not belong to one region."""
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
        return Sides.concatenate(pieces)

    def shift_parts(self, offset: int) -> Contacts:
        """Add an offset to the numbers of the parts; no contact may lack a part."""
        return replace(self, before=self.before + offset, after=self.after + offset)


def find_tile_regions(
    separated: SeparatedMask,
    prob_u8_hw: NDArray[np.uint8],
    core: Box,
    height: int,
    width: int,
    beside_no_data_hw: NDArray[np.bool_] | None = None,
) -> TileRegions:
    """Measure one tile.

    Args:
        separated: Objects of the tile's core, separated with a halo of as many pixels as markers
            grow.
        prob_u8_hw: Probabilities of the tile's core, round(255·p), uint8.
        core: Box of the core in the image (px).
        height: Height of the image (px).
        width: Width of the image (px).
        beside_no_data_hw: Pixels of the core that share a side with a pixel that is not there,
            whether in the core or beside it; None: every pixel is there.

    Returns:
        The finished regions of the tile, and its pieces of the others.
    """
    runs, place = separated.runs, (core.left, core.top)
    sums = sum_pixels(runs, prob_u8_hw, *place, beside_no_data_hw)
    parts = Parts.of(runs, *place)
    seams = core.top > 0, core.bottom < height, core.left > 0, core.right < width
    at_edge = runs.row == 0, runs.row == core.height - 1, runs.start == 0, runs.stop == core.width
    is_open = np.zeros(len(sums), bool)
    for at, is_seam in zip(at_edge, seams, strict=True):
        is_open[runs.label[at]] |= is_seam
    is_inner, open_part = ~is_open & (sums.area > 0), is_open[parts.label]
    inner_number, piece_number, part_number = map(number_chosen, (is_inner, is_open, open_part))
    # Parts of pieces that touch may turn out to belong to one region, so the sides between them are
    # kept apart, as contacts.
    group = np.where(open_part, -1, np.arange(len(open_part))) if separated.may_touch else None
    sides = parts.sides(group)
    open_sides = _drop_seams(sides.of(open_part[sides.part]), core, seams)
    edges = (line_of(runs, part_number[parts.part], which, *prob_u8_hw.shape) for which in _EDGES)
    return TileRegions(
        core=core,
        inner=sums.of(is_inner),
        geometry=outlines_wkb(sides, inner_number[parts.label], int(is_inner.sum())),
        pieces=sums.of(is_open),
        part_piece=piece_number[parts.label[open_part]],
        part_first=parts.first[open_part],
        sides=replace(open_sides, part=part_number[open_sides.part].astype(np.int32)),
        contacts=_find_contacts(parts, part_number) if separated.may_touch else Contacts.none(),
        edges=tuple(
            Edge(edge.astype(np.int32), separated.origin[_EDGES[at]].copy())
            for at, edge in zip(_EDGES, edges, strict=True)
        ),
    )


def _find_contacts(parts: Parts, part_number: NDArray[np.int64]) -> Contacts:
    """Find where numbered parts touch each other.

    Args:
        parts: Parts of the tile.
        part_number: Number of each part; −1: none.
    """
    found = []
    for vertical, (line, along, *sides) in zip((False, True), parts.find_contacts(), strict=True):
        columns = (line, along, *(part_number[part] for part in sides))
        every = Contacts(
            np.full(len(line), vertical), *(column.astype(np.int32) for column in columns)
        )
        found.append(every.of((every.before >= 0) & (every.after >= 0)))
    return Contacts.concatenate(found)


def _drop_seams(sides: Sides, core: Box, seams: tuple[bool, ...]) -> Sides:
    """Drop the sides along seams: only the neighbouring tile tells whether they exist."""
    lines = core.top, core.bottom, core.left, core.right
    along = np.zeros(len(sides), bool)
    for kind, line, is_seam in zip((LOW_Y, HIGH_Y, LOW_X, HIGH_X), lines, seams, strict=True):
        along |= is_seam & (sides.kind == kind) & (sides.line == line)
    return sides.of(~along)
