"""Frames and tiles: which pixels the network reads for which pixels it writes.

An image's *frame* is what the network would be given for the whole image. Tiles are cut from the frame; each is read
with *context* around its *core*, and only the core is kept. Origins lie on multiples of 2^depth, so that every pixel
meets the pooling grid at the phase that it has in the whole frame (Ronneberger et al. 2015, overlap-tile strategy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reach:
    """What a network asks of its input, along one axis."""

    multiple: int
    """Pooling grid, 2^depth (px)."""
    margin: int
    """Pixels that unpadded convolutions take from each side; 0 for padded ones."""

    def input_size(self, output_size: int) -> int:
        """Return the smallest input size (px) whose output covers `output_size` px.

        Example: depth 4, margin 92: 388 → 572, 389 → 588; margin 0: 17 → 32.
        """
        if self.margin == 0:
            return -(-output_size // self.multiple) * self.multiple
        # The bottom level is left with t pixels and each level above it with 2·size − 4: t = 4 + k gives 4 + k·2^depth.
        steps = max(0, -(-(output_size - 4) // self.multiple))
        return 2 * self.margin + 4 + steps * self.multiple


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, half-open: rows top..bottom − 1, columns left..right − 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    def grown(self, by: int, height: int, width: int) -> Box:
        """Return the box with so much around it, within 0..height and 0..width (px)."""
        bottom, right = min(height, self.bottom + by), min(width, self.right + by)
        return Box(max(0, self.top - by), max(0, self.left - by), bottom, right)

    def on_grid(self, multiple: int) -> Box:
        """Return the smallest box around it whose sides lie on multiples (px)."""
        bottom, right = (-(-side // multiple) * multiple for side in (self.bottom, self.right))
        return Box(self.top // multiple * multiple, self.left // multiple * multiple, bottom, right)

    def scaled(self, factor: int) -> Box:
        """Return the box in pixels that are so much smaller."""
        return Box(*(factor * side for side in (self.top, self.left, self.bottom, self.right)))


@dataclass(frozen=True)
class Tile:
    """One piece: `read` (frame coordinates, may be negative where the frame is mirrored) and `core` (image)."""

    read: Box
    core: Box
    wide: Box
    """The core and what is needed around it, within the image."""

    def wanted(self, margin: int) -> Box:
        """Return where the wide core lies in the network's output for the read box, which lacks `margin` px around."""
        top, left = self.wide.top - self.read.top - margin, self.wide.left - self.read.left - margin
        return Box(top, left, top + self.wide.height, left + self.wide.width)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the core within the wide core."""
        top, left = self.core.top - self.wide.top, self.core.left - self.wide.left
        return slice(top, top + self.core.height), slice(left, left + self.core.width)


def tiles_of(
    height: int, width: int, reach: Reach, tile: int, context: int, around: int = 0, whole_tiles: int = 0
) -> Iterator[Tile]:
    """Cut an image's frame into tiles whose cores part the image: every pixel is in exactly one.

    Args:
        height, width — image size (px).
        reach — the network's.
        tile — side of the core (px, a multiple of `reach.multiple`).
        context — pixels read around the core (a multiple of `reach.multiple`); networks with unpadded convolutions
            read exactly their margin instead.
        around — pixels around the core that are wanted as exactly as those of the core (px).
        whole_tiles — an image whose frame has no more pixels than the frames of so many tiles is one tile.
    """
    frame = reach.input_size(height), reach.input_size(width)
    if frame[0] * frame[1] <= whole_tiles * reach.input_size(tile) ** 2:
        tile = max(frame)
    columns = list(_spans(width, reach, tile, context, around))
    for core_y, wide_y, read_y in _spans(height, reach, tile, context, around):
        for core_x, wide_x, read_x in columns:
            yield Tile(
                *(Box(y[0], x[0], y[1], x[1]) for y, x in ((read_y, read_x), (core_y, core_x), (wide_y, wide_x)))
            )


_Span = tuple[int, int]


def _spans(size: int, reach: Reach, tile: int, context: int, around: int) -> Iterator[tuple[_Span, _Span, _Span]]:
    """Yield where core, wide core and what is read for them start and stop along one axis.

    Example: size 1000, multiple 16, tile 512, context 112, nothing around → (0, 512), (0, 512), (0, 624) and
    (512, 1000), (512, 1000), (400, 1008).
    """
    frame = reach.input_size(size)  # for padded networks: the size up to the next multiple
    further = -(-around // reach.multiple) * reach.multiple  # origins stay on the pooling grid
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        core, wide = (start, stop), (max(0, start - around), min(size, stop + around))
        if reach.margin:
            first = max(0, start - further)
            read_start = first - reach.margin
            yield core, wide, (read_start, read_start + reach.input_size(wide[1] - first))
        else:
            read_from = context + further
            yield core, wide, (max(0, start - read_from), min(frame, start + tile + read_from))


def read_box(image_hwc: NDArray[Any], box: Box, mirror: bool) -> NDArray[Any]:
    """Read a box of an image's frame, as `read_frame`, from an array."""
    height, width = image_hwc.shape[:2]
    return read_frame(lambda b: image_hwc[b.top : b.bottom, b.left : b.right], height, width, box, mirror)


def read_frame(read: Callable[[Box], NDArray[Any]], height: int, width: int, box: Box, mirror: bool) -> NDArray[Any]:
    """Read a box of an image's frame; what lies beyond the image is mirrored or replicated.

    Args:
        read — gives boxes inside the image, HWC, any dtype.
        height, width — of the image (px).
        box — frame coordinates: the image's, going on beyond its edges.
        mirror — mirror the image (unpadded networks), or replicate its last row and column (padded ones).
    """
    if box.top >= 0 and box.left >= 0 and box.bottom <= height and box.right <= width:
        return read(box)
    extend = mirrored if mirror else replicated
    rows, columns = extend(box.top, box.bottom, height), extend(box.left, box.right, width)
    inside = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    return read(inside)[rows - inside.top][:, columns - inside.left]


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the indices start..stop − 1 mirrored into 0..size − 1, edges not repeated, as often as it takes.

    Example: mirrored(-2, 5, 3) → 2 1 0 1 2 1 0.
    """
    period = max(1, 2 * (size - 1))
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position).astype(np.intp) if size > 1 else np.zeros(stop - start, np.intp)


def replicated(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the indices start..stop − 1 clipped into 0..size − 1."""
    return np.clip(np.arange(start, stop), 0, size - 1)
