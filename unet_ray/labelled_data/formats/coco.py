"""COCO instances JSON (cocodataset.org, "data format"), as tools write it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BufferedReader
from reprlib import repr as shorten
from typing import Any, TypeGuard

import numpy as np

from unet_ray.flags import MAX_CLASS_ID
from unet_ray.imaging.regions.run_lengths import compress_counts
from unet_ray.labelled_data.annotations import LabelError, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.json_stream import Element, read_elements
from unet_ray.text import is_utf8

_PLACES = ("path", "coco_url", "s3_url", "flickr_url", "url", "file_path")
"""Keys of an image, besides its name, that may locate it."""
_NAMES = ("file_name", "filename", "path", "coco_url", "image_uri")
"""Keys that may name an image; the first one present counts. LVIS has only a URL."""
_LISTS = ("images", "annotations", "categories")
_NO_OUTLINE = "boxes without an outline: their pixels are not counted"

_WHOLE = re.compile("0|[1-9][0-9]{0,17}")
"""Whole numbers as text, without leading zeros."""

Id = int | str


def _recognises(head: bytes) -> bool:
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    num_lists = sum(f'"{key}"'.encode() in head for key in _LISTS)
    has_keys = b'"image_id"' in head or b'"file_name"' in head
    return is_object and (num_lists > 1 or has_keys)


def _parse(file: BufferedReader, _: str, builder: AnnotationsBuilder) -> None:
    parser = _Parser(builder)
    for element in read_elements(file):
        parser.take(element)
    parser.finish()


class _Parser:
    """Joins the entries of the three lists, which may come in any order."""

    def __init__(self, builder: AnnotationsBuilder) -> None:
        self._builder = builder
        self._seen: set[str] = set()
        self._image_rows: dict[Id, int] = {}
        self._images: dict[Id, dict[str, Any]] = {}
        self._sizes: dict[int, tuple[int, int] | None] = {}
        self._known_as: dict[tuple[str, ...], int] = {}
        self._categories: dict[Id, tuple[str, str]] = {}
        """Id → name, and place in the file."""
        self._category_rows: dict[Id, int] = {}
        self._annotated = Counter[Id]()
        """Id of an image → number of its annotations."""
        self._uses = Counter[Id]()
        """Id of a category → number of its annotations."""
        self._first_use: dict[Id, str] = {}
        """Id of a category → its first annotation."""

    def take(self, element: Element) -> None:
        """Take an entry of one of the lists; skip other values."""
        if element.key not in _LISTS:
            return
        self._seen.add(element.key)
        where, value = element.where, element.value
        if element.index is None:
            # LIVECell maps ids to annotations
            is_table = isinstance(value, dict) and all(
                isinstance(entry, dict) for entry in value.values()
            )
            if element.key == "annotations" and is_table:
                for number, entry in value.items():
                    self._take_annotation(f"{where}[{shorten(number)}]", entry)
            elif value != []:
                raise LabelError(f"{where} is {shorten(value)}; give a list")
            return
        if not isinstance(value, dict):
            raise LabelError(f"{where} is {shorten(value)}; give an object")
        if element.key == "images":
            self._take_image(where, value)
        elif element.key == "annotations":
            self._take_annotation(where, value)
        else:
            self._take_category(where, value)

    def finish(self) -> None:
        """Check that the lists exist, and that annotations refer to their entries."""
        missing = [key for key in _LISTS if key not in self._seen]
        if missing:
            raise LabelError(f"not a COCO instances JSON: it has no list of {missing[0]}")
        unknown = [number for number in self._uses if number not in self._categories]
        if unknown:
            count = sum(self._uses[number] for number in unknown)
            known = []
            for number, (name, _) in self._categories.items():
                known.append(f"{shorten(number)} ({name})")
            there = ", ".join(known)
            raise LabelError(
                f"{count} annotations have a category_id that is not among the categories, the "
                f"first is {self._first_use[unknown[0]]} with {shorten(unknown[0])}; there are "
                f"{there[:300]}; add the category or correct the ids"
            )
        strays = [number for number in self._annotated if number not in self._images]
        if strays and len(strays) == len(self._annotated):
            there = shorten(next(iter(self._images), None))
            raise LabelError(
                "no annotation has an image_id that is among the images: the first has "
                f"{shorten(strays[0])}, but the first image has {there}; correct the ids"
            )
        if strays:
            count = sum(self._annotated[number] for number in strays)
            self._builder.left_out["annotations of images that are not listed"] += count

    def _take_image(self, where: str, entry: dict[str, Any]) -> None:
        number = _read_id(where, entry, "id")
        name = next((entry[key] for key in _NAMES if _is_text(entry.get(key))), None)
        if name is None:
            raise LabelError(
                f"{where} has the file_name {shorten(entry.get('file_name'))}; give text"
            )
        size = _read_size(where, entry)
        places = tuple(entry[key] for key in _PLACES if _is_text(entry.get(key)))
        if _is_text(entry.get("folder")):
            places = (f"{entry['folder']}/{name}", *places)
        uri = entry["image_uri"] if _is_text(entry.get("image_uri")) else None
        if number in self._images:
            if self._images[number] == entry:
                self._builder.left_out["images that are listed twice"] += 1
                return
            raise LabelError(
                f"{where} has the id {shorten(number)} of an image before it; give each its own"
            )
        self._images[number] = entry
        row = self._row_of_image(number)
        first = self._known_as.setdefault((name, uri or "", *places), row)
        if first == row:
            self._sizes[row] = size
            self._builder.describe_image(row, name, places=places, uri=uri, size=size)
            return
        if self._sizes[first] != size:
            raise LabelError(
                f"{where}: {name} is listed twice, with {self._sizes[first]} and {size} px; list "
                "each image once"
            )
        self._builder.merge_image(row, first)
        what = "images that are listed twice: their objects are taken together"
        self._builder.left_out[what] += 1

    def _take_category(self, where: str, entry: dict[str, Any]) -> None:
        number, name = _read_id(where, entry, "id"), entry.get("name")
        if not _is_text(name):
            raise LabelError(f"{where} has the name {shorten(name)}; give text")
        known_name, known_where = self._categories.setdefault(number, (name, where))
        if known_name != name:
            raise LabelError(
                f"{known_where} and {where} have the same id {shorten(number)}, but the names "
                f"{known_name} and {name}; give each category its own"
            )
        class_id = number if isinstance(number, int) and 0 <= number <= MAX_CLASS_ID else None
        self._builder.describe_category(self._row_of_category(number), name, class_id)

    def _take_annotation(self, where: str, entry: dict[str, Any]) -> None:
        if "segments_info" in entry:
            raise LabelError(
                "it is a COCO panoptic JSON; give its PNGs, converted to class ids, or an "
                "instances JSON"
            )
        image = _read_id(where, entry, "image_id")
        category = _read_id(where, entry, "category_id")
        self._annotated[image] += 1
        self._uses[category] += 1
        self._first_use.setdefault(category, where)
        number = entry.get("id")
        label = where if number is None else f"annotation {shorten(number)}"
        is_ignored, error = entry.get("iscrowd") in (1, "1"), None
        try:
            parts = [*self._list_parts(entry.get("segmentation"))]
        except ValueError as failure:
            parts, error = [], str(failure)
        if is_ignored and (parts or error):
            self._builder.left_out["crowds: their pixels are not counted"] += 1
        if not parts and error is None:
            box = _read_box(entry.get("bbox"))
            if box is None:
                self._builder.left_out["annotations without an outline or a box"] += 1
                return
            self._builder.left_out[_NO_OUTLINE] += 1
            parts, is_ignored = [box], True
        self._builder.add_object(
            self._row_of_image(image),
            self._row_of_category(category),
            parts,
            label=label,
            is_ignored=is_ignored,
            error=error,
        )

    def _list_parts(self, segmentation: object) -> Iterator[Polygon | Runs]:
        """Yield the parts of a segmentation; raise ValueError if it cannot be read."""
        if segmentation is None or segmentation == [] or segmentation == {}:
            return
        if isinstance(segmentation, dict):
            yield _read_runs(segmentation)
            return
        if not isinstance(segmentation, list):
            raise ValueError(
                f"its segmentation is {shorten(segmentation)}; give a list or an object"
            )
        is_outline = not isinstance(segmentation[0], list | dict) or _lists_points(segmentation)
        for part in [segmentation] if is_outline else segmentation:
            if isinstance(part, dict):
                yield _read_runs(part)
                continue
            corners = _flatten(part)
            if len(corners) >= 6:
                yield Polygon(corners)
            elif corners:
                self._builder.left_out["outlines of fewer than three points"] += 1

    def _row_of_image(self, number: Id) -> int:
        if number not in self._image_rows:
            self._image_rows[number] = self._builder.reserve_image()
        return self._image_rows[number]

    def _row_of_category(self, number: Id) -> int:
        if number not in self._category_rows:
            self._category_rows[number] = self._builder.reserve_category()
        return self._category_rows[number]


def _flatten(part: object) -> list[float]:
    """Return the corners of an outline, x and y in turn; points may be pairs or objects.

    Raises:
        ValueError: The part is not such a list.
    """
    if not isinstance(part, list):
        raise ValueError(f"an outline is {shorten(part)}; give a list of coordinates")
    corners = part
    if part and _lists_points(part):
        corners = []
        for point in part:
            corners += (point["x"], point["y"]) if isinstance(point, dict) else point
    if len(corners) % 2:
        raise ValueError(f"an outline has {len(corners)} numbers, which are not pairs")
    return corners


def _lists_points(outline: list[Any]) -> bool:
    """Tell whether a list holds points, as pairs or as objects, rather than numbers in turn."""
    for point in outline:
        is_pair = isinstance(point, list) and len(point) == 2
        is_pair = is_pair and not isinstance(point[0], list | dict)
        is_object = isinstance(point, dict) and point.keys() >= {"x", "y"}
        if not is_pair and not is_object:
            return False
    return True


def _read_runs(segmentation: dict[str, Any]) -> Runs:
    """Return run lengths; raise ValueError if they cannot be read."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    sides = size if isinstance(size, list) else []
    is_size = len(sides) == 2 and all(type(side) is int and 0 < side < 2**31 for side in sides)
    if not is_size or not isinstance(counts, str | list):
        raise ValueError(f"its run lengths have the size {shorten(size)} and {shorten(counts)}")
    height, width = sides
    if isinstance(counts, str):
        if not counts.isascii():
            raise ValueError(f"its run lengths have the counts {shorten(counts)}; give ASCII text")
        return Runs(counts.encode(), height, width)
    for count in counts:
        if type(count) is not int or not 0 <= count < 2**31:
            raise ValueError(f"its run lengths have the count {shorten(count)}; give whole numbers")
    return Runs(compress_counts(np.array(counts, np.int64)), height, width)


def _read_box(box: object) -> Polygon | None:
    """Return the outline of a box (x, y, width, height); None if it is not a box."""
    if not isinstance(box, Sequence) or len(box) != 4:
        return None
    if not all(isinstance(number, int | float) for number in box):
        return None
    left, top, width, height = box
    if not (width > 0 and height > 0):
        return None
    right, bottom = left + width, top + height
    return Polygon([left, top, right, top, right, bottom, left, bottom])


def _read_id(where: str, entry: dict[str, Any], key: str) -> Id:
    """Return an id; raise LabelError if it is neither a whole number nor text."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)  # some tools write "7" in one list, and 7 in another
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise LabelError(f"{where} has the {key} {shorten(value)}; give a whole number or text")
    return value


def _read_size(where: str, entry: dict[str, Any]) -> tuple[int, int] | None:
    """Return width and height of an image (px); None if one of them is not stated."""
    sides = []
    for key in ("width", "height"):
        value = entry.get(key)
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            value = int(value)
        if type(value) not in (int, float, type(None)):
            raise LabelError(f"{where} has the {key} {shorten(value)}; give a number")
        if value is not None and not (0 <= value < 2**31 and value == int(value)):
            raise LabelError(f"{where} has the {key} {shorten(value)}; give a size in px")
        sides.append(int(value or 0))
    return (sides[0], sides[1]) if all(sides) else None


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and is_utf8(value)


FORMAT = LabelFormat("COCO instances JSON", (".json",), _recognises, _parse)
