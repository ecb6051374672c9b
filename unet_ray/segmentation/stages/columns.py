"""Columns of the tables that go from stage to stage."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from unet_ray.errors import ImageError, one_line
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS

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
        ("place", _PLACE),  # of the page of a stack: a `tiff.PagePlace`
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
        ("prob_u8", pa.large_binary()),
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


def page_place(row: dict[str, Any]) -> PagePlace | None:
    """Return the place of a page in its stack; None for a row whose image is a file."""
    if row["place"] is None:
        return None
    flat = row["place"]["ranges"]
    return PagePlace(**row["place"] | {"ranges": tuple(zip(flat[::2], flat[1::2], strict=True))})


def failure(error: Exception, stage: str) -> dict[str, Any]:
    """Return the error columns of an image that failed at a stage."""
    if isinstance(error, ImageError):
        kind, text = error.error_type, error.message
    else:
        kind, text = (
            "out_of_memory" if isinstance(error, MemoryError) else "internal",
            one_line(error),
        )
    return {"error_type": kind, "error": text, "error_stage": stage}
