"""The columns of the tables that go from stage to stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.archive.tables import IMAGES, MASKS, REGIONS
from unet_ray.errors import ImageError, one_line
from unet_ray.imaging.tiffs import PagePlace

_PLACE = pa.struct(
    [
        ("header", pa.binary()),
        ("index", pa.int32()),
        ("file_size", pa.int64()),
        ("size", pa.int64()),
        ("ranges", pa.list_(pa.int64())),  # offset, size, offset, size …
    ]
)
PLAN = pa.schema(
    [
        ("image_uri", pa.string()),
        ("file_uri", pa.string()),
        ("page", pa.int32()),  # of a stack, from 1
        ("image_etag", pa.string()),
        ("image_bytes", pa.int64()),
        ("pages", pa.int32()),
        ("place", _PLACE),  # of the page of a stack: a `tiffs.PagePlace`
    ]
)
_FAILURE = [pa.field(name, pa.string()) for name in ("error_type", "error", "error_stage")]
_SHAPE = [pa.field(name, pa.int32()) for name in ("height", "width", "channels")]
STAGES = ("read", "decode", "predict", "measure")
_SECONDS = [pa.field(f"{stage}_s", pa.float64()) for stage in STAGES]
PIXELS = pa.schema([*PLAN, *_SHAPE, *_FAILURE, ("pixels", pa.large_binary()), *_SECONDS[:2]])
_MASKS = pa.field("masks", pa.list_(pa.struct(list(MASKS))))
_REGIONS = pa.field("regions", pa.list_(pa.struct(list(REGIONS))))
PROBABILITIES = pa.schema(
    [
        *PLAN,
        *_SHAPE,
        *_FAILURE,
        ("q", pa.large_binary()),
        _MASKS,  # of an image that was measured tile by tile
        _REGIONS,
        *_SECONDS,
        ("batch_divisor", pa.int32()),
    ]
)
ROWS = pa.schema(
    [
        *IMAGES,
        _MASKS,
        _REGIONS,
        *_SECONDS,
        ("batch_divisor", pa.int32()),
    ]
)


def place_of(row: dict[str, Any]) -> PagePlace | None:
    """Return where the page of a stack lies; None for a row whose image is a file."""
    if row["place"] is None:
        return None
    flat = row["place"]["ranges"]
    return PagePlace(**row["place"] | {"ranges": tuple(zip(flat[::2], flat[1::2], strict=True))})


def failure(error: Exception, stage: str) -> dict[str, Any]:
    """Return the columns of an image that failed at a stage."""
    if isinstance(error, ImageError):
        kind, text = error.error_type, error.message
    else:
        kind, text = "out_of_memory" if isinstance(error, MemoryError) else "internal", one_line(error)
    return {"error_type": kind, "error": text, "error_stage": stage}


def table_with(rows: list[dict[str, Any]], schema: Any, samples: str) -> Any:
    """Return rows as a table; its column of samples is written in one piece, while other threads go on.

    Args:
        rows — one image each; samples a C-contiguous array or None.
        schema — of the table.
        samples — name of a `large_binary` column.
    """
    found = [row[samples] for row in rows]
    is_there = [each is not None for each in found]
    offsets = np.cumsum([0, *(0 if each is None else each.nbytes for each in found)], dtype=np.int64)
    joined = np.empty(offsets[-1], np.uint8)
    for each, first, end in zip(found, offsets, offsets[1:], strict=False):
        if each is not None:
            joined[first:end] = each.reshape(-1).view(np.uint8)
    buffers = [pa.array(is_there, pa.bool_()).buffers()[1], pa.py_buffer(offsets), pa.py_buffer(joined)]
    column = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers, null_count=is_there.count(False))
    place = schema.get_field_index(samples)
    others = pa.Table.from_pylist(rows, schema=schema.remove(place))
    return others.add_column(place, schema.field(place), column)


def samples_of(column: Any) -> list[NDArray[np.uint8] | None]:
    """Return the bytes of each row of a `large_binary` column, where they lie: a scalar of Arrow's would be a copy."""
    found: list[NDArray[np.uint8] | None] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        offsets = np.frombuffer(ends, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        joined = np.frombuffer(data, np.uint8)
        there = chunk.is_valid().to_pylist()
        pieces = zip(there, offsets, offsets[1:], strict=False)
        found += [joined[first:end] if is_there else None for is_there, first, end in pieces]
    return found
