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
"""Sides that are drawn at a time, unless one region has more: each takes about 300 bytes."""


class RegionMerger:
    """Collects the tiles of one class of one image, in any order, and merges their regions.

    Args:
        height: Height of the image (px).
        width: Width of the image (px).
        max_regions: Limit on the number of regions, including those that the filter drops.
        sides_at_once: Approximate number of sides of pieces that are drawn at a time.
    """

    def __init__(
        self,
        height: int,
        width: int,
        max_regions: int = MAX_REGIONS,
        sides_at_once: int = SIDES_AT_ONCE,
    ) -> None:
        self._height, self._width = height, width
        self._max_regions = max_regions
        self._sides_at_once = sides_at_once
        # Pieces and parts are numbered consecutively over all tiles.
        self._tiles: list[TileRegions] = []
        self._num_finished = 0
        self._num_pieces = 0
        self._num_parts = 0

    def add(self, tile: TileRegions) -> None:
        """Add a tile.

        Raises:
            ImageError: The image has more regions than the limit (`too_large`).
        """
        self._num_finished += len(tile.inner)
        check_count(self._num_finished, self._max_regions)
        self._tiles.append(tile.shifted(self._num_pieces, self._num_parts))
        self._num_pieces += len(tile.pieces)
        self._num_parts += len(tile.part_piece)

    def regions(self, region_filter: RegionFilter = ANY) -> Regions:
        """Return the regions of the whole image, equal to those of `find_regions`.

        Args:
            region_filter: Filter that regions must pass; the others are dropped before ranking.

        Returns:
            Regions ranked by first pixel in raster order.

        Raises:
            ImageError: More regions than the limit, or an outline that is too large (`too_large`).
        """
        joined, sides, part_region = self._join_pieces()
        kept = region_filter.met_by(joined.area, joined.prob_u8_sum)
        part_outline = number_chosen(kept)[part_region]
        outlines = np.zeros(int(kept.sum()), object)
        groups = _join_by_outline(sides, part_outline, len(outlines), self._sides_at_once)
        for first, after, some in groups:
            is_among = (part_outline >= first) & (part_outline < after)
            number = np.where(is_among, part_outline - first, -1)
            num_vertices = int(np.bincount(number[some.part]).max(initial=0))
            largest = num_vertices * _VERTEX_BYTES
            if largest > MAX_OUTLINE_BYTES:
                raise ImageError(
                    "too_large",
                    f"a region's outline takes {largest / 2**20:.0f} MB; the limit is "
                    f"{MAX_OUTLINE_BYTES >> 20} MB",
                )
            outlines[first:after] = outlines_wkb(some, number, after - first)
        sums = RegionSums.concatenate([*(tile.inner for tile in self._tiles), joined.of(kept)])
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
        part_piece = np.concatenate([tile.part_piece for tile in self._tiles])
        part_first = np.concatenate([tile.part_first for tile in self._tiles])
        seams = [*self._collect_seams(vertical=True), *self._collect_seams(vertical=False)]
        met_parts = np.concatenate([seam.find_pairs() for seam in seams], axis=1)
        region = _components(part_piece[met_parts], pieces.first)
        sums = _add_up(pieces, region)
        check_count(self._num_finished + len(sums), self._max_regions)
        part_region = region[part_piece]
        across_seams = [seam.contacts() for seam in seams]
        within_tiles = [tile.contacts for tile in self._tiles]
        contacts = Contacts.concatenate([*across_seams, *within_tiles])
        joined_part = _components(contacts.find_joined_parts(part_region), part_first)
        joined_region = np.zeros(int(joined_part.max()) + 1, np.int64)
        joined_region[joined_part] = part_region
        sides = Sides.concatenate(
            [*(tile.sides for tile in self._tiles), contacts.sides(part_region)]
        )
        side_part = joined_part.astype(np.int32)[sides.part]
        return sums, replace(sides, part=side_part), joined_region

    def _collect_seams(self, vertical: bool) -> list[_Seam]:
        """Put the edges of tiles together along each line between tiles, over the whole image."""
        seams: dict[int, _Seam] = {}
        length, end = (self._height, self._width) if vertical else (self._width, self._height)
        for tile in self._tiles:
            core, edges = tile.core, tile.edges
            if vertical:
                start = core.top
                low = core.left
                high = core.right
                low_edge, high_edge = edges.left, edges.right
            else:
                start = core.left
                low = core.top
                high = core.bottom
                low_edge, high_edge = edges.top, edges.bottom
            for line in (low, high):
                if 0 < line < end and line not in seams:
                    seams[line] = _Seam.empty(line, length, vertical)
            if low > 0:
                seams[low].after.put(start, low_edge)
            if high < end:
                seams[high].before.put(start, high_edge)
        return list(seams.values())


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

        Each pixel before the seam is compared with the three pixels after it that it touches:

            along    −1             0             1
            before   a b c d        a b c d       a b c d
                      ╱ ╱ ╱         │ │ │ │        ╲ ╲ ╲
            after    e f g h        e f g h       e f g h

        Returns:
            Pairs of parts, before and after the seam; (2, n).
        """
        found = []
        for along in (-1, 0, 1):
            before = slice(max(0, -along), min(0, -along) or None)
            after = slice(max(0, along), min(0, along) or None)
            ours = self.before.origin[before]
            theirs = self.after.origin[after]
            both_marker = (ours == CORE) & (theirs == CORE)
            both_leftover = (ours == LEFTOVER) & (theirs == LEFTOVER)
            ours_from_theirs = ours == self._encode_step(along, 1)
            theirs_from_ours = theirs == self._encode_step(-along, -1)
            joins = both_marker | both_leftover | ours_from_theirs | theirs_from_ours
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
        return Contacts(
            vertical=np.full(len(at), self.vertical),
            line=np.full(len(at), self.line, np.int32),
            along=at.astype(np.int32),
            before=self.before.part[at],
            after=self.after.part[at],
        )


@dataclass(frozen=True)
class _Line:
    """A line of pixels along a seam, like `Edge`, with the numbers of the image."""

    part: NDArray[np.int32]
    origin: NDArray[np.uint8]

    @staticmethod
    def empty(length: int) -> _Line:
        return _Line(np.full(length, -1, np.int32), np.zeros(length, np.uint8))

    def put(self, start: int, edge: Edge) -> None:
        """Write a tile's edge into the line, from pixel `start` on."""
        stop = start + len(edge.part)
        self.part[start:stop] = edge.part
        self.origin[start:stop] = edge.origin


def _components(pairs: NDArray[np.integer[Any]], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the component of each member, numbered by the first pixels of the members.

    Args:
        pairs: Members that belong together; (2, n).
        first: Row and column of the first pixel of each member; (members, 2).
    """
    order = np.lexsort((first[:, 1], first[:, 0]))
    place = np.empty(len(first), np.int64)
    place[order] = np.arange(len(first))
    return components(place[pairs], len(first))[place]


def _join_by_outline(
    sides: Sides, part_outline: NDArray[np.int64], num_outlines: int, sides_at_once: int
) -> Iterator[tuple[int, int, Sides]]:
    """Join the sides of the first outlines, of the next ones, and so on.

    Args:
        sides: Sides of any number of parts, not yet joined.
        part_outline: Index of the outline that each part belongs to; −1: none.
        num_outlines: Number of outlines.
        sides_at_once: Number of sides that are joined at a time, unless one outline has more.

    Yields:
        First outline, last outline + 1, and their joined sides.
    """
    outline = part_outline.astype(np.int32)[sides.part]
    num_sides = np.bincount(outline + 1, minlength=num_outlines + 1)[1:]
    # Groups of outlines are numbered from 1; numbers are skipped if an outline has many sides.
    group = (np.cumsum(num_sides) // sides_at_once).astype(np.int32) + 1
    side_group = np.append(group, np.int32(0))[outline]  # 0: without an outline
    by_group = np.argsort(side_group, kind="stable")
    group_ends = np.cumsum(np.bincount(side_group))
    group_firsts = np.flatnonzero(np.diff(group, prepend=0)).tolist()
    for first, after in itertools.pairwise([*group_firsts, num_outlines]):
        number = group[first]
        in_group = by_group[group_ends[number - 1] : group_ends[number]]
        yield first, after, sides.of(in_group).join()


def _add_up(pieces: RegionSums, region: NDArray[np.int64]) -> RegionSums:
    """Return the sums of regions from those of their pieces."""
    num_regions = int(region.max()) + 1

    def reduce_by_region(
        pick: np.ufunc, values: NDArray[np.integer[Any]], start: int = 0
    ) -> NDArray[Any]:
        """Combine the values of the pieces of each region by a ufunc."""
        total = np.full((num_regions, *values.shape[1:]), start, values.dtype)
        pick.at(total, region, values)
        return total

    # When several pieces write to one place, the last write stays: the first in raster order.
    last_to_first = np.lexsort((pieces.first[:, 1], pieces.first[:, 0]))[::-1]
    first = np.zeros((num_regions, 2), np.int64)
    first[region[last_to_first]] = pieces.first[last_to_first]
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
