"""GeoParquet (1.0 and 1.1), as GeoPandas, GDAL and our own export write it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import BufferedReader
from reprlib import repr as shorten
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from unet_ray.labelled_data.annotations import UNSTATED, LabelError
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.geojson import WGS_84
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.features import (
    FeatureCollector,
    count_other,
    list_polygons,
)

_MAGIC = b"PAR1"
_BATCH = 1024
_NATIVE = ("polygon", "multipolygon")
"""Encodings of geometries as lists of points rather than WKB."""


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    features = FeatureCollector(builder, name)
    try:
        table = pq.ParquetFile(pa.BufferReader(file.read()))
        column, described = _find_geometry(table)
        crs = _find_crs(described)
        encoding = str(described.get("encoding", "WKB"))
        columns = [column, *_list_properties(table.schema_arrow, column)]
        number = 0
        for batch in table.iter_batches(_BATCH, columns=columns, use_threads=False):
            rows = batch.drop_columns([column]).to_pylist()
            outlines = _list_outlines(batch[column], encoding, builder)
            for properties, polygons in zip(rows, outlines, strict=True):
                if polygons:
                    features.add(f"row {number}", polygons, properties)
                number += 1
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise LabelError(f"not a Parquet file, or a damaged one: {str(error)[:200]}") from None
    features.finish(crs)


def _find_geometry(table: pq.ParquetFile) -> tuple[str, dict[str, Any]]:
    """Return the column of the geometries, and its description in the metadata of the file.

    Raises:
        LabelError: The file is not a GeoParquet file.
    """
    text = (table.metadata.metadata or {}).get(b"geo")
    if text is None:
        raise LabelError("the Parquet file has no `geo` metadata; save it as GeoParquet")
    try:
        geo = json.loads(text)
        column = geo["primary_column"]
        described = geo["columns"][column]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise LabelError(f"the `geo` metadata cannot be used: {shorten(text)}") from None
    names = table.schema_arrow.names
    if not isinstance(described, dict) or names.count(column) != 1:
        raise LabelError(f"the geometry column {shorten(column)} is missing or not unique")
    return column, described


def _find_crs(described: dict[str, Any]) -> str:
    """Return the coordinate system of a column: AUTHORITY:CODE, or UNSTATED."""
    if "crs" not in described:
        return WGS_84  # by specification
    crs = described["crs"]
    found = crs.get("id") if isinstance(crs, dict) else None
    if not isinstance(found, dict):
        return UNSTATED
    authority, code = str(found.get("authority")).upper(), str(found.get("code"))
    return WGS_84 if (authority, code) == ("OGC", "CRS84") else f"{authority}:{code}"


def _list_properties(schema: pa.Schema, geometry: str) -> list[str]:
    """Return the columns whose values may be properties: texts and numbers."""
    names = []
    for column in schema:
        is_plain = not pa.types.is_nested(column.type) and not _is_binary(column.type)
        is_unique = schema.names.count(column.name) == 1
        if column.name != geometry and is_unique and is_plain:
            names.append(column.name)
    return names


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _list_outlines(
    column: pa.Array, encoding: str, builder: AnnotationsBuilder
) -> Iterator[list[list[Sequence[float]]]]:
    """Yield the rings of the polygons of each row."""
    if encoding.upper() == "WKB":
        if not _is_binary(column.type):
            raise LabelError(f"the geometry column has the type {column.type}, not WKB")
        empty = shapely.to_wkb(shapely.Polygon())
        encoded = [empty if each is None else each for each in column.to_pylist()]
        for geometry in shapely.from_wkb(encoded, "ignore"):
            yield list_polygons(geometry, builder)
        return
    for row in column.to_pylist():
        yield _list_native(row, encoding.lower(), builder)


def _list_native(
    row: list[Any] | None, encoding: str, builder: AnnotationsBuilder
) -> list[list[Sequence[float]]]:
    """Return the rings of each polygon of a row of nested lists of points."""
    if encoding not in _NATIVE:
        count_other("Point" if "point" in encoding else "LineString", builder)
        return []
    if not row:
        builder.left_out["features without a geometry"] += 1
        return []
    polygons = [row] if encoding == "polygon" else row
    flat = list[list[Sequence[float]]]()
    try:
        for rings in polygons:
            outlines = list[Sequence[float]]()
            for ring in rings:
                outlines.append([point[axis] for point in ring for axis in ("x", "y")])
            flat.append(outlines)
    except (TypeError, KeyError, IndexError):
        raise LabelError(f"a geometry is not a {encoding}: {shorten(row)}") from None
    return flat


def _prepare() -> None:
    table = pa.table({"a": [b""], "b": pa.array(["b"]).dictionary_encode()})
    for compression in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression=compression)
        reader = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
        for batch in reader.iter_batches(1, use_threads=False):
            batch.to_pylist()


FORMAT = LabelFormat(
    name="GeoParquet",
    suffixes=(".parquet", ".geoparquet"),
    recognises=lambda head: head.startswith(_MAGIC),
    parse=_parse,
    prepare=_prepare,
    is_per_image=True,
)
