"""Boxes in pixels, and boxes read from an image, mirrored or replicated beyond its edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, half-open: rows top..bottom − 1, columns left..right − 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def grown(self, by: int, height: int, width: int) -> Box:
        """Return the box with `by` pixels around it, clipped to 0..height and 0..width (px)."""
        return Box(
            top=max(0, self.top - by),
            left=max(0, self.left - by),
            bottom=min(height, self.bottom + by),
            right=min(width, self.right + by),
        )

    def clipped(self, to: Box) -> Box:
        """Return the part of the box that lies in another one; it may be empty."""
        top = max(self.top, to.top)
        left = max(self.left, to.left)
        bottom = min(self.bottom, to.bottom)
        right = min(self.right, to.right)
        return Box(top, left, max(top, bottom), max(left, right))

    def on_grid(self, multiple: int) -> Box:
        """Return the smallest box around this one with sides on multiples of `multiple` (px)."""
        return Box(
            top=self.top // multiple * multiple,
            left=self.left // multiple * multiple,
            bottom=-(-self.bottom // multiple) * multiple,
            right=-(-self.right // multiple) * multiple,
        )

    def scaled(self, factor: int) -> Box:
        """Return the box in pixels that are smaller by `factor`."""
        return Box(
            top=factor * self.top,
            left=factor * self.left,
            bottom=factor * self.bottom,
            right=factor * self.right,
        )


def read_box(image_hwc: NDArray[Any], box: Box, mirror: bool) -> NDArray[Any]:
    """Read a box of an image's frame from an array, like `read_frame`."""
    height, width = image_hwc.shape[:2]
    return read_frame(
        read=lambda b: image_hwc[b.top : b.bottom, b.left : b.right],
        height=height,
        width=width,
        box=box,
        mirror=mirror,
    )


def read_frame(
    read: Callable[[Box], NDArray[Any]], height: int, width: int, box: Box, mirror: bool
) -> NDArray[Any]:
    """Read a box of an image's frame; pixels beyond the image are mirrored or replicated.

    Args:
        read: Reads a box inside the image, HWC, any dtype.
        height: Height of the image (px).
        width: Width of the image (px).
        box: Box in the image's coordinates, which continue beyond its edges (px).
        mirror: Mirror the image (unpadded networks) instead of replicating its edge rows and
            columns (padded networks).

    Returns:
        Pixels of the box, HWC.
    """
    if box.top >= 0 and box.left >= 0 and box.bottom <= height and box.right <= width:
        return read(box)
    inside, rows, columns = fold_box(box, height, width, mirror)
    return read(inside)[rows][:, columns]


def fold_box(
    box: Box, height: int, width: int, mirror: bool
) -> tuple[Box, NDArray[np.intp], NDArray[np.intp]]:
    """Return the pixels of an image that fill a box of its frame.

    Args:
        box: Box in the image's coordinates, which continue beyond its edges (px).
        height: Height of the image (px).
        width: Width of the image (px).
        mirror: As for `read_frame`.

    Returns:
        The box inside the image that holds all of these pixels; then, for each row and column of
        the frame's box, the row and column in that inner box.
    """
    extend = mirrored if mirror else replicated
    rows = extend(box.top, box.bottom, height)
    columns = extend(box.left, box.right, width)
    inside = Box(
        top=int(rows.min()),
        left=int(columns.min()),
        bottom=int(rows.max()) + 1,
        right=int(columns.max()) + 1,
    )
    return inside, rows - inside.top, columns - inside.left


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the indices start..stop − 1 mirrored into 0..size − 1.

    Edges are not repeated, and indices are mirrored as often as needed.

    Example:
        mirrored(-2, 5, 3) → 2 1 0 1 2 1 0.
    """
    if size <= 1:
        return np.zeros(stop - start, np.intp)
    period = 2 * (size - 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position).astype(np.intp)


def replicated(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the indices start..stop − 1 clipped to 0..size − 1."""
    return np.clip(np.arange(start, stop), 0, size - 1)
