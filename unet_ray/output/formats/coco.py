"""Export to COCO instances (cocodataset.org, "data format")."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from unet_ray.imaging.regions.outline_rle import encode_outlines
from unet_ray.output.formats.common import (
    ExportResult,
    add_classes,
    iterate_images,
    take_outlines,
)
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.pixel_area import PIXEL_SIDES, measure_pixel_area
from unet_ray.output.reader import Tables
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.temporary import temporary_prefix

_ANNOTATION = ["class_id", "score", "area", "bbox"]
"""Columns of a region that COCO keeps beside its pixels."""
_COCO_PIXELS = 2**32
"""Pixels from which an image is too large for run lengths: pycocotools counts in 32 bits."""
_TOO_LARGE = "images left out: COCO's run lengths end at 2^32 px, give --polygons"
_TOO_LONG = "regions left out: outlines too long to become run lengths, give --polygons"


def write_coco(
    shards: Iterator[Tables], names: ImageNames, output: OutputFile, as_polygons: bool
) -> ExportResult:
    """Write COCO instances; scores are kept, so that the file also loads as results.

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
    result, classes = ExportResult(files=1, root=names.root), dict[int, str]()
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
        whole, annotations = Path(folder) / "whole.json", Path(folder) / "annotations"
        with whole.open("w") as head, annotations.open("w") as body:
            head.write(
                '{"info": {"description": "exported by unet_ray"}, "licenses": [], "images": ['
            )
            for shard in shards:
                add_classes(classes, shard)
                for row, regions in iterate_images(shard):
                    if not as_polygons and row["height"] * row["width"] >= _COCO_PIXELS:
                        result.notes[_TOO_LARGE] += 1
                        continue
                    result.images += 1
                    size = {"height": row["height"], "width": row["width"]}
                    image = {"id": result.images, "file_name": names.of(row["image_uri"])} | size
                    image["image_uri"] = row["image_uri"]
                    if measure_pixel_area(row) is not None:
                        image["pixel_size_um"] = [row[side] for side in PIXEL_SIDES]
                    head.write(_format_item(image, result.images))
                    for annotation in _make_annotations(row, regions, as_polygons, result.notes):
                        if annotation["category_id"] not in classes:
                            result.notes["regions left out: of a class without masks"] += 1
                            continue
                        result.regions += 1
                        ids = {"id": result.regions, "image_id": result.images}
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


def _make_annotations(
    row: dict[str, Any], regions: Any, as_polygons: bool, notes: Counter[str]
) -> Iterator[dict[str, Any]]:
    regions, outlines = take_outlines(row, regions, notes)
    if as_polygons:
        holes = int(np.sum(shapely.get_num_interior_rings(shapely.get_parts(outlines))))
        notes["holes filled: COCO's polygons cannot have holes"] += holes
        codes: Iterator[Any] = (_list_rings(outline) for outline in outlines)
    else:
        size = [row["height"], row["width"]]
        codes = (
            None if counts is None else {"size": size, "counts": counts.decode()}
            for counts in encode_outlines(outlines, *size)
        )
    pixel_um2 = measure_pixel_area(row)
    for code, found in zip(codes, regions.select(_ANNOTATION).to_pylist(), strict=True):
        if code is None:
            notes[_TOO_LONG] += 1
            continue
        box = found["bbox"]
        annotation = {
            "category_id": found["class_id"],
            "segmentation": code,
            "area": found["area"],
            "bbox": [
                box["xmin"],
                box["ymin"],
                box["xmax"] - box["xmin"],
                box["ymax"] - box["ymin"],
            ],
            "iscrowd": 0,
            "score": round(found["score"], 6),
        }
        if pixel_um2 is not None:
            annotation["area_um2"] = found["area"] * pixel_um2
        yield annotation


def _list_rings(outline: Any) -> list[list[float]]:
    """Return the outer rings of an outline as COCO's flat lists of coordinates."""
    return [
        shapely.get_coordinates(part.exterior)[:-1].ravel().tolist()
        for part in shapely.get_parts(outline)
    ]
