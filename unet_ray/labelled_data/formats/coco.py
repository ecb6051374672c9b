"""COCO instances as labels: parsing of the JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterator
from dataclasses import dataclass
from reprlib import repr as shorten
from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec, check_class_names
from unet_ray.labelled_data.formats.coco_objects import CocoObject, draw_objects
from unet_ray.text import is_utf8

_MOST_CLASS_ID = 2**31 - 1
"""Largest class id that the tables hold."""
_SIDES = ("width", "height")


@dataclass(frozen=True)
class ImageObjects:
    """Objects of one image."""

    by_class: tuple[tuple[CocoObject, ...], ...]
    """Objects of each class."""
    size: tuple[float, float] = (0, 0)
    """Width and height of the image as the file states them (px); 0 where it does not."""

    def draw(self, height: int, width: int) -> list[NDArray[Any]]:
        """Draw the objects of each class as a label image, as `draw_objects` does.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).

        Raises:
            ImageError: `unreadable`: the labels are for an image of another size, or an annotation
                cannot be read.
        """
        for stated, actual, side in zip(self.size, (width, height), _SIDES, strict=True):
            if stated not in (0, actual):
                raise ImageError(
                    "unreadable",
                    f"the image has a {side} of {actual} px, "
                    f"its labels are for {shorten(stated)} px",
                )
        return [draw_objects(objects, height, width) for objects in self.by_class]


@dataclass(frozen=True)
class CocoLabels:
    """Labels of a set of images."""

    classes: tuple[ClassSpec, ...]
    objects: dict[str, ImageObjects]
    """Objects of each image, by `file_name`."""
    uris: dict[str, str | None]
    """URI of each image, by `file_name`; exports of unet_ray give it, other files have None."""


def parse_coco(data: bytes, name: str, classes: tuple[ClassSpec, ...]) -> CocoLabels:
    """Read an instances JSON (cocodataset.org, "data format").

    An annotation whose segmentation cannot be read becomes an object with an error, which costs its
    image.

    Args:
        data: Content of the file.
        name: Name of the file, for messages.
        classes: Categories to read, by name; if empty, all of them, in the order of their ids.

    Raises:
        InputError: The content is not such a JSON, a category is missing or has no name that can
            be shown, or a file name occurs twice. The message names the first thing that is wrong.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise InputError(f"{name}: not a COCO instances JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{name}: not a COCO instances JSON: {error}") from None
    try:
        labels = _read_labels(document, classes)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    check_class_names((spec.name for spec in labels.classes), name)
    return labels


def _read_labels(document: Any, classes: tuple[ClassSpec, ...]) -> CocoLabels:
    """Read the labels of a parsed JSON; raise ValueError for the first thing that is wrong."""
    categories = {
        number: entry.read_text("name")
        for number, entry in _index_by_id(document, "categories").items()
    }
    images = _index_by_id(document, "images")
    names = {number: entry.read_text("file_name") for number, entry in images.items()}
    if len(set(names.values())) < len(names):
        raise ValueError("a file_name occurs twice; give each image once")
    classes = classes or _list_classes(categories)
    absent = [spec.name for spec in classes if spec.name not in categories.values()]
    if absent:
        there = ", ".join(dict.fromkeys(categories.values()))
        raise ValueError(f"no category {', '.join(absent)}; there are {there}")
    places = {spec.name: place for place, spec in enumerate(classes)}
    found: dict[Any, list[list[CocoObject]]] = defaultdict(lambda: [[] for _ in classes])
    for entry in _list_entries(document, "annotations"):
        image = entry.read_reference("image_id", "images", images)
        category = categories[entry.read_reference("category_id", "categories", categories)]
        if category in places:
            found[image][places[category]].append(entry.read_object())
    objects = {
        names[number]: ImageObjects(tuple(map(tuple, found[number])), entry.read_size())
        for number, entry in images.items()
    }
    uris = {names[number]: entry.read_uri() for number, entry in images.items()}
    return CocoLabels(classes, objects, uris)


def _list_classes(categories: dict[int | str, str]) -> tuple[ClassSpec, ...]:
    """Return a class for each name of a category, in the order of their ids.

    A name may have several ids, as some tools write them; the last one is that of the class.

    Raises:
        ValueError: An id is no class id.
    """
    ids = {}
    for number, name in categories.items():
        if not isinstance(number, int) or not 0 <= number <= _MOST_CLASS_ID:
            raise ValueError(
                f"the category {name!r} has the id {shorten(number)}; give whole numbers from 0 to "
                f"{_MOST_CLASS_ID}, or name the classes with --classes"
            )
        ids[number] = name
    last = {name: number for number, name in sorted(ids.items())}
    return tuple(ClassSpec(number, name) for name, number in last.items())


@dataclass(frozen=True)
class _Entry:
    """One entry of a list in the JSON, and its place for messages: `images[3]`."""

    where: str
    values: dict[str, Any]

    def read_text(self, key: str) -> str:
        """Return a name; raise ValueError if it is none."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value or not is_utf8(value):
            raise self._refusal(key, "give text")
        return value

    def read_uri(self) -> str | None:
        """Return the URI of an image; None if there is none."""
        return None if self.values.get("image_uri") is None else self.read_text("image_uri")

    def read_size(self) -> tuple[float, float]:
        """Return width and height of an image, 0 if not stated; raise ValueError for no numbers."""
        for side in _SIDES:
            if type(self.values.get(side, 0)) not in (int, float, type(None)):
                raise self._refusal(side, "give a number")
        return self.values.get("width") or 0, self.values.get("height") or 0

    def read_id(self, key: str = "id") -> int | str:
        """Return an id; raise ValueError if it is neither a whole number nor text."""
        value = self.values.get(key)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self._refusal(key, "give a whole number or text")
        return value

    def read_reference(self, key: str, section: str, entries: Container[int | str]) -> int | str:
        """Return the id of another entry; raise ValueError if there is no such entry."""
        number = self.read_id(key)
        if number not in entries:
            raise self._refusal(key, f"that is not among the {section}")
        return number

    def read_object(self) -> CocoObject:
        """Return the object of an annotation."""
        number = self.values.get("id")
        name = self.where if number is None else f"annotation {shorten(number)}"
        return CocoObject.parse(name, self.values.get("segmentation"))

    def _refusal(self, key: str, remedy: str) -> ValueError:
        return ValueError(f"{self.where} has the {key} {shorten(self.values.get(key))}; {remedy}")


def _list_entries(document: Any, section: str) -> Iterator[_Entry]:
    """Yield the entries of a list of the JSON; raise ValueError where there are none."""
    entries = document.get(section) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"not a COCO instances JSON: it has no list of {section}")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{section}[{index}] is {shorten(entry)}; give an object")
        yield _Entry(f"{section}[{index}]", entry)


def _index_by_id(document: Any, section: str) -> dict[int | str, _Entry]:
    """Return the entries of a list by their ids; raise ValueError if two have the same."""
    entries: dict[int | str, _Entry] = {}
    for entry in _list_entries(document, section):
        number = entry.read_id()
        if number in entries:
            raise ValueError(
                f"{entries[number].where} and {entry.where} have the same id {shorten(number)}"
            )
        entries[number] = entry
    return entries
