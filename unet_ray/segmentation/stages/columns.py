"""The tables that go from stage to stage, and the only place where records become their columns.

    archive ─▶ PLAN ─▶ decode ─▶ PIXELS ─▶ predict ─▶ PROBABILITIES ─▶ measure ─▶ ROWS ─▶ sink

A row of each table is an `ImageRecord`, with the samples or the nested rows that exist by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.image_sources.reader_versions import reader_version
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.image_place import ImageKey, ImagePlace
from unet_ray.segmentation.stages.image_record import Failure, ImageRecord
from unet_ray.tables.binary_columns import table_with, view_samples
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS

PLAN = pa.schema(
    [
        ("image_uri", pa.string()),
        ("file_uri", pa.string()),
        ("page", pa.int32()),  # from 1, in a file whose axes are not known
        ("series", pa.int32()),
        ("t", pa.int32()),
        ("z", pa.int32()),
        ("image_etag", pa.string()),
        ("image_bytes", pa.int64()),
        ("pages", pa.int32()),
        ("stored_bytes", pa.int64()),  # of the image in its file
        ("place", pa.string()),  # an `ImagePlace` as JSON; null if it is the file's first page
    ]
)
PLAN_OF_FILES_SQL = (
    "SELECT uri AS image_uri, uri AS file_uri, NULL::INTEGER AS page, NULL::INTEGER AS series, "
    "NULL::INTEGER AS t, NULL::INTEGER AS z, etag AS image_etag, size AS image_bytes, "
    "1::INTEGER AS pages, size AS stored_bytes, NULL::VARCHAR AS place"
)
"""SQL that turns FILES into PLAN, each file one image, as `plan_table` does for `whole_file`."""
STAGES = ("read", "decode", "predict", "measure")
_WORK = [
    *(pa.field(f"{stage}_s", pa.float64()) for stage in STAGES),
    pa.field("batch_divisor", pa.int32()),
    pa.field("note", pa.string()),
]
"""Columns that the sink sums up."""
_RECORD = pa.schema(
    [
        *PLAN,
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("valid", pa.large_binary()),
        ("valid_pixels", pa.int64()),
        ("pixel_size_x_um", pa.float64()),
        ("pixel_size_y_um", pa.float64()),
        ("content_hash", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("error_stage", pa.string()),
        *_WORK,
    ]
)
"""Columns of a record until it is measured."""
_SAME = (
    *("height", "width", "channels", "valid", "valid_pixels", "content_hash"),
    *(field.name for field in _WORK),
)
"""Columns that are fields of a record under the same name."""
PIXELS = pa.schema(
    [
        *_RECORD,
        ("pixels", pa.large_binary()),  # HWC; null if it failed, or is to be read in windows
        ("dtype", pa.string()),  # type of the samples in `pixels`
    ]
)
RUN_COLUMNS = ("run_id", "model_digest", "config_digest")
"""Columns of the three tables that are added when shards are written."""


def _without_run(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in RUN_COLUMNS])


IMAGE_ROWS, MASK_ROWS, REGION_ROWS = map(_without_run, (IMAGES, MASKS, REGIONS))
_NESTED = [
    pa.field("masks", pa.list_(pa.struct(list(MASK_ROWS)))),
    pa.field("regions", pa.list_(pa.struct(list(REGION_ROWS)))),
]
PROBABILITIES = pa.schema(
    [
        *_RECORD,
        ("prob_u8", pa.large_binary()),  # KHW; null if it failed, or was measured tile by tile
        *_NESTED,  # of an image that was measured tile by tile
    ]
)
_IMAGE = pa.schema([*IMAGE_ROWS, *_WORK])
ROWS = pa.schema([*_IMAGE, *_NESTED])


def plan_table(sources: Iterable[ImageSource]) -> pa.Table:
    """Return images as a table of PLAN."""
    return pa.Table.from_pylist([_source_row(source) for source in sources], schema=PLAN)


def read_records(table: pa.Table | pa.RecordBatch) -> list[ImageRecord]:
    """Return the records of a table of PLAN, PIXELS or PROBABILITIES.

    Columns that are no field of a record, such as samples, are not touched.
    """
    names = [name for name in table.schema.names if name in _RECORD.names]
    return [_read_record(row) for row in table.select(names).to_pylist()]


def pixel_table(images: Sequence[tuple[ImageRecord, NDArray[Any] | None]]) -> pa.Table:
    """Return records and their pixels, HWC, as a table of PIXELS."""
    rows = [
        _record_row(record)
        | {"pixels": pixels, "dtype": None if pixels is None else str(pixels.dtype)}
        for record, pixels in images
    ]
    return table_with(rows, PIXELS, "pixels")


def read_pixels(table: pa.Table) -> list[NDArray[Any] | None]:
    """Return the pixels of a table of PIXELS, HWC, as views of its memory; None if it has none.

    The records are what `read_records` returns.
    """
    columns = (table[name].to_pylist() for name in ("dtype", "height", "width", "channels"))
    return [
        None if samples is None else samples.view(dtype).reshape(shape)
        for samples, dtype, *shape in zip(view_samples(table["pixels"]), *columns, strict=True)
    ]


def probability_table(
    images: Sequence[tuple[ImageRecord, NDArray[np.uint8] | None]],
) -> pa.Table:
    """Return records and their prob_u8, KHW, as a table of PROBABILITIES."""
    rows = [_record_row(record) | {"prob_u8": prob_u8} for record, prob_u8 in images]
    return table_with(rows, PROBABILITIES, "prob_u8")


def with_measured(probabilities: pa.Table, masks: pa.Array, regions: pa.Array) -> pa.Table:
    """Return a table of PROBABILITIES whose images were measured tile by tile.

    Args:
        probabilities: The records.
        masks: Their rows of the masks table, from `nested_list`.
        regions: The same for the regions table.
    """
    for field, rows in zip(_NESTED, (masks, regions), strict=True):
        place = PROBABILITIES.get_field_index(field.name)
        probabilities = probabilities.set_column(place, field, rows)
    return probabilities


def row_table(records: Iterable[ImageRecord], masks: pa.Array, regions: pa.Array) -> pa.Table:
    """Return measured images as a table of ROWS.

    Args:
        records: Records of measured and failed images.
        masks: Their rows of the masks table, from `nested_list`.
        regions: The same for the regions table.
    """
    rows = [
        _record_row(record) | {"reader_version": reader_version(record.source.file_uri)}
        for record in records
    ]
    table = pa.Table.from_pylist(rows, schema=_IMAGE)
    for field, nested in zip(_NESTED, (masks, regions), strict=True):
        table = table.append_column(field, nested)
    return table


def nested_list(tables: list[pa.Table], schema: pa.Schema) -> pa.ListArray:
    """Return tables as a nested column: one list of rows per table.

    Args:
        tables: Rows of an image each.
        schema: MASK_ROWS or REGION_ROWS.
    """
    joined = pa.concat_tables(tables) if tables else schema.empty_table()
    columns = [column.combine_chunks() for column in joined.columns]
    rows = pa.StructArray.from_arrays(columns, fields=list(schema))
    offsets = np.cumsum([0, *map(len, tables)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), rows, type=pa.list_(pa.struct(list(schema))))


def _source_row(source: ImageSource) -> dict[str, Any]:
    """Return a listed image as values by column of PLAN."""
    place = source.place
    return {
        "image_uri": source.uri,
        "file_uri": source.file_uri,
        **vars(source.key),
        "image_etag": source.etag,
        "image_bytes": source.size,
        "pages": source.pages,
        "stored_bytes": source.stored_bytes,
        "place": None if place is None else json.dumps([place.file_size, place.to_json()]),
    }


def _record_row(record: ImageRecord) -> dict[str, Any]:
    """Return a record as values by column, including those of PLAN and of the images table."""
    failure = record.failure
    width_um, height_um = record.pixel_size_um or (None, None)
    return {
        **_source_row(record.source),
        **{name: getattr(record, name) for name in _SAME},
        "pixel_size_x_um": width_um,
        "pixel_size_y_um": height_um,
        "region_count": record.region_count,
        "segmented_at": record.segmented_at,
        "error_type": None if failure is None else failure.error_type,
        "error": None if failure is None else failure.message,
        "error_stage": None if failure is None else failure.stage,
    }


def _read_record(row: dict[str, Any]) -> ImageRecord:
    """Return the record of a row that `_record_row` or `_source_row` made."""
    place = row["place"]
    source = ImageSource(
        file_uri=row["file_uri"],
        key=ImageKey(row["page"], row["series"], row["t"], row["z"]),
        etag=row["image_etag"],
        size=row["image_bytes"],
        pages=row["pages"],
        place=None if place is None else _read_place(place),
    )
    found = {name: row[name] for name in _SAME if name in row}
    if row.get("error_type") is not None:
        found["failure"] = Failure(row["error_type"], row["error"], row["error_stage"])
    width_um, height_um = row.get("pixel_size_x_um"), row.get("pixel_size_y_um")
    if width_um is not None and height_um is not None:
        found["pixel_size_um"] = width_um, height_um
    return ImageRecord(source, **found)


def _read_place(text: str) -> ImagePlace:
    file_size, found = json.loads(text)
    return ImagePlace.from_json(found, file_size)
