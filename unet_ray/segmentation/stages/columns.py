"""Columns of the tables that go from stage to stage."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.errors import CredentialsError, ImageError, one_line
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.image_place import ImageKey, ImagePlace, PagePlace
from unet_ray.tables.binary_columns import unpack_bits
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS

_PAGE = pa.struct(
    [
        ("header", pa.binary()),
        ("index", pa.int32()),
        ("size", pa.int64()),
        ("ranges", pa.list_(pa.int64())),  # offset, size, offset, size …
    ]
)
_PLACE = pa.struct(
    [
        ("file_size", pa.int64()),
        ("size", pa.int64()),
        ("pages", pa.list_(_PAGE)),
        ("mask", _PAGE),
        ("channels", pa.list_(pa.string())),
        ("pixel_size_um", pa.list_(pa.float64())),
        ("error", pa.string()),
    ]
)
PLACE_SQL = (
    'STRUCT(file_size BIGINT, size BIGINT, pages STRUCT(header BLOB, "index" INTEGER, '
    'size BIGINT, ranges BIGINT[])[], mask STRUCT(header BLOB, "index" INTEGER, size BIGINT, '
    "ranges BIGINT[]), channels VARCHAR[], pixel_size_um DOUBLE[], error VARCHAR)"
)
"""Type of the column `place` in DuckDB."""
PLAN = pa.schema(
    [
        ("image_uri", pa.string()),
        ("file_uri", pa.string()),
        ("page", pa.int32()),  # of a file whose axes are not known, from 1
        ("series", pa.int32()),
        ("t", pa.int32()),
        ("z", pa.int32()),
        ("image_etag", pa.string()),
        ("image_bytes", pa.int64()),
        ("pages", pa.int32()),
        ("place", _PLACE),  # an `ImagePlace`; null if the image is the first page of its file
    ]
)
_FAILURE = [pa.field(name, pa.string()) for name in ("error_type", "error", "error_stage")]
_SHAPE = [pa.field(name, pa.int32()) for name in ("height", "width", "channels")]
STAGES = ("read", "decode", "predict", "measure")
_SECONDS = [pa.field(f"{stage}_s", pa.float64()) for stage in STAGES]
_FOUND = [
    ("valid", pa.large_binary()),  # pixels that are there, as np.packbits packs them; null: all
    ("valid_pixels", pa.int64()),
    ("pixel_size_x_um", pa.float64()),
    ("pixel_size_y_um", pa.float64()),
    ("note", pa.string()),  # a choice where the file can be read in two ways
    ("content_hash", pa.string()),
]
"""Columns of what decoding finds out beside the pixels."""
PIXELS = pa.schema(
    [
        *PLAN,
        *_SHAPE,
        *_FAILURE,
        ("pixels", pa.large_binary()),
        ("dtype", pa.string()),  # type of the samples in `pixels`
        *_FOUND,
        *_SECONDS[:2],
    ]
)
_MASKS = pa.field("masks", pa.list_(pa.struct(list(MASKS))))
_REGIONS = pa.field("regions", pa.list_(pa.struct(list(REGIONS))))
PROBABILITIES = pa.schema(
    [
        *PLAN,
        *_SHAPE,
        *_FAILURE,
        ("prob_u8", pa.large_binary()),
        *_FOUND,
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
        ("note", pa.string()),
    ]
)


def place_row(source: ImageSource) -> dict[str, Any]:
    """Return the columns of PLAN that tell an image from the others of its file."""
    key, place = source.key, source.place
    row: dict[str, Any] = {"page": key.page, "series": key.series, "t": key.t, "z": key.z}
    if place is None:
        return row | {"place": None}
    return row | {
        "place": {
            "file_size": place.file_size,
            "size": place.size,
            "pages": [*map(_page_row, place.pages)],
            "mask": place.mask and _page_row(place.mask),
            "channels": place.channels,
            "pixel_size_um": place.pixel_size_um,
            "error": place.error,
        }
    }


def _page_row(page: PagePlace) -> dict[str, Any]:
    return vars(page) | {"ranges": [*chain.from_iterable(page.ranges)]}


def image_place(row: dict[str, Any]) -> ImagePlace | None:
    """Return the place of an image in its file; None for a row whose image is its first page."""
    if row["place"] is None:
        return None
    found = {name: value for name, value in row["place"].items() if name != "size"}
    size = found["pixel_size_um"]
    return ImagePlace(
        **found
        | {
            "key": ImageKey(*(row[name] for name in ("page", "series", "t", "z"))),
            "pages": tuple(map(_page_place, found["pages"])),
            "mask": found["mask"] and _page_place(found["mask"]),
            "channels": tuple(found["channels"]),
            "pixel_size_um": size and tuple(size),
        }
    )


def _page_place(row: dict[str, Any]) -> PagePlace:
    flat = row["ranges"]
    return PagePlace(**row | {"ranges": tuple(zip(flat[::2], flat[1::2], strict=True))})


def found_row(image: DecodedImage) -> dict[str, Any]:
    """Return what decoding an image found out beside its pixels, as columns of PIXELS."""
    valid = image.valid
    return {
        "valid": None if valid is None else np.packbits(valid).tobytes(),
        "valid_pixels": image.height * image.width if valid is None else int(valid.sum()),
        "note": "; ".join(image.notes) or None,
    } | pixel_size_row(image)


def pixel_size_row(image: DecodedImage) -> dict[str, float | None]:
    """Return the pixel size of an image as columns of PIXELS."""
    width_um, height_um = image.pixel_size_um or (None, None)
    return {"pixel_size_x_um": width_um, "pixel_size_y_um": height_um}


def read_pixel_size(row: dict[str, Any]) -> tuple[float, float] | None:
    """Return the pixel size that `pixel_size_row` put into a row."""
    width_um, height_um = row["pixel_size_x_um"], row["pixel_size_y_um"]
    return None if width_um is None or height_um is None else (width_um, height_um)


def valid_mask(row: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Return the pixels of an image that are there, (H, W); None if all of them are."""
    if row.get("valid") is None:
        return None
    return unpack_bits(row["valid"], row["height"], row["width"])


def failure(error: Exception, stage: str) -> dict[str, Any]:
    """Return the error columns of an image that failed at a stage.

    Raises:
        CredentialsError: The error is one, which no image is to blame for.
    """
    if isinstance(error, CredentialsError):
        raise error
    if isinstance(error, ImageError):
        kind, text = error.error_type, error.message
    else:
        kind, text = (
            "out_of_memory" if isinstance(error, MemoryError) else "internal",
            one_line(error),
        )
    return {"error_type": kind, "error": text, "error_stage": stage}
