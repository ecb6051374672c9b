"""Shapes as drawn in labelling tools: corners, circles, masks, groups, background."""

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
from unet_ray.text import is_utf8

FEW_POINTS = "outlines of fewer than three points"
NO_OUTLINE = "boxes without an outline: their pixels are not counted"
CROWDS = "crowds: their pixels are not counted"
"""Texts about content that is left out, the same in all formats."""
_LARGEST_GAP_PX = 0.05
"""Largest distance between a circle and the outline that approximates it (px)."""
_MOST_CORNERS = 2048
"""Largest number of corners of the outline of a circle."""
_MOST_SIDE = 2**31 - 1
"""Side of an image whose size is not known (px)."""
_FEWEST_CORNERS = 16
"""Smallest number of corners of the outline of a circle."""


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
    """Group of the shape: those of one group and one category are one object; None: no group."""
    is_ignored: bool = False
    """True if its pixels are not counted."""
    is_background: bool = False
    """True if it is not an object, but background."""
    cuts: bool = False
    """True if it removes its pixels from the shapes below it."""
    error: str | None = None
    """Why it cannot be drawn."""

    @property
    def key(self) -> tuple[object, ...]:
        """Key that all shapes of one object have."""
        return self.category, self.is_ignored, self.group

    @cached_property
    def bounds(self) -> NDArray[np.float64]:
        """Left, top, right and bottom (px), infinite for a shape without parts."""
        boxes = list[tuple[float, float, float, float]]()
        for part in self.parts:
            if isinstance(part, Runs):
                left, top = part.left or 0, part.top or 0
                boxes.append((left, top, left + part.width, top + part.height))
            else:
                x, y = part.outer[::2], part.outer[1::2]
                boxes.append((min(x), min(y), max(x), max(y)))
        if not boxes:
            return np.array([np.inf, np.inf, -np.inf, -np.inf])
        bounds = np.array(boxes)
        first = bounds[:, :2].min(axis=0)
        end = bounds[:, 2:].max(axis=0)
        return np.concatenate([first, end])

    def may_touch(self, other: Shape) -> bool:
        """Tell whether the boxes around the two shapes overlap."""
        first, end = self.bounds[:2], self.bounds[2:]
        other_first, other_end = other.bounds[:2], other.bounds[2:]
        begins_before_end = (first < other_end).all()
        ends_after_begin = (other_first < end).all()
        return bool(begins_before_end and ends_after_begin)

    def cut(self, above: Shape) -> Shape:
        """Return the shape without the pixels that a shape above removes."""
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
    """Read a JSON file that describes one image: its list of shapes, and some values beside it.

    Args:
        file: The file.
        key: Key of the list.
        others: Keys of the other values; the rest, such as an embedded image, is discarded.

    Returns:
        Place in the file and content of each shape, and the other values that exist.

    Raises:
        LabelError: The file does not have such a list.
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
        builder: Receives the objects.
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


def read_corners(value: object) -> list[float]:
    """Return the corners of a list of points `[x, y]`, x and y in turn.

    Raises:
        ValueError: The value is not such a list, or a number is not finite.
    """
    if not isinstance(value, list):
        raise ValueError(f"its corners are {shorten(value)}; give a list of [x, y]")
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise ValueError(f"one of its corners is {shorten(point)}; give [x, y]")
    return read_numbers([number for point in value for number in point])


def read_numbers(values: Sequence[Any]) -> list[float]:
    """Return coordinates as floats; raise ValueError if one is not a finite number."""
    for value in values:
        if type(value) not in (int, float) or not abs(value) < 2**63:
            raise ValueError(f"the coordinate {shorten(value)} is not a number in px")
    return [float(value) for value in values]


def outline_box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Return the outline of a box; its sides may be in any order."""
    x1, x2 = min(left, right), max(left, right)
    y1, y2 = min(top, bottom), max(top, bottom)
    return Polygon([x1, y1, x2, y1, x2, y2, x1, y2])


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
    step = math.acos(max(1 - _LARGEST_GAP_PX / max(radii), -1))
    num_corners = math.ceil(math.pi / step) if step else _MOST_CORNERS
    num_corners = min(max(num_corners, _FEWEST_CORNERS), _MOST_CORNERS)
    turns = np.arange(num_corners) * (2 * np.pi / num_corners)
    along = radii[0] * np.cos(turns)
    across = radii[1] * np.sin(turns)
    cos, sin = math.cos(angle), math.sin(angle)
    x = center[0] + along * cos - across * sin
    y = center[1] + along * sin + across * cos
    return Polygon(np.stack([x, y], axis=1).ravel().tolist())


def read_base64(text: object) -> bytes:
    """Decode a base64 text; raise ValueError if the value is not such a text."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"its mask is {shorten(text)}; give a PNG as base64")
    _, _, code = text.rpartition("base64,")
    try:
        return base64.b64decode("".join(code.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its mask is not valid base64") from None


def read_png_mask(data: bytes) -> NDArray[np.bool_]:
    """Return the mask that a PNG holds; HW.

    It holds the pixels that are not transparent or, in a PNG without transparency, not 0.

    Raises:
        ValueError: The data are not a PNG, or its colours and alpha contradict each other.
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
        raise ValueError(f"its mask cannot be read: {error.message}") from None
    if not has_alpha:
        return np.logical_or.reduce(np.atleast_3d(samples != 0), axis=2)
    is_drawn = samples[:, :, 3] > 0
    is_coloured = samples[:, :, :3].any(axis=2)
    if is_drawn.all() and is_coloured.any() and not is_coloured.all():
        raise ValueError("its mask is opaque everywhere, but has several colours; save it as grey")
    return is_drawn


def prepare_masks() -> None:
    """Load in advance what reading a PNG needs: the child process cannot open files later."""
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16"):
        file = BytesIO()
        Image.new(mode, (2, 2)).save(file, "PNG")
        read_png_mask(file.getvalue())
    file = BytesIO()
    Image.new("P", (2, 2)).save(file, "PNG", transparency=0)
    read_png_mask(file.getvalue())


def place_mask(
    mask_hw: NDArray[np.bool_], left: int, top: int, size: tuple[int, int] | None
) -> Runs:
    """Return a mask as run lengths, clipped to the image.

    Args:
        mask_hw: The mask.
        left: Column of the image where the mask begins.
        top: Row of the image where the mask begins.
        size: Width and height of the image (px), if they are known.

    Raises:
        ValueError: The mask lies outside the image.
    """
    width, height = size or (_MOST_SIDE, _MOST_SIDE)
    rows = slice(max(-top, 0), max(height - top, 0))
    columns = slice(max(-left, 0), max(width - left, 0))
    inside = mask_hw[rows, columns]
    if not inside.size:
        raise ValueError(f"its mask begins at {left}, {top}, outside of the image")
    return Runs(
        counts=encode_rle(inside),
        height=inside.shape[0],
        width=inside.shape[1],
        left=max(left, 0),
        top=max(top, 0),
    )


def read_size(width: object, height: object) -> tuple[int, int] | None:
    """Return width and height of an image (px); None if one of them is not stated.

    Tools write null, 0 or −1 for a size that they do not know.

    Raises:
        LabelError: One of them is not a whole number of pixels.
    """
    sides = _read_side("width", width), _read_side("height", height)
    return sides if min(sides) > 0 else None


def _read_side(name: str, value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 16:
        return int(value)
    if value is None:
        return 0
    is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not isinstance(value, int | float) or not is_whole or not -1 <= value < 2**31:
        raise LabelError(f"the {name} of the image is {shorten(value)}; give a size in px")
    return int(value)


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether a value is text that is not empty and can be written as UTF-8."""
    return isinstance(value, str) and bool(value) and is_utf8(value)


def locate_image(name: str, path: str) -> str:
    """Return the path of an image, relative to the folder of label files.

    Args:
        name: Path of the label file, relative to that folder.
        path: Path of the image, relative to the label file; it may have backslashes.
    """
    if "://" in path:
        return path
    folder = posixpath.dirname(name)
    return posixpath.normpath(posixpath.join(folder, path.replace("\\", "/")))


def drop_suffix(name: str) -> str:
    """Return the path of a label file without its suffix."""
    return posixpath.splitext(name)[0]


def _cut(shapes: Iterable[Shape]) -> list[Shape]:
    """Return the shapes that are objects, without the pixels that later shapes remove."""
    found: list[Shape] = []
    for shape in shapes:
        if shape.cuts:
            found = [below.cut(shape) for below in found]
        if not shape.is_background:
            found.append(shape)
    return found


def _join_groups(shapes: Iterable[Shape], builder: AnnotationsBuilder) -> list[Shape]:
    """Return the objects that shapes form, each at the position of its first shape."""
    drawn = list(shapes)
    objects: list[Shape] = []
    place_of: dict[object, int] = {}
    start_of: dict[object, int] = {}
    for number, shape in enumerate(drawn):
        if shape.group is None or shape.key not in place_of:
            place_of[shape.key] = len(objects)
            start_of[shape.key] = number
            objects.append(shape)
            continue
        between = drawn[start_of[shape.key] + 1 : number]
        if any(each.key != shape.key and each.may_touch(shape) for each in between):
            what = "groups with another object between their shapes: drawn below that object"
            builder.left_out[what] += 1
        place = place_of[shape.key]
        first = objects[place]
        parts = (*first.parts, *shape.parts)
        objects[place] = replace(first, parts=parts, error=first.error or shape.error)
    return objects
