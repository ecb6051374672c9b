"""CVAT for images 1.1: the XML file of annotations that CVAT exports, with or without images."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import replace
from io import BufferedReader
from reprlib import repr as shorten

import numpy as np

from unet_ray.imaging.regions.run_lengths import check_runs
from unet_ray.labelled_data.annotations import LabelError, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.label_format import LabelFormat
from unet_ray.labelled_data.formats.parts.drawn_shapes import (
    DrawnShape,
    ShapeCollector,
    encode_mask,
    to_number,
    to_numbers,
    trace_box,
)
from unet_ray.labelled_data.formats.parts.known_images import KnownImages
from unet_ray.labelled_data.formats.parts.shapes import CROWDS, FEW_POINTS, outline_ellipse
from unet_ray.labelled_data.formats.parts.xml_stream import Node, read_children
from unet_ray.limits import MAX_ARRAY_PIXELS

_ZIP = b"PK\x03\x04"
_LEFT_OUT = {
    "polyline": "polylines",
    "points": "points",
    "skeleton": "skeletons",
    "cuboid": "cuboids",
    "tag": "tags of whole images",
}
"""Shapes that have no pixels inside → their plural."""
_TYPES_WITHOUT_PIXELS = {"cuboid", "points", "polyline", "rectangle", "skeleton", "tag"}
"""Types of labels, as stated by the file, that outlines cannot have."""
_CROWD = ("is_crowd", "iscrowd")
"""Attributes in which CVAT keeps COCO's crowds."""
_EXPORT_AGAIN = 'export the task again, as "CVAT for images 1.1"'


def _recognises(head: bytes) -> bool:
    if head.startswith(_ZIP):
        return True
    for encoding in ("utf-8", "utf-16"):
        text = head.decode(encoding, "ignore")
        if "<annotations>" in text or "<annotations " in text:
            return True
    return False


def _parse(file: BufferedReader, _: str, builder: AnnotationsBuilder) -> None:
    if file.peek(len(_ZIP)).startswith(_ZIP):
        raise LabelError(
            "it is a ZIP archive; unzip it, then give the label file that was in it, such as "
            "annotations.xml, and its folder of images"
        )
    parser = _Parser(builder)
    for node in read_children(file, "annotations"):
        parser.take(node)
    parser.finish()


class _Parser:
    """Takes the elements of the file one by one."""

    def __init__(self, builder: AnnotationsBuilder) -> None:
        self._builder, self._shapes = builder, ShapeCollector(builder)
        self._images = KnownImages(builder)
        self._num_images = 0

    def take(self, node: Node) -> None:
        """Take an element below the root."""
        if node.tag == "meta":
            self._take_labels(node)
        elif node.tag == "image":
            self._take_image(node)
        elif node.tag == "track":
            raise LabelError(
                f"line {node.line}: it is an export for video, which numbers its frames and does "
                f"not name their files; {_EXPORT_AGAIN}"
            )

    def finish(self) -> None:
        """Check that there were images, and decide the meaning of boxes for all of them."""
        if not self._num_images:
            raise LabelError(f"it lists no images; {_EXPORT_AGAIN}")
        self._shapes.finish("draw polygons, masks, or ellipses in CVAT")

    def _take_labels(self, meta: Node) -> None:
        """Add those labels of the project that outlines can have, in its order."""
        for label in _find_labels(meta):
            kind = "".join(label.texts("type"))
            is_part = any(label.texts("parent"))
            name = "".join(label.texts("name"))
            if name and kind not in _TYPES_WITHOUT_PIXELS and not is_part:
                self._builder.find_category(name)

    def _take_image(self, node: Node) -> None:
        name, subset = node.attributes.get("name", ""), node.attributes.get("subset", "")
        where = f"line {node.line}"
        if not name:
            raise LabelError(f"{where}: the image has no name")
        self._num_images += 1
        size, error = None, None
        try:
            size = _read_size(node)
        except ValueError as failure:
            error = str(failure)
        labels = None
        if node.children:
            labels = hash(tuple(map(_freeze, node.children)))
        row, is_new = self._images.find_row((name, subset), name=name, where=where, labels=labels)
        if not is_new:
            return
        places = [f"{subset}/{name}"] if subset else []
        self._builder.describe_image(row, name, places=places, size=size, error=error)
        self._shapes.add(row, self._merge_groups(self._list_shapes(node)))

    def _list_shapes(self, image: Node) -> list[tuple[int, str, DrawnShape]]:
        """Return height (z_order), group and shape of each outline and box, the lowest first."""
        shapes = []
        for node in image.children:
            reader = _READERS.get(node.tag)
            if reader is None:
                self._builder.left_out[_LEFT_OUT.get(node.tag, "shapes of unknown kinds")] += 1
                continue
            parts: list[Polygon | Runs] = []
            height, error = 0, None
            try:
                height = _read_whole(node, "z_order", "0")
                parts = reader(node)
            except ValueError as failure:
                error = str(failure)
            if not parts and error is None:
                empty = "masks without pixels" if node.tag == "mask" else FEW_POINTS
                self._builder.left_out[empty] += 1
                continue
            is_ignored = _is_crowd(node)
            if is_ignored:
                self._builder.left_out[CROWDS] += 1
            shape = DrawnShape(
                name=f"{node.tag} in line {node.line}",
                label=node.attributes.get("label") or None,
                parts=parts,
                is_box=node.tag == "box",
                is_ignored=is_ignored,
                error=error,
            )
            shapes.append((height, node.attributes.get("group_id", "0"), shape))
        return sorted(shapes, key=lambda each: each[0])

    def _merge_groups(self, shapes: list[tuple[int, str, DrawnShape]]) -> list[DrawnShape]:
        """Merge the shapes of a group that have one label into a single object.

        Parts of a group at different heights stay separate: another object may lie between them.
        """
        merged: dict[Hashable, list[DrawnShape]] = {}
        heights: dict[Hashable, int] = {}
        for place, (height, group, shape) in enumerate(shapes):
            if group in ("", "0") or shape.is_box or shape.error:
                merged[place] = [shape]
                continue
            key = (group, shape.label, shape.is_ignored)
            if heights.setdefault(key, height) != height:
                what = "groups at several heights (z_order): each height is an object of its own"
                self._builder.left_out[what] += 1
                heights[key] = height
            merged.setdefault((height, *key), []).append(shape)
        objects = []
        for of_object in merged.values():
            parts = [part for shape in of_object for part in shape.parts]
            objects.append(replace(of_object[0], parts=parts))
        return objects


def _find_labels(node: Node) -> Iterator[Node]:
    """Yield the labels of the meta data of a task, a job or a project."""
    for child in node.children:
        if node.tag == "labels" and child.tag == "label":
            yield child
        else:
            yield from _find_labels(child)


def _freeze(node: Node) -> Hashable:
    """Return the content of an element without its position in the file."""
    children = tuple(map(_freeze, node.children))
    return (node.tag, tuple(sorted(node.attributes.items())), node.text.strip(), children)


def _is_crowd(node: Node) -> bool:
    for child in node.children:
        is_true = child.text.strip().lower() in ("1", "true")
        if is_true and child.attributes.get("name") in _CROWD:
            return True
    return False


def _read_polygon(node: Node) -> list[Polygon | Runs]:
    text = node.attributes.get("points", "").strip("; \n\t")
    if any(point.count(",") != 1 for point in text.split(";")):
        raise ValueError(f"its points are {shorten(text)}; write x,y;x,y;x,y")
    corners = to_numbers(text.replace(";", ",").split(","))
    return [Polygon(corners)] if len(corners) >= 6 else []


def _read_mask(node: Node) -> list[Polygon | Runs]:
    left, top = _read_whole(node, "left"), _read_whole(node, "top")
    width, height = _read_whole(node, "width"), _read_whole(node, "height")
    if not 0 < width * height <= MAX_ARRAY_PIXELS or min(width, height) < 0:
        raise ValueError(
            f"its mask has {width}×{height} px; it must have 1 to {MAX_ARRAY_PIXELS} px"
        )
    text = node.attributes.get("rle", "")
    try:
        counts = np.array([int(count) for count in text.split(",")], np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"its run lengths are {shorten(text)}; give whole numbers") from None
    check_runs(counts, height, width)
    # CVAT's runs go along the rows of the box, and begin outside of the object
    is_inside = np.arange(len(counts)) % 2 == 1
    mask_hw = np.repeat(is_inside, counts).reshape(height, width)
    runs = encode_mask(mask_hw, left, top)
    return [runs] if runs else []


def _read_ellipse(node: Node) -> list[Polygon | Runs]:
    centre = _read_number(node, "cx"), _read_number(node, "cy")
    radii = _read_number(node, "rx"), _read_number(node, "ry")
    turn = _read_number(node, "rotation", "0")
    outline = outline_ellipse(centre, radii, math.radians(turn))
    if outline is None:
        raise ValueError(f"its radii are {radii[0]:g} and {radii[1]:g}; both must be above 0")
    return [outline]


def _read_box(node: Node) -> list[Polygon | Runs]:
    left, top = _read_number(node, "xtl"), _read_number(node, "ytl")
    right, bottom = _read_number(node, "xbr"), _read_number(node, "ybr")
    corners = trace_box(
        left=left,
        top=top,
        width=right - left,
        height=bottom - top,
        degrees=_read_number(node, "rotation", "0"),
        is_about_centre=True,
    )
    return [Polygon(corners)]


_READERS = {
    "polygon": _read_polygon,
    "mask": _read_mask,
    "ellipse": _read_ellipse,
    "box": _read_box,
}
"""Tag of a shape → its reader, which raises ValueError if the shape cannot be drawn."""


def _read_size(image: Node) -> tuple[int, int] | None:
    if not {"width", "height"} & image.attributes.keys():
        return None
    width, height = _read_whole(image, "width"), _read_whole(image, "height")
    if min(width, height) < 0:
        raise ValueError(f"its labels are for an image of {width}×{height} px")
    return (width, height) if width and height else None


def _read_whole(node: Node, key: str, default: str = "") -> int:
    number = _read_number(node, key, default)
    if not number.is_integer():
        raise ValueError(f"{node.tag} has the {key} {number:g}; it must be a whole number")
    return int(number)


def _read_number(node: Node, key: str, default: str = "") -> float:
    text = node.attributes.get(key, default)
    try:
        return to_number(text)
    except ValueError:
        raise ValueError(f"{node.tag} has the {key} {shorten(text)}; it must be a number") from None


FORMAT = LabelFormat("CVAT for images 1.1 XML", (".xml", ".zip"), _recognises, _parse)
