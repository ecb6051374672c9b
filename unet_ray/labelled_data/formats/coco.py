"""COCO instances as labels: what a JSON says of each image, and its objects drawn as a label image."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec

Objects = tuple[tuple[Any, ...], ...]
"""Of each class: the segmentations of its objects, polygons or run lengths as COCO has them."""


@dataclass(frozen=True)
class CocoLabels:
    """The labels of a set of images."""

    classes: tuple[ClassSpec, ...]
    objects: dict[str, Objects]
    """By `file_name`."""
    uris: dict[str, str | None]
    """`file_name` → the URI that an export of ours names, None where there is none."""


def parse_coco(data: bytes, name: str, classes: tuple[ClassSpec, ...]) -> CocoLabels:
    """Read an instances JSON (cocodataset.org, "data format").

    Args:
        data — the file.
        name — of the file, for messages.
        classes — the wanted categories, by name; empty: all, by their ids.

    Raises: InputError — no such JSON, a category that is not there, a file name twice.
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
            f"{name}: no COCO instances JSON ({type(error).__name__}: {error})"
        ) from None
    classes = classes or tuple(
        ClassSpec(number, key) for key, number in sorted(categories.items(), key=lambda c: c[1])
    )
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
                f"{name}: an annotation of image {image}, which is not among the images"
            )
        if category in places:
            objects[image][places[category]].append(segmentation)
    return CocoLabels(
        classes, {path: tuple(map(tuple, objects[image])) for image, path in names.items()}, uris
    )


def draw_objects(segmentations: tuple[Any, ...], height: int, width: int) -> NDArray[Any]:
    """Return the objects of a class as a label image (H, W), 1 to n, 0 background; where two overlap, the later one.

    Raises: ImageError — run lengths of another size, a segmentation that is none.
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
                "unreadable", f"annotation {number} of it is no segmentation: {error}"
            ) from None
        if drawn.shape != labels.shape:
            sizes = f"{width}×{height} px, annotation {number} of it {drawn.shape[1]}×{drawn.shape[0]} px"
            raise ImageError("unreadable", f"the image has {sizes}")
        labels[drawn > 0] = number
    return labels


def _is_plain(segmentation: Any) -> bool:
    """Tell polygons and plain counts from compressed run lengths."""
    return isinstance(segmentation, list) or isinstance(segmentation["counts"], list)
