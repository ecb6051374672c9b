"""Export to COCO instances (cocodataset.org, "data format")."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from unet_ray.imaging.regions.outline_rle import encode_outlines
from unet_ray.imaging.regions.runs import ranges
from unet_ray.output.formats.common import (
    ExportResult,
    add_classes,
    check_region_count,
    find_outlines,
)
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.pixel_area import PIXEL_SIDES, measure_pixel_area
from unet_ray.output.reader import Tables
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.temporary import temporary_prefix

_KEYS = ["image_uri", "region_id"]
_IMAGE = ["image_uri", "height", "width", "region_count", *PIXEL_SIDES]
"""Columns of an image that are needed."""
_ANNOTATION = ["class_id", "score", "area", "bbox"]
"""Columns of a region that COCO keeps beside its pixels."""
_COCO_PIXELS = 2**32
"""Pixels from which an image is too large for run lengths: pycocotools counts in 32 bits."""
_GROUP_BYTES = 2**21
"""Size of the outlines (WKB) encoded together (bytes); a larger image is encoded alone."""
_TOO_LARGE = "images left out: too large for COCO's run lengths (2^32 px), give --polygons"
_TOO_LONG = "regions left out: outlines too long for run lengths, give --polygons"


def write_coco(
    shards: Iterator[Tables], names: ImageNames, output: OutputFile, as_polygons: bool
) -> ExportResult:
    """Write COCO instances; scores are kept, so the file also loads as results.

    Args:
        shards: Current rows, shard by shard.
        names: File names of the images.
        output: JSON file to write.
        as_polygons: Whether to write polygons instead of run lengths.

    Returns:
        Counts of what was written.

    Raises:
        InputError: Class ids have several names.
    """
    result = ExportResult(files=1, root=names.root)
    classes = dict[int, str]()
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
        whole = Path(folder) / "whole.json"
        annotations = Path(folder) / "annotations"
        with whole.open("w") as head, annotations.open("w") as body:
            head.write(
                '{"info": {"description": "exported by unet_ray"}, "licenses": [], "images": ['
            )
            for shard in shards:
                add_classes(classes, shard)
                for group in _group_images(shard, as_polygons, result.notes):
                    first_id = result.images + 1
                    for row in group.rows:
                        result.images += 1
                        image = _describe(row, result.images, names)
                        head.write(_format_item(image, result.images))
                    for place, annotation in _make_annotations(group, as_polygons, result.notes):
                        if annotation["category_id"] not in classes:
                            result.notes["regions left out: their class has no masks"] += 1
                            continue
                        result.regions += 1
                        ids = {"id": result.regions, "image_id": first_id + place}
                        body.write(_format_item(ids | annotation, result.regions))
            categories = [{"id": number, "name": classes[number]} for number in sorted(classes)]
            head.write(f'\n], "categories": {json.dumps(categories)}, "annotations": [')
        with whole.open("ab") as target, annotations.open("rb") as source:
            shutil.copyfileobj(source, target)
            target.write(b"\n]}\n")
        output.write(whole)
    return result


def _format_item(value: dict[str, Any], number: int) -> str:
    return ("," if number > 1 else "") + "\n" + json.dumps(value)


def _describe(row: dict[str, Any], image_id: int, names: ImageNames) -> dict[str, Any]:
    """Return the item of an image."""
    item: dict[str, Any] = {"id": image_id, "file_name": names.of(row["image_uri"])}
    item |= {name: row[name] for name in ("height", "width", "image_uri")}
    if measure_pixel_area(row) is not None:
        item["pixel_size_um"] = [row[side] for side in PIXEL_SIDES]
    return item


@dataclass(frozen=True)
class _Group:
    """Images whose outlines are encoded together.

    For a single image with few regions, calls of numpy and GEOS would cost more than their work.
    """

    rows: list[dict[str, Any]]
    """Rows of the images."""
    num_regions: NDArray[np.int64]
    """Number of regions of each."""
    regions: pa.Table
    """Their regions, image by image, in the order of region ids."""


def _group_images(shard: Tables, as_polygons: bool, notes: Counter[str]) -> Iterator[_Group]:
    """Yield the images of a shard in groups; `notes` receives the number of those left out."""
    rows = shard.images.select(_IMAGE).sort_by("image_uri").to_pylist()
    if not as_polygons:
        fitting = [row for row in rows if row["height"] * row["width"] < _COCO_PIXELS]
        if len(fitting) < len(rows):
            notes[_TOO_LARGE] += len(rows) - len(fitting)
        rows = fitting
    if not rows:
        return
    regions = shard.regions.select([*_KEYS, "geometry", *_ANNOTATION])
    regions = regions.sort_by([(key, "ascending") for key in _KEYS])
    uris = regions["image_uri"].to_numpy(zero_copy_only=False)
    wanted = np.array([row["image_uri"] for row in rows], object)
    firsts = np.searchsorted(uris, wanted, "left")
    stops = np.searchsorted(uris, wanted, "right")
    sizes = pc.binary_length(regions["geometry"]).to_numpy()
    ends = np.cumsum(np.append(0, sizes))
    numbers = np.cumsum(ends[stops] - ends[firsts]) // _GROUP_BYTES
    starts_of_groups = np.flatnonzero(np.diff(numbers)) + 1
    for some in np.split(np.arange(len(rows)), starts_of_groups):
        num_regions = stops[some] - firsts[some]
        of_some = regions.take(ranges(firsts[some], num_regions))
        yield _Group([rows[index] for index in some], num_regions, of_some)


def _make_annotations(
    group: _Group, as_polygons: bool, notes: Counter[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the annotations of some images, each with the place of its image in the group.

    Args:
        group: The images.
        as_polygons: Whether to write polygons instead of run lengths.
        notes: Receives what is left out or changed.
    """
    for row, num_found in zip(group.rows, group.num_regions.tolist(), strict=True):
        check_region_count(row, num_found, notes)
    place = np.repeat(np.arange(len(group.rows)), group.num_regions)
    sides = [(row["height"], row["width"]) for row in group.rows]
    sizes = np.array(sides, np.int64)[place]
    codes = group.regions["geometry"].to_pylist()
    sound, outlines = find_outlines(codes, sizes[:, 0], sizes[:, 1], notes)
    place, sizes = place[sound], sizes[sound]
    if as_polygons:
        holes = shapely.get_num_interior_rings(shapely.get_parts(outlines))
        notes["holes filled: COCO's polygons cannot have holes"] += int(np.sum(holes))
        shapes: Iterable[Any] = map(_list_rings, outlines)
    else:
        encoded = zip(sizes.tolist(), encode_outlines(outlines, *sizes.T), strict=True)
        shapes = (
            None if counts is None else {"size": size, "counts": counts.decode()}
            for size, counts in encoded
        )
    pixels_um2 = [measure_pixel_area(row) for row in group.rows]
    found = _iterate_rows(group.regions.select(_ANNOTATION).take(sound))
    for index, shape, columns in zip(place.tolist(), shapes, found, strict=True):
        if shape is None:
            notes[_TOO_LONG] += 1
            continue
        class_id, score, area, left, top, right, bottom = columns
        annotation = {
            "category_id": class_id,
            "segmentation": shape,
            "area": area,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": 0,
            "score": round(score, 6),
        }
        pixel_um2 = pixels_um2[index]
        if pixel_um2 is not None:
            annotation["area_um2"] = area * pixel_um2
        yield index, annotation


def _iterate_rows(regions: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Yield class, score, area, and left, top, right and bottom of the box of each region."""
    columns = [regions[name].to_pylist() for name in ("class_id", "score", "area")]
    for side in ("xmin", "ymin", "xmax", "ymax"):
        columns.append(pc.struct_field(regions["bbox"], side).to_pylist())
    return zip(*columns, strict=True)


def _list_rings(outline: shapely.Geometry) -> list[list[float]]:
    """Return the outer rings of an outline as COCO's flat lists of coordinates."""
    return [
        shapely.get_coordinates(part.exterior)[:-1].ravel().tolist()
        for part in shapely.get_parts(outline)
    ]
