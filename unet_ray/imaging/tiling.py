"""Frames and tiles: which pixels the network reads for which pixels it writes.

An image's *frame* is what the network would be given for the whole image. Tiles are cut from the frame; each is read
with *context* around its *core*, and only the core is kept. Origins lie on multiples of 2^depth, so that every pixel
meets the pooling grid at the phase that it has in the whole frame (Ronneberger et al. 2015, overlap-tile strategy).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.tiling_config import InputSizes


@dataclass(frozen=True)
class Tile:
    """One piece: `read` (frame coordinates, may be negative where the frame is mirrored) and `core` (image)."""

    read: Box
    core: Box
    extended: Box
    """The core and what is needed around it, within the image."""

    def wanted(self, margin: int) -> Box:
        """Return where the extended core lies in the network's output for the read box, which lacks `margin` px around."""
        top, left = (
            self.extended.top - self.read.top - margin,
            self.extended.left - self.read.left - margin,
        )
        return Box(top, left, top + self.extended.height, left + self.extended.width)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the core within the extended core."""
        top, left = self.core.top - self.extended.top, self.core.left - self.extended.left
        return slice(top, top + self.core.height), slice(left, left + self.core.width)


def cut_tiles(
    height: int,
    width: int,
    sizes: InputSizes,
    tile: int,
    context: int,
    halo: int = 0,
    whole_tiles: int = 0,
) -> Iterator[Tile]:
    """Cut an image's frame into tiles whose cores part the image: every pixel is in exactly one.

    Args:
        height, width — image size (px).
        sizes — the network's.
        tile — side of the core (px, a multiple of `sizes.multiple`).
        context — pixels read around the core (a multiple of `sizes.multiple`); networks with unpadded convolutions
            read exactly their margin instead.
        around — pixels around the core that are wanted as exactly as those of the core (px).
        whole_tiles — an image whose frame has no more pixels than the frames of so many tiles is one tile.
    """
    frame = sizes.input_size(height), sizes.input_size(width)
    if frame[0] * frame[1] <= whole_tiles * sizes.input_size(tile) ** 2:
        tile = max(frame)
    columns = list(_spans(width, sizes, tile, context, halo))
    for core_y, extended_y, read_y in _spans(height, sizes, tile, context, halo):
        for core_x, extended_x, read_x in columns:
            yield Tile(
                *(
                    Box(y[0], x[0], y[1], x[1])
                    for y, x in ((read_y, read_x), (core_y, core_x), (extended_y, extended_x))
                )
            )


_Span = tuple[int, int]


def _spans(
    size: int, sizes: InputSizes, tile: int, context: int, halo: int
) -> Iterator[tuple[_Span, _Span, _Span]]:
    """Yield where core, extended core and what is read for them start and stop along one axis.

    Example: size 1000, multiple 16, tile 512, context 112, nothing around → (0, 512), (0, 512), (0, 624) and
    (512, 1000), (512, 1000), (400, 1008).
    """
    frame = sizes.input_size(size)  # for padded networks: the size up to the next multiple
    further = -(-halo // sizes.multiple) * sizes.multiple  # origins stay on the pooling grid
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        core, extended = (start, stop), (max(0, start - halo), min(size, stop + halo))
        if sizes.margin:
            first = max(0, start - further)
            read_start = first - sizes.margin
            yield core, extended, (read_start, read_start + sizes.input_size(extended[1] - first))
        else:
            read_from = context + further
            yield core, extended, (max(0, start - read_from), min(frame, start + tile + read_from))
