"""JSON files of ISAT with segment anything."""

from __future__ import annotations

from io import BufferedReader
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import LabelError, Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.shapes import (
    CROWDS,
    FEW_POINTS,
    Shape,
    add_shapes,
    drop_suffix,
    is_text,
    locate_image,
    read_corners,
    read_document,
    read_size,
)

_BACKGROUND = "__background__"
"""Category that ISAT uses for no class."""
_FIRST_LAYER = 1
"""Layer of objects that state none."""


def _recognises(head: bytes) -> bool:
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    return is_object and b'"info"' in head and b'"objects"' in head and b'"images"' not in head


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:
    objects, values = read_document(file, "objects", ("info",))
    info = values.get("info")
    if not isinstance(info, dict):
        raise LabelError(f"info is {shorten(info)}; give an object")
    stem, image_name = drop_suffix(name), info.get("name")
    image = builder.add_image(
        locate_image(name, image_name) if is_text(image_name) else stem,
        places=_list_places(info, stem),
        size=read_size(info.get("width"), info.get("height")),
    )
    found = []
    for where, entry in objects:
        layered = _read_object(where, entry, builder)
        if layered:
            found.append(layered)
    found.sort(key=lambda each: each[0])
    add_shapes(builder, image, [shape for _, shape in found])


def _list_places(info: dict[str, Any], stem: str) -> list[str]:
    folder, name = info.get("folder"), info.get("name")
    is_placed = is_text(folder) and is_text(name)
    return [stem, f"{folder}/{name}"] if is_placed else [stem]


def _read_object(
    where: str, entry: dict[str, Any], builder: AnnotationsBuilder
) -> tuple[float, Shape] | None:
    """Return the layer of an object, and the object; None for one that is counted and left out."""
    layer = entry.get("layer")
    layer = layer if isinstance(layer, int | float) else _FIRST_LAYER
    name, group = entry.get("category"), entry.get("group")
    if not is_text(name):
        return layer, Shape(where, None, error=f"its category is {shorten(name)}; give text")
    if not isinstance(group, int | float | str | None):
        return layer, Shape(
            where, name, error=f"its group is {shorten(group)}; give a whole number"
        )
    try:
        corners = read_corners(entry.get("segmentation"))
    except ValueError as error:
        return layer, Shape(where, name, error=str(error))
    if len(corners) < 6:
        builder.left_out[FEW_POINTS] += 1
        return None
    is_crowd = bool(entry.get("iscrowd"))
    is_background = name == _BACKGROUND
    if is_background:
        builder.left_out[f"objects of {_BACKGROUND}: taken as background"] += 1
    elif is_crowd:
        builder.left_out[CROWDS] += 1
    return layer, Shape(
        label=where,
        category=name,
        parts=(Polygon(corners),),
        group=group or None,  # 0 and "" are no group
        is_ignored=is_crowd,
        is_background=is_background,
        cuts=is_background,
    )


FORMAT = LabelFormat("ISAT JSON", (".json",), _recognises, _parse, is_per_image=True)
