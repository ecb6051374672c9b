"""The one form in which all label files end: images, objects with their outlines, and notes.

Parsers (`formats`) build it in the decoder's child process; training and evaluation draw masks from
it (`drawing`). It is two Arrow tables, so that a million objects take little more memory than their
coordinates, and travel to workers without a copy.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as shorten
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class LabelError(ValueError):
    """A label file cannot be used; the text names the place in it and the remedy."""


WHOLE = -(2**31)
"""First column and row of run lengths that are those of a whole image."""
NO_CATEGORY = -1
"""Category of objects that are pixels not to be counted, whatever they show."""

_LARGEST_NUMBER = 1e300
"""Largest coordinate that is stored, far beyond those that are drawn."""

IMAGES = pa.schema(
    [
        # what the file calls the image
        ("name", pa.string()),
        # other texts of the file that may tell which image it is: paths, URLs
        ("places", pa.list_(pa.string())),
        # full name of the image in an export of this package, with its page
        ("uri", pa.string()),
        # size of the image for which the labels were drawn (px); null where it is not stated
        ("width", pa.int32()),
        ("height", pa.int32()),
        # True if coordinates are shares of width and height, 0 to 1
        ("is_normalised", pa.bool_()),
        # coordinate system of its coordinates: null for pixels, a code such as EPSG:32633, or
        # UNSTATED. An image with one is placed by `georeferenced`; if its name is empty, its
        # objects lie on whichever images they meet
        ("crs", pa.string()),
        # why the labels of this image cannot be used
        ("error", pa.string()),
    ]
)
"""Columns of the images."""
UNSTATED = "unstated"
"""Coordinate system of a file that may hold map coordinates, but does not say which."""
_PART = pa.struct(
    [
        # corners of a polygon, x and y in turn (px from the upper left corner of the image, whose
        # first pixel covers 0 to 1); empty for run lengths
        ("points", pa.list_(pa.float64())),
        # True if the polygon is a hole of the last part that is none
        ("is_hole", pa.bool_()),
        # COCO compressed run lengths, column-major, of the box that follows; empty for polygons
        ("counts", pa.binary()),
        # box of the run lengths (px); left and top are WHOLE for those of a whole image, all of
        # them are 0 for polygons
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
        # why it cannot be drawn; it costs its image
        ("error", pa.string()),
        ("parts", pa.list_(_PART)),
    ]
)
"""Columns of the objects."""


@dataclass(frozen=True)
class Category:
    """A category of a label file."""

    name: str
    id: int | None = None
    """Its id in the file, if it has one that can be the id of a class."""


@dataclass(frozen=True)
class Polygon:
    """An outline with its holes."""

    outer: Sequence[float]
    """Corners, x and y in turn (px)."""
    holes: Sequence[Sequence[float]] = ()
    """Corners of each hole."""


@dataclass(frozen=True)
class Runs:
    """Run lengths of a whole image or of a box of it."""

    counts: bytes
    """COCO compressed run lengths: column-major, background first."""
    height: int
    """Height of the image or the box (px)."""
    width: int
    """Width of the image or the box (px)."""
    left: int | None = None
    """First column of the box; None: the run lengths are those of the whole image."""
    top: int | None = None
    """First row of the box; None as `left`."""


@dataclass(frozen=True)
class Annotations:
    """Content of a label file, or of a folder of them, about a set of images."""

    categories: tuple[Category, ...]
    images: pa.Table
    """Table of IMAGES."""
    objects: pa.Table
    """Table of OBJECTS, in the order in which they are drawn."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Things that were left out or taken in another way than they stand, and how often; texts in
    the plural: `keypoints`, `boxes without an outline: their pixels are not counted`."""
    notes: tuple[str, ...] = ()
    """Choices that were made, for the user: one line each."""

    @cached_property
    def _rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the objects, image by image, and where those of each image begin."""
        images = self.objects["image"].to_numpy()
        order = np.argsort(images, kind="stable")
        return order, np.searchsorted(images[order], np.arange(len(self.images) + 1))

    def objects_of(self, image: int) -> list[dict[str, Any]]:
        """Return the objects of an image as rows of OBJECTS; points are lists of numbers."""
        order, starts = self._rows
        rows = order[starts[image] : starts[image + 1]]
        return self.objects.take(pa.array(rows)).to_pylist()

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

    def _write(self, sink: Any) -> None:
        head = {
            "categories": [[each.name, each.id] for each in self.categories],
            "left_out": dict(self.left_out),
            "notes": self.notes,
        }
        for table in (
            self.images.replace_schema_metadata({"head": json.dumps(head)}),
            self.objects,
        ):
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)

    @staticmethod
    def from_bytes(data: bytes | bytearray) -> Annotations:
        """Read what `to_bytes` returns, without trusting it.

        Raises:
            ValueError: The bytes are nothing of the kind.
        """
        try:
            return Annotations._read(pa.BufferReader(data))
        except (pa.ArrowException, OSError, MemoryError, OverflowError) as error:
            raise ValueError(f"no annotations: {error}") from None
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no annotations: {error!r}") from None

    @staticmethod
    def _read(source: pa.BufferReader) -> Annotations:
        tables = []
        for schema in (IMAGES, OBJECTS):
            with pa.ipc.open_stream(source) as reader:
                tables.append(reader.read_all())
            tables[-1].validate(full=True)
            if not tables[-1].schema.equals(schema):
                raise ValueError("other columns than those of annotations")
        images, objects = tables
        head = json.loads((images.schema.metadata or {})[b"head"])
        categories = [Category(str(name), _read_number(id)) for name, id in head["categories"]]
        _check_rows(images, objects, len(categories))
        return Annotations(
            tuple(categories),
            images.replace_schema_metadata(None),
            objects,
            {str(what): int(count) for what, count in head["left_out"].items()},
            tuple(map(str, head["notes"])),
        )


def _read_number(value: Any) -> int | None:
    """Return the id of a category; raise ValueError for what is none."""
    if value is not None and type(value) is not int:
        raise ValueError(f"the id {shorten(value)} of a category")
    return value


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
            raise ValueError(f"an object with a row of {column} that is not there")


class AnnotationsBuilder:
    """Collects images and objects, in any order, into `Annotations`.

    Args:
        label_property: Property of features that names their class, if the user gave one.
    """

    def __init__(self, label_property: str | None = None) -> None:
        self.label_property = label_property
        """Property that names the class; parsers of formats with properties look it up."""
        self.left_out = Counter[str]()
        """See `Annotations.left_out`; parsers count here."""
        self.notes: list[str] = []
        """See `Annotations.notes`."""
        self._categories: list[Category] = []
        self._rows_by_name: dict[str, int] = {}
        self._images: list[dict[str, Any] | None] = []
        self._merged: dict[int, int] = {}
        self._image, self._category = array("i"), array("i")
        self._is_ignored, self._labels, self._errors = array("b"), _Texts(), dict[int, str]()
        self._part_ends, self._point_ends, self._points = array("i"), array("i"), array("d")
        self._is_hole, self._counts, self._boxes = array("b"), _Texts(), array("i")

    def add_category(self, name: str, id: int | None = None) -> int:
        """Add a category and return its row."""
        row = self.reserve_category()
        self.describe_category(row, name, id)
        return row

    def find_category(self, name: str, id: int | None = None) -> int:
        """Return the row of the category of a name; it is added if there is none."""
        row = self._rows_by_name.get(name)
        return self.add_category(name, id) if row is None else row

    def reserve_category(self) -> int:
        """Return the row of a category that is described later."""
        self._categories.append(Category(""))
        return len(self._categories) - 1

    def describe_category(self, row: int, name: str, id: int | None = None) -> None:
        """Say which category a row is.

        Args:
            row: Its row.
            name: Its name; categories of the same name are one class.
            id: Its id in the file, if that can be the id of a class.
        """
        self._categories[row] = Category(name, id)
        self._rows_by_name.setdefault(name, row)

    def add_image(
        self,
        name: str,
        *,
        places: Iterable[str] = (),
        uri: str | None = None,
        size: tuple[int, int] | None = None,
        is_normalised: bool = False,
        crs: str | None = None,
        error: str | None = None,
    ) -> int:
        """Add an image and return its row; the arguments are those of `describe_image`."""
        row = self.reserve_image()
        self.describe_image(
            row,
            name,
            places=places,
            uri=uri,
            size=size,
            is_normalised=is_normalised,
            crs=crs,
            error=error,
        )
        return row

    def reserve_image(self) -> int:
        """Return the row of an image that is described later; without that, it is left out."""
        self._images.append(None)
        return len(self._images) - 1

    def describe_image(
        self,
        row: int,
        name: str,
        *,
        places: Iterable[str] = (),
        uri: str | None = None,
        size: tuple[int, int] | None = None,
        is_normalised: bool = False,
        crs: str | None = None,
        error: str | None = None,
    ) -> None:
        """Say what is known of an image.

        Args:
            row: Its row.
            name: What the file calls it.
            places: Other texts of the file that may tell which image it is.
            uri: Full name of the image in an export of this package.
            size: Width and height for which the labels were drawn (px), if stated.
            is_normalised: True if coordinates are shares of width and height.
            crs: Coordinate system of its coordinates, see IMAGES; None for pixels.
            error: Why its labels cannot be used.
        """
        width, height = size or (None, None)
        values = (name, list(places), uri, width, height, is_normalised, crs, error)
        self._images[row] = dict(zip(IMAGES.names, values, strict=True))

    def merge_image(self, row: int, into: int) -> None:
        """Say that a row is the same image as an earlier one, which gets its objects."""
        self._merged[row] = into

    def add_object(
        self,
        image: int,
        category: int,
        parts: Iterable[Polygon | Runs],
        *,
        label: str,
        is_ignored: bool = False,
        error: str | None = None,
    ) -> None:
        """Add an object, which is drawn over those that were added before.

        Args:
            image: Row of its image.
            category: Row of its category, or NO_CATEGORY.
            parts: Parts that together are the object.
            label: Its name in messages.
            is_ignored: True if its pixels are not counted.
            error: Why it cannot be drawn; it costs its image.
        """
        parts = [*parts]
        try:
            rows = [row for part in parts for row in _list_rows(part)]
        except (TypeError, ValueError, OverflowError):
            rows, error = (
                [],
                error or f"the coordinate {_find_no_number(parts)}, which is no number",
            )
        for points, is_hole, counts, box in rows:
            self._points.extend(points)
            self._point_ends.append(len(self._points))
            self._is_hole.append(is_hole)
            self._counts.append(counts)
            self._boxes.extend(box)
        if error is not None:
            self._errors[len(self._image)] = error
        self._image.append(image)
        self._category.append(category)
        self._is_ignored.append(is_ignored)
        self._labels.append(label.encode())
        self._part_ends.append(len(self._is_hole))

    def build(self) -> Annotations:
        """Return what was collected."""
        left, top, width, height = (self._boxes[i::4] for i in range(4))
        parts = pa.StructArray.from_arrays(
            [
                _make_lists(self._point_ends, _make_array(self._points)),
                _make_array(self._is_hole).cast(pa.bool_()),
                self._counts.build(pa.binary()),
                *map(_make_array, (left, top, width, height)),
            ],
            fields=list(_PART),
        )
        errors = pa.array([self._errors.get(i) for i in range(len(self._image))], pa.string())
        images, rows = self._settle_images()
        objects = pa.Table.from_arrays(
            [
                pa.array(
                    rows[np.frombuffer(self._image, np.int32)] if self._image else [], "int32"
                ),
                _make_array(self._category),
                _make_array(self._is_ignored).cast(pa.bool_()),
                self._labels.build(pa.string()),
                errors,
                _make_lists(self._part_ends, parts),
            ],
            schema=OBJECTS,
        )
        if len(rows) and rows.min() < 0:  # images that are not described
            objects = objects.filter(pc.greater_equal(objects["image"], 0)).combine_chunks()
        return Annotations(
            tuple(self._categories), images, objects, dict(self.left_out), tuple(self.notes)
        )

    def _settle_images(self) -> tuple[pa.Table, NDArray[np.int32]]:
        """Return the images that are described, and the row there of each row here; -1: none."""
        known = [row for row, each in enumerate(self._images) if each and row not in self._merged]
        rows = np.full(len(self._images), -1, np.int32)
        rows[known] = np.arange(len(known))
        for row, into in self._merged.items():
            rows[row] = rows[into]
        return pa.Table.from_pylist([self._images[row] for row in known], schema=IMAGES), rows


_Row = tuple[Iterable[float], bool, bytes, Iterable[int]]


def _list_rows(part: Polygon | Runs) -> Iterator[_Row]:
    """Yield points, whether they are a hole, counts and box of each row that a part becomes.

    Raises:
        TypeError: A number is none; ValueError and OverflowError too.
    """
    if isinstance(part, Runs):
        left, top = (WHOLE if side is None else side for side in (part.left, part.top))
        box = array("i", (left, top, part.width, part.height))
        yield array("d"), False, part.counts, box
        return
    for place, ring in enumerate((part.outer, *part.holes)):
        yield array("d", ring), place > 0, b"", array("i", (0, 0, 0, 0))


def _find_no_number(parts: Iterable[Polygon | Runs]) -> str:
    """Return the first coordinate of outlines that is no number of a bearable size, shortened."""
    rings = (
        ring for part in parts if isinstance(part, Polygon) for ring in (part.outer, *part.holes)
    )
    for ring in rings:
        for number in ring if isinstance(ring, Sequence) else [ring]:
            if not isinstance(number, int | float) or abs(number) > _LARGEST_NUMBER:
                return shorten(number)
    return "of run lengths"


class _Texts:
    """Many short texts in one buffer."""

    def __init__(self) -> None:
        self._data, self._ends = bytearray(), array("i")

    def append(self, text: bytes) -> None:
        """Add a text at the end."""
        self._data += text
        self._ends.append(len(self._data))

    def build(self, kind: pa.DataType) -> pa.Array:
        """Return the texts as an Arrow array of `binary` or `string`."""
        offsets = pa.py_buffer(np.concatenate([[0], self._ends]).astype(np.int32))
        return pa.Array.from_buffers(
            kind, len(self._ends), [None, offsets, pa.py_buffer(self._data)]
        )


def _make_array(values: array[Any]) -> pa.Array:
    return pa.array(
        np.frombuffer(values, values.typecode) if values else np.zeros(0, values.typecode)
    )


def _make_lists(ends: array[int], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]).astype(np.int32)), values)
