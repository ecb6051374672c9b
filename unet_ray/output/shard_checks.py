"""The rules for the rows of one shard, checked by a plain function on its three tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
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
"""Largest piece of a mask that is drawn; tiles and images that are read whole have 2^25 px."""
_MOST_SEAM_PX = 2**29
"""Largest length of the lines between the pieces of a mask, of 18 bytes a pixel. Between tiles of
1024 px they come to that in images of half a million pixels a side."""
_NO_COVER = "masks rows that do not cover their image"
_TOO_LARGE = "masks rows that are too large for their pixels to be checked"
Rows = dict[tuple[str, str], list[dict[str, Any]]]
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
    """Filter of each class, by class id; regions that do not pass it were dropped."""
    separated: bool = False
    """True where touching objects were separated, so that masks alone do not tell the regions."""

    @staticmethod
    def of_record(record: dict[str, Any]) -> RegionRules:
        """Read the rules from a run record."""
        objects = record["objects"]
        scores = objects.get("min_scores", {})  # runs before 2026-11-26 have none
        filters = {
            int(spec): RegionFilter(area, scores.get(spec, 0.0))
            for spec, area in objects["min_areas"].items()
        }
        return RegionRules(filters, objects["parted"])

    def make_check(
        self, class_id: int, rows: list[dict[str, Any]], height: int, width: int
    ) -> _ComponentsCheck | _SeparatedCheck:
        """Return the check that compares the regions rows of a class with its mask."""
        check = _SeparatedCheck if self.separated else _ComponentsCheck
        return check(rows, self.filters.get(class_id, ANY), height, width)


def check_shard(
    tables: dict[str, Any], rules: dict[str, RegionRules], pixels: bool = True
) -> list[Problem]:
    """Check the three tables of one shard against each other.

    Args:
        tables: Arrow tables by name (`images`, `masks`, `regions`).
        rules: Rules of each run, by run id; regions of other runs are not measured again.
        pixels: Whether to decode every mask and measure its regions again.

    Returns:
        The breaches that were found.
    """
    rows = {name: table.to_pylist() for name, table in tables.items()}
    masks, regions = (group_by_image(rows[name]) for name in ("masks", "regions"))
    counted = Counter(_key(row) for row in rows["images"])
    good = {_key(row) for row in rows["images"] if row["error_type"] is None}
    found = [
        Problem("an image more than once in a shard", uri)
        for (uri, _), times in counted.items()
        if times > 1
    ]
    for name, groups in (("masks", masks), ("regions", regions)):
        found += [
            Problem(f"{name} rows without a successful images row", uri)
            for uri, _ in groups.keys() - good
        ]
    for row in rows["images"]:
        key = _key(row)
        if row["error_type"] is not None:
            if not row["error"] or not row["error_stage"] or row["region_count"] is not None:
                found.append(
                    Problem("a failed image without error, stage, or with regions", key[0])
                )
            continue
        of_image = masks.get(key, []), regions.get(key, [])
        breaches = [*_check_rows(row, *of_image)]
        found += [Problem(kind, key[0]) for kind in breaches]
        if pixels and _NO_COVER not in breaches and _TOO_LARGE not in breaches:
            found += [
                Problem(kind, key[0]) for kind in _check_pixels(row, *of_image, rules.get(key[1]))
            ]
    return found


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["image_uri"], row["run_id"]


def group_by_image(rows: list[dict[str, Any]]) -> Rows:
    """Group the rows of a table by image and run."""
    groups: Rows = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return groups


def _check_rows(
    row: dict[str, Any], masks: list[dict[str, Any]], regions: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield the breaches that the columns show without decoding a mask."""
    if row["region_count"] != len(regions):
        yield "region_count is not the number of regions rows"
    if [r["region_id"] for r in regions] != list(range(1, len(regions) + 1)):
        yield "region ids are not 1 to n in order"
    if any(not 0 < r["score"] <= r["score_max"] <= 1 for r in regions):
        yield "a region whose score is not above 0 and at most score_max, or score_max is above 1"
    if not masks:
        yield "a successful image without masks rows"
    for pieces in _group_by_class(masks).values():
        inside = all(
            p["top"] >= 0 <= p["left"]
            and p["top"] + p["height"] <= row["height"]
            and p["left"] + p["width"] <= row["width"]
            for p in pieces
        )
        twice = len({(p["top"], p["left"]) for p in pieces}) < len(pieces)
        if (
            not inside
            or twice
            or sum(p["height"] * p["width"] for p in pieces) != row["height"] * row["width"]
        ):
            yield _NO_COVER
        elif not _can_be_drawn(pieces, row["height"], row["width"]):
            yield _TOO_LARGE


def _can_be_drawn(pieces: list[dict[str, Any]], height: int, width: int) -> bool:
    """Tell whether pieces of a mask, and the lines between them, are of a size that runs write."""
    columns, rows = ({p[start] for p in pieces} - {0} for start in ("left", "top"))
    seams_px = height * len(columns) + width * len(rows)
    return seams_px <= _MOST_SEAM_PX and all(
        p["height"] * p["width"] <= _MOST_PIXELS for p in pieces
    )


def _check_pixels(
    row: dict[str, Any],
    masks: list[dict[str, Any]],
    regions: list[dict[str, Any]],
    rules: RegionRules | None,
) -> Iterator[str]:
    """Yield the breaches that only decoding shows, in run lengths and in regions."""
    known = _group_by_class(regions)
    for class_id, pieces in _group_by_class(masks).items():
        check = rules and rules.make_check(
            class_id, known.pop(class_id, []), row["height"], row["width"]
        )
        for piece in pieces:
            mask = _decode_piece(piece)
            if mask is None:
                yield "run lengths that do not decode to their size"
                return
            if int(mask.sum()) != piece["area"]:
                yield "a masks row whose area is not that of its run lengths"
            if check:
                core = Box(
                    piece["top"],
                    piece["left"],
                    piece["top"] + piece["height"],
                    piece["left"] + piece["width"],
                )
                check.add(core, mask)
        if check:
            yield from check.breaches()
    if known and rules is not None:
        yield "regions of a class without masks rows"


class _ComponentsCheck:
    """Compares the regions rows of a class with the components of its mask.

    The mask comes in pieces.
    """

    def __init__(
        self, rows: list[dict[str, Any]], region_filter: RegionFilter, height: int, width: int
    ) -> None:
        self._rows, self._filter = rows, region_filter
        self._merger = RegionMerger(height, width, max_regions=height * width)
        self._size = height, width

    def add(self, box: Box, mask_hw: NDArray[np.bool_]) -> None:
        """Add a piece of the mask."""
        self._merger.add(
            find_tile_regions(unseparated(mask_hw), mask_hw.view(np.uint8), box, *self._size)
        )

    def breaches(self) -> Iterator[str]:
        """Yield the breaches, once all pieces are added."""
        expected = self._merger.regions(RegionFilter(self._filter.area))
        if self._filter.score:  # masks hold no probabilities: take the regions that the rows name
            stated = {row["geometry"] for row in self._rows}
            expected = expected.of(
                np.array([outline in stated for outline in expected.geometry], bool)
            )
        yield from _compare_regions(self._rows, expected)
        yield from _check_scores(self._rows, self._filter)


class _SeparatedCheck:
    """Compares the regions rows of a class of separated objects with outlines, mask and each other.

    The mask comes in pieces.
    """

    def __init__(
        self, rows: list[dict[str, Any]], region_filter: RegionFilter, height: int, width: int
    ) -> None:
        self._rows, self._filter, self._size = rows, region_filter, (height, width)
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
            labels = fill_outlines(self._shapes[met], np.arange(1, len(met) + 1), box)
            self._areas[met] += np.bincount(labels.ravel(), minlength=len(met) + 1)[1:]

    def breaches(self) -> Iterator[str]:
        """Yield the breaches, once all pieces are added."""
        yield from self._found
        if "regions that overlap" in self._found:
            return  # the areas of regions that share pixels cannot be counted
        rows, (height, width) = self._rows, self._size
        sides = np.reshape(
            [[row["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for row in rows],
            (-1, 4),
        )
        centres = np.reshape([[row["centroid_x"], row["centroid_y"]] for row in rows], (-1, 2))
        middle = shapely.centroid(self._shapes)
        middles = np.stack([shapely.get_x(middle), shapely.get_y(middle)], axis=1)
        xmin, ymin, xmax, ymax = sides.T
        at_border = (xmin == 0) | (ymin == 0) | (xmax == width) | (ymax == height)
        stated = np.array([row["area"] for row in rows], np.int64)
        agree = {
            "area": np.array_equal(stated, self._areas) and (stated >= self._filter.area).all(),
            "box": np.array_equal(sides, self._bounds),
            "centroid": np.allclose(centres, middles, rtol=0, atol=1e-3),
            "touches_border": np.array_equal([row["touches_border"] for row in rows], at_border),
        }
        yield from (
            f"a region whose {name} is not its outline's"
            for name, is_equal in agree.items()
            if not is_equal
        )
        yield from _check_scores(rows, self._filter)


def _check_scores(rows: list[dict[str, Any]], region_filter: RegionFilter) -> Iterator[str]:
    if any(row["score"] < np.float32(region_filter.score) for row in rows):
        yield "a region whose score is below the run's minimum"


def _group_by_class(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["class_id"]].append(row)
    return groups


def _decode_piece(piece: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Return the mask of a piece, or None where its run lengths are not a mask of its size."""
    try:
        mask = decode_rle(piece["counts"], piece["height"], piece["width"])
    except (ValueError, TypeError):
        return None
    return mask if encode_rle(mask) == piece["counts"] else None  # each mask has exactly one code


def _compare_regions(rows: list[dict[str, Any]], expected: Regions) -> Iterator[str]:
    """Yield the differences between the regions rows of a class and the regions of its mask."""
    if len(rows) != len(expected):
        yield "a number of regions that is not its mask's"
        return
    sides = [[row["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for row in rows]
    agree = {
        "area": np.array_equal([row["area"] for row in rows], expected.area),
        "box": np.array_equal(np.reshape(sides, (-1, 4)), expected.bbox),
        "centroid": np.array_equal(
            np.reshape([[row["centroid_x"], row["centroid_y"]] for row in rows], (-1, 2)),
            expected.centroid,
        ),
        "outline": [row["geometry"] for row in rows] == list(expected.geometry),
        "touches_border": np.array_equal(
            [row["touches_border"] for row in rows], expected.touches_border
        ),
    }
    yield from (
        f"a region whose {name} is not its mask's"
        for name, is_equal in agree.items()
        if not is_equal
    )
