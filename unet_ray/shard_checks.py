"""The rules that one shard's rows keep, as a plain function over its three tables; no Ray."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from unet_ray.imaging.filling import fill_outlines
from unet_ray.imaging.masks import decode_rle, encode_rle
from unet_ray.imaging.parting import unparted
from unet_ray.imaging.regions import Regions
from unet_ray.imaging.seams import RegionMerger
from unet_ray.imaging.tile_regions import find_tile_regions
from unet_ray.imaging.tiling import Box

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

    min_areas: dict[int, int]
    """Of each class id: smaller regions were dropped (px)."""
    parted: bool = False
    """Whether touching objects were parted: the masks alone do not tell the regions then."""

    @staticmethod
    def of_record(record: dict[str, Any]) -> RegionRules:
        """Read them from a run record."""
        objects = record["objects"]
        return RegionRules({int(spec): area for spec, area in objects["min_areas"].items()}, objects["parted"])


def check_shard(tables: dict[str, Any], rules: dict[str, RegionRules], pixels: bool = True) -> list[Problem]:
    """Check the three tables of one shard against each other.

    Args:
        tables — images, masks, regions.
        rules — of each run; regions of other runs are not measured again.
        pixels — decode every mask, and measure its regions again.
    """
    rows = {name: table.to_pylist() for name, table in tables.items()}
    masks, regions = (_by_image(rows[name]) for name in ("masks", "regions"))
    counted = Counter(_key(row) for row in rows["images"])
    good = {_key(row) for row in rows["images"] if row["error_type"] is None}
    found = [Problem("an image more than once in a shard", uri) for (uri, _), times in counted.items() if times > 1]
    for name, groups in (("masks", masks), ("regions", regions)):
        found += [Problem(f"{name} rows without a successful images row", uri) for uri, _ in groups.keys() - good]
    for row in rows["images"]:
        key = _key(row)
        if row["error_type"] is not None:
            if not row["error"] or not row["error_stage"] or row["region_count"] is not None:
                found.append(Problem("a failed image without error, stage, or with regions", key[0]))
            continue
        of_image = masks.get(key, []), regions.get(key, [])
        found += [Problem(kind, key[0]) for kind in _check_rows(row, *of_image)]
        if pixels:
            found += [Problem(kind, key[0]) for kind in _check_pixels(row, *of_image, rules.get(key[1]))]
    return found


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["image_uri"], row["run_id"]


def _by_image(rows: list[dict[str, Any]]) -> Rows:
    groups: Rows = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return groups


def _check_rows(row: dict[str, Any], masks: list[dict[str, Any]], regions: list[dict[str, Any]]) -> Iterator[str]:
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
        if not inside or sum(p["height"] * p["width"] for p in pieces) != row["height"] * row["width"]:
            yield "masks rows that do not cover their image"


def _check_pixels(
    row: dict[str, Any], masks: list[dict[str, Any]], regions: list[dict[str, Any]], rules: RegionRules | None
) -> Iterator[str]:
    """Yield the breaches that only decoding shows: run lengths, and regions against them."""
    known = _by_class(regions)
    for class_id, pieces in _by_class(masks).items():
        decoded = [(_box_of(piece), _decoded(piece), piece["area"]) for piece in pieces]
        whole = [(box, mask) for box, mask, _ in decoded if mask is not None]
        if len(whole) < len(decoded):
            yield "run lengths that do not decode to their size"
            return
        if any(int(mask.sum()) != area for _, mask, area in decoded if mask is not None):
            yield "a masks row whose area is not that of its run lengths"
        if rules is None:
            continue
        rows, min_area = known.pop(class_id, []), rules.min_areas.get(class_id, 1)
        if rules.parted:
            yield from _check_parted(rows, whole, min_area, row["height"], row["width"])
        else:
            yield from _compare(rows, _components(whole, min_area, row["height"], row["width"]))
    if known and rules is not None:
        yield "regions of a class without masks rows"


def _box_of(piece: dict[str, Any]) -> Box:
    return Box(piece["top"], piece["left"], piece["top"] + piece["height"], piece["left"] + piece["width"])


def _components(pieces: list[tuple[Box, NDArray[np.bool_]]], min_area: int, height: int, width: int) -> Regions:
    """Measure the regions of a mask that is given in pieces."""
    merger = RegionMerger(height, width, max_regions=height * width)
    for box, mask in pieces:
        merger.add(find_tile_regions(unparted(mask), mask.view(np.uint8), box, height, width))
    return merger.regions(min_area)


def _check_parted(
    rows: list[dict[str, Any]], pieces: list[tuple[Box, NDArray[np.bool_]]], min_area: int, height: int, width: int
) -> Iterator[str]:
    """Yield where regions of parted objects contradict their outlines, their mask, or each other."""
    outlines = np.array([row["geometry"] for row in rows], object)
    areas = np.zeros(len(rows) + 1, np.int64)
    for box, mask in pieces:
        covered = fill_outlines(outlines, np.ones(len(rows)), box)
        if (covered[~mask] > 0).any():
            yield "a region that leaves its mask"
        if min_area == 1 and (covered[mask] == 0).any():
            yield "pixels of a mask that no region has"
        if (covered > 1).any():
            yield "regions that overlap"
            return
        areas += np.bincount(fill_outlines(outlines, np.arange(1, len(rows) + 1), box).ravel(), minlength=len(areas))
    shapes = shapely.from_wkb(outlines)
    sides = np.reshape([[row["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for row in rows], (-1, 4))
    centres = np.reshape([[row["centroid_x"], row["centroid_y"]] for row in rows], (-1, 2))
    xmin, ymin, xmax, ymax = sides.T
    at_border = (xmin == 0) | (ymin == 0) | (xmax == width) | (ymax == height)
    stated = np.array([row["area"] for row in rows], np.int64)
    agree = {
        "area": np.array_equal(stated, areas[1:]) and (stated >= min_area).all(),
        "box": np.array_equal(sides, shapely.bounds(shapes).reshape(-1, 4)),
        "centroid": np.allclose(centres, shapely.get_coordinates(shapely.centroid(shapes)), rtol=0, atol=1e-3),
        "touches_border": np.array_equal([row["touches_border"] for row in rows], at_border),
    }
    yield from (f"a region whose {name} is not its outline's" for name, is_equal in agree.items() if not is_equal)


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
            np.reshape([[row["centroid_x"], row["centroid_y"]] for row in rows], (-1, 2)), expected.centroid
        ),
        "outline": [row["geometry"] for row in rows] == list(expected.geometry),
        "touches_border": np.array_equal([row["touches_border"] for row in rows], expected.touches_border),
    }
    yield from (f"a region whose {name} is not its mask's" for name, is_equal in agree.items() if not is_equal)
