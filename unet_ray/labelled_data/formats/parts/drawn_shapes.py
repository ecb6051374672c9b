"""Outlines and boxes of tools in which a box need not be a separate object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as shorten

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.labelled_data.annotations import NO_CATEGORY, LabelError, Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats.parts.shapes import NO_OUTLINE

_UNNAMED = "object"
"""Category of all objects of a file without labels."""
_MOST_PX = 1e9
"""Upper limit of coordinates (px)."""
_SAME_BOX = 0.5
"""IoU above which a box is taken as the bounding box of an outline."""


@dataclass(frozen=True)
class DrawnShape:
    """A shape that was drawn on an image."""

    name: str
    """Its name in messages: `polygon in line 12`."""
    label: str | None
    """Its category; None if it has none."""
    parts: Sequence[Polygon | Runs]
    is_box: bool = False
    """True for a box, which locates an object but does not say which pixels belong to it."""
    is_ignored: bool = False
    """True if its pixels are not counted."""
    error: str | None = None
    """Why it cannot be drawn."""


class ShapeCollector:
    """Adds the shapes of images to a builder, and decides what boxes mean.

    A box around an outline with the same label adds nothing to the outline, and is left out. Other
    boxes contain an object, but also pixels beside it, so their pixels are not counted.

    Args:
        builder: Receives categories, objects and counts.
    """

    def __init__(self, builder: AnnotationsBuilder) -> None:
        self._builder = builder
        self._unlabelled: list[tuple[int, DrawnShape]] = []
        self._num_images, self._num_boxes, self._num_outlines = 0, 0, 0

    def add(self, image: int, shapes: Sequence[DrawnShape]) -> None:
        """Add the shapes of an image, which lies in the row `image` of the builder."""
        outlines = [shape for shape in shapes if not shape.is_box]
        boxes = [shape for shape in shapes if shape.is_box]
        self._num_images += 1
        self._num_boxes += len(boxes)
        self._num_outlines += len(outlines)
        for shape in outlines:
            if shape.label is None:
                self._unlabelled.append((image, shape))
            else:
                self._add_object(image, shape, self._builder.find_category(shape.label))
        if not boxes:
            return
        bounds_of: dict[str | None, NDArray[np.float64]] = {}
        for label in {box.label for box in boxes}:
            same = [_measure(outline) for outline in outlines if outline.label == label]
            bounds_of[label] = np.array(same)
        for box in boxes:
            if _is_among(_measure(box), bounds_of[box.label]):
                self._builder.left_out["boxes around an outline"] += 1
                continue
            self._builder.left_out[NO_OUTLINE] += 1
            category = NO_CATEGORY
            if box.label is not None:
                category = self._builder.find_category(box.label)
            self._add_object(image, box, category, is_ignored=True)

    def finish(self, remedy: str) -> None:
        """Settle the decisions that need the shapes of all images.

        Args:
            remedy: What to do in the tool instead of drawing boxes.

        Raises:
            LabelError: There are boxes on several images, and no outline on any.
        """
        if self._num_boxes and not self._num_outlines and self._num_images > 1:
            raise LabelError(
                f"it has {self._num_boxes} boxes and no outlines; a box does not tell which of its "
                f"pixels are the object: {remedy}"
            )
        has_labels = len(self._unlabelled) < self._num_outlines
        if self._unlabelled and has_labels:
            what = "outlines without a label: their pixels are not counted"
            self._builder.left_out[what] += len(self._unlabelled)
        for image, shape in self._unlabelled:
            category = NO_CATEGORY if has_labels else self._builder.find_category(_UNNAMED)
            self._add_object(image, shape, category, is_ignored=has_labels)

    def _add_object(
        self, image: int, shape: DrawnShape, category: int, is_ignored: bool = False
    ) -> None:
        self._builder.add_object(
            image,
            category,
            shape.parts,
            label=shape.name,
            is_ignored=is_ignored or shape.is_ignored,
            error=shape.error,
        )


def to_number(value: object) -> float:
    """Return a number of a label file.

    Raises:
        ValueError: The value is not a number, or is too large for a coordinate.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{shorten(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{shorten(value)} is not a number") from None
    if not abs(number) < _MOST_PX:
        raise ValueError(f"the number {number:g} cannot be a coordinate")
    return number


def to_numbers(values: Sequence[object]) -> list[float]:
    """Return the numbers of an outline; raise ValueError as `to_number` does."""
    kinds = {*map(type, values)}
    if kinds <= {int, float} or kinds == {str}:
        try:
            numbers = list(map(float, values))  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            numbers = []
        if numbers and all(-_MOST_PX < number < _MOST_PX for number in numbers):
            return numbers
    return [to_number(value) for value in values]


def trace_box(
    left: float, top: float, width: float, height: float, degrees: float, is_about_centre: bool
) -> list[float]:
    """Return the outline of a box: corners, x and y in turn.

    Args:
        left: Left edge before it is turned.
        top: Upper edge before it is turned.
        width: Width before it is turned.
        height: Height before it is turned.
        degrees: Angle by which it is turned, clockwise as images are seen.
        is_about_centre: True if it is turned about its centre, False if about its upper left
            corner.
    """
    pivot = np.array([width, height]) / 2 if is_about_centre else np.zeros(2)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - pivot
    if degrees:
        angle = math.radians(degrees)
        sin, cos = math.sin(angle), math.cos(angle)
        corners = corners @ np.array([[cos, sin], [-sin, cos]])
    placed = corners + pivot + np.array([left, top])
    numbers: list[float] = placed.ravel().tolist()
    return numbers


def encode_mask(mask_hw: NDArray[np.bool_], left: int = 0, top: int = 0) -> Runs | None:
    """Return the run lengths of the smallest box around the pixels of a mask.

    Args:
        mask_hw: True inside the object.
        left: Column of the image where the mask begins.
        top: Row of the image where the mask begins.

    Returns:
        The run lengths; None for a mask without pixels.
    """
    rows = np.flatnonzero(mask_hw.any(axis=1))
    columns = np.flatnonzero(mask_hw.any(axis=0))
    if not len(rows):
        return None
    first_row, first_column = int(rows[0]), int(columns[0])
    box = mask_hw[first_row : rows[-1] + 1, first_column : columns[-1] + 1]
    return Runs(
        counts=encode_rle(box),
        height=box.shape[0],
        width=box.shape[1],
        left=left + first_column,
        top=top + first_row,
    )


def _measure(shape: DrawnShape) -> NDArray[np.float64]:
    """Return the box around a shape, (left, top, right, bottom); zeros if it cannot be drawn."""
    boxes = []
    for part in shape.parts:
        if isinstance(part, Runs):
            left, top = part.left or 0, part.top or 0
            boxes.append((left, top, left + part.width, top + part.height))
        else:
            corners = np.array(part.outer).reshape(-1, 2)
            boxes.append((*corners.min(axis=0), *corners.max(axis=0)))
    if not boxes:
        return np.zeros(4)
    bounds = np.array(boxes, np.float64)
    first = bounds[:, :2].min(axis=0)
    end = bounds[:, 2:].max(axis=0)
    return np.append(first, end)


def _is_among(box: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Tell whether a box is nearly the same as one of the others, (n, 4)."""
    if not len(others):
        return False
    low = np.maximum(others[:, :2], box[:2])
    high = np.minimum(others[:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    area = (box[2:] - box[:2]).prod()
    united = areas + area - shared
    return bool((shared > _SAME_BOX * united).any())
