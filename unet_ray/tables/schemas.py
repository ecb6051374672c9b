"""The schemas of the three tables: plain Parquet types, each field described in its metadata."""

from __future__ import annotations

import json

import pyarrow as pa
from pyproj import CRS

TABLES = ("masks", "regions", "images")
"""Tables in the order in which a shard's files are written, the commit record `images` last."""


def column(name: str, kind: pa.DataType, meaning: str, nullable: bool = False) -> pa.Field:
    """Return a field whose metadata holds a description.

    Args:
        name: Name of the column.
        kind: Arrow type.
        meaning: Description, with the unit.
        nullable: Whether the column may hold nulls.
    """
    return pa.field(name, kind, nullable=nullable, metadata={"description": meaning})


_KEY = [
    column(
        "image_uri",
        pa.string(),
        "URI of the image: of its file, or one of several images in a file, `uri#key=value,…`: "
        "`page` (from 1) where the file does not say its axes, else `s`, `t`, `z` (from 0: series, "
        "time, depth), only those longer than one",
    ),
    column("run_id", pa.string(), "run that wrote the row; (image_uri, run_id) joins the tables"),
]
_CLASS = [
    column("class_id", pa.int32(), "id of the class"),
    column("class_name", pa.string(), "name of the class"),
]

_ADDED_TO_IMAGES = [
    column(
        "file_uri",
        pa.string(),
        "URI of the file: `image_uri` without `#…` where the file has several images; null in "
        "rows of earlier versions",
        nullable=True,
    ),
    column("series", pa.int32(), "series of the image, from 0; null if the file has one", True),
    column("t", pa.int32(), "time of the image, from 0; null if the file has one", True),
    column("z", pa.int32(), "depth of the image, from 0; null if the file has one", True),
    column(
        "valid_pixels",
        pa.int64(),
        "pixels that hold data (px); the others are in no mask, region or score; null in rows of "
        "earlier versions, or if the image failed",
        nullable=True,
    ),
    *(
        column(
            f"pixel_size_{axis}_um",
            pa.float64(),
            f"{length} of a pixel (µm), as the file has it; null where it has none",
            nullable=True,
        )
        for axis, length in (("x", "width"), ("y", "height"))
    ),
    column(
        "downsample",
        pa.float64(),
        "pixels of the file's base level per pixel of the table, along a side; 1 or null: "
        "the base level itself",
        nullable=True,
    ),
    column(
        "reader_version",
        pa.int32(),
        "version of what reads this format, raised when it reads more or otherwise; null in rows "
        "of earlier versions",
        nullable=True,
    ),
    column(
        "content_hash",
        pa.string(),
        "sha256 of the file, in hexadecimal, or of the bytes of the image if the file has several; "
        "null without `--etag-by content`, and in rows of earlier versions",
        nullable=True,
    ),
]
_ADDED_TO_REGIONS = [
    column(
        "touches_no_data",
        pa.bool_(),
        "true if one of its pixels shares a side with a pixel that holds no data; null in rows "
        "of earlier versions",
        nullable=True,
    ),
]
ADDED = frozenset(field.name for field in [*_ADDED_TO_IMAGES, *_ADDED_TO_REGIONS])
"""Columns that files of earlier versions lack; they are read as nulls."""

IMAGES = pa.schema(
    [
        _KEY[0],
        column(
            "image_etag",
            pa.string(),
            "etag that the store gives, without quotes; else size-mtime_ns",
        ),
        column("image_bytes", pa.int64(), "size of the file (bytes)"),
        column(
            "pages",
            pa.int32(),
            "number of images in the file: 1, or the planes or pages of a stack",
        ),
        column("height", pa.int32(), "height (px); null if it was not decoded", nullable=True),
        column("width", pa.int32(), "width (px); null if it was not decoded", nullable=True),
        column(
            "channels",
            pa.int32(),
            "number of channels after decoding; null if it was not decoded",
            nullable=True,
        ),
        column(
            "model_digest",
            pa.string(),
            "sha256 of weights, network, classes, preprocessing and postprocessing",
        ),
        column("config_digest", pa.string(), "sha256 of the settings that can change a row"),
        _KEY[1],
        column(
            "segmented_at",
            pa.timestamp("us", tz="UTC"),
            "when the image was measured, or its rows were taken over (`--etag-by content`)",
        ),
        column(
            "region_count",
            pa.int32(),
            "number of rows in `regions`; null if the image failed",
            nullable=True,
        ),
        column("error_type", pa.string(), "kind of failure; null on success", nullable=True),
        column("error", pa.string(), "message in one line; null on success", nullable=True),
        column(
            "error_stage",
            pa.string(),
            "stage that failed: read, decode, predict or measure; null on success",
            nullable=True,
        ),
        *_ADDED_TO_IMAGES,
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
        column("score", pa.float32(), "mean probability over its pixels, 0 to 1"),
        column("score_max", pa.float32(), "largest probability among its pixels, 0 to 1"),
        column("area", pa.int64(), "number of pixels"),
        column("bbox", BBOX, "bounding box (px), half-open: xmax − xmin is the width"),
        column("centroid_x", pa.float64(), "x of the centroid (px); pixel centres lie at +0.5"),
        column("centroid_y", pa.float64(), "y of the centroid (px); pixel centres lie at +0.5"),
        column("touches_border", pa.bool_(), "true if one of its pixels lies on the image's edge"),
        column(
            "geometry",
            pa.binary(),
            "outline as WKB, pixel-exact, with holes, y down; its area equals `area`",
        ),
        *_ADDED_TO_REGIONS,
    ]
).with_metadata(
    {
        "geo": json.dumps(  # GeoParquet 1.1.0; the crs is null: pixels, not degrees
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
    """Return the schema of regions on a map: `map_geometry` comes first, as the primary column.

    Args:
        regions: Schema of the regions, in pixels.
        epsg: EPSG code of the map's coordinate system.
    """
    geo = json.loads(regions.metadata[b"geo"])
    on_map = geo["columns"]["geometry"] | {"crs": CRS.from_epsg(epsg).to_json_dict()}
    del on_map["covering"]  # `bbox` is in pixels
    columns = geo["columns"] | {"map_geometry": on_map}
    first = column("map_geometry", pa.binary(), f"outline on the map (EPSG:{epsg}), as WKB")
    metadata = {"geo": json.dumps(geo | {"primary_column": "map_geometry", "columns": columns})}
    return pa.schema([first, *regions]).with_metadata(metadata)


SCHEMAS = {"images": IMAGES, "masks": MASKS, "regions": REGIONS}


def described() -> str:
    """Return the README's Markdown table of fields, made from the metadata of the schemas."""
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
