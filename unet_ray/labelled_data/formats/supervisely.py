"""Supervisely annotations: a JSON per image."""

from __future__ import annotations

import zlib
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
    outline_box,
    place_mask,
    prepare_masks,
    read_base64,
    read_corners,
    read_document,
    read_png_mask,
    read_size,
)

_LARGEST_PNG = 2**27
"""Largest PNG of a mask (bytes)."""
_LEFT_OUT = {
    "point": "points",
    "line": "lines",
    "graph": "graphs of keypoints",
    "cuboid": "cuboids",
    "cuboid_2d": "cuboids",
    "alpha_mask": "alpha masks",
}
"""Geometry that is not an area → its name in the plural."""


def _recognises(head: bytes) -> bool:
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    is_empty = b'"objects"' in head and b'"size"' in head and b'"tags"' in head
    return is_object and (b'"classTitle"' in head or is_empty)


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    objects, values = read_document(file, "objects", ("size",))
    stated = values.get("size")
    stated = stated if isinstance(stated, dict) else {}
    size = read_size(stated.get("width"), stated.get("height"))
    stem = drop_suffix(name)
    image = builder.add_image(stem, places=_list_places(stem), size=size)
    found = [_read_object(where, entry, size, builder) for where, entry in objects]
    add_shapes(builder, image, [shape for shape in found if shape])


def _list_places(stem: str) -> list[str]:
    """Return where the image may be: annotations in `ann` belong to images in `img`."""
    parts = stem.split("/")
    if len(parts) < 2 or parts[-2] != "ann":
        return []
    return ["/".join([*parts[:-2], "img", parts[-1]])]


def _read_object(
    where: str, entry: dict[str, Any], size: tuple[int, int] | None, builder: AnnotationsBuilder
) -> Shape | None:
    """Return an object; None for one that is counted and left out."""
    name = entry.get("classTitle")
    if not is_text(name):
        return Shape(where, None, error=f"its classTitle is {shorten(name)}; give text")
    bitmap, kind = entry.get("bitmap"), entry.get("geometryType")
    if kind is None:
        kind = "bitmap" if bitmap else "polygon"
    try:
        if kind == "bitmap":
            return Shape(where, name, (_read_bitmap(bitmap, size),))
        if kind in ("polygon", "rectangle"):
            part = _read_outline(kind, entry.get("points"), builder)
            return Shape(where, name, (part,)) if part else None
    except ValueError as error:
        return Shape(where, name, error=str(error))
    builder.left_out[_LEFT_OUT.get(str(kind), "objects of an unknown geometry")] += 1
    return None


def _read_bitmap(bitmap: object, size: tuple[int, int] | None) -> Runs:
    """Return a mask from a zlib-compressed PNG and its origin pixel."""
    if not isinstance(bitmap, dict):
        raise ValueError(f"its bitmap is {shorten(bitmap)}; give data and origin")
    left, top = read_corners([bitmap.get("origin")])
    data = read_base64(bitmap.get("data"))
    try:
        png = zlib.decompressobj().decompress(data, _LARGEST_PNG)
    except zlib.error:
        raise ValueError("its bitmap is not compressed by zlib") from None
    return place_mask(read_png_mask(png), left=round(left), top=round(top), size=size)


def _read_outline(kind: str, points: object, builder: AnnotationsBuilder) -> Polygon | None:
    """Return the outline of a polygon or rectangle; None for one that is left out.

    If all coordinates are whole numbers, they are pixels: a rectangle from 2 to 4 covers three
    pixels, and the corners of a polygon are centres of pixels. Otherwise they are positions.
    """
    if not isinstance(points, dict):
        raise ValueError(f"its points are {shorten(points)}; give exterior and interior")
    outer = read_corners(points.get("exterior"))
    holes = points.get("interior") or []
    if not isinstance(holes, list):
        raise ValueError(f"its interior is {shorten(holes)}; give a list")
    rings = [outer, *map(read_corners, holes)]
    are_pixels = all(number.is_integer() for ring in rings for number in ring)
    if kind == "rectangle":
        if len(outer) != 4:
            raise ValueError(f"the rectangle has {len(outer) // 2} corners; give two")
        builder.left_out["rectangles: all of their pixels are taken as the object"] += 1
        x1, y1, x2, y2 = outer
        right, bottom = max(x1, x2) + are_pixels, max(y1, y2) + are_pixels
        return outline_box(left=min(x1, x2), top=min(y1, y2), right=right, bottom=bottom)
    if len(outer) < 6:
        builder.left_out[FEW_POINTS] += 1
        return None
    shift = 0.5 if are_pixels else 0.0
    moved = []
    for ring in rings:
        if len(ring) >= 6:
            moved.append([number + shift for number in ring])
    return Polygon(moved[0], moved[1:])


FORMAT = LabelFormat(
    "Supervisely JSON", (".json",), _recognises, _parse, prepare=prepare_masks, is_per_image=True
)
