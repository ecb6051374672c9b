"""Regions of an image that is never whole in memory: merged from tiles, exactly, across seams.

The pieces in `tile_regions` are joined over the seams: into regions where markers meet
(8-connected), where leftovers meet, and where a pixel got its label from beyond the seam
(`separation`); then into the 4-connected parts that outlines are made of. Sums add up, and sides
that meet become one. The result is that of `regions.find_regions` for the whole mask, whatever the
tiles and the order in which they arrive.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.regions.columns import number_chosen
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.outlines import Sides, outlines_wkb
from unet_ray.imaging.regions.regions import Regions, RegionSums, check_count
from unet_ray.imaging.regions.runs import components
from unet_ray.imaging.regions.separation import CORE, LEFTOVER, encode_direction
from unet_ray.imaging.regions.tile_regions import Contacts, Edge, TileRegions
from unet_ray.limits import MAX_OUTLINE_BYTES, MAX_REGIONS

_VERTEX_BYTES = 16
SIDES_AT_ONCE = 2**17
"""Sides that are drawn at a time, or those of one region: drawing takes some 300 bytes for each."""


class RegionMerger:
    """Collects the tiles of one class of one image, in any order, and merges their regions.

    Args:
        height: Height of the image (px).
        width: Width of the image (px).
        max_regions: Limit on the number of regions, including those that the filter drops.
        sides_at_once: Number of sides of pieces that are drawn at a time, about.
    """

    def __init__(
        self,
        height: int,
        width: int,
        max_regions: int = MAX_REGIONS,
        sides_at_once: int = SIDES_AT_ONCE,
    ) -> None:
        self._height, self._width, self._max_regions = height, width, max_regions
        self._sides_at_once = sides_at_once
        self._tiles: list[TileRegions] = []
        self._finished = 0

    def add(self, tile: TileRegions) -> None:
        """Add a tile.

        Raises:
            ImageError: The image has more regions than the limit (`too_large`).
        """
        self._finished += len(tile.inner)
        check_count(self._finished, self._max_regions)
        self._tiles.append(tile)

    def regions(self, region_filter: RegionFilter = ANY) -> Regions:
        """Return the regions of the whole image, equal to those of `find_regions`.

        Args:
            region_filter: Filter that regions must pass; the others are dropped before ranking.

        Returns:
            Regions ranked by first pixel in raster order.

        Raises:
            ImageError: More regions than the limit, or an outline that is too large (`too_large`).
        """
        merged, outlines = _draw_outlines(*self._join_pieces(), region_filter, self._sides_at_once)
        sums = RegionSums.concatenate([*(tile.inner for tile in self._tiles), merged])
        geometry = np.concatenate([*(tile.geometry for tile in self._tiles), outlines])
        ranked = np.lexsort((sums.first[:, 1], sums.first[:, 0]))
        ranked = ranked[region_filter.met_by(sums.area, sums.prob_u8_sum)[ranked]]
        return Regions(sums.of(ranked), geometry[ranked], self._height, self._width)

    def _join_pieces(self) -> tuple[RegionSums, Sides, NDArray[np.int64]]:
        """Join the pieces of all tiles.

        Returns:
            Sums of the regions, the sides of their parts, not yet joined, and the region of each
            part.
        """
        pieces = RegionSums.concatenate([tile.pieces for tile in self._tiles])
        if not len(pieces):
            return pieces, Sides.none(), np.zeros(0, np.int64)
        offsets = _Offsets.of(self._tiles)
        part_piece = np.concatenate(
            [t.part_piece + p for t, p in zip(self._tiles, offsets.piece, strict=True)]
        )
        part_first = np.concatenate([tile.part_first for tile in self._tiles])
        seams = [
            *self._collect_seams(offsets, vertical=True),
            *self._collect_seams(offsets, vertical=False),
        ]
        joined = np.concatenate([s.find_pairs() for s in seams], axis=1)
        region = _components(part_piece[joined], pieces.first)
        part_region = region[part_piece]
        contacts = Contacts.concatenate(
            [
                *(seam.contacts() for seam in seams),
                *(
                    tile.contacts.shift_parts(int(offset))
                    for tile, offset in zip(self._tiles, offsets.part, strict=True)
                ),
            ]
        )
        part = _components(contacts.find_joined_parts(part_region), part_first)
        sums = _add_up(pieces, region)
        check_count(self._finished + len(sums), self._max_regions)
        sides = [
            replace(tile.sides, part=tile.sides.part + int(offset))
            for tile, offset in zip(self._tiles, offsets.part, strict=True)
        ]
        every = Sides.concatenate([*sides, contacts.sides(part_region)])
        joined_region = np.zeros(int(part.max()) + 1, np.int64)
        joined_region[part] = part_region
        return sums, replace(every, part=part.astype(np.int32)[every.part]), joined_region

    def _collect_seams(self, offsets: _Offsets, vertical: bool) -> list[_Seam]:
        """Put the edges of tiles together along each line between tiles, over the whole image."""
        length = self._height if vertical else self._width
        lines: dict[int, _Seam] = {}
        for tile, offset in zip(self._tiles, offsets.part, strict=True):
            core = tile.core
            start, low, high = (
                (core.top, core.left, core.right)
                if vertical
                else (core.left, core.top, core.bottom)
            )
            for line, edge, is_after in (
                (low, tile.edges[2 if vertical else 0], True),
                (high, tile.edges[3 if vertical else 1], False),
            ):
                if 0 < line < (self._width if vertical else self._height):
                    seam = lines.setdefault(line, _Seam.empty(line, length, vertical))
                    (seam.after if is_after else seam.before).put(start, edge, int(offset))
        return list(lines.values())


@dataclass(frozen=True)
class _Offsets:
    """Offsets from the numbers within a tile to those within the image, per tile."""

    piece: NDArray[np.int64]
    """Offset of each tile's pieces."""
    part: NDArray[np.int64]
    """Offset of each tile's parts."""

    @staticmethod
    def of(tiles: list[TileRegions]) -> _Offsets:
        counts = np.array([[len(tile.pieces), len(tile.part_piece)] for tile in tiles]).T
        return _Offsets(*(np.cumsum(row) - row for row in counts))


@dataclass(frozen=True)
class _Seam:
    """A line between tiles, with the pixels before and after it over the whole image."""

    line: int
    vertical: bool
    before: _Line
    after: _Line

    @staticmethod
    def empty(line: int, length: int, vertical: bool) -> _Seam:
        return _Seam(line, vertical, _Line.empty(length), _Line.empty(length))

    def find_pairs(self) -> NDArray[np.int32]:
        """Find the parts of one region that meet over the seam, straight or across corners.

        Returns:
            Pairs of parts, before and after the seam; (2, n).
        """
        found = []
        for along in (-1, 0, 1):
            before = slice(max(0, -along), min(0, -along) or None)
            after = slice(max(0, along), min(0, along) or None)
            ours, theirs = self.before.origin[before], self.after.origin[after]
            onwards, back = (along, 1), (-along, -1)
            same = (ours == theirs) & ((ours == CORE) | (ours == LEFTOVER))
            joins = (
                same | (ours == self._encode_step(*onwards)) | (theirs == self._encode_step(*back))
            )
            pairs = np.stack([self.before.part[before], self.after.part[after]])
            found.append(pairs[:, joins & (pairs >= 0).all(axis=0)])
        return np.concatenate(found, axis=1)

    def _encode_step(self, along: int, across: int) -> int:
        """Return the origin of a pixel that got its label from a neighbour at a step.

        Args:
            along: Step along the seam (px).
            across: Step across the seam (px).
        """
        return encode_direction((along, across) if self.vertical else (across, along))

    def contacts(self) -> Contacts:
        """Return the sides along the seam where at least one of the two pixels has a part."""
        at = np.flatnonzero((self.before.part >= 0) | (self.after.part >= 0))
        count = len(at)
        vertical, line = np.full(count, self.vertical), np.full(count, self.line, np.int32)
        parts = self.before.part[at], self.after.part[at]
        return Contacts(vertical, line, at.astype(np.int32), *parts)


@dataclass(frozen=True)
class _Line:
    """A line of pixels along a seam, like `Edge`, with the numbers of the image."""

    part: NDArray[np.int32]
    origin: NDArray[np.uint8]

    @staticmethod
    def empty(length: int) -> _Line:
        return _Line(np.full(length, -1, np.int32), np.zeros(length, np.uint8))

    def put(self, start: int, edge: Edge, offset: int) -> None:
        """Write a tile's edge into the line."""
        place = slice(start, start + len(edge.part))
        np.copyto(self.part[place], edge.part + offset, where=edge.part >= 0)
        self.origin[place] = edge.origin


def _components(pairs: NDArray[Any], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the component of each member, numbered by the first pixels of the members.

    Args:
        pairs: Members that belong together; (2, n).
        first: Row and column of the first pixel of each member; (members, 2).
    """
    order = np.lexsort((first[:, 1], first[:, 0]))
    place = np.empty(len(first), np.int64)
    place[order] = np.arange(len(first))
    return components(place[pairs], len(first))[place]


def _draw_outlines(
    sums: RegionSums,
    sides: Sides,
    part_region: NDArray[np.int64],
    region_filter: RegionFilter,
    sides_at_once: int,
) -> tuple[RegionSums, NDArray[Any]]:
    """Draw the outlines of the regions that pass a filter, some regions at a time.

    Args:
        sums: Sums of the regions.
        sides: Sides of their parts, not yet joined.
        part_region: Region of each part.
        region_filter: Filter that regions must pass.
        sides_at_once: Number of sides that are drawn at a time, about.

    Returns:
        Sums and outlines, WKB, of the regions that pass.
    """
    kept = region_filter.met_by(sums.area, sums.prob_u8_sum)
    part_outline = number_chosen(kept)[part_region]
    outlines = np.zeros(int(kept.sum()), object)
    groups = _join_by_outline(sides, part_outline, len(outlines), sides_at_once)
    for first, after, some in groups:
        is_among = (part_outline >= first) & (part_outline < after)
        number = np.where(is_among, part_outline - first, -1)
        _check_outlines(np.bincount(number[some.part]))
        outlines[first:after] = outlines_wkb(some, number, after - first)
    return sums.of(kept), outlines


def _check_outlines(vertices: NDArray[np.int64]) -> None:
    """Check the number of vertices of each outline.

    Raises:
        ImageError: An outline is too large (`too_large`).
    """
    largest = int(vertices.max(initial=0)) * _VERTEX_BYTES
    if largest > MAX_OUTLINE_BYTES:
        raise ImageError(
            "too_large",
            f"a region's outline takes {largest / 2**20:.0f} MB; the limit is "
            f"{MAX_OUTLINE_BYTES >> 20} MB",
        )


def _join_by_outline(
    sides: Sides, part_outline: NDArray[np.int64], count: int, sides_at_once: int
) -> Iterator[tuple[int, int, Sides]]:
    """Join the sides of the first outlines, of the next ones, and so on.

    Args:
        sides: Sides of any number of parts, not yet joined.
        part_outline: Index of the outline that each part belongs to; −1: none.
        count: Number of outlines.
        sides_at_once: Number of sides that are joined at a time, unless one outline has more.

    Yields:
        First outline, last outline + 1, and their joined sides.
    """
    outline = part_outline.astype(np.int32)[sides.part]
    sizes = np.bincount(outline + 1, minlength=count + 1)[1:]
    group = (np.cumsum(sizes) // sides_at_once).astype(np.int32) + 1
    side_group = np.append(group, np.int32(0))[outline]  # 0: without an outline
    order, ends = np.argsort(side_group, kind="stable"), np.cumsum(np.bincount(side_group))
    firsts = np.flatnonzero(np.diff(group, prepend=0)).tolist()
    for first, after in itertools.pairwise([*firsts, count]):
        number = group[first]
        yield first, after, sides.of(order[ends[number - 1] : ends[number]]).join()


def _add_up(pieces: RegionSums, region: NDArray[np.int64]) -> RegionSums:
    """Return the sums of regions from those of their pieces."""
    count = int(region.max()) + 1

    def reduce_by_region(pick: np.ufunc, values: NDArray[Any], start: int = 0) -> NDArray[Any]:
        total = np.full((count, *values.shape[1:]), start, values.dtype)
        pick.at(total, region, values)
        return total

    order = np.lexsort((pieces.first[:, 1], pieces.first[:, 0]))[::-1]
    first = np.zeros((count, 2), np.int64)
    # When several pieces write to one place, the last write stays: the first in raster order.
    first[region[order]] = pieces.first[order]
    far = np.iinfo(np.int64).max
    low = reduce_by_region(np.minimum, pieces.bbox[:, :2], far)
    high = reduce_by_region(np.maximum, pieces.bbox[:, 2:])
    return RegionSums(
        area=reduce_by_region(np.add, pieces.area),
        prob_u8_sum=reduce_by_region(np.add, pieces.prob_u8_sum),
        prob_u8_max=reduce_by_region(np.maximum, pieces.prob_u8_max),
        x_sum=reduce_by_region(np.add, pieces.x_sum),
        y_sum=reduce_by_region(np.add, pieces.y_sum),
        bbox=np.concatenate([low, high], axis=1),
        first=first,
        beside_no_data=reduce_by_region(np.add, pieces.beside_no_data),
    )
