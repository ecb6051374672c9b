"""Export to GeoJSON and GeoParquet: outlines on a map."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import find_place, open_header
from unet_ray.image_sources.names import split_uri
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.imaging.georeference import Georeference
from unet_ray.output.formats.common import (
    ExportResult,
    ImageFile,
    iterate_images,
    take_outlines,
    write_files,
)
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.pixel_area import measure_pixel_area
from unet_ray.output.reader import Tables
from unet_ray.prefetch import ahead
from unet_ray.storage.roots import Gate, Roots
from unet_ray.storage.storage import Storage
from unet_ray.storage.temporary import temporary_prefix
from unet_ray.tables.schemas import REGIONS, column, on_a_map

_BATCHES = 64
"""Number of images whose regions make up a row group of a GeoParquet file."""
_READS = 16
"""Number of images whose headers are fetched in parallel; one process decodes them in turn."""
_AHEAD_BYTES = 2**26
"""Size of the regions of images whose places are read ahead (bytes); a larger image goes alone."""
_UNREADABLE = "images whose place on the map cannot be read: missing, damaged or unreachable"
_FEATURE = [
    "image_uri",
    "region_id",
    "class_id",
    "class_name",
    "score",
    "score_max",
    "area",
    "touches_border",
    "touches_no_data",
]
"""Columns of a region that GeoJSON keeps as properties."""
_AREA_UM2 = column(
    "area_um2", pa.float64(), "area (µm²); null if its pixel size is not known", True
)
_SIZED_REGIONS = REGIONS.append(_AREA_UM2)
"""Columns of a region in GeoParquet, beside its place on the map."""


def write_geojson(
    shards: Iterator[Tables], names: ImageNames, output: Storage, gate: Gate
) -> ExportResult:
    """Write a GeoJSON feature collection per image.

    Outlines of a georeferenced image are in map coordinates, and the file names their coordinate
    system as GeoJSON 2008 did, which QGIS reads. Other outlines are in pixels, y upwards.

    Args:
        shards: Current rows, shard by shard.
        names: File names of the images.
        output: Folder to write to.
        gate: Decides which images may be opened, since the tables that name them are not trusted.

    Returns:
        Counts of what was written.
    """
    result = ExportResult()
    write_files(output, _format_files(shards, names, gate, result.notes), result)
    _note_not_opened(result, gate)
    return result


def _format_files(
    shards: Iterator[Tables], names: ImageNames, gate: Gate, notes: Counter[str]
) -> Iterator[ImageFile]:
    """Yield the feature collection of each image; `notes` receives what is left out."""
    for image in _locate_images(shards, gate, notes):
        row, place = image.row, image.place
        regions, outlines = take_outlines(row, image.regions, notes)
        if place:
            note = "images on a map"
            outlines = place.to_map(outlines)
            name = json.dumps(f"urn:ogc:def:crs:EPSG::{place.epsg}")
            crs = f'"crs": {{"type": "name", "properties": {{"name": {name}}}}}, '
        else:
            note = "images in pixels, y upwards"
            outlines = shapely.transform(outlines, lambda xy: xy * [1, -1])
            crs = ""
        kept = _add_areas(regions, row).select([*_FEATURE, _AREA_UM2.name]).to_pylist()
        features = []
        for properties, geometry in zip(kept, shapely.to_geojson(outlines), strict=True):
            # QGIS would make a text column of a property that is null in a whole file
            known = {key: value for key, value in properties.items() if value is not None}
            known_json = json.dumps(known)
            features.append(
                f'{{"type": "Feature", "properties": {known_json}, "geometry": {geometry}}}'
            )
        uri = json.dumps(row["image_uri"])
        head = f'{{"type": "FeatureCollection", "image_uri": {uri}, {crs}"features": [\n'
        text = head + ",\n".join(features) + "\n]}\n"
        path = names.with_suffix(row["image_uri"], ".geojson")
        yield ImageFile(path, text.encode(), regions=len(kept), note=note)


def write_geoparquet(
    shards: Iterator[Tables], _: ImageNames, output: Storage, gate: Gate
) -> ExportResult:
    """Write the regions of georeferenced images, in one file per coordinate system.

    The rows are those of `regions`, with the column `map_geometry` before all others and
    `area_um2` after them.

    Args:
        shards: Current rows, shard by shard.
        _: Unused; all formats have the same parameters.
        output: Folder to write to.
        gate: Decides which images may be opened, since the tables that name them are not trusted.

    Returns:
        Counts of what was written.
    """
    result = ExportResult()
    with tempfile.TemporaryDirectory(prefix=temporary_prefix()) as folder:
        with _RowsOnMaps(Path(folder) / "rows.arrow") as rows:
            for image in _locate_images(shards, gate, result.notes):
                row, place = image.row, image.place
                if place is None:
                    result.notes["images left out: not georeferenced by an EPSG code"] += 1
                    continue
                regions, outlines = take_outlines(row, image.regions, result.notes)
                sized = _add_areas(regions, row)
                rows.add(place.epsg, shapely.to_wkb(place.to_map(outlines)), sized)
                result.count(images=1, regions=len(regions))
        for epsg in rows.codes:
            path = Path(folder) / f"epsg={epsg}.parquet"
            rows.write_parquet(epsg, path)
            output.put(path.name, path)
            path.unlink()
            result.count(files=1)
    _note_not_opened(result, gate)
    return result


def _add_areas(regions: pa.Table, row: Mapping[str, Any]) -> pa.Table:
    """Return the regions of an image with a column of their areas in µm²."""
    pixel_um2 = measure_pixel_area(row)
    if pixel_um2 is None:
        areas = pa.nulls(len(regions), _AREA_UM2.type)
    else:
        areas = pc.multiply(regions["area"].cast(_AREA_UM2.type), pixel_um2)
    return regions.append_column(_AREA_UM2, areas)


class _RowsOnMaps:
    """Regions of any number of coordinate systems, kept in one file until each gets its own.

    Args:
        path: Temporary file; it is written in the `with` block.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = pa.schema([pa.field("map_geometry", pa.binary()), *_SIZED_REGIONS])
        self._batches: dict[int, list[int]] = {}
        """Numbers of the batches of each EPSG code."""
        self._count = 0

    def __enter__(self) -> _RowsOnMaps:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_file(str(self._path), self._schema, options=options)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    @property
    def codes(self) -> list[int]:
        """EPSG codes of the rows, sorted."""
        return sorted(self._batches)

    def add(self, epsg: int, geometry: NDArray[Any], regions: pa.Table) -> None:
        """Add the regions of an image, which may have none, with their outlines as WKB."""
        others = regions.select(_SIZED_REGIONS.names)
        columns = [pa.array(geometry, pa.binary()), *others.columns]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        numbers = self._batches.setdefault(epsg, [])
        for batch in table.to_batches():
            self._writer.write_batch(batch)
            numbers.append(self._count)
            self._count += 1

    def write_parquet(self, epsg: int, path: Path) -> None:
        """Write the rows of a coordinate system as GeoParquet."""
        schema = on_a_map(_SIZED_REGIONS, epsg)
        with (
            pa.ipc.open_file(pa.memory_map(str(self._path))) as rows,
            pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            numbers = self._batches[epsg]
            for first in range(0, len(numbers), _BATCHES):
                some = [rows.get_batch(number) for number in numbers[first : first + _BATCHES]]
                columns = pa.Table.from_batches(some).columns
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _note_not_opened(result: ExportResult, gate: Gate) -> None:
    if gate.stopped:
        result.notes[f"images not opened to read their place on the map: {gate.reason}"] = (
            gate.stopped
        )


@dataclass(frozen=True)
class _LocatedImage:
    """An image with its regions and its place on the map."""

    row: dict[str, Any]
    """Row of the image."""
    regions: pa.Table
    """Its regions."""
    place: Georeference | None
    """Place on the map; None if there is none, or the image may not be opened."""
    is_unreadable: bool = False
    """True if its place could not be read."""


def _locate_images(
    shards: Iterator[Tables], gate: Gate, notes: Counter[str]
) -> Iterator[_LocatedImage]:
    """Yield images with their places; the headers of many images are read in parallel.

    Args:
        shards: Current rows, shard by shard.
        gate: Says which images may be opened.
        notes: Receives the number of images that could not be read.
    """

    def iterate_admitted() -> Iterator[tuple[dict[str, Any], pa.Table, bool]]:
        """Yield row and regions of each image, and whether to open it."""
        for shard in shards:
            for row, regions in iterate_images(shard):
                file = split_uri(row["image_uri"])[0]
                is_tiff = file.lower().endswith(tuple(TIFF_SUFFIXES))
                yield row, regions, is_tiff and gate.admits(file)

    with DecoderPool(1) as decoder, ThreadPoolExecutor(_READS) as pool:
        for image in ahead(
            pool,
            partial(_locate_image, decoder, gate.roots),
            iterate_admitted(),
            _READS,
            size=lambda image: image[1].nbytes,
            most_size=_AHEAD_BYTES,
        ):
            if image.is_unreadable:
                notes[_UNREADABLE] += 1
            yield image


def _locate_image(
    decoder: DecoderPool, roots: Roots, image: tuple[dict[str, Any], pa.Table, bool]
) -> _LocatedImage:
    """Read the place of an image, if it may be opened."""
    row, regions, is_admitted = image
    if not is_admitted:
        return _LocatedImage(row, regions, None)
    file, key = split_uri(row["image_uri"])
    try:
        access = roots.open(file)
        place = find_place(decoder, access, access.entry(), key)
        tags = decoder.read_geo_tags(open_header(access, access.uri, place))
        return _LocatedImage(row, regions, Georeference.from_tags(tags))
    except (OSError, ImageError, InputError):
        return _LocatedImage(row, regions, None, is_unreadable=True)
