"""Frames and tiles: which pixels the network reads for which pixels it writes.

An image's *frame* is what the network would be given for the whole image. Tiles are cut from the frame; each is read
with *context* around its *core*, and only the core is kept. Origins lie on multiples of 2^depth, so that every pixel
meets the pooling grid at the phase that it has in the whole frame (Ronneberger et al. 2015, overlap-tile strategy).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.tiling_config import Reach


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
