"""JSON files of labelme and of tools that adopted its format (AnyLabeling, X-AnyLabeling)."""

from __future__ import annotations

import math
from io import BufferedReader
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.shapes import (
    FEW_POINTS,
    Shape,
    add_shapes,
    drop_suffix,
    is_text,
    locate_image,
    outline_box,
    outline_ellipse,
    place_mask,
    prepare_masks,
    read_base64,
    read_corners,
    read_document,
    read_png_mask,
    read_size,
)

_IGNORED, _BACKGROUND = "__ignore__", "_background_"
"""Labels that labelme's own converters use for ignored pixels, and for no class."""
_OUTLINES = ("polygon", "quadrilateral")
_BOXES = ("rectangle", "rotation", "oriented_rectangle")
_LEFT_OUT = {
    "point": "points",
    "points": "points",
    "line": "lines",
    "linestrip": "lines",
    "cuboid": "cuboids",
}
"""Type of a shape that is not an area → its name in the plural."""


def _recognises(head: bytes) -> bool:
    # the embedded image may fill the beginning of the file
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    return is_object and any(key in head for key in (b'"shapes"', b'"imageData"', b'"imagePath"'))


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    keys = ("imagePath", "imageWidth", "imageHeight", "flags")
    shapes, values = read_document(file, "shapes", keys)
    size = read_size(values.get("imageWidth"), values.get("imageHeight"))
    path, stem = values.get("imagePath"), drop_suffix(name)
    image = builder.add_image(
        locate_image(name, path) if is_text(path) else stem, places=[stem], size=size
    )
    flags = values.get("flags")
    if isinstance(flags, dict):
        num_raised = sum(value is True for value in flags.values())
        if num_raised:
            builder.left_out["flags of images"] += num_raised
    found = [_read_shape(where, entry, size, builder) for where, entry in shapes]
    add_shapes(builder, image, [shape for shape in found if shape])


def _read_shape(
    where: str, entry: dict[str, Any], size: tuple[int, int] | None, builder: AnnotationsBuilder
) -> Shape | None:
    """Return a shape; None for one that is counted and left out."""
    name = entry.get("label")
    if type(name) is int:
        name = str(name)
    if not is_text(name):
        return Shape(where, None, error=f"its label is {shorten(name)}; give text")
    kind = entry.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind in _LEFT_OUT:
        builder.left_out[_LEFT_OUT.get(str(kind), "shapes of an unknown type")] += 1
        return None
    group = entry.get("group_id")
    if not isinstance(group, int | str | None):
        return Shape(where, name, error=f"its group_id is {shorten(group)}; give a whole number")
    try:
        part = _read_part(kind, entry, size, builder)
    except ValueError as error:
        return Shape(where, name, error=str(error))
    if part is None:
        return None
    if name == _IGNORED:
        builder.left_out["shapes labelled __ignore__: their pixels are not counted"] += 1
        return Shape(where, None, (part,), group, is_ignored=True, cuts=True)
    is_background = name == _BACKGROUND
    if is_background:
        builder.left_out["shapes labelled _background_: taken as background"] += 1
    return Shape(where, name, (part,), group, is_background=is_background, cuts=is_background)


def _read_part(
    kind: str, entry: dict[str, Any], size: tuple[int, int] | None, builder: AnnotationsBuilder
) -> Polygon | Runs | None:
    """Return the outline or mask of a shape; None for one that is counted and left out.

    Raises:
        ValueError: The shape cannot be drawn.
    """
    corners = read_corners(entry.get("points"))
    if kind == "mask":
        return _read_mask(corners, entry.get("mask"), size)
    if kind == "circle":
        if len(corners) != 4:
            raise ValueError(f"the circle has {len(corners) // 2} points; give centre and rim")
        x, y, rim_x, rim_y = corners
        radius = math.hypot(rim_x - x, rim_y - y)
        circle = outline_ellipse((x, y), (radius, radius))
        if circle is None:
            builder.left_out["circles without area"] += 1
        return circle
    if kind in _BOXES and corners:
        builder.left_out["rectangles: all of their pixels are taken as the object"] += 1
        if len(corners) == 4:
            return outline_box(*corners)
    elif kind not in _OUTLINES:
        builder.left_out["shapes of an unknown type"] += 1
        return None
    if len(corners) < 6:
        builder.left_out[FEW_POINTS] += 1
        return None
    return Polygon(corners)


def _read_mask(corners: list[float], code: object, size: tuple[int, int] | None) -> Runs:
    """Return a mask; its two corners are pixels of the image, and give its place."""
    if len(corners) != 4:
        raise ValueError(f"its mask has {len(corners) // 2} corners; give two")
    mask_hw = read_png_mask(read_base64(code))
    height, width = mask_hw.shape
    x1, y1, x2, y2 = [round(corner) for corner in corners]
    stated_width = abs(x2 - x1) + 1
    stated_height = abs(y2 - y1) + 1
    # tools differ by a pixel in the end of a mask
    if abs(stated_width - width) > 1 or abs(stated_height - height) > 1:
        if (width, height) == size:
            raise ValueError(
                f"its mask has the size of the image, {width}×{height} px, but its corners are "
                f"those of a part; give the corners 0, 0 and {width - 1}, {height - 1}, or the part"
            )
        raise ValueError(
            f"its mask has {width}×{height} px, but its corners span "
            f"{stated_width}×{stated_height} px"
        )
    return place_mask(mask_hw, left=min(x1, x2), top=min(y1, y2), size=size)


FORMAT = LabelFormat(
    "labelme JSON", (".json",), _recognises, _parse, prepare=prepare_masks, is_per_image=True
)
