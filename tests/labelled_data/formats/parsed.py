"""Label files parsed by the package, as plain values for tests."""

from __future__ import annotations

import json
import random
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np

from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.labelled_data.annotations import Annotations
from unet_ray.labelled_data.formats.parsing import parse_labels


def parse(content: Any, name: str) -> Annotations:
    """Parse bytes, text, or a document that becomes JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    return parse_labels(BufferedReader(BytesIO(content), 2**20), name)


def list_objects(found: Annotations, image: int = 0) -> list[tuple[str | None, list[list[float]]]]:
    """Return category and polygons of the objects of an image that are counted."""
    return [
        (found.categories[each["category"]].name, [part["points"] for part in each["parts"]])
        for each in found.objects_of(image)
        if not each["is_ignored"]
    ]


def list_ignored(found: Annotations, image: int = 0) -> list[list[list[float]]]:
    """Return the polygons of the objects of an image that are not counted."""
    rows = [each for each in found.objects_of(image) if each["is_ignored"]]
    return [[part["points"] for part in each["parts"]] for each in rows]


def list_errors(found: Annotations) -> list[tuple[str, str]]:
    rows = found.objects.to_pylist()
    return [(each["label"], each["error"]) for each in rows if each["error"]]


def draw_mask(part: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Draw run lengths as a mask of an image."""
    canvas = np.zeros((height, width), bool)
    top, left = part["top"], part["left"]
    drawn = decode_rle(part["counts"], part["height"], part["width"])
    canvas[top : top + part["height"], left : left + part["width"]] = drawn
    return canvas


VALUES = (None, True, -1, 0, 2, 10**400, 1.5, float("nan"), float("inf"), "", "x", "\ud800", [])
VALUES += ([[]], {}, {"a": 1}, [1, 2], [[1, 2]], [[1e308, -1e308]], "a" * 300, [None], "0")


def damage(document: Any, numbers: random.Random) -> Any:
    """Return a document in which some values, anywhere, are of another kind or missing."""
    if numbers.random() < 0.06:
        return numbers.choice(VALUES)
    if isinstance(document, dict):
        kept = {key: value for key, value in document.items() if numbers.random() > 0.03}
        return {key: damage(value, numbers) for key, value in kept.items()}
    if isinstance(document, list):
        return [damage(value, numbers) for value in document if numbers.random() > 0.03]
    return document


def damage_bytes(content: bytes, numbers: random.Random) -> bytes:
    """Return a content that is cut off, or has bytes that are others."""
    if numbers.random() < 0.5:
        return content[: numbers.randrange(len(content) + 1)]
    changed = bytearray(content)
    for _ in range(numbers.randrange(1, 6)):
        changed[numbers.randrange(len(changed))] = numbers.choice(b"\0\n\r\"'{}[]:,.#&*-0 9e\xff")
    return bytes(changed)
