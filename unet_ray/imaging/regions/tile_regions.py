"""The regions of one tile of an image: finished, or in pieces where they touch a seam.

A region that lies inside a tile is finished there. For a region that touches a seam, the tile keeps
a *piece*: its sums, the sides of its pixels, and its parts along the tile's edges. `merge` joins
the pieces. The package's docstring carries an example through all of this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.columns import Columns, number_chosen
from unet_ray.imaging.regions.outlines import (
    HIGH_X,
    HIGH_Y,
    LOW_X,
    LOW_Y,
    PartPairs,
    Parts,
    Sides,
    outlines_wkb,
)
from unet_ray.imaging.regions.regions import RegionSums, sum_pixels
from unet_ray.imaging.regions.runs import Runs, line_of
from unet_ray.imaging.regions.separation import SeparatedMask


@dataclass(frozen=True)
class TileRegions:
    """The regions of one class in one tile."""

    core: Box
    """Box of the tile's core in the image."""
    inner: RegionSums
    """Sums of the regions that touch no seam; they are finished."""
    geometry: NDArray[np.object_]
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
    edges: Edges
    """Pixels along the four edges of the tile."""

    def shifted(self, first_piece: int, first_part: int) -> TileRegions:
        """Return the same regions with higher numbers of pieces and parts.

        Args:
            first_piece: Number for the tile's piece 0.
            first_part: Number for the tile's part 0.
        """
        contacts = replace(
            self.contacts,
            before=self.contacts.before + first_part,
            after=self.contacts.after + first_part,
        )
        return replace(
            self,
            part_piece=self.part_piece + first_piece,
            sides=replace(self.sides, part=self.sides.part + first_part),
            contacts=contacts,
            edges=self.edges.shifted(first_part),
        )


@dataclass(frozen=True)
class Edges:
    """The pixels along the four edges of a tile."""

    top: Edge
    bottom: Edge
    left: Edge
    right: Edge

    def shifted(self, first_part: int) -> Edges:
        """Return the edges with `first_part` as the number of the tile's part 0."""
        return Edges(
            top=self.top.shifted(first_part),
            bottom=self.bottom.shifted(first_part),
            left=self.left.shifted(first_part),
            right=self.right.shifted(first_part),
        )


@dataclass(frozen=True)
class Edge:
    """The pixels along an edge of a tile."""

    part: NDArray[np.int32]
    """Part of each pixel; −1: none."""
    origin: NDArray[np.uint8]
    """Origin of each pixel, as in `SeparatedMask.origin`."""

    def shifted(self, first_part: int) -> Edge:
        """Return the edge with `first_part` as the number of the tile's part 0."""
        return replace(self, part=np.where(self.part < 0, self.part, self.part + first_part))


@dataclass(frozen=True)
class Contacts(Columns):
    """Sides between two pixels, of which one or both have a part: arrays of one length."""

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
        are_parts = (pairs >= 0).all(axis=0)
        are_joined = part_region[self.before] == part_region[self.after]
        return pairs[:, are_parts & are_joined]

    def sides(self, part_region: NDArray[np.int64]) -> Sides:
        """Return the sides of the other contacts, whose two pixels do not belong to one region."""
        high = np.array([HIGH_Y, HIGH_X], np.int8)[self.vertical.astype(int)]
        low = np.array([LOW_Y, LOW_X], np.int8)[self.vertical.astype(int)]
        return Sides.concatenate(
            [
                self._sides_of(self.before, self.after, high, part_region),
                self._sides_of(self.after, self.before, low, part_region),
            ]
        )

    def _sides_of(
        self,
        part: NDArray[np.int32],
        other: NDArray[np.int32],
        kind: NDArray[np.int8],
        part_region: NDArray[np.int64],
    ) -> Sides:
        """Return the sides that parts have where the other pixel is not of their region.

        Args:
            part: Part of the pixel at each contact; −1: none.
            other: Part of the pixel on the other side; −1: none.
            kind: Kind of the side that the pixel has there.
            part_region: Region of each part.
        """
        is_outer = (part >= 0) & ((other < 0) | (part_region[part] != part_region[other]))
        return Sides(
            kind=kind[is_outer],
            line=self.line[is_outer],
            start=self.along[is_outer],
            stop=self.along[is_outer] + 1,
            part=part[is_outer],
        )


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
        beside_no_data_hw: Pixels of the core that share a side with an invalid pixel, whether in
            the core or beside it; None: all pixels are valid.

    Returns:
        The finished regions of the tile, and its pieces of the others.
    """
    runs = separated.runs
    sums = sum_pixels(
        runs,
        prob_u8_hw,
        left=core.left,
        top=core.top,
        beside_no_data_hw=beside_no_data_hw,
    )
    parts = Parts.of(runs, core.left, core.top)
    is_open = _find_open(runs, num_labels=len(sums), core=core, height=height, width=width)
    is_inner = ~is_open & (sums.area > 0)
    is_open_part = is_open[parts.label]
    inner_number = number_chosen(is_inner)
    piece_number = number_chosen(is_open)
    part_number = number_chosen(is_open_part).astype(np.int32)
    # Parts of pieces that touch may turn out to belong to one region, so the sides between them are
    # kept apart, as contacts.
    if separated.may_touch:
        sides = parts.sides(group=np.where(is_open_part, -1, np.arange(len(is_open_part))))
        along_rows, along_columns = parts.find_contacts()
        contacts = Contacts.concatenate(
            [
                _number_contacts(along_rows, False, part_number),
                _number_contacts(along_columns, True, part_number),
            ]
        )
    else:
        sides = parts.sides()
        contacts = Contacts.none()
    open_sides = _drop_seams(sides.of(is_open_part[sides.part]), core, height, width)
    return TileRegions(
        core=core,
        inner=sums.of(is_inner),
        geometry=outlines_wkb(sides, inner_number[parts.label], int(is_inner.sum())),
        pieces=sums.of(is_open),
        part_piece=piece_number[parts.label[is_open_part]],
        part_first=parts.first[is_open_part],
        sides=replace(open_sides, part=part_number[open_sides.part]),
        contacts=contacts,
        edges=_find_edges(separated, part_number[parts.part]),
    )


def _find_open(
    runs: Runs, num_labels: int, core: Box, height: int, width: int
) -> NDArray[np.bool_]:
    """Tell which labels of a tile touch a seam.

    Args:
        runs: Labelled runs of the tile's core.
        num_labels: Number of labels.
        core: Box of the core in the image (px).
        height: Height of the image (px).
        width: Width of the image (px).

    Returns:
        True for each label that does; (num_labels,).
    """
    at_seam = np.zeros(len(runs), bool)
    if core.top > 0:
        at_seam |= runs.row == 0
    if core.bottom < height:
        at_seam |= runs.row == core.height - 1
    if core.left > 0:
        at_seam |= runs.start == 0
    if core.right < width:
        at_seam |= runs.stop == core.width
    is_open = np.zeros(num_labels, bool)
    is_open[runs.label[at_seam]] = True
    return is_open


def _find_edges(separated: SeparatedMask, part: NDArray[np.int32]) -> Edges:
    """Collect the pixels along the edges of a tile.

    Args:
        separated: Objects of the tile's core.
        part: Part of each run; −1: none.
    """
    height, width = separated.origin.shape

    def find(which: str, origin: NDArray[np.uint8]) -> Edge:
        line = line_of(separated.runs, part, which, height=height, width=width)
        return Edge(line, origin.copy())

    return Edges(
        top=find("top", separated.origin[0]),
        bottom=find("bottom", separated.origin[-1]),
        left=find("left", separated.origin[:, 0]),
        right=find("right", separated.origin[:, -1]),
    )


def _number_contacts(pairs: PartPairs, vertical: bool, part_number: NDArray[np.int32]) -> Contacts:
    """Return the shared sides of parts as contacts of those that have a number.

    Args:
        pairs: Shared sides of parts of the tile.
        vertical: True if they run along columns of vertices.
        part_number: Number of each part; −1: none.
    """
    before = part_number[pairs.before]
    after = part_number[pairs.after]
    contacts = Contacts(
        vertical=np.full(len(pairs), vertical),
        line=pairs.line.astype(np.int32),
        along=pairs.along.astype(np.int32),
        before=before,
        after=after,
    )
    return contacts.of((before >= 0) & (after >= 0))


def _drop_seams(sides: Sides, core: Box, height: int, width: int) -> Sides:
    """Drop the sides along seams: only the neighbouring tile tells whether they exist."""
    is_seam = np.zeros(len(sides), bool)
    for kind, line, image_edge in (
        (LOW_Y, core.top, 0),
        (HIGH_Y, core.bottom, height),
        (LOW_X, core.left, 0),
        (HIGH_X, core.right, width),
    ):
        if line != image_edge:
            is_seam |= (sides.kind == kind) & (sides.line == line)
    return sides.of(~is_seam)
