"""Annotations: the common form of label files of all formats.

They hold images, objects with their outlines, and notes. Parsers (`formats`) build them in the
decoder's child process; training and evaluation draw masks from them (`drawing`). They are two
Arrow tables, so a million objects take little more memory than their coordinates and travel to
workers without a copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as shorten
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class LabelError(ValueError):
    """A label file cannot be used; the text names the place in it and the remedy."""


WHOLE = -(2**31)
"""Value of `left` and `top` for run lengths that cover the whole image."""
NO_CATEGORY = -1
"""Category of objects that have no class; their pixels are not counted."""


IMAGES = pa.schema(
    [
        # name of the image in the file
        ("name", pa.string()),
        # other texts of the file that may identify the image: paths, URLs
        ("places", pa.list_(pa.string())),
        # full name of the image in an export of this package, with its page
        ("uri", pa.string()),
        # size of the image for which the labels were drawn (px); null where it is not stated
        ("width", pa.int32()),
        ("height", pa.int32()),
        # True if coordinates are shares of width and height, 0 to 1
        ("is_normalised", pa.bool_()),
        # coordinate system: null for pixels, a code such as EPSG:32633, or UNSTATED. Where it is
        # not null, `georeferenced` finds the pixels; an entry without a name stands for all images
        # that its objects lie on
        ("crs", pa.string()),
        # why the labels of this image cannot be used
        ("error", pa.string()),
    ]
)
"""Columns of the images."""
UNSTATED = "unstated"
"""Coordinate system of a file that may hold map coordinates, but does not say which."""
PART = pa.struct(
    [
        # corners of a polygon, x and y in turn (px from the upper left corner of the image, whose
        # first pixel covers 0 to 1); empty for run lengths
        ("points", pa.list_(pa.float64())),
        # True if the polygon is a hole in the last part before it that is not a hole itself
        ("is_hole", pa.bool_()),
        # COCO compressed run lengths, column-major, of the box that follows; empty for polygons
        ("counts", pa.binary()),
        # box of the run lengths (px); left and top are WHOLE if it is the whole image; all four
        # are 0 for polygons
        ("left", pa.int32()),
        ("top", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
OBJECTS = pa.schema(
    [
        # row of the image, row of the category (NO_CATEGORY: none)
        ("image", pa.int32()),
        ("category", pa.int32()),
        # True if its pixels are not counted: a crowd, or a box without an outline
        ("is_ignored", pa.bool_()),
        # its name in messages: "annotation 17"
        ("label", pa.string()),
        # why it cannot be drawn, and its image cannot be used; null if it can
        ("error", pa.string()),
        ("parts", pa.list_(PART)),
    ]
)
"""Columns of the objects."""


@dataclass(frozen=True)
class Category:
    """A category of a label file."""

    name: str
    id: int | None = None
    """Its id in the file, if that can be the id of a class."""


@dataclass(frozen=True)
class Polygon:
    """An outline with its holes."""

    outer: Sequence[float]
    """Corners, x and y in turn (px)."""
    holes: Sequence[Sequence[float]] = ()
    """Corners of each hole."""


@dataclass(frozen=True)
class Runs:
    """Run lengths of a whole image or of a box in it."""

    counts: bytes
    """COCO compressed run lengths: column-major, background first."""
    height: int
    """Height of the image or the box (px)."""
    width: int
    """Width of the image or the box (px)."""
    left: int | None = None
    """First column of the box; None if the run lengths cover the whole image."""
    top: int | None = None
    """First row of the box; None if the run lengths cover the whole image."""


@dataclass(frozen=True)
class Annotations:
    """Content of a label file, or of a folder of them, about a set of images."""

    categories: tuple[Category, ...]
    images: pa.Table
    """Table of IMAGES."""
    objects: pa.Table
    """Table of OBJECTS, in the order in which they are drawn."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of things that were left out, or read differently from how they are written, by a text
    in the plural: `keypoints`, `boxes without an outline: their pixels are not counted`."""
    notes: tuple[str, ...] = ()
    """Choices that were made, for the user: one line each."""

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the objects, image by image, and the position of the first one of each image."""
        images = self.objects["image"].to_numpy()
        order = np.argsort(images, kind="stable")
        starts = np.searchsorted(images[order], np.arange(len(self.images) + 1))
        return order, starts

    def count_objects(self, image: int) -> int:
        """Return the number of objects of an image."""
        _, starts = self._rows
        return int(starts[image + 1] - starts[image])

    def rows_of(self, image: int) -> NDArray[np.int64]:
        """Return the rows in `objects` that belong to an image."""
        order, starts = self._rows
        return order[starts[image] : starts[image + 1]]

    def take_objects(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Return some rows of `objects` as dictionaries, with points as lists of numbers."""
        return self.objects.take(pa.array(rows)).to_pylist()

    def objects_of(self, image: int) -> list[dict[str, Any]]:
        """Return the objects of an image in the form of `take_objects`."""
        return self.take_objects(self.rows_of(image))

    def find_boxes(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the box around each of some objects, in the coordinates of the label file.

        Args:
            rows: Rows of the objects.

        Returns:
            Top, left, bottom and right, (objects, 4). The box of an object that has an error, or
            run lengths of the whole image, is infinite; that of one without parts is empty.
        """
        chosen = self.objects.select(["parts", "error"]).take(pa.array(rows))
        parts_of_objects = _combine(chosen["parts"])
        parts = parts_of_objects.flatten()
        points = _combine(parts.field("points"))
        num_parts = parts_of_objects.value_lengths().fill_null(0)
        num_corners = points.value_lengths().fill_null(0).to_numpy() // 2
        object_of_part = np.repeat(np.arange(len(rows)), num_parts)
        object_of_corner = np.repeat(object_of_part, num_corners)

        boxes = np.full((len(rows), 4), (np.inf, np.inf, -np.inf, -np.inf))
        corners = points.flatten().to_numpy().reshape(-1, 2)[:, ::-1].T  # y and x
        _include(boxes, object_of_corner, corners, corners)

        corner = _stack_fields(parts, "top", "left")
        size = _stack_fields(parts, "height", "width")
        is_whole = (corner == WHOLE).all(axis=0)
        has_runs = size[0] > 0
        first = np.where(is_whole, -np.inf, corner)[:, has_runs]
        end = np.where(is_whole, np.inf, corner + size)[:, has_runs]
        _include(boxes, object_of_part[has_runs], first, end)

        has_error = chosen["error"].is_valid().to_numpy()
        boxes[has_error] = (-np.inf, -np.inf, np.inf, np.inf)
        return boxes

    def to_bytes(self) -> bytes:
        """Return the annotations as bytes; `from_bytes` reads them."""
        return bytes(self.to_buffer())

    def to_buffer(self) -> memoryview:
        """Return the same bytes without a copy: they may be a gigabyte."""
        size = pa.MockOutputStream()
        self._write(size)
        buffer = pa.allocate_buffer(size.size())
        with pa.FixedSizeBufferWriter(buffer) as sink:
            self._write(sink)
        return memoryview(buffer)

    def _write(self, sink: pa.NativeFile) -> None:
        head = {
            "categories": [[each.name, each.id] for each in self.categories],
            "left_out": dict(self.left_out),
            "notes": self.notes,
        }
        images = self.images.replace_schema_metadata({"head": json.dumps(head)})
        for table in (images, self.objects):
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)

    @staticmethod
    def from_bytes(data: bytes | bytearray) -> Annotations:
        """Read what `to_bytes` returns, without trusting it.

        Raises:
            ValueError: The bytes are not annotations.
        """
        try:
            return Annotations._read(pa.BufferReader(data))
        except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
            raise ValueError(f"the bytes are not annotations: {error}") from None
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the bytes are not annotations: {error!r}") from None

    @staticmethod
    def _read(source: pa.BufferReader) -> Annotations:
        images = _read_table(source, IMAGES)
        objects = _read_table(source, OBJECTS)
        head = json.loads((images.schema.metadata or {})[b"head"])
        categories = list[Category]()
        for name, id in head["categories"]:
            if id is not None and type(id) is not int:
                raise ValueError(f"a category has the id {shorten(id)}, not a whole number")
            categories.append(Category(str(name), id))
        _check_rows(images, objects, len(categories))
        return Annotations(
            categories=tuple(categories),
            images=images.replace_schema_metadata(None),
            objects=objects,
            left_out={str(what): int(count) for what, count in head["left_out"].items()},
            notes=tuple(str(note) for note in head["notes"]),
        )


def _read_table(source: pa.BufferReader, schema: pa.Schema) -> pa.Table:
    """Return the next table of a buffer; raise ValueError if it does not have a schema."""
    with pa.ipc.open_stream(source) as reader:
        table = reader.read_all()
    table.validate(full=True)
    if not table.schema.equals(schema):
        raise ValueError("the columns are not those of annotations")
    return table


def _check_rows(images: pa.Table, objects: pa.Table, num_categories: int) -> None:
    """Raise ValueError if values are missing, or rows of images or categories do not exist."""
    parts = objects["parts"].combine_chunks().flatten()
    fields = [parts.field(index) for index in range(parts.type.num_fields)]
    required = [
        *(images[name] for name in ("name", "places", "is_normalised")),
        *(objects[name] for name in OBJECTS.names if name != "error"),
        images["places"].combine_chunks().flatten(),
        *(parts, *fields, fields[0].flatten()),
    ]
    if any(column.null_count for column in required):
        raise ValueError("values are missing")
    for column, first, count in (
        ("image", 0, len(images)),
        ("category", NO_CATEGORY, num_categories),
    ):
        rows = objects[column].to_numpy()
        if len(rows) and not first <= rows.min() <= rows.max() < count:
            raise ValueError(f"an object refers to a row of {column} that does not exist")


def _stack_fields(parts: pa.StructArray, *names: str) -> NDArray[np.float64]:
    """Return fields of parts as rows of an array, (fields, parts)."""
    return np.array([parts.field(name).fill_null(0).to_numpy() for name in names], np.float64)


def _include(
    boxes: NDArray[np.float64],
    owners: NDArray[np.int64],
    first: NDArray[np.float64],
    end: NDArray[np.float64],
) -> None:
    """Grow boxes, in place, until they hold some points or rectangles.

    Args:
        boxes: Top, left, bottom and right, (boxes, 4).
        owners: Index of the box that holds each rectangle, (rectangles,).
        first: Top and left of each rectangle, (2, rectangles).
        end: Bottom and right of each rectangle, (2, rectangles).
    """
    with np.errstate(invalid="ignore"):  # the box of a coordinate that is NaN is NaN
        for side in (0, 1):
            np.minimum.at(boxes[:, side], owners, first[side])
            np.maximum.at(boxes[:, side + 2], owners, end[side])


def _combine(column: pa.ChunkedArray | pa.Array) -> pa.ListArray:
    """Return a column of lists in one piece, whose values begin with those of its first row."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays([array])
