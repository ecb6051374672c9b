"""Frames and tiles: the pixels that the network reads, and the pixels that it writes for them.

An image's *frame* is the input that the network would need for the whole image. Tiles are cut from
the frame: each is read with *context* around its *core*, and only the core is kept. Origins lie on
multiples of 2^depth, so that every pixel has the same phase on the pooling grid as in the whole
frame (Ronneberger et al. 2015, overlap-tile strategy).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.tiling_config import InputSizes


@dataclass(frozen=True)
class Tile:
    """One tile of an image's frame."""

    read: Box
    """Box that the network reads, in the frame (px); negative where the frame is mirrored."""
    predicted: Box
    """Box of the network's output that is used, in the frame (px). It is `extended`, unless the
    image is resampled for the network."""
    core: Box
    """Box of the part that is kept, in the image (px)."""
    extended: Box
    """Box of the core and its halo, clipped to the image (px)."""

    def wanted(self, margin: int) -> Box:
        """Return the part of the network's output for the read box that is used.

        Args:
            margin: Pixels that the output lacks on each side of the read box.
        """
        top = self.predicted.top - self.read.top - margin
        left = self.predicted.left - self.read.left - margin
        return Box(top, left, top + self.predicted.height, left + self.predicted.width)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of the core within the extended core."""
        top = self.core.top - self.extended.top
        left = self.core.left - self.extended.left
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
    """Cut an image's frame into tiles whose cores cover every pixel of the image exactly once.

    Args:
        height: Height of the image (px).
        width: Width of the image (px).
        sizes: Input sizes of the network.
        tile: Side of the core (px), a multiple of `sizes.multiple`.
        context: Pixels read around the core, a multiple of `sizes.multiple`; networks with unpadded
            convolutions read exactly their margin instead.
        halo: Pixels around the core that must be as exact as those of the core (px).
        whole_tiles: An image is a single tile if its frame has no more pixels than the frames of
            this many tiles.

    Yields:
        Tiles in raster order.
    """
    frame = sizes.input_size(height), sizes.input_size(width)
    if frame[0] * frame[1] <= whole_tiles * sizes.input_size(tile) ** 2:
        tile = max(frame)
    rows = _cut_spans(height, sizes=sizes, tile=tile, context=context, halo=halo)
    columns = list(_cut_spans(width, sizes=sizes, tile=tile, context=context, halo=halo))
    for core_y, extended_y, read_y in rows:
        for core_x, extended_x, read_x in columns:
            extended = _box_of(extended_y, extended_x)
            yield Tile(
                read=_box_of(read_y, read_x),
                predicted=extended,
                core=_box_of(core_y, core_x),
                extended=extended,
            )


_Span = tuple[int, int]


def _box_of(rows: _Span, columns: _Span) -> Box:
    return Box(top=rows[0], left=columns[0], bottom=rows[1], right=columns[1])


def _cut_spans(
    size: int, sizes: InputSizes, tile: int, context: int, halo: int
) -> Iterator[tuple[_Span, _Span, _Span]]:
    """Yield the start and stop of each core, its extended core and what is read, along one axis.

    Example:
        size 1000, multiple 16, tile 512, context 112, no halo → (0, 512), (0, 512), (0, 624) and
        (512, 1000), (512, 1000), (400, 1008).
    """
    frame = sizes.input_size(size)  # padded networks: the next multiple of the grid
    aligned_halo = -(-halo // sizes.multiple) * sizes.multiple  # origins stay on the pooling grid
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        extended = max(0, start - halo), min(size, stop + halo)
        if sizes.margin:
            first = max(0, start - aligned_halo)
            read_start = first - sizes.margin
            read_stop = read_start + sizes.input_size(extended[1] - first)
        else:
            around = context + aligned_halo
            read_start = max(0, start - around)
            read_stop = min(frame, start + tile + around)
        yield (start, stop), extended, (read_start, read_stop)
