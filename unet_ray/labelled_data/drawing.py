"""Drawing of objects of label files as masks.

Label files are untrusted, and pycocotools is C code that checks no number: a coordinate of 1e9
takes gigabytes, and run lengths that end early expose the content of memory. So all numbers are
checked against the size of the image before anything is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.regions.run_lengths import check_runs, decompress_counts
from unet_ray.labelled_data.annotations import NO_CATEGORY, WHOLE, Annotations

_MOST_OUTLINE_PX = 2**22
"""Longest outline of a polygon (px); pycocotools takes 80 bytes for each pixel of it."""
_MOST_IMAGE_OUTLINE_PX, _OUTLINE_PX_PER_CORNER = 2**24, 64
"""Limit of the length of all outlines of an image (px), and what is added to it for each corner.
The limit takes some seconds; a few numbers in a file must not take minutes."""
_IGNORED_ID, _FIRST_ID = 1, 2
"""Values in the mask of a single class: 0 is background, 1 is not counted, objects follow."""
_IGNORED = 255
"""Value of pixels that are not counted, in masks of several classes."""
_AREA = -2
"""Stands, among places of classes, for the category whose objects outline the labelled area."""

Size = tuple[int, int]
"""Height and width (px)."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws the masks of annotated images: object ids of a single class, or a mask per class."""

    annotations: Annotations
    classes: tuple[ClassSpec, ...]
    place_of: Mapping[int, int]
    """Row of a category → place of its class in `classes`; others are missing."""
    area: frozenset[int] = frozenset()
    """Rows of the categories outside of whose objects no pixel is counted; empty if all pixels
    are counted."""

    @property
    def labelling(self) -> Labelling:
        """Meaning of the values of the masks."""
        if len(self.classes) == 1:
            return Labelling("instances", self.classes, 0, _IGNORED_ID)
        return Labelling("folders", self.classes, 0, _IGNORED)

    def stated_size(self, image: int) -> Size | None:
        """Return the size for which the labels of an image were drawn, if the file states it."""
        row = self.annotations.images.slice(image, 1).to_pylist()[0]
        height, width = row["height"], row["width"]
        return (height, width) if height and width else None

    def draw(self, image: int, size: Size, window: Box | None = None) -> list[NDArray[Any]]:
        """Draw the masks of an image, or a window of them.

        Args:
            image: Row of the image.
            size: Height and width of the masks (px). Labels for another size are scaled.
            window: Window inside the masks; only objects that meet it are drawn. None: the whole
                masks.

        Returns:
            HW masks in the form that `labelling` describes. Where objects of a class overlap, the
            later one wins.

        Raises:
            ImageError: `unreadable`: an object cannot be drawn.
        """
        state = self.annotations.images.slice(image, 1).to_pylist()[0]
        if state["error"]:
            raise ImageError("unreadable", state["error"])
        stated = self.stated_size(image) or size
        scale = _Scale(size, (1, 1) if state["is_normalised"] else stated)
        shape = (window.height, window.width) if window else size
        canvas = _Canvas(len(self.classes), self.annotations.count_objects(image), shape)
        order = _order_objects(self, image)
        numbers = order.find_meeting(window, scale) if window else np.arange(len(order.rows))
        objects = self.annotations.take_objects(order.rows[numbers])
        for number, each in zip(numbers.tolist(), objects, strict=True):
            canvas.begin(number)
            try:
                for runs in _list_object_runs(each, scale):
                    clipped = _clip_runs(runs, size[0], window) if window else runs
                    canvas.paint(order.places[number], clipped)
            except ValueError as error:
                raise ImageError("unreadable", f"{each['label']}: {error}") from None
        return canvas.finish(has_area=bool(self.area))

    def place(self, category: int, is_ignored: bool) -> int | None:
        """Return the target where an object of a category is drawn; None: nowhere."""
        if category in self.area:
            return _AREA
        if category == NO_CATEGORY:
            return NO_CATEGORY
        place = self.place_of.get(category)
        return NO_CATEGORY if place is not None and is_ignored else place


@dataclass(frozen=True, eq=False)
class _ObjectOrder:
    """Objects of an image that are drawn, in the order in which they are drawn."""

    rows: NDArray[np.int64]
    """Row of each object in the table of objects."""
    places: list[int]
    """Target of each object: the place of a class, `NO_CATEGORY` or `_AREA`."""
    boxes: NDArray[np.float64]
    """Top, left, bottom and right of each object in its label file, as `Annotations.find_boxes`
    returns them; (objects, 4)."""

    def find_meeting(self, window: Box, scale: _Scale) -> NDArray[np.int64]:
        """Return the numbers of the objects that may meet a window, and of invalid ones.

        An image with an object far outside of it cannot be used, whatever window is drawn.
        """
        height, width = scale.size
        down = height / scale.drawn[0]
        across = width / scale.drawn[1]
        top, left, bottom, right = (self.boxes * (down, across, down, across)).T
        meets = (bottom >= window.top - 1) & (top <= window.bottom + 1)
        meets &= (right >= window.left - 1) & (left <= window.right + 1)
        margin = max(height, width)
        is_sane = (top >= -margin) & (bottom <= height + margin)
        is_sane &= (left >= -margin) & (right <= width + margin)
        return np.flatnonzero(meets | ~is_sane)


@lru_cache(maxsize=1)  # windows of one image follow one another
def _order_objects(drawing: Drawing, image: int) -> _ObjectOrder:
    annotations = drawing.annotations
    rows = annotations.rows_of(image)
    columns = annotations.objects.select(["category", "is_ignored"]).take(pa.array(rows))
    categories = columns["category"].to_pylist()
    ignored = columns["is_ignored"].to_pylist()
    numbers, places = list[int](), list[int]()
    # ignored objects come first: objects within a crowd are still objects
    for number in np.argsort(~np.array(ignored, bool), kind="stable").tolist():
        place = drawing.place(categories[number], ignored[number])
        if place is not None:
            numbers.append(number)
            places.append(place)
    rows = rows[numbers]
    return _ObjectOrder(rows, places, annotations.find_boxes(rows))


class _Canvas:
    """Masks that are being drawn; flat and column-major, as COCO's run lengths are."""

    def __init__(self, num_classes: int, num_objects: int, size: Size) -> None:
        self._size = size
        self._has_ids = num_classes == 1
        dtype: type[np.integer[Any]] = np.uint8
        if self._has_ids:
            dtype = np.uint16 if num_objects + _FIRST_ID < 2**16 else np.int32
        num_pixels = size[0] * size[1]
        self._masks = [np.zeros(num_pixels, dtype) for _ in range(num_classes)]
        self._area: NDArray[np.bool_] | None = None
        self._value = 0
        self._ignored = _IGNORED_ID if self._has_ids else _IGNORED

    def paint(self, place: int, runs: Sequence[tuple[int, int]]) -> None:
        """Paint runs of pixels, (first, last + 1), for a class, `NO_CATEGORY` or `_AREA`."""
        if place == _AREA:
            if self._area is None:
                self._area = np.zeros(self._size[0] * self._size[1], bool)
            _fill(self._area, runs, True)
            return
        if place == NO_CATEGORY:
            for mask in self._masks:
                _fill(mask, runs, self._ignored)
            return
        _fill(self._masks[place], runs, self._value)

    def begin(self, number: int) -> None:
        """Begin an object; its number in the image, from 0, is its identity."""
        self._value = _FIRST_ID + number if self._has_ids else 1

    def finish(self, has_area: bool) -> list[NDArray[Any]]:
        """Return the masks, HW."""
        if has_area:
            outside = True if self._area is None else ~self._area
            for mask in self._masks:
                mask[outside] = self._ignored
        height, width = self._size
        return [np.ascontiguousarray(mask.reshape(width, height).T) for mask in self._masks]


def _clip_runs(found: Sequence[tuple[int, int]], height: int, window: Box) -> list[tuple[int, int]]:
    """Return runs of an image as runs of one of its windows.

    Args:
        found: (First, last + 1) of each run in order, column-major in the image.
        height: Height of the image (px).
        window: Window of the image.
    """
    runs = np.array(found, np.int64).reshape(-1, 2)
    runs = runs[runs[:, 0] < runs[:, 1]]
    if not len(runs):
        return []
    left = int(runs[0, 0]) // height
    right = math.ceil(int(runs[-1, 1]) / height)
    columns = np.arange(max(left, window.left), min(right, window.right))
    # the runs that each column meets
    first = np.searchsorted(runs[:, 1], columns * height, side="right")
    end = np.searchsorted(runs[:, 0], (columns + 1) * height, side="left")
    of_run, places = _count_up(first, end)
    pairs = runs[of_run] - columns[places, None] * height
    pairs = np.clip(pairs, window.top, window.bottom) - window.top
    pairs += (columns[places, None] - window.left) * window.height
    return [(begin, end) for begin, end in pairs.tolist() if begin < end]


def _fill(flat: NDArray[Any], runs: Sequence[tuple[int, int]], value: int) -> None:
    for first, end in runs:
        flat[first:end] = value


@dataclass
class _Scale:
    """Scale from the size for which the labels of an image were drawn to the size of its masks."""

    size: Size
    """Height and width of the masks (px)."""
    drawn: Size
    """Height and width for which the labels were drawn (px); (1, 1) for shares."""
    _outline_px: float = 0.0
    """Length of the outlines so far (px)."""
    _num_corners: int = 0
    """Number of their corners."""

    def list_polygon_runs(self, points: Sequence[float]) -> list[tuple[int, int]]:
        """Return the runs of the pixels inside an outline; raise ValueError for a bad one."""
        height, width = self.size
        from_height, from_width = self.drawn
        corners = np.array(points, np.float64).reshape(-1, 2)
        corners = corners * (width / from_width, height / from_height)
        if len(corners) < 3:
            return []
        self._outline_px += _check_corners(corners, height, width)
        self._num_corners += len(corners)
        most = _MOST_IMAGE_OUTLINE_PX + _OUTLINE_PX_PER_CORNER * self._num_corners
        if self._outline_px > most:
            raise ValueError(
                f"it and the outlines before it in the image exceed the limit of {most} px"
            )
        (drawn,) = coco.frPyObjects([corners.ravel().tolist()], height, width)
        counts = decompress_counts(drawn["counts"])
        check_runs(counts, height, width)
        return _list_inside(counts)

    def list_box_runs(self, part: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Return the runs of run lengths in a box; raise ValueError for bad ones."""
        top, left = part["top"], part["left"]
        height, width = part["height"], part["width"]
        image_height, image_width = self.drawn
        is_whole = top == left == WHOLE
        if is_whole:
            top, left = 0, 0
            if (height, width) != self.drawn:
                raise ValueError(
                    f"its run lengths have {width}×{height} px, but the image has "
                    f"{image_width}×{image_height} px"
                )
        if not (0 <= top <= image_height - height and 0 <= left <= image_width - width):
            raise ValueError(
                f"its run lengths have {width}×{height} px at {left}, {top}, but the image has "
                f"{image_width}×{image_height} px"
            )
        counts = decompress_counts(part["counts"])
        check_runs(counts, height, width)
        runs = _list_inside(counts)
        if self.size == self.drawn == (height, width):
            return runs
        return self._scale_runs(runs, (top, left), (height, width))

    def _scale_runs(
        self, found: Sequence[tuple[int, int]], corner: tuple[int, int], box: Size
    ) -> list[tuple[int, int]]:
        """Return runs of a box as runs of the masks, scaled by nearest neighbour.

        Args:
            found: (First, last + 1) of each run in order, column-major in the box.
            corner: First row and column of the box.
            box: Height and width of the box (px).
        """
        top, left = corner
        height, width = box
        runs = np.array(found, np.int64).reshape(-1, 2)
        runs = runs[runs[:, 0] < runs[:, 1]]
        rows = _nearest(self.size[0], self.drawn[0]) - top
        columns = _nearest(self.size[1], self.drawn[1]) - left
        # the runs that each column of the masks meets; other columns cost nothing
        first = np.searchsorted(runs[:, 1], columns * height, side="right")
        end = np.searchsorted(runs[:, 0], (columns + 1) * height, side="left")
        is_inside = (columns >= 0) & (columns < width)
        of_run, places = _count_up(first, np.where(is_inside, end, first))
        pairs = np.clip(runs[of_run] - columns[places, None] * height, 0, height)
        pairs = np.searchsorted(rows, pairs) + places[:, None] * self.size[0]
        return [(begin, end) for begin, end in pairs.tolist() if begin < end]


def resize_nearest(mask_hw: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resize a mask by nearest neighbour to a height and width (px)."""
    rows = _nearest(size[0], mask_hw.shape[0])
    columns = _nearest(size[1], mask_hw.shape[1])
    return mask_hw[np.ix_(rows, columns)]


def _nearest(to: int, have: int) -> NDArray[np.int64]:
    """Return, for each of `to` pixels in a row, the index of the nearest of `have` pixels."""
    return (2 * np.arange(to) + 1) * have // (2 * to)


def _list_object_runs(each: Mapping[str, Any], scale: _Scale) -> Iterator[list[tuple[int, int]]]:
    """Yield runs of pixels of each part of an object, without its holes.

    Raises:
        ValueError: The object cannot be drawn.
    """
    if each["error"]:
        raise ValueError(each["error"])
    parts = each["parts"]
    at = 0
    while at < len(parts):
        part = parts[at]
        at += 1
        runs: list[tuple[int, int]] = []
        if part["points"]:
            runs = scale.list_polygon_runs(part["points"])
        elif part["height"]:
            runs = scale.list_box_runs(part)
        holes = []
        while at < len(parts) and parts[at]["is_hole"]:
            if runs:
                holes.append(scale.list_polygon_runs(parts[at]["points"]))
            at += 1
        yield _cut(runs, holes) if holes else runs


def _cut(runs: list[tuple[int, int]], holes: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return runs minus those of holes."""
    start = runs[0][0]
    stop = runs[-1][1]
    is_inside = np.zeros(stop - start, bool)
    for first, end in runs:
        is_inside[first - start : end - start] = True
    for hole in holes:
        for first, end in hole:
            is_inside[max(first - start, 0) : max(end - start, 0)] = False
    steps = np.flatnonzero(np.diff(is_inside, prepend=False, append=False)) + start
    firsts = steps[::2].tolist()
    ends = steps[1::2].tolist()
    return [*zip(firsts, ends, strict=True)]


def _list_inside(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the runs of pixels inside; counts are of pixels outside and inside in turn."""
    ends = np.cumsum(counts).tolist()
    return [*zip(ends[::2], ends[1::2], strict=False)]


def _count_up(
    first: NDArray[np.int64], end: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of all ranges, and the index of the range of each number.

    Args:
        first: First number of each range.
        end: Last number + 1 of each range; an end before the first makes an empty range.
    """
    lengths = np.maximum(end - first, 0)
    of_range = np.repeat(np.arange(len(first)), lengths)
    starts = np.cumsum(lengths) - lengths
    offsets = np.arange(len(of_range)) - starts[of_range]
    return first[of_range] + offsets, of_range


def _check_corners(corners: NDArray[np.float64], height: int, width: int) -> float:
    """Return the length of an outline (px); raise ValueError if it cannot be drawn."""
    # Tools write outlines that leave the image, mostly if images were cut into tiles. Parts
    # outside are cut off. Numbers much farther out belong to another image, or are wrong.
    margin = max(height, width)
    limits = np.array([width, height]) + margin
    is_near = (corners >= -margin) & (corners <= limits)
    wrong = np.flatnonzero(~is_near)
    if len(wrong):
        raise ValueError(
            f"the coordinate {corners.flat[wrong[0]]:g} is farther than {margin} px from "
            f"the image of {width}×{height} px"
        )
    steps = np.abs(corners - np.roll(corners, 1, axis=0))
    length = float(steps.max(axis=1).sum())
    if length > _MOST_OUTLINE_PX:
        raise ValueError(f"an outline has {length:.0f} px; the limit is {_MOST_OUTLINE_PX} px")
    return length


def count_objects(drawing: Drawing) -> tuple[NDArray[np.int64], int]:
    """Return the number of objects of each class, and the number without a class."""
    objects = drawing.annotations.objects
    categories = objects["category"].to_numpy()
    is_ignored = objects["is_ignored"].to_numpy(zero_copy_only=False)
    chosen = categories[(categories >= 0) & ~is_ignored]
    counts = np.bincount(chosen, minlength=len(drawing.annotations.categories))
    of_class = np.zeros(len(drawing.classes), np.int64)
    for row, place in drawing.place_of.items():
        of_class[place] += counts[row]
    num_areas = sum(int(counts[row]) for row in drawing.area)
    return of_class, int(counts.sum() - of_class.sum() - num_areas)
