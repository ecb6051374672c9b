"""Conversion of regions drawn in Label Studio to shapes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import LabelError, Polygon, Runs
from unet_ray.labelled_data.formats.parts.brush_runs import decode_brush
from unet_ray.labelled_data.formats.parts.drawn_shapes import (
    DrawnShape,
    encode_mask,
    to_number,
    to_numbers,
    trace_box,
)
from unet_ray.labelled_data.formats.parts.shapes import (
    FEW_POINTS,
    outline_ellipse,
    read_base64,
    read_png_mask,
)
from unet_ray.text import is_utf8

Size = tuple[int, int]
"""Width and height (px)."""
_GEOMETRY = (
    "points", "rle", "imageDataURL", "maskDataURL", "vertices", "x", "y", "width", "height",
    "radiusX", "radiusY", "rotation",
)  # fmt: skip
"""Keys of a value that locate a region."""
_UNITS = 10_000
"""Width and height used for an image of unknown size while an outline is made."""


@dataclass
class Region:
    """A region, assembled from all results about it."""

    name: str
    """Its name in messages."""
    kind: str
    value: Mapping[str, Any]
    target: str
    """Name of the tag of the image on which it was drawn."""
    index: int
    """Place of its image in the task's list of images."""
    is_turned: bool
    """True if the image was turned in the tool's view."""
    size: Size | None = None
    """Size of the image on which it was drawn, if stated."""
    labels: list[str] = field(default_factory=list)
    error: str | None = None
    """Why it cannot be drawn."""


def collect_regions(where: str, results: Sequence[Any], left_out: Counter[str]) -> list[Region]:
    """Return the regions of an annotation, in the order in which they were drawn.

    A region has a result for its outline and, with some settings of the tool, others for its
    labels, for a choice or for a text; each repeats the outline.

    Args:
        where: Place of the annotation, for messages.
        results: Its results.
        left_out: Receives the counts of results without a place on an image.

    Raises:
        LabelError: A result cannot be read.
    """
    regions: dict[object, Region] = {}
    for place, result in enumerate(results):
        if not isinstance(result, dict):
            raise LabelError(f"{where}: result {place} is {shorten(result)}; give an object")
        value = result.get("value")
        kind = _find_kind(value) if isinstance(value, dict) else None
        if kind is None or not isinstance(value, dict):
            is_relation = result.get("type") == "relation"
            left_out["relations" if is_relation else "answers that are not regions"] += 1
            continue
        key = result.get("id")
        if not isinstance(key, str | int):  # its outline identifies it
            try:
                key = hash(json.dumps([value.get(part) for part in _GEOMETRY]))
            except RecursionError:
                raise LabelError(f"{where}: a result is nested too deeply") from None
        index = _read_index(result, value)
        target = result.get("to_name")
        if not isinstance(target, str):
            target = ""
        region = Region(
            name=f"{where}, region {shorten(result.get('id', place))}",
            kind=kind,
            value=value,
            target=target,
            index=index,
            is_turned=result.get("image_rotation") not in (None, 0),
        )
        try:
            region.size = _read_size(result) or _read_size(value)
        except ValueError as failure:
            region.error = str(failure)
        region = regions.setdefault((key, index, target), region)
        for label in _list_labels(where, value):
            if label not in region.labels:
                region.labels.append(label)
    return list(regions.values())


def make_shapes(region: Region, size: Size | None, left_out: Counter[str]) -> list[DrawnShape]:
    """Return the shapes of a region, one for each of its labels.

    Args:
        region: The region.
        size: Size of the image; if it is unknown, coordinates are shares of width and height.
        left_out: Receives the counts of regions that are not outlines.
    """
    reader = _READERS.get(region.kind)
    if reader is None:
        left_out[region.kind] += 1
        return []
    parts: list[Polygon | Runs] = []
    error = region.error
    if error is None:
        try:
            found = reader(region.value, size)
        except ValueError as failure:
            error = str(failure)
        else:
            if isinstance(found, str):
                left_out[found] += 1
                return []
            parts.append(found)
    if len(region.labels) > 1:
        left_out["regions with several labels: taken as an object of each"] += 1
    labels: list[str | None] = [*region.labels] or [None]
    return [
        DrawnShape(region.name, label, parts, is_box=region.kind == "boxes", error=error)
        for label in labels
    ]


def _find_kind(value: Mapping[str, Any]) -> str | None:
    """Return the kind of a region, in the plural; None for a value that is not such a region."""
    kinds: tuple[tuple[bool, str], ...] = (
        (bool(value.get("rle")), "brush strokes"),
        ("imageDataURL" in value or "maskDataURL" in value, "bitmasks"),
        ("rle" in value or "touches" in value, "brush strokes"),
        ("vertices" in value, "vector paths"),
        ("points" in value, "polygons"),
        ("radiusX" in value, "ellipses"),
        (value.keys() >= {"x", "y", "width", "height"}, "boxes"),
        (value.keys() >= {"x", "y"}, "keypoints"),
        ("sequence" in value, "tracks of a video"),
    )
    for fits, kind in kinds:
        if fits:
            return kind
    return None


def _list_labels(where: str, value: Mapping[str, Any]) -> list[str]:
    """Return the labels in a value: of `labels`, `polygonlabels`, `brushlabels`, and so on."""
    labels = []
    for key, names in value.items():
        if key.endswith("labels") and isinstance(names, list):
            for name in names:
                if not (isinstance(name, str) and name and is_utf8(name)):
                    raise LabelError(f"{where} has the label {shorten(name)}; give text")
                labels.append(name)
    return labels


def _read_size(holder: Mapping[str, Any]) -> Size | None:
    """Return the size of the image that a result states; None if it states none.

    Raises:
        ValueError: An image cannot have that size.
    """
    sides = holder.get("original_width"), holder.get("original_height")
    if None in sides:
        return None
    width, height = to_number(sides[0]), to_number(sides[1])
    if not (width >= 1 and height >= 1 and width.is_integer() and height.is_integer()):
        raise ValueError(f"its image has {width:g}×{height:g} px; give whole numbers from 1")
    return int(width), int(height)


def _read_index(result: Mapping[str, Any], value: Mapping[str, Any]) -> int:
    for holder in (result, value):
        if type(holder.get("item_index")) is int:
            return int(holder["item_index"])
    return 0


def _read_brush(value: Mapping[str, Any], size: Size | None) -> Runs | str:
    data = value.get("rle")
    if not isinstance(data, list) or not data:
        raise ValueError("it has no run lengths (rle)")
    if size is None:
        raise ValueError("its image has no known size (original_width)")
    try:
        code = bytes(data)
    except (TypeError, ValueError):
        raise ValueError(f"its run lengths are {shorten(data)}; they must be bytes") from None
    return encode_mask(decode_brush(code, size[1], size[0])) or "brush strokes without pixels"


def _read_bitmask(value: Mapping[str, Any], size: Size | None) -> Runs | str:
    """Return the pixels of a PNG that are not transparent."""
    url = value.get("imageDataURL") or value.get("maskDataURL")
    if not (isinstance(url, str) and url.startswith("data:image/png;")):
        raise ValueError(f"its bitmask is {shorten(url)}; it must be a PNG")
    is_inside = read_png_mask(read_base64(url))
    height, width = is_inside.shape
    if size is not None and (width, height) != size:
        raise ValueError(
            f"its bitmask has {width}×{height} px, but the image has {size[0]}×{size[1]} px"
        )
    return encode_mask(is_inside) or "bitmasks without pixels"


def _read_polygon(value: Mapping[str, Any], size: Size | None) -> Polygon | str:
    points = value.get("points")
    if not isinstance(points, list) or not all(isinstance(each, list) for each in points):
        raise ValueError(f"its points are {shorten(points)}; give pairs")
    if value.get("closed") is False:
        return "polygons that were not closed"
    return _make_polygon(points, size)


def _read_vector(value: Mapping[str, Any], size: Size | None) -> Polygon | str:
    vertices = value.get("vertices")
    if not isinstance(vertices, list) or not all(isinstance(each, dict) for each in vertices):
        raise ValueError(f"its vertices are {shorten(vertices)}; give objects")
    if value.get("closed") is not True or any(each.get("isBezier") for each in vertices):
        return "vector paths that are open or have curves"
    return _make_polygon([[each.get("x"), each.get("y")] for each in vertices], size)


def _make_polygon(points: list[list[Any]], size: Size | None) -> Polygon | str:
    if any(len(point) != 2 for point in points):
        raise ValueError(f"its points are {shorten(points)}; give pairs")
    if len(points) < 3:
        return FEW_POINTS
    corners = to_numbers([number for point in points for number in point])
    return _scale(corners, size or (1, 1), 100)


def _read_ellipse(value: Mapping[str, Any], size: Size | None) -> Polygon | str:
    centre = _read_pair(value, size, "x", "y")
    radii = _read_pair(value, size, "radiusX", "radiusY")
    turn = _read_turn(value, size)
    outline = outline_ellipse(centre, radii, math.radians(turn))
    if outline is None:
        raise ValueError(f"its radii are {radii[0]:g} and {radii[1]:g} px; both must be above 0")
    return _unscale(outline.outer, size)


def _read_box(value: Mapping[str, Any], size: Size | None) -> Polygon | str:
    left, top = _read_pair(value, size, "x", "y")
    width, height = _read_pair(value, size, "width", "height")
    corners = trace_box(
        left=left,
        top=top,
        width=width,
        height=height,
        degrees=_read_turn(value, size),
        is_about_centre=False,
    )
    return _unscale(corners, size)


def _read_pair(
    value: Mapping[str, Any], size: Size | None, across: str, down: str
) -> tuple[float, float]:
    """Return percentages of the width and the height of an image as px, or as `_UNITS`."""
    width, height = size or (_UNITS, _UNITS)
    x = to_number(value.get(across)) / 100 * width
    y = to_number(value.get(down)) / 100 * height
    return x, y


def _read_turn(value: Mapping[str, Any], size: Size | None) -> float:
    turn = to_number(value.get("rotation") or 0)
    if turn % 360 and size is None:
        raise ValueError("it is turned, but its image has no known size (original_width)")
    return turn


def _unscale(corners: Sequence[float], size: Size | None) -> Polygon:
    return Polygon(corners) if size else _scale(corners, (1, 1), _UNITS)


def _scale(corners: Sequence[float], size: Size, whole: float) -> Polygon:
    """Return an outline in px of an image; `whole` is the full width, or height, in the corners."""
    scaled = [corner / whole * size[place % 2] for place, corner in enumerate(corners)]
    return Polygon(scaled)


_READERS: dict[str, Callable[[Mapping[str, Any], Size | None], Polygon | Runs | str]] = {
    "brush strokes": _read_brush,
    "bitmasks": _read_bitmask,
    "vector paths": _read_vector,
    "polygons": _read_polygon,
    "ellipses": _read_ellipse,
    "boxes": _read_box,
}
"""Kind of a region → its reader, which returns its outline, or the text under which it is counted
as left out, and raises ValueError if it cannot be drawn."""
