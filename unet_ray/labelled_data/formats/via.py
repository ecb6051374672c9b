"""VGG Image Annotator: projects, and exports as JSON and CSV, of versions 1 and 2."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BufferedReader, TextIOWrapper
from reprlib import repr as shorten
from typing import Any

from unet_ray.labelled_data.annotations import LabelError, Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.json_stream import read_elements
from unet_ray.labelled_data.formats.parts.shapes import (
    FEW_POINTS,
    Shape,
    add_shapes,
    is_text,
    outline_box,
    outline_ellipse,
    read_numbers,
)

_IMAGES = "_via_img_metadata"
"""Key of a project that holds its images; an export consists only of these images."""
_LEFT_OUT = {"point": "points", "polyline": "lines", "line": "lines"}
"""Name of a shape that is not an area → its name in the plural."""
_ONLY_CLASS = "object"
"""Name of the class if no region has an attribute."""
_COLUMNS = ("filename", "file_size", "region_shape_attributes", "region_attributes")
"""Columns of a CSV file that are read."""
_SETTINGS = "_via_"
"""Beginning of keys that do not hold images."""


def _recognises(head: bytes) -> bool:
    is_object = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    is_export = b'"filename"' in head and (b'"regions"' in head or b'"base64_img_data"' in head)
    return is_object and (b'"_via_' in head or is_export)


def _recognises_csv(head: bytes) -> bool:
    return b"region_shape_attributes" in head.partition(b"\n")[0]


def _parse(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:  # noqa: ARG001
    _add_images(_list_images(file), builder)


def _parse_csv(file: BufferedReader, name: str, builder: AnnotationsBuilder) -> None:  # noqa: ARG001
    _add_images(_list_rows(file), builder)


def _add_images(images: Iterable[tuple[str, Any]], builder: AnnotationsBuilder) -> None:
    """Add images with their regions.

    Args:
        images: Place in the file, for messages, and content of each image.
        builder: Receives images and regions.
    """
    found: list[tuple[int, list[_Region]]] = []
    known: dict[tuple[str, ...], str] = {}
    for where, entry in images:
        if not isinstance(entry, dict) or not is_text(entry.get("filename")):
            raise LabelError(f"{where}: the image has no filename")
        places = _list_places(entry)
        key = (entry["filename"], *places)
        if key in known:
            raise LabelError(
                f"{known[key]} and {where} are both called {shorten(entry['filename'])}; give each "
                "image a name of its own, with its folder"
            )
        known[key] = where
        image = builder.add_image(entry["filename"], places=places)
        regions = _read_regions(where, entry.get("regions"), builder)
        found.append((image, regions))
    all_regions = [region for _, regions in found for region in regions]
    attribute = _choose_attribute([attributes for _, attributes in all_regions])
    for image, regions in found:
        shapes = [_classify(shape, values, attribute, builder) for shape, values in regions]
        add_shapes(builder, image, shapes)


def _list_images(file: BufferedReader) -> Iterator[tuple[str, Any]]:
    """Yield the images of a project or an export, with their places in the file."""
    has_images = False
    for element in read_elements(file):
        if element.key == _IMAGES:
            has_images = True
            if not isinstance(element.value, dict):
                raise LabelError(f"{_IMAGES} is {shorten(element.value)}; give an object")
            for key, entry in element.value.items():
                yield shorten(key), entry
        elif not element.key.startswith(_SETTINGS):
            has_images = True
            if element.index is not None or not isinstance(element.value, dict):
                raise LabelError(
                    f"not a VIA JSON of version 1 or 2: {element.where or 'it'} is "
                    f"{shorten(element.value)}; export annotations as JSON"
                )
            yield shorten(element.key), element.value
    if not has_images:
        raise LabelError("not a VIA JSON: it has no images; export annotations as JSON")


def _list_rows(file: BufferedReader) -> Iterator[tuple[str, Any]]:
    """Yield the images of a CSV file, which has a line per region, in the form of the JSON."""
    images: dict[tuple[str, str], dict[str, Any]] = {}
    text = TextIOWrapper(file, "utf-8-sig", newline="")
    rows = csv.reader(text)
    try:
        columns = [name.lstrip("#") for name in next(rows, [])]
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise LabelError(f"not a VIA CSV: it has no column {missing[0]}")
        for cells in rows:
            if len(cells) != len(columns):
                raise LabelError(
                    f"line {rows.line_num} has {len(cells)} cells, but the first line has "
                    f"{len(columns)}"
                )
            row = dict(zip(columns, cells, strict=True))
            name = row["filename"]
            image = images.setdefault((name, row["file_size"]), {"filename": name, "regions": []})
            shape = _read_cell(row["region_shape_attributes"], rows.line_num)
            attributes = _read_cell(row["region_attributes"], rows.line_num)
            if shape != {}:
                region = {"shape_attributes": shape, "region_attributes": attributes}
                image["regions"].append(region)
    except csv.Error as error:
        raise LabelError(f"line {rows.line_num}: not valid CSV: {error}") from None
    except UnicodeDecodeError:
        raise LabelError("not UTF-8 text; save it as UTF-8") from None
    finally:
        text.detach()
    for (name, size), image in images.items():
        yield shorten(name + size), image


def _read_cell(text: str, line: int) -> object:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise LabelError(f"line {line}: its attributes are not JSON") from None


def _list_places(entry: dict[str, Any]) -> list[str]:
    attributes = entry.get("file_attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    texts = [entry.get("fileref"), attributes.get("path"), attributes.get("url")]
    return [text for text in texts if is_text(text)]


_Region = tuple[Shape, dict[str, Any]]
"""Shape without its class, and attributes of a region."""


def _read_regions(where: str, regions: object, builder: AnnotationsBuilder) -> list[_Region]:
    """Return the regions of an image."""
    if isinstance(regions, dict):  # version 1
        regions = list(regions.values())
    if not isinstance(regions, list):
        raise LabelError(f"{where}: regions are {shorten(regions)}; give a list")
    found: list[_Region] = []
    for index, region in enumerate(regions):
        label = f"{where}, region {index}"
        if not isinstance(region, dict):
            raise LabelError(f"{label} is {shorten(region)}; give an object")
        attributes = region.get("region_attributes")
        try:
            part = _read_part(region.get("shape_attributes"), builder)
        except ValueError as error:
            found.append((Shape(label, None, error=str(error)), {}))
            continue
        if part:
            values = attributes if isinstance(attributes, dict) else {}
            found.append((Shape(label, None, (part,)), values))
    return found


def _read_part(shape: object, builder: AnnotationsBuilder) -> Polygon | None:
    """Return the outline of a region; None for one that is counted and left out.

    Raises:
        ValueError: The region cannot be drawn.
    """
    if not isinstance(shape, dict):
        raise ValueError(f"its shape_attributes are {shorten(shape)}; give an object")
    kind = str(shape.get("name"))
    if kind == "polygon":
        return _read_polygon(shape, builder)
    if kind == "rect":
        keys = ("x", "y", "width", "height")
        left, top, width, height = read_numbers([shape.get(key) for key in keys])
        builder.left_out["rectangles: all of their pixels are taken as the object"] += 1
        return outline_box(left, top, left + width, top + height)
    radius_keys = {"circle": ("r", "r"), "ellipse": ("rx", "ry")}
    if kind not in radius_keys:
        builder.left_out[_LEFT_OUT.get(kind, "regions of an unknown shape")] += 1
        return None
    keys = ("cx", "cy", *radius_keys[kind])
    x, y, radius_x, radius_y = read_numbers([shape.get(key) for key in keys])
    (angle,) = read_numbers([shape.get("theta") or 0])
    part = outline_ellipse((x, y), (radius_x, radius_y), angle)
    if part is None:
        builder.left_out["circles without area"] += 1
    return part


def _read_polygon(shape: dict[str, Any], builder: AnnotationsBuilder) -> Polygon | None:
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise ValueError("its all_points_x and all_points_y are not lists of equal length")
    corners = read_numbers([number for point in zip(xs, ys, strict=True) for number in point])
    if len(corners) < 6:
        builder.left_out[FEW_POINTS] += 1
        return None
    return Polygon(corners)


def _choose_attribute(regions: list[dict[str, Any]]) -> str | None:
    """Return the attribute that names the class; None if no region has one.

    Raises:
        LabelError: Several attributes may name it, and they differ.
    """
    names = dict.fromkeys(name for values in regions for name in values)
    classes_of = {}
    for name in names:
        classes = [_list_classes(values.get(name)) for values in regions]
        if any(classes):
            classes_of[name] = classes
    if not classes_of:
        return None
    first, *others = classes_of
    for name in others:
        if classes_of[name] != classes_of[first]:
            raise LabelError(
                f"the class may be the attribute {shorten(first)} or {shorten(name)}; remove the "
                "other one in VIA (Attributes, Region Attributes) and export again"
            )
    return first


def _list_classes(value: object) -> list[str]:
    """Return the classes that the value of an attribute names: a text, or ticked boxes."""
    if isinstance(value, dict):
        return [name for name, is_ticked in value.items() if is_ticked in (True, "true", 1)]
    if type(value) is int:
        return [str(value)]
    return [value.strip()] if is_text(value) and value.strip() else []


def _classify(
    shape: Shape, values: dict[str, Any], attribute: str | None, builder: AnnotationsBuilder
) -> Shape:
    """Return a shape with its class.

    The pixels of a shape without a class are not counted if other shapes have one.
    """
    if shape.error is not None:
        return shape
    names = [_ONLY_CLASS] if attribute is None else _list_classes(values.get(attribute))
    if len(names) > 1:
        error = f"it has several classes, {', '.join(map(shorten, names[:3]))}; tick one"
        return replace(shape, error=error)
    if not names:
        builder.left_out["regions without a class: their pixels are not counted"] += 1
        return shape
    if not is_text(names[0]):
        return replace(shape, error=f"its class is {shorten(names[0])}; give text")
    return replace(shape, category=names[0])


FORMAT = LabelFormat("VIA JSON", (".json",), _recognises, _parse)
CSV_FORMAT = LabelFormat("VIA CSV", (".csv",), _recognises_csv, _parse_csv)
