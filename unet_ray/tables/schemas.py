"""The schemas of the three tables: plain Parquet types, every field described in its own metadata."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyproj import CRS

TABLES = ("masks", "regions", "images")
"""In the order in which a shard's files are written: `images` last, it is the commit record."""


def column(name: str, kind: Any, meaning: str, nullable: bool = False) -> Any:
    """Return a field with its meaning in its metadata."""
    return pa.field(name, kind, nullable=nullable, metadata={"description": meaning})


_KEY = [
    column("image_uri", pa.string(), "URI of the image; page n of a stack is `uri#page=n`, from 1"),
    column("run_id", pa.string(), "run that wrote the row; (image_uri, run_id) joins the tables"),
]
_CLASS = [
    column("class_id", pa.int32(), "id of the class"),
    column("class_name", pa.string(), "name of the class"),
]

IMAGES = pa.schema(
    [
        _KEY[0],
        column("image_etag", pa.string(), "the store's etag without quotes, or size-mtime_ns"),
        column("image_bytes", pa.int64(), "size of the file (bytes)"),
        column("pages", pa.int32(), "images in the file: 1, or the pages of a stack"),
        column("height", pa.int32(), "px; null where the image was not decoded", nullable=True),
        column("width", pa.int32(), "px; null where the image was not decoded", nullable=True),
        column("channels", pa.int32(), "as decoded; null where it was not", nullable=True),
        column(
            "model_digest",
            pa.string(),
            "sha256 of weights, network, classes, preprocessing and thresholds",
        ),
        column("config_digest", pa.string(), "sha256 of the settings that can change a row"),
        _KEY[1],
        column("segmented_at", pa.timestamp("us", tz="UTC"), "when the image was measured"),
        column(
            "region_count", pa.int32(), "rows in `regions`; null where it failed", nullable=True
        ),
        column("error_type", pa.string(), "null where it went well", nullable=True),
        column("error", pa.string(), "one line; null where it went well", nullable=True),
        column(
            "error_stage",
            pa.string(),
            "read, decode, predict or measure; null where it went well",
            nullable=True,
        ),
    ]
)

MASKS = pa.schema(
    [
        *_KEY,
        *_CLASS,
        column("top", pa.int32(), "first row of the piece that this row covers (px)"),
        column("left", pa.int32(), "first column of the piece (px)"),
        column("height", pa.int32(), "rows of the piece (px)"),
        column("width", pa.int32(), "columns of the piece (px)"),
        column(
            "counts", pa.binary(), "COCO compressed run lengths, column-major, size [height, width]"
        ),
        column("area", pa.int64(), "pixels of the class in the piece"),
    ]
)

BBOX = pa.struct(
    [pa.field(name, pa.float64(), nullable=False) for name in ("xmin", "ymin", "xmax", "ymax")]
)

REGIONS = pa.schema(
    [
        *_KEY,
        column(
            "region_id",
            pa.int32(),
            "1..n within the image: class by class, by first pixel in raster order",
        ),
        *_CLASS,
        column("score", pa.float32(), "mean probability of its pixels"),
        column("score_max", pa.float32(), "largest probability of its pixels"),
        column("area", pa.int64(), "px"),
        column("bbox", BBOX, "px, half-open: xmax − xmin is the width"),
        column("centroid_x", pa.float64(), "px; pixel centres lie at +0.5"),
        column("centroid_y", pa.float64(), "px; pixel centres lie at +0.5"),
        column("touches_border", pa.bool_(), "a pixel of it lies on the image's edge"),
        column(
            "geometry",
            pa.binary(),
            "WKB, pixel-exact outline with holes, y down; its area is `area`",
        ),
    ]
).with_metadata(
    {
        "geo": json.dumps(  # GeoParquet 1.1.0; crs null: pixels, not degrees
            {
                "version": "1.1.0",
                "primary_column": "geometry",
                "columns": {
                    "geometry": {
                        "encoding": "WKB",
                        "geometry_types": ["Polygon", "MultiPolygon"],
                        "crs": None,
                        "edges": "planar",
                        "covering": {
                            "bbox": {
                                side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")
                            }
                        },
                    }
                },
            }
        )
    }
)


def on_a_map(regions: pa.Schema, epsg: int) -> pa.Schema:
    """Return the schema of regions with `map_geometry` before all others: GeoParquet's primary column, in map units."""
    geo = json.loads(regions.metadata[b"geo"])
    on_map = geo["columns"]["geometry"] | {"crs": CRS.from_epsg(epsg).to_json_dict()}
    del on_map["covering"]  # `bbox` is in pixels
    columns = geo["columns"] | {"map_geometry": on_map}
    first = column("map_geometry", pa.binary(), f"WKB, the outline on the map (EPSG:{epsg})")
    metadata = {"geo": json.dumps(geo | {"primary_column": "map_geometry", "columns": columns})}
    return pa.schema([first, *regions]).with_metadata(metadata)


SCHEMAS = {"images": IMAGES, "masks": MASKS, "regions": REGIONS}


def described() -> str:
    """Return the fields of all tables as Markdown, from their own metadata: what the README shows."""
    lines = ["| table | field | type | meaning |", "|---|---|---|---|"]
    for name, schema in (("images", IMAGES), ("masks", MASKS), ("regions", REGIONS)):
        for entry in schema:
            kind = (
                "struct<xmin, ymin, xmax, ymax: double>"
                if pa.types.is_struct(entry.type)
                else str(entry.type)
            )
            meaning = entry.metadata[b"description"].decode()
            lines.append(f"| `{name}` | `{entry.name}` | {kind} | {meaning} |")
    return "\n".join(lines)


def to_parquet(table: Any) -> bytes:
    """Serialise a table; the same table gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=100_000)
    return buffer.getvalue()
