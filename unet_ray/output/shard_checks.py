"""The rules for the rows of one shard, and a plain function that checks its three tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.merge import RegionMerger
from unet_ray.imaging.regions.outline_wkb import parse_wkb
from unet_ray.imaging.regions.rasterize import fill_outlines
from unet_ray.imaging.regions.regions import Regions
from unet_ray.imaging.regions.run_lengths import decode_rle, encode_rle
from unet_ray.imaging.regions.separation import unseparated
from unet_ray.imaging.regions.tile_regions import find_tile_regions

_MOST_PIXELS = 2**26
"""Largest piece of a mask that is drawn (px); tiles and images read whole have at most 2^25."""
_MOST_SEAM_PX = 2**29
"""Largest total length of the seams between the pieces of a mask (px); each pixel takes 18 bytes.
With tiles of 1024 px, an image of half a million pixels a side has such seams."""
_NO_COVER = "masks rows that do not cover their image"
_TOO_LARGE = "masks rows that are too large for their pixels to be checked"
Row = dict[str, Any]
"""Row of a table, by column."""
Rows = dict[tuple[str, str], list[Row]]
"""Rows by (image_uri, run_id)."""


@dataclass(frozen=True)
class Problem:
    """One breach of a rule."""

    kind: str
    """The rule in a few words, the same for every breach of it."""
    where: str
    """The image or file."""


@dataclass(frozen=True)
class RegionRules:
    """The rules by which the regions of a run follow from its masks."""

    filters: dict[int, RegionFilter]
    """Filter of each class, by class id; regions that did not pass it were dropped."""
    separated: bool = False
    """True if touching objects were separated, so that the regions do not follow from the masks."""

    @staticmethod
    def of_record(record: dict[str, Any]) -> RegionRules:
        """Read the rules from a run record."""
        objects = record["objects"]
        scores = objects.get("min_scores", {})  # runs before 2026-11-26 have none
        filters = {}
        for class_id, min_area in objects["min_areas"].items():
            filters[int(class_id)] = RegionFilter(min_area, scores.get(class_id, 0.0))
        return RegionRules(filters, objects["parted"])

    def make_check(
        self, class_id: int, rows: list[Row], height: int, width: int
    ) -> _ComponentsCheck | _SeparatedCheck:
        """Return the check that compares the regions rows of a class with its mask."""
        check = _SeparatedCheck if self.separated else _ComponentsCheck
        return check(rows, self.filters.get(class_id, ANY), height, width)


def check_shard(
    tables: dict[str, pa.Table], rules: dict[str, RegionRules], pixels: bool = True
) -> list[Problem]:
    """Check the three tables of one shard against each other.

    Args:
        tables: Arrow tables by name (`images`, `masks`, `regions`).
        rules: Rules of runs, by run id; regions of runs without rules are not measured again.
        pixels: Whether to decode every mask and measure its regions again.

    Returns:
        The breaches that were found.
    """
    rows = {name: table.to_pylist() for name, table in tables.items()}
    masks = group_by_image(rows["masks"])
    regions = group_by_image(rows["regions"])
    successful = {_key(row) for row in rows["images"] if row["error_type"] is None}
    found = []
    for (uri, _), times in Counter(map(_key, rows["images"])).items():
        if times > 1:
            found.append(Problem("an image more than once in a shard", uri))
    for name, groups in (("masks", masks), ("regions", regions)):
        for uri, _ in groups.keys() - successful:
            found.append(Problem(f"{name} rows without a successful images row", uri))
    for row in rows["images"]:
        key = _key(row)
        uri, run_id = key
        if row["error_type"] is None:
            of_image = masks.get(key, []), regions.get(key, [])
            breaches = [*_check_rows(row, *of_image)]
            if pixels and _NO_COVER not in breaches and _TOO_LARGE not in breaches:
                breaches += _check_pixels(row, *of_image, rules.get(run_id))
            found += [Problem(kind, uri) for kind in breaches]
        elif not row["error"] or not row["error_stage"] or row["region_count"] is not None:
            found.append(Problem("a failed image without error or stage, or with regions", uri))
    return found


def _key(row: Row) -> tuple[str, str]:
    return row["image_uri"], row["run_id"]


def group_by_image(rows: list[Row]) -> Rows:
    """Group the rows of a table by image and run."""
    groups: Rows = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return groups


def _check_rows(row: Row, masks: list[Row], regions: list[Row]) -> Iterator[str]:
    """Yield the breaches that can be found without decoding a mask."""
    if row["region_count"] != len(regions):
        yield "region_count is not the number of regions rows"
    if [r["region_id"] for r in regions] != list(range(1, len(regions) + 1)):
        yield "region ids are not 1 to n in order"
    if not all(0 < r["score"] <= r["score_max"] <= 1 for r in regions):
        yield "a region that breaks 0 < score ≤ score_max ≤ 1"
    if not masks:
        yield "a successful image without masks rows"
    for pieces in _group_by_class(masks).values():
        if not _cover_image(pieces, row["height"], row["width"]):
            yield _NO_COVER
            continue
        largest_px = max(piece["height"] * piece["width"] for piece in pieces)
        lefts = {piece["left"] for piece in pieces} - {0}
        tops = {piece["top"] for piece in pieces} - {0}
        seams_px = row["height"] * len(lefts) + row["width"] * len(tops)
        if largest_px > _MOST_PIXELS or seams_px > _MOST_SEAM_PX:
            yield _TOO_LARGE


def _cover_image(pieces: list[Row], height: int, width: int) -> bool:
    """Tell whether pieces of a mask lie in their image and add up to its number of pixels."""
    area_px = 0
    for piece in pieces:
        bottom = piece["top"] + piece["height"]
        right = piece["left"] + piece["width"]
        if piece["top"] < 0 or piece["left"] < 0 or bottom > height or right > width:
            return False
        area_px += piece["height"] * piece["width"]
    corners = {(piece["top"], piece["left"]) for piece in pieces}
    return len(corners) == len(pieces) and area_px == height * width


def _check_pixels(
    row: Row,
    masks: list[Row],
    regions: list[Row],
    rules: RegionRules | None,
) -> Iterator[str]:
    """Yield the breaches in run lengths and regions, which are found by decoding the masks."""
    known = _group_by_class(regions)
    for class_id, pieces in _group_by_class(masks).items():
        of_class = known.pop(class_id, [])
        check = None
        if rules is not None:
            check = rules.make_check(class_id, of_class, row["height"], row["width"])
        for piece in pieces:
            try:
                mask = decode_rle(piece["counts"], piece["height"], piece["width"])
            except (ValueError, TypeError):
                mask = None
            if mask is None or encode_rle(mask) != piece["counts"]:  # a mask has one encoding
                yield "run lengths that do not decode to their size"
                return
            if int(mask.sum()) != piece["area"]:
                yield "a masks row whose area differs from that of its run lengths"
            if check:
                top, left = piece["top"], piece["left"]
                box = Box(top, left, top + piece["height"], left + piece["width"])
                check.add(box, mask)
        if check:
            yield from check.breaches()
    if known and rules is not None:
        yield "regions of a class without masks rows"


class _ComponentsCheck:
    """Compares the regions rows of a class with the components of its mask, given in pieces."""

    def __init__(
        self, rows: list[Row], region_filter: RegionFilter, height: int, width: int
    ) -> None:
        self._rows = rows
        self._filter = region_filter
        self._size = height, width
        self._merger = RegionMerger(height, width, max_regions=height * width)

    def add(self, box: Box, mask_hw: NDArray[np.bool_]) -> None:
        """Add a piece of the mask."""
        probabilities = mask_hw.view(np.uint8)
        self._merger.add(find_tile_regions(unseparated(mask_hw), probabilities, box, *self._size))

    def breaches(self) -> Iterator[str]:
        """Yield the breaches, once all pieces are added."""
        expected = self._merger.regions(RegionFilter(self._filter.area))
        if self._filter.score:  # masks hold no probabilities: expect the regions of the rows
            stated = {row["geometry"] for row in self._rows}
            is_stated = [outline in stated for outline in expected.geometry]
            expected = expected.of(np.array(is_stated, bool))
        yield from _compare_regions(self._rows, expected)
        yield from _check_scores(self._rows, self._filter)


class _SeparatedCheck:
    """Compares the regions rows of a class of separated objects with their outlines and its mask.

    The mask comes in pieces.
    """

    def __init__(
        self, rows: list[Row], region_filter: RegionFilter, height: int, width: int
    ) -> None:
        self._rows = rows
        self._filter = region_filter
        self._size = height, width
        self._shapes = parse_wkb([row["geometry"] for row in rows])
        self._bounds = shapely.bounds(self._shapes).reshape(-1, 4)
        self._areas = np.zeros(len(rows), np.int64)
        self._found: dict[str, None] = {}  # an ordered set
        if shapely.is_missing(self._shapes).any():
            self._found["an outline that is not a geometry"] = None

    def add(self, box: Box, mask_hw: NDArray[np.bool_]) -> None:
        """Add a piece of the mask."""
        xmin, ymin, xmax, ymax = self._bounds.T
        met = np.flatnonzero(
            (xmin < box.right) & (xmax > box.left) & (ymin < box.bottom) & (ymax > box.top)
        )
        covered = fill_outlines(self._shapes[met], np.ones(len(met)), box)
        if (covered[~mask_hw] > 0).any():
            self._found["a region that extends beyond its mask"] = None
        if self._filter == ANY and (covered[mask_hw] == 0).any():
            self._found["pixels of a mask outside every region"] = None
        if (covered > 1).any():
            self._found["regions that overlap"] = None
        else:
            numbers = np.arange(1, len(met) + 1)
            labels = fill_outlines(self._shapes[met], numbers, box)
            counts = np.bincount(labels.ravel(), minlength=len(met) + 1)
            self._areas[met] += counts[1:]

    def breaches(self) -> Iterator[str]:
        """Yield the breaches, once all pieces are added."""
        yield from self._found
        if "regions that overlap" in self._found:
            return  # the areas of regions that share pixels cannot be counted
        rows = self._rows
        height, width = self._size
        boxes = _list_boxes(rows)
        middle = shapely.centroid(self._shapes)
        centroids = np.stack([shapely.get_x(middle), shapely.get_y(middle)], axis=1)
        xmin, ymin, xmax, ymax = boxes.T
        at_border = (xmin == 0) | (ymin == 0) | (xmax == width) | (ymax == height)
        stated = np.array([row["area"] for row in rows], np.int64)
        agree = {
            "area": np.array_equal(stated, self._areas) and (stated >= self._filter.area).all(),
            "box": np.array_equal(boxes, self._bounds),
            "centroid": np.allclose(_list_centroids(rows), centroids, rtol=0, atol=1e-3),
            "touches_border": np.array_equal([row["touches_border"] for row in rows], at_border),
        }
        for name, is_equal in agree.items():
            if not is_equal:
                yield f"a region whose {name} differs from its outline's"
        yield from _check_scores(rows, self._filter)


def _check_scores(rows: list[Row], region_filter: RegionFilter) -> Iterator[str]:
    if any(row["score"] < np.float32(region_filter.score) for row in rows):
        yield "a region whose score is below the run's minimum"


def _group_by_class(rows: list[Row]) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["class_id"]].append(row)
    return groups


def _compare_regions(rows: list[Row], expected: Regions) -> Iterator[str]:
    """Yield the differences between the regions rows of a class and the regions of its mask."""
    if len(rows) != len(expected):
        yield "a number of regions that differs from its mask's"
        return
    touches_border = [row["touches_border"] for row in rows]
    agree = {
        "area": np.array_equal([row["area"] for row in rows], expected.area),
        "box": np.array_equal(_list_boxes(rows), expected.bbox),
        "centroid": np.array_equal(_list_centroids(rows), expected.centroid),
        "outline": [row["geometry"] for row in rows] == list(expected.geometry),
        "touches_border": np.array_equal(touches_border, expected.touches_border),
    }
    for name, is_equal in agree.items():
        if not is_equal:
            yield f"a region whose {name} differs from its mask's"


def _list_boxes(rows: list[Row]) -> NDArray[np.float64]:
    """Return the stated boxes of regions; (N, 4), xmin, ymin, xmax, ymax (px)."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[row["bbox"][side] for side in sides] for row in rows]
    return np.reshape(boxes, (-1, 4))


def _list_centroids(rows: list[Row]) -> NDArray[np.float64]:
    """Return the stated centroids of regions; (N, 2), x, y (px)."""
    centroids = [[row["centroid_x"], row["centroid_y"]] for row in rows]
    return np.reshape(centroids, (-1, 2))
