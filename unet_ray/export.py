"""Take results elsewhere: COCO, label PNGs, GeoJSON, GeoParquet on a map; shard by shard, in bounded memory; no Ray."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from PIL import Image

from unet_ray.archive.image_files import split_page
from unet_ray.archive.output_file import OutputFile
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import REGIONS, on_a_map
from unet_ray.errors import InputError
from unet_ray.imaging.georeference import Georeference, find_georeference
from unet_ray.imaging.images import TIFF_SUFFIXES
from unet_ray.imaging.object_runs import encode_outlines
from unet_ray.imaging.pictures import class_colour
from unet_ray.results import Tables, current_keys, masks_of, shards_of

Format = Literal["coco", "png", "geojson", "geoparquet"]

_ANNOTATION = ["class_id", "score", "area", "bbox"]
"""Of a region, what COCO keeps beside its pixels."""
_FEATURE = ["image_uri", "region_id", "class_id", "class_name", "score", "score_max", "area"]
"""Of a region, what GeoJSON keeps."""
_MOST_PALETTE = 255
_COCO_PIXELS = 2**32
"""pycocotools counts in 32 bits."""
_PNG_PIXELS = 2**28
"""Largest image that becomes a label PNG (px): it is drawn whole, in half a gigabyte."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, as what, and where to."""

    tables: str
    """Output of segmentation (URI)."""
    format: Format
    """coco: one JSON; png: palette images of class ids; geojson: a file per image; geoparquet: regions on the map."""
    output: str
    """JSON file for `coco`, else a folder (URI)."""
    date: str | None = None
    """Only rows of this partition, YYYY-MM-DD; default: the latest successful row of each image."""
    polygons: bool = False
    """In COCO, outlines instead of run lengths: more tools edit them, but holes are filled."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise InputError(f"--format {self.format}: choose {', '.join(get_args(Format))}")
        if self.format == "coco" and not self.output.endswith(".json"):
            raise InputError(f"--output {self.output}: name a .json file for --format coco")
        if self.polygons and self.format != "coco":
            raise InputError(f"--polygons is for --format coco, not {self.format}")


@dataclass
class ExportResult:
    """What was written."""

    images: int = 0
    regions: int = 0
    files: int = 0
    root: str = ""
    """Folder that the names in a COCO file are relative to (URI)."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was left out or changed, counted."""

    def count(self, images: int = 0, regions: int = 0, files: int = 0) -> None:
        """Add to what was written."""
        self.images, self.regions, self.files = self.images + images, self.regions + regions, self.files + files


def export(config: ExportConfig) -> ExportResult:
    """Write the current results in another format.

    Raises: InputError — no tables there, an output that cannot be written, what a format cannot hold.
    """
    keys = current_keys(config.tables, config.date)
    names = _Names(keys)
    shards = shards_of(config.tables, keys)
    if config.format == "coco":
        return _to_coco(shards, names, OutputFile.of("--output", config.output), config.polygons)
    output = Storage.of(config.output)
    output.check_writable()
    write = {"png": _to_png, "geojson": _to_geojson, "geoparquet": _to_geoparquet}[config.format]
    return write(shards, names, output)


class _Names:
    """Paths of images relative to the deepest folder that holds them all."""

    def __init__(self, keys: Any) -> None:
        ends = pc.min_max(keys["image_uri"]).as_py()
        self.root = os.path.commonprefix(list(ends.values())).rpartition("/")[0]  # noqa: RUF071 (of URIs, to the last /)

    def of(self, uri: str) -> str:
        """Return the path of an image."""
        return uri.removeprefix(f"{self.root}/")

    def with_suffix(self, uri: str, suffix: str) -> str:
        """Return the path of an image's own file; pages of stacks have one each."""
        path, page = split_page(self.of(uri))
        return f"{path}{'' if page is None else f'.page{page}'}{suffix}"


def _by_image(shard: Tables) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each image's row and its regions."""
    regions = shard.regions.sort_by([("image_uri", "ascending"), ("region_id", "ascending")])
    uris = regions["image_uri"].to_numpy(zero_copy_only=False)
    for row in shard.images.sort_by("image_uri").to_pylist():
        first, last = np.searchsorted(uris, row["image_uri"], "left"), np.searchsorted(uris, row["image_uri"], "right")
        yield row, regions.slice(first, last - first)


def _outlines(regions: Any) -> NDArray[Any]:
    return shapely.from_wkb(regions["geometry"].to_numpy(zero_copy_only=False))


def _to_coco(shards: Iterator[Tables], names: _Names, output: OutputFile, as_polygons: bool) -> ExportResult:
    """Write COCO instances (cocodataset.org, "data format"); scores are kept, so that they load as results too."""
    result, classes = ExportResult(files=1, root=names.root), dict[int, str]()
    with tempfile.TemporaryDirectory(prefix="unet_ray_") as folder:
        whole, annotations = Path(folder) / "whole.json", Path(folder) / "annotations"
        with whole.open("w") as head, annotations.open("w") as body:
            head.write('{"info": {"description": "exported by unet_ray"}, "licenses": [], "images": [')
            for shard in shards:
                _add_classes(classes, shard)
                for row, regions in _by_image(shard):
                    result.images += 1
                    size = {"height": row["height"], "width": row["width"]}
                    image = {"id": result.images, "file_name": names.of(row["image_uri"])} | size
                    head.write(_item(image | {"image_uri": row["image_uri"]}, result.images))
                    for annotation in _annotations(row, regions, as_polygons, result.notes):
                        result.regions += 1
                        body.write(
                            _item({"id": result.regions, "image_id": result.images} | annotation, result.regions)
                        )
            categories = [{"id": number, "name": classes[number]} for number in sorted(classes)]
            head.write(f'\n], "categories": {json.dumps(categories)}, "annotations": [')
        with whole.open("ab") as target, annotations.open("rb") as source:
            shutil.copyfileobj(source, target)
            target.write(b"\n]}\n")
        output.write(whole)
    return result


def _add_classes(classes: dict[int, str], shard: Tables) -> None:
    """Add a shard's classes, id → name; raise InputError where they are not those of the shards before."""
    for number, name in set(zip(*(shard.masks[c].to_pylist() for c in ("class_id", "class_name")), strict=True)):
        if classes.setdefault(number, name) != name or list(classes.values()).count(name) > 1:
            raise InputError(
                f"class {number} is {name} in some rows and not in others: they are of several models; "
                "give --date of a night with one, or let the newer model do all images first"
            )


def _item(value: dict[str, Any], number: int) -> str:
    return ("," if number > 1 else "") + "\n" + json.dumps(value)


def _annotations(row: dict[str, Any], regions: Any, as_polygons: bool, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    outlines = _outlines(regions)
    if as_polygons:
        holes = int(np.sum(shapely.get_num_interior_rings(shapely.get_parts(outlines))))
        notes["holes filled: COCO's polygons have none"] += holes
        codes: Iterator[Any] = (_rings(outline) for outline in outlines)
    else:
        size = [row["height"], row["width"]]
        if size[0] * size[1] >= _COCO_PIXELS:
            raise InputError(
                f"{row['image_uri']}: {size[1]}×{size[0]} px; COCO's run lengths end at 2^32 px, give --polygons"
            )
        codes = ({"size": size, "counts": counts.decode()} for counts in encode_outlines(outlines, *size))
    for code, found in zip(codes, regions.select(_ANNOTATION).to_pylist(), strict=True):
        box = found["bbox"]
        yield {
            "category_id": found["class_id"],
            "segmentation": code,
            "area": found["area"],
            "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
            "iscrowd": 0,
            "score": round(found["score"], 6),
        }


def _rings(outline: Any) -> list[list[float]]:
    """Return the outer rings of an outline as COCO's flat lists of coordinates."""
    return [shapely.get_coordinates(part.exterior)[:-1].ravel().tolist() for part in shapely.get_parts(outline)]


def _to_png(shards: Iterator[Tables], names: _Names, output: Storage) -> ExportResult:
    """Write images of class ids, 0 where there is none; where classes overlap, the last one is seen."""
    result, classes = ExportResult(), dict[int, str]()
    for shard in shards:
        _add_classes(classes, shard)
        if max(classes, default=0) > _MOST_PALETTE:
            raise InputError(f"class id {max(classes)}: a palette image holds 1 to {_MOST_PALETTE}")
        palette = [0, 0, 0] * 256
        for index, number in enumerate(sorted(classes)):
            palette[3 * number : 3 * number + 3] = class_colour(index)
        numbers = {name: number for number, name in classes.items()}
        for row in shard.images.to_pylist():
            if row["height"] * row["width"] > _PNG_PIXELS:
                result.notes[f"images left out: larger than {_PNG_PIXELS} px"] += 1
                continue
            ids = np.zeros((row["height"], row["width"]), np.uint8)
            for name, mask in masks_of(shard, row["image_uri"]).items():
                result.notes["pixels of several classes: the last is shown"] += int(np.count_nonzero(ids[mask]))
                ids[mask] = numbers[name]
            picture = Image.fromarray(ids, "P")
            picture.putpalette(palette)
            png = io.BytesIO()
            picture.save(png, "PNG", optimize=False)
            output.write(names.with_suffix(row["image_uri"], ".png"), png.getvalue())
            result.count(images=1, files=1)
        result.count(regions=len(shard.regions))
    return result


def _to_geojson(shards: Iterator[Tables], names: _Names, output: Storage) -> ExportResult:
    """Write feature collections; those on a map name their coordinate system as GeoJSON 2008 did, and QGIS reads it."""
    result = ExportResult()
    for shard in shards:
        for row, regions in _by_image(shard):
            place = _place_of(row["image_uri"])
            outlines = _outlines(regions)
            outlines = place.to_map(outlines) if place else shapely.transform(outlines, lambda xy: xy * [1, -1])
            crs = f'"crs": {json.dumps(_crs_of(place))}, ' if place else ""
            kept = regions.select(_FEATURE).to_pylist()
            features = map(_feature, kept, shapely.to_geojson(outlines))
            text = f'{{"type": "FeatureCollection", {crs}"features": [\n' + ",\n".join(features) + "\n]}\n"
            output.write(names.with_suffix(row["image_uri"], ".geojson"), text.encode())
            result.notes["images on a map" if place else "images in pixels, y upwards"] += 1
            result.count(files=1, images=1, regions=len(kept))
    return result


def _crs_of(place: Georeference) -> dict[str, Any]:
    return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"}}


def _feature(properties: dict[str, Any], geometry: str) -> str:
    return f'{{"type": "Feature", "properties": {json.dumps(properties)}, "geometry": {geometry}}}'


def _to_geoparquet(shards: Iterator[Tables], _: _Names, output: Storage) -> ExportResult:
    """Write the rows of `regions` whose image is georeferenced, with a column `map_geometry` before all others."""
    result = ExportResult()
    writers: dict[int, pq.ParquetWriter] = {}
    with tempfile.TemporaryDirectory(prefix="unet_ray_") as folder:
        with ExitStack() as stack:
            for shard in shards:
                for row, regions in _by_image(shard):
                    place = _place_of(row["image_uri"])
                    if place is None:
                        result.notes["images left out: not georeferenced by an EPSG code"] += 1
                        continue
                    if place.epsg not in writers:
                        schema = on_a_map(REGIONS, place.epsg)
                        path = Path(folder) / f"epsg={place.epsg}.parquet"
                        writers[place.epsg] = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
                    geometry = pa.array(shapely.to_wkb(place.to_map(_outlines(regions))), pa.binary())
                    columns = [geometry, *regions.select(REGIONS.names).columns]
                    writers[place.epsg].write_table(pa.Table.from_arrays(columns, schema=writers[place.epsg].schema))
                    result.count(images=1, regions=len(regions))
        for path in sorted(Path(folder).iterdir()):
            output.put(path.name, path)
            result.count(files=1)
    return result


def _place_of(uri: str) -> Georeference | None:
    """Read the place of an image from its file; None where it has none, or is gone."""
    file, page = split_page(uri)
    if not file.lower().endswith(tuple(TIFF_SUFFIXES)):
        return None
    try:
        with Storage.of(file).open() as opened:
            return find_georeference(opened, page)
    except OSError:
        return None
