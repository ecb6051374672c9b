"""Regions of an image that is never whole in memory: tile by tile, merged exactly where they cross seams.

The pieces of `tile_regions` are joined over the seams: into regions where cores meet (8-connected), where leftovers do,
and where a grown pixel got its label from beyond (`separation`); then into the 4-connected parts that outlines are made
of. Sums add up, and sides that meet become one. The result is what `regions.find_regions` gives for the whole mask,
whatever the tiles and the order in which they come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.regions.columns import numbered
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.outlines import Sides, outlines_wkb
from unet_ray.imaging.regions.regions import MAX_REGIONS, Regions, Sums, check_count
from unet_ray.imaging.regions.runs import components
from unet_ray.imaging.regions.separation import CORE, LEFTOVER, grown_from
from unet_ray.imaging.regions.tile_regions import Contacts, Edge, TileRegions

_VERTEX_BYTES = 16
_MAX_OUTLINE_BYTES = 256 * 2**20


class RegionMerger:
    """Collects the tiles of one class of one image, in any order, and merges them.

    Args:
        height, width — of the image (px).
        max_regions — more of them, small ones too, are the error `too_large`.
    """

    def __init__(self, height: int, width: int, max_regions: int = MAX_REGIONS) -> None:
        self._height, self._width, self._max_regions = height, width, max_regions
        self._tiles: list[TileRegions] = []
        self._finished = 0

    def add(self, tile: TileRegions) -> None:
        """Take in a tile; raise ImageError where the image has too many regions."""
        self._finished += len(tile.inner)
        check_count(self._finished, self._max_regions)
        self._tiles.append(tile)

    def regions(self, least: RegionFilter = ANY) -> Regions:
        """Return the regions of the whole image, as `find_regions` does; raise ImageError for an outline too large."""
        merged, outlines = self._merged(least)
        sums = Sums.concatenated([*(tile.inner for tile in self._tiles), merged])
        geometry = np.concatenate([*(tile.geometry for tile in self._tiles), outlines])
        ranked = np.lexsort((sums.first[:, 1], sums.first[:, 0]))
        ranked = ranked[least.met_by(sums.area, sums.prob_u8_sum)[ranked]]
        return Regions(sums.of(ranked), geometry[ranked], self._height, self._width)

    def _merged(self, least: RegionFilter) -> tuple[Sums, NDArray[Any]]:
        """Join the pieces of all tiles: their sums and outlines."""
        pieces = Sums.concatenated([tile.pieces for tile in self._tiles])
        if not len(pieces):
            return pieces, np.zeros(0, object)
        offsets = _Offsets.of(self._tiles)
        part_piece = np.concatenate(
            [t.part_piece + p for t, p in zip(self._tiles, offsets.piece, strict=True)]
        )
        part_first = np.concatenate([tile.part_first for tile in self._tiles])
        seams = [*self._seams(offsets, vertical=True), *self._seams(offsets, vertical=False)]
        joined = np.concatenate([s.joined() for s in seams], axis=1)
        region = _components(part_piece[joined], pieces.first)
        part_region = region[part_piece]
        contacts = Contacts.concatenated(
            [
                *(seam.contacts() for seam in seams),
                *(
                    tile.contacts.shifted(offset)
                    for tile, offset in zip(self._tiles, offsets.part, strict=True)
                ),
            ]
        )
        part = _components(contacts.touching(part_region), part_first)
        sums = _added(pieces, region)
        check_count(self._finished + len(sums), self._max_regions)
        sides = [
            replace(tile.sides, part=tile.sides.part + offset)
            for tile, offset in zip(self._tiles, offsets.part, strict=True)
        ]
        every = Sides.concatenated([*sides, contacts.sides(part_region)])
        joined_region = np.zeros(int(part.max()) + 1, np.int64)
        joined_region[part] = part_region
        return self._outlined(
            sums, replace(every, part=part[every.part]).joined(), joined_region, least
        )

    @staticmethod
    def _outlined(
        sums: Sums, sides: Sides, part_region: NDArray[np.int64], least: RegionFilter
    ) -> tuple[Sums, NDArray[Any]]:
        """Draw the outlines of the regions that count."""
        kept = least.met_by(sums.area, sums.prob_u8_sum)
        vertices = np.bincount(part_region[sides.part], minlength=len(sums))
        largest = int(vertices[kept].max(initial=0)) * _VERTEX_BYTES
        if largest > _MAX_OUTLINE_BYTES:
            raise ImageError(
                "too_large",
                f"a region's outline takes {largest / 2**20:.0f} MB; 256 MB are the limit",
            )
        return sums.of(kept), outlines_wkb(sides, numbered(kept)[part_region], int(kept.sum()))

    def _seams(self, offsets: _Offsets, vertical: bool) -> list[_Seam]:
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
    """What is added to a tile's numbers to make them the image's."""

    piece: NDArray[np.int64]
    part: NDArray[np.int64]

    @staticmethod
    def of(tiles: list[TileRegions]) -> _Offsets:
        counts = np.array([[len(tile.pieces), len(tile.part_piece)] for tile in tiles]).T
        return _Offsets(*(np.cumsum(row) - row for row in counts))


@dataclass(frozen=True)
class _Seam:
    """A line between tiles: the pixels before and after it, over the whole image."""

    line: int
    vertical: bool
    before: _Line
    after: _Line

    @staticmethod
    def empty(line: int, length: int, vertical: bool) -> _Seam:
        return _Seam(line, vertical, _Line.empty(length), _Line.empty(length))

    def joined(self) -> NDArray[np.int64]:
        """Return (2, n) the pairs of parts of one region that meet over the seam, straight on or across corners."""
        found = []
        for along in (-1, 0, 1):
            before = slice(max(0, -along), min(0, -along) or None)
            after = slice(max(0, along), min(0, along) or None)
            ours, theirs = self.before.origin[before], self.after.origin[after]
            onwards, back = (along, 1), (-along, -1)
            same = (ours == theirs) & ((ours == CORE) | (ours == LEFTOVER))
            joins = (
                same | (ours == self._grown_from(*onwards)) | (theirs == self._grown_from(*back))
            )
            pairs = np.stack([self.before.part[before], self.after.part[after]])
            found.append(pairs[:, joins & (pairs >= 0).all(axis=0)])
        return np.concatenate(found, axis=1)

    def _grown_from(self, along: int, across: int) -> int:
        """Return the origin of a pixel that got its label from so many pixels along the seam and across it."""
        return grown_from((along, across) if self.vertical else (across, along))

    def contacts(self) -> Contacts:
        """Return where the pixels on both sides touch, or one has none beyond it."""
        at = np.flatnonzero((self.before.part >= 0) | (self.after.part >= 0))
        count = len(at)
        vertical, line = np.full(count, self.vertical), np.full(count, self.line)
        return Contacts(vertical, line, at, self.before.part[at], self.after.part[at])


@dataclass(frozen=True)
class _Line:
    """A line of pixels along a seam, as `Edge`, with the numbers of the image."""

    part: NDArray[np.int64]
    origin: NDArray[np.uint8]

    @staticmethod
    def empty(length: int) -> _Line:
        return _Line(np.full(length, -1), np.zeros(length, np.uint8))

    def put(self, start: int, edge: Edge, offset: int) -> None:
        """Write a tile's edge into the line."""
        place = slice(start, start + len(edge.part))
        np.copyto(self.part[place], edge.part + offset, where=edge.part >= 0)
        self.origin[place] = edge.origin


def _components(pairs: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the component of each member, numbered by the first pixels (row, column) of the members."""
    order = np.lexsort((first[:, 1], first[:, 0]))
    place = np.empty(len(first), np.int64)
    place[order] = np.arange(len(first))
    return components(place[pairs], len(first))[place]


def _added(pieces: Sums, region: NDArray[np.int64]) -> Sums:
    """Return the sums of regions from those of their pieces."""
    count = int(region.max()) + 1

    def gathered(pick: np.ufunc, values: NDArray[Any], start: int = 0) -> NDArray[Any]:
        total = np.full((count, *values.shape[1:]), start, values.dtype)
        pick.at(total, region, values)
        return total

    order = np.lexsort((pieces.first[:, 1], pieces.first[:, 0]))[::-1]
    first = np.zeros((count, 2), np.int64)
    first[region[order]] = pieces.first[
        order
    ]  # of several writes the last stays: the first in raster order
    far = np.iinfo(np.int64).max
    low, high = (
        gathered(np.minimum, pieces.bbox[:, :2], far),
        gathered(np.maximum, pieces.bbox[:, 2:]),
    )
    return Sums(
        area=gathered(np.add, pieces.area),
        prob_u8_sum=gathered(np.add, pieces.prob_u8_sum),
        prob_u8_max=gathered(np.maximum, pieces.prob_u8_max),
        x_sum=gathered(np.add, pieces.x_sum),
        y_sum=gathered(np.add, pieces.y_sum),
        bbox=np.concatenate([low, high], axis=1),
        first=first,
    )
