"""Recognition of the format of a label file, and its parsing, in the decoder's child process.

A new format is a new module of this package with a `FORMAT`, and an entry in `FORMATS`.
"""

from __future__ import annotations

from io import BufferedReader
from pathlib import PurePosixPath
from typing import Any

from unet_ray.errors import ImageError
from unet_ray.labelled_data.annotations import Annotations, LabelError
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats import (
    coco,
    cvat,
    geojson,
    geopackage,
    geoparquet,
    isat,
    label_studio,
    labelme,
    supervisely,
    via,
    yolo,
)
from unet_ray.labelled_data.formats.label_format import LabelFormat

FORMATS: tuple[LabelFormat, ...] = (
    label_studio.FORMAT,
    geojson.FORMAT,
    coco.FORMAT,
    cvat.FORMAT,
    via.FORMAT,
    via.CSV_FORMAT,
    supervisely.FORMAT,
    isat.FORMAT,
    labelme.FORMAT,
    yolo.FORMAT,
    yolo.CLASSES_FORMAT,
    geopackage.FORMAT,
    geoparquet.FORMAT,
)
"""All formats, in the order in which files are tested for them."""
SUFFIXES = frozenset(suffix for each in FORMATS for suffix in each.suffixes)
"""Suffixes of label files."""
_HEAD_BYTES = 2**20
"""Bytes at the beginning of a file by which its format is recognised."""
_SHOWN_BYTES = 80
"""Bytes at the beginning of a file of unknown format that the error shows."""


def prepare() -> None:
    """Load in advance what libraries load on first use: the child cannot open files later."""
    builder = AnnotationsBuilder()
    builder.add_object(builder.add_image(""), builder.add_category(""), [], label="")
    Annotations.from_bytes(builder.build().to_bytes())
    for each in FORMATS:
        each.prepare()


def answer(file: BufferedReader, arguments: dict[str, Any]) -> memoryview:
    """Parse a label file for `Decoder.call`.

    Args:
        file: Its content.
        arguments: `name`, the path of the file; `label_property`, see `parse_labels`.

    Returns:
        `Annotations.to_buffer`.

    Raises:
        ImageError: `unreadable`: the file cannot be used.
    """
    try:
        annotations = parse_labels(file, arguments["name"], arguments.get("label_property"))
    except LabelError as error:
        raise ImageError("unreadable", str(error)) from None
    return annotations.to_buffer()


def parse_labels(file: BufferedReader, name: str, label_property: str | None = None) -> Annotations:
    """Parse a label file.

    Args:
        file: Its content.
        name: Path of the file; its suffix and its last part matter.
        label_property: Property of features that names their class; `none` for a single class.

    Raises:
        LabelError: The format of the file is unknown, or the file breaks its rules.
    """
    head = file.peek(_HEAD_BYTES)[:_HEAD_BYTES]
    suffix = PurePosixPath(name).suffix.lower()
    of_suffix = [each for each in FORMATS if suffix in each.suffixes]
    builder = AnnotationsBuilder(label_property)
    for each in of_suffix:
        if each.recognises(head):
            each.parse(file, name, builder)
            return builder.build()
    known = ", ".join(each.name for each in of_suffix or FORMATS)
    raise LabelError(f"it is in none of the supported formats: {known}; {_describe_start(head)}")


def _describe_start(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16 text: save it as UTF-8"
    words = head[:_SHOWN_BYTES].decode(errors="replace").split()
    return f"it begins with {' '.join(words)!r}"
