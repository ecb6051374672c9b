"""Building of annotations by the parsers of label files, in whatever order they find things."""

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
"""Largest coordinate that is stored, far beyond those that are drawn."""


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
            fields=list(PART),
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
