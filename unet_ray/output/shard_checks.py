"""The rules that one shard's rows keep, as a plain function over its three tables; no Ray."""

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
from unet_ray.imaging.regions.rasterize import fill_outlines
from unet_ray.imaging.regions.regions import Regions
from unet_ray.imaging.regions.run_lengths import decode_rle, encode_rle
from unet_ray.imaging.regions.separation import unseparated
from unet_ray.imaging.regions.tile_regions import find_tile_regions

Rows = dict[tuple[str, str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Problem:
    """One breach of a rule."""

    kind: str
    """The rule in a few words, the same for every breach of it."""
    where: str
    """The image or file."""


@dataclass(frozen=True)
class RegionRules:
    """How the regions of a run follow from its masks."""

    least: dict[int, RegionFilter]
    """Of each class id: other regions were dropped."""
    separated: bool = False
    """Whether touching objects were separated: the masks alone do not tell the regions then."""

    @staticmethod
    def of_record(record: dict[str, Any]) -> RegionRules:
        """Read them from a run record."""
        objects = record["objects"]
        scores = objects.get("min_scores", {})  # runs before 2026-11-26 have none
        least = {
            int(spec): RegionFilter(area, scores.get(spec, 0.0))
            for spec, area in objects["min_areas"].items()
        }
        return RegionRules(least, objects["parted"])

    def check_of(
        self, class_id: int, rows: list[dict[str, Any]], height: int, width: int
    ) -> _ComponentsCheck | _SeparatedCheck:
        """Return what holds the regions rows of a class against its mask."""
        check = _SeparatedCheck if self.separated else _ComponentsCheck
        return check(rows, self.least.get(class_id, ANY), height, width)


def check_shard(
    tables: dict[str, Any], rules: dict[str, RegionRules], pixels: bool = True
) -> list[Problem]:
    """Check the three tables of one shard against each other.

    Args:
        tables — images, masks, regions.
        rules — of each run; regions of other runs are not measured again.
        pixels — decode every mask, and measure its regions again.
    """
    rows = {name: table.to_pylist() for name, table in tables.items()}
    masks, regions = (iterate_images(rows[name]) for name in ("masks", "regions"))
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
        found += [Problem(kind, key[0]) for kind in _check_rows(row, *of_image)]
        if pixels:
            found += [
                Problem(kind, key[0]) for kind in _check_pixels(row, *of_image, rules.get(key[1]))
            ]
    return found


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["image_uri"], row["run_id"]


def iterate_images(rows: list[dict[str, Any]]) -> Rows:
    groups: Rows = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return groups


def _check_rows(
    row: dict[str, Any], masks: list[dict[str, Any]], regions: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield the breaches that numbers alone show."""
    if row["region_count"] != len(regions):
        yield "region_count is not the number of regions rows"
    if [r["region_id"] for r in regions] != list(range(1, len(regions) + 1)):
        yield "region ids are not 1 to n in order"
    if any(not 0 < r["score"] <= r["score_max"] <= 1 for r in regions):
        yield "a region whose score is not above 0, up to its score_max, up to 1"
    if not masks:
        yield "a successful image without masks rows"
    for pieces in _by_class(masks).values():
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
            yield "masks rows that do not cover their image"


def _check_pixels(
    row: dict[str, Any],
    masks: list[dict[str, Any]],
    regions: list[dict[str, Any]],
    rules: RegionRules | None,
) -> Iterator[str]:
    """Yield the breaches that only decoding shows: run lengths, and regions against them."""
    known = _by_class(regions)
    for class_id, pieces in _by_class(masks).items():
        check = rules and rules.check_of(
            class_id, known.pop(class_id, []), row["height"], row["width"]
        )
        for piece in pieces:
            mask = _decoded(piece)
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
    """Holds the regions rows of a class against the components of its mask, which comes in pieces."""

    def __init__(
        self, rows: list[dict[str, Any]], least: RegionFilter, height: int, width: int
    ) -> None:
        self._rows, self._least = rows, least
        self._merger = RegionMerger(height, width, max_regions=height * width)
        self._size = height, width

    def add(self, box: Box, mask_hw: NDArray[np.bool_]) -> None:
        """Take a piece of the mask."""
        self._merger.add(
            find_tile_regions(unseparated(mask_hw), mask_hw.view(np.uint8), box, *self._size)
        )

    def breaches(self) -> Iterator[str]:
        """Yield what does not hold, after the last piece."""
        expected = self._merger.regions(RegionFilter(self._least.area))
        if self._least.score:  # the masks do not tell which regions that leaves
            stated = {row["geometry"] for row in self._rows}
            expected = expected.of(
                np.array([outline in stated for outline in expected.geometry], bool)
            )
        yield from _compare(self._rows, expected)
        yield from _unlikely(self._rows, self._least)


class _SeparatedCheck:
    """Holds the regions rows of a class, separated objects, against their outlines, their mask, and each other."""

    def __init__(
        self, rows: list[dict[str, Any]], least: RegionFilter, height: int, width: int
    ) -> None:
        self._rows, self._least, self._size = rows, least, (height, width)
        outlines = np.array([row["geometry"] for row in rows], object)
        self._shapes = shapely.from_wkb(outlines, on_invalid="ignore")
        self._bounds = shapely.bounds(self._shapes).reshape(-1, 4)
        self._areas = np.zeros(len(rows), np.int64)
        self._found = (
            {"an outline that is none": None} if shapely.is_missing(self._shapes).any() else {}
        )

    def add(self, box: Box, mask_hw: NDArray[np.bool_]) -> None:
        """Take a piece of the mask."""
        xmin, ymin, xmax, ymax = self._bounds.T
        met = np.flatnonzero(
            (xmin < box.right) & (xmax > box.left) & (ymin < box.bottom) & (ymax > box.top)
        )
        covered = fill_outlines(self._shapes[met], np.ones(len(met)), box)
        if (covered[~mask_hw] > 0).any():
            self._found["a region that leaves its mask"] = None
        if self._least == ANY and (covered[mask_hw] == 0).any():
            self._found["pixels of a mask that no region has"] = None
        if (covered > 1).any():
            self._found["regions that overlap"] = None
        else:
            labels = fill_outlines(self._shapes[met], np.arange(1, len(met) + 1), box)
            self._areas[met] += np.bincount(labels.ravel(), minlength=len(met) + 1)[1:]

    def breaches(self) -> Iterator[str]:
        """Yield what does not hold, after the last piece."""
        yield from self._found
        if "regions that overlap" in self._found:
            return  # whose pixels are whose is not known
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
            "area": np.array_equal(stated, self._areas) and (stated >= self._least.area).all(),
            "box": np.array_equal(sides, self._bounds),
            "centroid": np.allclose(centres, middles, rtol=0, atol=1e-3),
            "touches_border": np.array_equal([row["touches_border"] for row in rows], at_border),
        }
        yield from (
            f"a region whose {name} is not its outline's"
            for name, is_equal in agree.items()
            if not is_equal
        )
        yield from _unlikely(rows, self._least)


def _unlikely(rows: list[dict[str, Any]], least: RegionFilter) -> Iterator[str]:
    if any(row["score"] < np.float32(least.score) for row in rows):
        yield "a region of a smaller score than the run's least"


def _by_class(rows: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["class_id"]].append(row)
    return groups


def _decoded(piece: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Return the mask of a piece, or None where its run lengths are not those of any mask of its size."""
    try:
        mask = decode_rle(piece["counts"], piece["height"], piece["width"])
    except (ValueError, TypeError):
        return None
    return mask if encode_rle(mask) == piece["counts"] else None  # each mask has one code only


def _compare(rows: list[dict[str, Any]], expected: Regions) -> Iterator[str]:
    """Yield where regions rows of a class are not those of its mask."""
    if len(rows) != len(expected):
        yield "other regions than the mask has"
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
