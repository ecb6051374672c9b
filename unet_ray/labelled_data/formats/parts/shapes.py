"""Shapes of tools in which people draw: corners, circles, masks, groups, background."""

from __future__ import annotations

import base64
import binascii
import math
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from reprlib import repr as shorten
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.raster import mapped_errors
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.labelled_data.annotations import NO_CATEGORY, LabelError, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.parts.json_stream import read_elements
from unet_ray.limits import MAX_ARRAY_PIXELS

FEW_POINTS = "outlines of fewer than three points"
NO_OUTLINE = "boxes without an outline: their pixels are not counted"
CROWDS = "crowds: their pixels are not counted"
"""Texts of what is left out, the same in all formats."""
_LARGEST_GAP_PX = 0.05
"""Largest distance between a circle and the outline that stands for it (px)."""
_MOST_CORNERS = 2048
"""Largest number of corners of the outline of a circle."""


@dataclass(frozen=True)
class Shape:
    """A shape of an image as it was drawn."""

    label: str
    """Its name in messages: `shapes[3]`."""
    category: str | None
    """Name of its category; None: its pixels are not counted."""
    parts: tuple[Polygon | Runs, ...] = ()
    """Its outlines and masks."""
    group: object = None
    """Shapes of one group and one category are one object; None: it is one on its own."""
    is_ignored: bool = False
    """True if its pixels are not counted."""
    is_background: bool = False
    """True if it is no object."""
    cuts: bool = False
    """True if it takes its pixels from the shapes below it."""
    error: str | None = None
    """Why it cannot be drawn."""

    @property
    def key(self) -> tuple[object, ...]:
        """Key of an object that several shapes make up."""
        return self.category, self.is_ignored, self.group

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """Left, top, right and bottom (px), infinite for a shape without parts."""
        boxes = [_find_bounds(part) for part in self.parts]
        if not boxes:
            return np.array([np.inf, np.inf, -np.inf, -np.inf])
        found = np.array(boxes)
        return np.concatenate([found[:, :2].min(axis=0), found[:, 2:].max(axis=0)])

    def may_touch(self, other: Shape) -> bool:
        """Return True if the boxes around the two shapes overlap."""
        mine, its = self.bounds, other.bounds
        return bool((mine[:2] < its[2:]).all() and (its[:2] < mine[2:]).all())

    def cut(self, above: Shape) -> Shape:
        """Return what a shape that takes its pixels leaves of this one, which lies below it."""
        if (self.is_ignored and above.is_ignored) or not self.may_touch(above):
            return self
        holes = [part.outer for part in above.parts if isinstance(part, Polygon)]
        below = [part for part in self.parts if isinstance(part, Polygon)]
        if len(holes) < len(above.parts) or len(below) < len(self.parts):
            error = (
                f"{above.label} lies over it and takes its pixels, but one of them is a mask; "
                "erase the pixels from the mask"
            )
            return replace(self, error=self.error or error)
        parts = tuple(replace(part, holes=(*part.holes, *holes)) for part in below)
        return replace(self, parts=parts)


def read_document(
    file: BinaryIO, key: str, others: Sequence[str]
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """Read a JSON that describes one image: its list of shapes, and some values beside it.

    Args:
        file: The file.
        key: Key of the list.
        others: Keys of the other values; all others, such as an embedded image, are forgotten.

    Returns:
        Place in the file and content of each shape, and the other values that are there.

    Raises:
        LabelError: It has no such list.
    """
    entries: list[tuple[str, dict[str, Any]]] = []
    values: dict[str, Any] = {}
    has_list = False
    for element in read_elements(file):
        if element.key == key:
            has_list = True
            if element.value == [] and element.index is None:
                continue
            if element.index is None:
                raise LabelError(f"{key} is {shorten(element.value)}; give a list")
            if not isinstance(element.value, dict):
                raise LabelError(f"{element.where} is {shorten(element.value)}; give an object")
            entries.append((element.where, element.value))
        elif element.key in others:
            values[element.key] = element.value
    if not has_list:
        raise LabelError(f"it has no list of {key}")
    return entries, values


def add_shapes(builder: AnnotationsBuilder, image: int, shapes: Iterable[Shape]) -> None:
    """Add shapes to an image as objects.

    Args:
        builder: Where they go.
        image: Row of the image.
        shapes: Shapes in the order in which they are drawn.
    """
    for shape in _join_groups(_cut(shapes), builder):
        name = shape.category
        builder.add_object(
            image,
            NO_CATEGORY if name is None else builder.find_category(name),
            shape.parts,
            label=shape.label,
            is_ignored=shape.is_ignored or name is None,
            error=shape.error,
        )


def read_corners(value: Any) -> list[float]:
    """Return the corners of a list of points `[x, y]`, x and y in turn.

    Raises:
        ValueError: It is no such list, or a number is not finite.
    """
    if not isinstance(value, list):
        raise ValueError(f"corners of {shorten(value)}; give a list of [x, y]")
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"a corner of {shorten(point)}; give [x, y]")
    return read_numbers([number for point in value for number in point])


def read_numbers(values: Sequence[Any]) -> list[float]:
    """Return coordinates as floats; raise ValueError for what is no finite number."""
    for value in values:
        if type(value) not in (int, float) or not abs(value) < 2**63:
            raise ValueError(f"the coordinate {shorten(value)}, which is no number in px")
    return [float(value) for value in values]


def outline_box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return the outline of a box; its sides may be in any order."""
    left, right = sorted((left, right))
    top, bottom = sorted((top, bottom))
    return Polygon([left, top, right, top, right, bottom, left, bottom])


def outline_ellipse(
    center: Sequence[float], radii: Sequence[float], angle: float = 0.0
) -> Polygon | None:
    """Return the outline of an ellipse; None for one without area.

    Args:
        center: Its x and y (px).
        radii: Its half axes, along x and along y before it is turned (px).
        angle: Angle by which it is turned from x towards y (radians).
    """
    if not min(radii) > 0:
        return None
    largest = max(radii)
    step = math.acos(max(1 - _LARGEST_GAP_PX / largest, -1))
    number = min(max(math.ceil(math.pi / step) if step else _MOST_CORNERS, 16), _MOST_CORNERS)
    turns = np.arange(number) * (2 * np.pi / number)
    along, across = radii[0] * np.cos(turns), radii[1] * np.sin(turns)
    x = center[0] + along * math.cos(angle) - across * math.sin(angle)
    y = center[1] + along * math.sin(angle) + across * math.cos(angle)
    return Polygon(np.stack([x, y], axis=1).ravel().tolist())


def read_base64(text: Any) -> bytes:
    """Return the bytes that a text in base64 holds; raise ValueError for what is none."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"a mask of {shorten(text)}; give a PNG as base64")
    _, _, code = text.rpartition("base64,")
    try:
        return base64.b64decode("".join(code.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a mask that is no base64") from None


def read_png_mask(data: bytes) -> NDArray[np.bool_]:
    """Return the mask that a PNG holds: what is not transparent, or not 0 where nothing is; HW.

    Raises:
        ValueError: It is no PNG, or has colours and alpha that contradict each other.
    """
    try:
        with mapped_errors(), Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_ARRAY_PIXELS:
                raise ImageError("too_large", f"{image.width}×{image.height} px are too many")
            has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            samples = np.asarray(image.convert("RGBA") if has_alpha else image)
    except ImageError as error:
        if error.error_type == "out_of_memory":
            raise
        raise ValueError(f"a mask that cannot be read: {error.message}") from None
    if not has_alpha:
        return np.logical_or.reduce(np.atleast_3d(samples != 0), axis=2)
    is_drawn, is_coloured = samples[:, :, 3] > 0, samples[:, :, :3].any(axis=2)
    if is_drawn.all() and is_coloured.any() and not is_coloured.all():
        raise ValueError("a mask that is opaque everywhere but not of one colour; save it as grey")
    return is_drawn


def prepare_masks() -> None:
    """Load what reading a PNG needs when it is first done: the child can open no file later."""
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16"):
        for options in ({}, {"transparency": 0}):
            file = BytesIO()
            Image.new(mode, (2, 2)).save(file, "PNG", **(options if mode == "P" else {}))
            read_png_mask(file.getvalue())


def place_mask(
    mask_hw: NDArray[np.bool_], left: int, top: int, size: tuple[int, int] | None
) -> Runs:
    """Return a mask as run lengths; what lies outside of the image is cut off.

    Args:
        mask_hw: The mask.
        left: Column of the image of its first column.
        top: Row of the image of its first row.
        size: Width and height of the image (px), if they are known.

    Raises:
        ValueError: It lies outside of the image.
    """
    most_x, most_y = size or (2**31 - 1, 2**31 - 1)
    inside = mask_hw[max(-top, 0) : max(most_y - top, 0), max(-left, 0) : max(most_x - left, 0)]
    if not inside.size:
        raise ValueError(f"a mask at {left}, {top}, outside of the image")
    height, width = inside.shape
    return Runs(encode_rle(inside), height, width, max(left, 0), max(top, 0))


def read_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return width and height of an image (px); None where they are not stated.

    Tools write null, 0 or −1 for a size that they do not know.

    Raises:
        LabelError: One of them is no whole number of pixels.
    """
    sides = []
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 16:
            value = int(value)
        if value is None:
            value = 0
        if type(value) not in (int, float) or not value < 2**31 or value != int(max(value, -1)):
            raise LabelError(f"the {name} of the image is {shorten(value)}; give a size in px")
        sides.append(int(value))
    return (sides[0], sides[1]) if min(sides) > 0 else None


def is_text(value: Any) -> TypeGuard[str]:
    """Return True for text that is not empty and can be written as UTF-8."""
    return (
        isinstance(value, str) and bool(value) and not any("\ud800" <= c <= "\udfff" for c in value)
    )


def locate_image(name: str, path: str) -> str:
    """Return the path of an image, seen from the folder of label files.

    Args:
        name: Path of the label file.
        path: Path of the image, seen from the label file; it may have backslashes.
    """
    if "://" in path:
        return path
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path.replace("\\", "/")))


def drop_suffix(name: str) -> str:
    """Return the path of a label file without its suffix."""
    return posixpath.splitext(name)[0]


def _find_bounds(part: Polygon | Runs) -> tuple[float, float, float, float]:
    if isinstance(part, Runs):
        left, top = part.left or 0, part.top or 0
        return left, top, left + part.width, top + part.height
    x, y = part.outer[::2], part.outer[1::2]
    return min(x), min(y), max(x), max(y)


def _cut(shapes: Iterable[Shape]) -> list[Shape]:
    """Return the shapes that are objects, without the pixels that later ones take from them."""
    found: list[Shape] = []
    for shape in shapes:
        if shape.cuts:
            found = [below.cut(shape) for below in found]
        if not shape.is_background:
            found.append(shape)
    return found


def _join_groups(shapes: Iterable[Shape], builder: AnnotationsBuilder) -> list[Shape]:
    """Return the objects that shapes form, each where the first of its shapes was."""
    found: list[Shape] = []
    places: dict[object, int] = {}
    drawn: list[Shape] = []
    starts: dict[object, int] = {}
    for shape in shapes:
        drawn.append(shape)
        if shape.group is None or shape.key not in places:
            places[shape.key], starts[shape.key] = len(found), len(drawn)
            found.append(shape)
            continue
        between = drawn[starts[shape.key] : -1]
        if any(each.key != shape.key and each.may_touch(shape) for each in between):
            builder.left_out[
                "groups with another object between their shapes: drawn below that object"
            ] += 1
        place = places[shape.key]
        first = found[place]
        found[place] = replace(
            first, parts=(*first.parts, *shape.parts), error=first.error or shape.error
        )
    return found
