"""Regions of an image that is never whole in memory: tile by tile, merged exactly where they cross seams.

A region that lies inside a tile is finished there. Of one that touches a seam each tile keeps a *piece*: its sums, the
sides of its pixels, and its labels along the tile's edges. At the end pieces are joined over the seams, 8-connected
into regions and 4-connected into the parts that outlines are made of; sums add up, and sides that meet become one. The
result is what `regions.find_regions` gives for the whole mask, whatever the tiles and the order in which they come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unet_ray.errors import ImageError
from unet_ray.imaging.outlines import Sides, outlines_wkb, parts_of, polygons_wkb, sides_of
from unet_ray.imaging.regions import MAX_REGIONS, Regions, Sums, check_count, label_image, rank_labels, sums_of
from unet_ray.imaging.tiling import Box

_VERTEX_BYTES = 16
_MAX_OUTLINE_BYTES = 256 * 2**20


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
    """Of the parts, but for those along seams."""
    edges: tuple[NDArray[np.int64], ...]
    """Part along the first row, last row, first column, last column of the tile; −1: none."""


def find_tile_regions(
    mask_hw: NDArray[np.bool_], q_hw: NDArray[np.uint8], core: Box, height: int, width: int
) -> TileRegions:
    """Label and measure one tile.

    Args:
        mask_hw, q_hw — of the tile's core.
        core — where that lies.
        height, width — of the image (px).
    """
    labels = rank_labels(label_image(mask_hw))
    seams = core.top > 0, core.bottom < height, core.left > 0, core.right < width
    borders = labels[0], labels[-1], labels[:, 0], labels[:, -1]
    at_seam = np.zeros(int(labels.max(initial=0)) + 1, bool)
    for border, is_seam in zip(borders, seams, strict=True):
        at_seam[border] |= is_seam
    at_seam[0] = False
    inner, open_labels = (rank_labels(np.where(keep[labels], labels, 0)) for keep in (~at_seam, at_seam))
    parts = parts_of(open_labels)
    flat = np.flatnonzero(parts)
    part = parts.ravel()[flat].astype(np.int64) - 1
    first = np.zeros(int(parts.max(initial=0)), np.int64)
    first[part[::-1]] = flat[::-1]  # of several writes to one place the last stays: the first pixel's
    rows, columns = np.divmod(first, mask_hw.shape[1])
    finished = sums_of(inner, q_hw, core.left, core.top)
    return TileRegions(
        core=core,
        inner=finished,
        geometry=outlines_wkb(inner, len(finished), core.left, core.top),
        pieces=sums_of(open_labels, q_hw, core.left, core.top),
        part_piece=open_labels.ravel()[first].astype(np.int64) - 1,
        part_first=np.stack([rows + core.top, columns + core.left], axis=1),
        sides=_without_seams(sides_of(parts, core.left, core.top), core, seams),
        edges=tuple(edge.astype(np.int64) - 1 for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1])),
    )


def _without_seams(sides: Sides, core: Box, seams: tuple[bool, ...]) -> Sides:
    """Return the sides but for those along seams: whether there are any, the neighbour's pixels tell."""
    lines = core.top, core.bottom, core.left, core.right
    along = np.zeros(len(sides), bool)
    for kind, line, is_seam in zip((0, 2, 3, 1), lines, seams, strict=True):
        along |= is_seam & (sides.kind == kind) & (sides.line == line)
    return sides.of(~along)


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

    def regions(self, min_area: int = 1) -> Regions:
        """Return the regions of the whole image, as `find_regions` does; raise ImageError for an outline too large."""
        merged, outlines = self._merged(min_area)
        sums = Sums.concatenated([*(tile.inner for tile in self._tiles), merged])
        geometry = np.concatenate([*(tile.geometry for tile in self._tiles), outlines])
        ranked = np.lexsort((sums.first[:, 1], sums.first[:, 0]))
        ranked = ranked[sums.area[ranked] >= min_area]
        return Regions(sums.of(ranked), geometry[ranked], self._height, self._width)

    def _merged(self, min_area: int) -> tuple[Sums, NDArray[Any]]:
        """Join the pieces of all tiles: their sums and outlines."""
        pieces = Sums.concatenated([tile.pieces for tile in self._tiles])
        if not len(pieces):
            return pieces, np.zeros(0, object)
        offsets = _Offsets.of(self._tiles)
        part_piece = np.concatenate([t.part_piece + p for t, p in zip(self._tiles, offsets.piece, strict=True)])
        part_first = np.concatenate([tile.part_first for tile in self._tiles])
        seams = [*self._seams(offsets, vertical=True), *self._seams(offsets, vertical=False)]
        same_part = _pairs([(s.before, s.after) for s in seams])
        part = _components(same_part, len(part_piece), part_first)
        near = [pair for s in seams for pair in s.neighbours()]
        region = _components(part_piece[_pairs(near)], len(pieces), pieces.first)
        sums = _added(pieces, region)
        check_count(self._finished + len(sums), self._max_regions)
        sides = [
            replace(tile.sides, part=tile.sides.part + offset)
            for tile, offset in zip(self._tiles, offsets.part, strict=True)
        ]
        every = Sides.concatenated([*sides, *(s.sides() for s in seams)])
        part_region = np.zeros(int(part.max()) + 1, np.int64)
        part_region[part] = region[part_piece]
        return self._outlined(sums, replace(every, part=part[every.part]).joined(), part_region, min_area)

    @staticmethod
    def _outlined(sums: Sums, sides: Sides, part_region: NDArray[np.int64], min_area: int) -> tuple[Sums, NDArray[Any]]:
        """Draw the outlines of the regions that are large enough."""
        kept = sums.area >= min_area
        vertices = np.bincount(part_region[sides.part], minlength=len(sums))
        largest = int(vertices[kept].max(initial=0)) * _VERTEX_BYTES
        if largest > _MAX_OUTLINE_BYTES:
            raise ImageError("too_large", f"a region's outline takes {largest / 2**20:.0f} MB; 256 MB are the limit")
        if not kept.any():
            return sums.of(kept), np.zeros(0, object)
        of_kept = kept[part_region]
        new_part, new_region = np.cumsum(of_kept) - 1, np.cumsum(kept) - 1
        chosen = sides.of(of_kept[sides.part])
        chosen = replace(chosen, part=new_part[chosen.part])
        return sums.of(kept), polygons_wkb(chosen, new_region[part_region[of_kept]], int(kept.sum()))

    def _seams(self, offsets: _Offsets, vertical: bool) -> list[_Seam]:
        """Put the edges of tiles together along each line between tiles, over the whole image."""
        length = self._height if vertical else self._width
        lines: dict[int, _Seam] = {}
        for tile, offset in zip(self._tiles, offsets.part, strict=True):
            core = tile.core
            start, low, high = (core.top, core.left, core.right) if vertical else (core.left, core.top, core.bottom)
            for line, edge, is_after in (
                (low, tile.edges[2 if vertical else 0], True),
                (high, tile.edges[3 if vertical else 1], False),
            ):
                if 0 < line < (self._width if vertical else self._height):
                    seam = lines.setdefault(line, _Seam.empty(line, length, vertical))
                    place = (seam.after if is_after else seam.before)[start : start + len(edge)]
                    np.copyto(place, edge + offset, where=edge >= 0)
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
    """A line between tiles: the part of each pixel before and after it; −1: none."""

    line: int
    vertical: bool
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @staticmethod
    def empty(line: int, length: int, vertical: bool) -> _Seam:
        return _Seam(line, vertical, np.full(length, -1), np.full(length, -1))

    def neighbours(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return the pairs of parts that meet over the seam: straight on and across corners."""
        before, after = self.before, self.after
        return [(before, after), (before[1:], after[:-1]), (before[:-1], after[1:])]

    def sides(self) -> Sides:
        """Return the sides along the seam: of pixels that have none of their class beyond it."""
        pieces = []
        for parts, other, kind in (
            (self.before, self.after, 1 if self.vertical else 2),
            (self.after, self.before, 3 if self.vertical else 0),
        ):
            at = np.flatnonzero((parts >= 0) & (other < 0))
            count = len(at)
            pieces.append(Sides(np.full(count, kind, np.int8), np.full(count, self.line), at, at + 1, parts[at]))
        return Sides.concatenated(pieces)


def _pairs(neighbours: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> NDArray[np.int64]:
    """Return (2, n) the pairs of which both are there."""
    both = [np.stack([a, b])[:, (a >= 0) & (b >= 0)] for a, b in neighbours]
    return np.concatenate(both, axis=1) if both else np.zeros((2, 0), np.int64)


def _components(pairs: NDArray[np.int64], count: int, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the component of each of `count` members, numbered by the first pixels (row, column) of the members."""
    graph = coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(count, count))
    components, found = connected_components(graph, directed=False)
    order = np.lexsort((first[:, 1], first[:, 0]))
    lowest = np.zeros(components, np.int64)
    lowest[found[order[::-1]]] = np.arange(count)[::-1]  # of several writes the last stays: the lowest place
    rank = np.empty(components, np.int64)
    rank[np.argsort(lowest)] = np.arange(components)
    return rank[found]


def _added(pieces: Sums, region: NDArray[np.int64]) -> Sums:
    """Return the sums of regions from those of their pieces."""
    count = int(region.max()) + 1

    def gathered(pick: np.ufunc, values: NDArray[Any], start: int = 0) -> NDArray[Any]:
        total = np.full((count, *values.shape[1:]), start, values.dtype)
        pick.at(total, region, values)
        return total

    order = np.lexsort((pieces.first[:, 1], pieces.first[:, 0]))[::-1]
    first = np.zeros((count, 2), np.int64)
    first[region[order]] = pieces.first[order]  # of several writes the last stays: the first in raster order
    far = np.iinfo(np.int64).max
    low, high = gathered(np.minimum, pieces.bbox[:, :2], far), gathered(np.maximum, pieces.bbox[:, 2:])
    return Sums(
        area=gathered(np.add, pieces.area),
        q_sum=gathered(np.add, pieces.q_sum),
        q_max=gathered(np.maximum, pieces.q_max),
        x_sum=gathered(np.add, pieces.x_sum),
        y_sum=gathered(np.add, pieces.y_sum),
        bbox=np.concatenate([low, high], axis=1),
        first=first,
    )
