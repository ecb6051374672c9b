"""COCO instances as labels: parsing of the JSON, and drawing of objects as label images."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec, check_class_names

Objects = tuple[tuple[Any, ...], ...]
"""Segmentations of the objects of each class: polygons or run lengths, in the form of COCO."""


@dataclass(frozen=True)
class CocoLabels:
    """Labels of a set of images."""

    classes: tuple[ClassSpec, ...]
    objects: dict[str, Objects]
    """Objects of each image, by `file_name`."""
    uris: dict[str, str | None]
    """URI of each image, by `file_name`; exports of unet_ray give it, other files have None."""


def parse_coco(data: bytes, name: str, classes: tuple[ClassSpec, ...]) -> CocoLabels:
    """Read an instances JSON (cocodataset.org, "data format").

    Args:
        data: Content of the file.
        name: Name of the file, for messages.
        classes: Categories to read, by name; if empty, all of them, in the order of their ids.

    Raises:
        InputError: The content is not such a JSON, a category is missing or has no name that can
            be shown, or a file name occurs twice.
    """
    try:
        found = json.loads(data)
        categories = {entry["name"]: entry["id"] for entry in found["categories"]}
        names = {entry["id"]: entry["file_name"] for entry in found["images"]}
        uris = {entry["file_name"]: entry.get("image_uri") for entry in found["images"]}
        annotations = [
            (a["image_id"], a["category_id"], a["segmentation"]) for a in found["annotations"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name}: not a COCO instances JSON ({type(error).__name__}: {error})"
        ) from None
    classes = classes or tuple(
        ClassSpec(number, key) for key, number in sorted(categories.items(), key=lambda c: c[1])
    )
    check_class_names((spec.name for spec in classes), name)
    absent = [spec.name for spec in classes if spec.name not in categories]
    if absent:
        raise InputError(
            f"{name}: no category {', '.join(absent)}; there are {', '.join(categories)}"
        )
    if len(set(names.values())) < len(names):
        raise InputError(f"{name}: a file_name occurs twice; give each image once")
    places = {categories[spec.name]: place for place, spec in enumerate(classes)}
    objects: dict[int, list[list[Any]]] = defaultdict(lambda: [[] for _ in classes])
    for image, category, segmentation in annotations:
        if image not in names:
            raise InputError(
                f"{name}: an annotation refers to image {image}, which is not among the images"
            )
        if category in places:
            objects[image][places[category]].append(segmentation)
    return CocoLabels(
        classes, {path: tuple(map(tuple, objects[image])) for image, path in names.items()}, uris
    )


def draw_objects(segmentations: tuple[Any, ...], height: int, width: int) -> NDArray[Any]:
    """Draw the objects of a class as a label image.

    Args:
        segmentations: Segmentations of the objects.
        height: Height of the image (px).
        width: Width of the image (px).

    Returns:
        HW ids, 1 to n in the order of the segmentations, 0 for background. Where two objects
        overlap, the later one wins.

    Raises:
        ImageError: Run lengths have another size, or a segmentation is invalid.
    """
    labels = np.zeros((height, width), np.uint16 if len(segmentations) < 2**16 else np.int32)
    for number, segmentation in enumerate(segmentations, 1):
        try:
            codes = (
                coco.frPyObjects(segmentation, height, width)
                if _is_plain(segmentation)
                else segmentation
            )
            drawn = coco.decode(coco.merge(codes) if isinstance(codes, list) else codes)
        except Exception as error:
            raise ImageError(
                "unreadable", f"annotation {number} is not a valid segmentation: {error}"
            ) from None
        if drawn.shape != labels.shape:
            raise ImageError(
                "unreadable",
                f"the image has {width}×{height} px, but its annotation {number} has "
                f"{drawn.shape[1]}×{drawn.shape[0]} px",
            )
        labels[drawn > 0] = number
    return labels


def _is_plain(segmentation: Any) -> bool:
    """Tell whether a segmentation is polygons or plain counts, not compressed run lengths."""
    return isinstance(segmentation, list) or isinstance(segmentation["counts"], list)
