"""GeoPackage (OGC 12-128): an SQLite database whose geometries are WKB behind a short header.

Python's SQLite reads it from memory, and shapely reads its geometries. GDAL could read it too, but
it is a large requirement, opens its own files at any time, and is more code to trust.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import shapely

from unet_ray.labelled_data.annotations import UNSTATED, LabelError
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.geojson import WGS_84
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.features import FeatureCollector, list_polygons

_MAGIC = b"SQLite format 3\0"
_VERSIONS = slice(18, 20)
"""Bytes of the header that state how the file is written: 2 with a log beside it, 1 without."""
_ENVELOPE_BYTES = (0, 32, 48, 48, 64)
"""Size of the bounding box in the header of a geometry, by its kind."""
_ROOT_CODE = re.compile(r'(?:AUTHORITY|ID)\[\s*"(\w+)"\s*,\s*"?(\w+)"?\s*\]\s*\]\s*$')
"""Code of a coordinate system at the end of its WKT."""
_BATCH = 1000
_STEPS, _MOST_STEPS = 10**6, 20_000
"""Instructions of SQLite between checks, and the limit of checks: views may compute forever."""


@dataclass(frozen=True)
class _Layer:
    """A layer of features."""

    table: str
    geometry: str
    """Column of the geometries."""
    crs: str
    """Coordinate system: AUTHORITY:CODE, or UNSTATED."""


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    data = bytearray(file.read())
    if data[_VERSIONS] == b"\2\2":
        builder.notes.append(
            f"{name} is open in another program, or was not closed properly: the changes in "
            f"{name}-wal are not read; save and close it there"
        )
        data[_VERSIONS] = b"\1\1"  # a database in memory has no log
    features = FeatureCollector(builder, name)
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            _open(database, data)
            layers = _list_layers(database)
            for layer in layers:
                _read_layer(
                    database,
                    layer,
                    features=features,
                    builder=builder,
                    is_one_of_several=len(layers) > 1,
                )
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise LabelError(f"not a GeoPackage, or a damaged one: {error}") from None
    features.finish(layers[0].crs)


def _open(database: sqlite3.Connection, data: bytearray) -> None:
    """Open an untrusted database such that nothing in it can write or run for long."""
    database.deserialize(data)
    database.text_factory = lambda text: text.decode("utf-8", "replace")
    for setting in ("trusted_schema=OFF", "query_only=ON", "temp_store=MEMORY"):
        database.execute(f"PRAGMA {setting}")
    steps = iter(range(_MOST_STEPS))
    database.set_progress_handler(lambda: next(steps, None) is None, _STEPS)


def _list_layers(database: sqlite3.Connection) -> list[_Layer]:
    """Return the layers of features.

    Raises:
        LabelError: There is no layer of features.
    """
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    if not {"gpkg_contents", "gpkg_geometry_columns"} <= tables:
        raise LabelError("it is an SQLite database, but not a GeoPackage with layers of features")
    rows = database.execute(
        "SELECT c.table_name, g.column_name, g.srs_id FROM gpkg_contents c "
        "JOIN gpkg_geometry_columns g ON lower(g.table_name) = lower(c.table_name) "
        "WHERE c.data_type = 'features' ORDER BY c.table_name"
    ).fetchmany(_BATCH)
    layers = [
        _Layer(table, column, _find_crs(database, srs))
        for table, column, srs in rows
        if isinstance(table, str) and isinstance(column, str)
    ]
    if not layers:
        raise LabelError("the GeoPackage has no layer of features")
    return layers


def _find_crs(database: sqlite3.Connection, srs: int | None) -> str:
    """Return the coordinate system of a layer: AUTHORITY:CODE, or UNSTATED."""
    row = database.execute(
        "SELECT organization, organization_coordsys_id, definition FROM gpkg_spatial_ref_sys "
        "WHERE srs_id = ?",
        (srs,),
    ).fetchone()
    if row is None or srs in (0, -1):  # these numbers mean an undefined system
        return UNSTATED
    organization, code, definition = row
    if isinstance(organization, str) and isinstance(code, int):
        if organization.upper() in ("EPSG", "ESRI") and code > 0:
            return f"{organization.upper()}:{code}"
        if organization.upper() == "OGC" and code == 84:
            return WGS_84
    found = _ROOT_CODE.search(definition[-200:]) if isinstance(definition, str) else None
    return f"{found[1].upper()}:{found[2]}" if found else UNSTATED


def _read_layer(
    database: sqlite3.Connection,
    layer: _Layer,
    features: FeatureCollector,
    builder: AnnotationsBuilder,
    is_one_of_several: bool,
) -> None:
    """Collect the features of a layer; if there are several layers, its name is a property."""
    cursor = database.execute(f"SELECT * FROM {_quote(layer.table)}")  # noqa: S608 (quoted)
    names = [column[0] for column in cursor.description]
    folded = [name.lower() for name in names]
    if layer.geometry.lower() not in folded:
        raise LabelError(f"layer {layer.table} has no column {layer.geometry}")
    place = folded.index(layer.geometry.lower())
    described = database.execute(f"PRAGMA table_info({_quote(layer.table)})")
    keys = {row[1] for row in described if row[5]}  # columns of the primary key
    for number, row, geometry in _read_rows(cursor, place):
        properties, key = {}, []
        for column, (name, value) in enumerate(zip(names, row, strict=True)):
            if name in keys:
                key.append(value)
            elif column != place:
                properties[name] = value
        if is_one_of_several:
            properties["layer"] = layer.table
        identity = key[0] if len(key) == 1 else number
        label = f"feature {identity} of {layer.table}"
        polygons = list_polygons(geometry, builder)
        if polygons:
            features.add(label, polygons, properties, crs=layer.crs)


def _read_rows(
    cursor: sqlite3.Cursor, place: int
) -> Iterator[tuple[int, tuple[Any, ...], shapely.Geometry | None]]:
    """Yield number, values and geometry of each row; None for a geometry that cannot be read."""
    number = 0
    while rows := cursor.fetchmany(_BATCH):
        encoded = [_find_wkb(row[place]) for row in rows]
        geometries = shapely.from_wkb(encoded, "ignore")
        for row, geometry in zip(rows, geometries, strict=True):
            number += 1
            yield number, row, geometry


def _find_wkb(blob: object) -> bytes | None:
    """Return the WKB behind the header of a geometry: an empty WKB for NULL, None if unreadable."""
    if blob is None:
        return shapely.to_wkb(shapely.Polygon())
    if not isinstance(blob, bytes) or len(blob) < 8 or blob[:2] != b"GP":
        return None
    kind = blob[3] >> 1 & 7
    if kind >= len(_ENVELOPE_BYTES):
        return None
    return blob[8 + _ENVELOPE_BYTES[kind] :]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _prepare() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE a (b)")
        _open(database, bytearray(database.serialize()))
        database.execute("SELECT * FROM a").fetchall()
    shapely.from_wkb([shapely.to_wkb(shapely.box(0, 0, 1, 1))], "ignore")


FORMAT = LabelFormat(
    name="GeoPackage",
    suffixes=(".gpkg",),
    recognises=lambda head: head.startswith(_MAGIC),
    parse=_parse,
    prepare=_prepare,
    is_per_image=True,
)
