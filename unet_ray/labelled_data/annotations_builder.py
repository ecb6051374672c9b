"""Builder of annotations, which parsers of label files call in any order."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from reprlib import repr as shorten
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from unet_ray.labelled_data.annotations import (
    IMAGES,
    OBJECTS,
    PART,
    WHOLE,
    Annotations,
    Category,
    Polygon,
    Runs,
)

_LARGEST_NUMBER = 1e300
"""Largest coordinate that is stored, far larger than any that is drawn."""


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
        # columns of the objects
        self._image = array("i")
        self._category = array("i")
        self._is_ignored = array("b")
        self._labels = _Texts()
        self._errors: dict[int, str] = {}
        self._part_ends = array("i")
        # columns of their parts
        self._point_ends = array("i")
        self._points = array("d")
        self._is_hole = array("b")
        self._counts = _Texts()
        self._boxes = array("i")

    def add_category(self, name: str, id: int | None = None) -> int:
        """Add a category and return its row."""
        row = self.reserve_category()
        self.describe_category(row, name, id)
        return row

    def find_category(self, name: str, id: int | None = None) -> int:
        """Return the row of the category of this name; add it if there is none."""
        row = self._rows_by_name.get(name)
        return self.add_category(name, id) if row is None else row

    def reserve_category(self) -> int:
        """Add a category that is described later, and return its row."""
        self._categories.append(Category(""))
        return len(self._categories) - 1

    def describe_category(self, row: int, name: str, id: int | None = None) -> None:
        """Set the name and id of a category.

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
        """Add an image that is described later, and return its row; it is left out otherwise."""
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
        """Set the properties of an image.

        Args:
            row: Its row.
            name: Its name in the file.
            places: Other texts of the file that may identify it.
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
        """Make a row the same image as an earlier one, which gets its objects."""
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
            error: Why it cannot be drawn, and its image cannot be used.
        """
        parts = [*parts]
        try:
            rows = [row for part in parts for row in _list_rows(part)]
        except (TypeError, ValueError, OverflowError):
            rows = []
            error = error or f"the coordinate {_find_bad_number(parts)} is not a number"
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
        """Return the collected annotations."""
        images, row_of = self._settle_images()
        image_rows = np.zeros(0, np.int32)
        if self._image:
            image_rows = row_of[np.frombuffer(self._image, np.int32)]
        errors = [self._errors.get(number) for number in range(len(self._image))]
        parts = pa.StructArray.from_arrays(
            [
                _make_lists(self._point_ends, _make_array(self._points)),
                _make_array(self._is_hole).cast(pa.bool_()),
                self._counts.build(pa.binary()),
                _make_array(self._boxes[0::4]),
                _make_array(self._boxes[1::4]),
                _make_array(self._boxes[2::4]),
                _make_array(self._boxes[3::4]),
            ],
            fields=list(PART),
        )
        objects = pa.Table.from_arrays(
            [
                pa.array(image_rows),
                _make_array(self._category),
                _make_array(self._is_ignored).cast(pa.bool_()),
                self._labels.build(pa.string()),
                pa.array(errors, pa.string()),
                _make_lists(self._part_ends, parts),
            ],
            schema=OBJECTS,
        )
        if len(row_of) and row_of.min() < 0:  # images that are not described
            is_described = pc.greater_equal(objects["image"], 0)
            objects = objects.filter(is_described).combine_chunks()
        return Annotations(
            categories=tuple(self._categories),
            images=images,
            objects=objects,
            left_out=dict(self.left_out),
            notes=tuple(self.notes),
        )

    def _settle_images(self) -> tuple[pa.Table, NDArray[np.int32]]:
        """Return the described images, and the new row of each row here; -1: none."""
        known = []
        for row, described in enumerate(self._images):
            if described and row not in self._merged:
                known.append(row)
        row_of = np.full(len(self._images), -1, np.int32)
        row_of[known] = np.arange(len(known))
        for row, into in self._merged.items():
            row_of[row] = row_of[into]
        images = pa.Table.from_pylist([self._images[row] for row in known], schema=IMAGES)
        return images, row_of


_Row = tuple[Iterable[float], bool, bytes, Iterable[int]]
"""Points, whether they are a hole, run lengths, and box (left, top, width, height) of a part."""


def _list_rows(part: Polygon | Runs) -> Iterator[_Row]:
    """Yield the rows of a part: one for run lengths, one for each ring of a polygon.

    Raises:
        TypeError: A coordinate is not a number; ValueError and OverflowError mean the same.
    """
    if isinstance(part, Runs):
        left = WHOLE if part.left is None else part.left
        top = WHOLE if part.top is None else part.top
        box = array("i", (left, top, part.width, part.height))
        yield array("d"), False, part.counts, box
        return
    for place, ring in enumerate((part.outer, *part.holes)):
        yield array("d", ring), place > 0, b"", array("i", (0, 0, 0, 0))


def _find_bad_number(parts: Iterable[Polygon | Runs]) -> str:
    """Return the first coordinate of outlines that is not a number or too large, shortened."""
    polygons = [part for part in parts if isinstance(part, Polygon)]
    for polygon in polygons:
        for ring in (polygon.outer, *polygon.holes):
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
        offsets = pa.py_buffer(_make_offsets(self._ends))
        texts = pa.py_buffer(self._data)
        return pa.Array.from_buffers(kind, len(self._ends), [None, offsets, texts])


def _make_array(values: array[int] | array[float]) -> pa.Array:
    if not values:
        return pa.array(np.zeros(0, values.typecode))
    return pa.array(np.frombuffer(values, values.typecode))


def _make_lists(ends: array[int], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(_make_offsets(ends)), values)


def _make_offsets(ends: array[int]) -> NDArray[np.int32]:
    """Return Arrow's offsets, which begin with 0, from the ends of lists."""
    return np.concatenate([[0], ends]).astype(np.int32)
