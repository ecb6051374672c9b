"""Windows of TIFF files, read from the tiles or strips that a window overlaps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import ReadImage
from unet_ray.imaging.codecs.range_file import GAP_BYTES, Fetch, RangeFile
from unet_ray.imaging.codecs.raster import ORIENTATION_TAG, Raster
from unet_ray.imaging.codecs.tiff import open_image, raster_of_page
from unet_ray.imaging.codecs.tifffile_log import QuietTifffile
from unet_ray.imaging.codecs.window_reader import STRIP_ROWS, WindowReader, check_large
from unet_ray.imaging.geometry import Box
from unet_ray.limits import CACHED_SEGMENTS_BYTES, SEGMENT_BYTES


class TiffWindows(WindowReader):
    """Image of a TIFF; only the tiles or strips that a window overlaps are fetched and decoded."""

    def __init__(self, file: RangeFile) -> None:
        found = open_image(cast(BinaryIO, file))
        cache_bytes = CACHED_SEGMENTS_BYTES // len(found.pages)
        self._pages = [_PageWindows(page, file.fetch, cache_bytes) for page in found.pages]
        self._mask = found.mask and _PageWindows(found.mask, file.fetch, cache_bytes)
        self._image = found
        self.height = self._pages[0].height
        self.width = self._pages[0].width

    def _read_image(self, box: Box) -> ReadImage:
        rasters = tuple(page.read(box) for page in self._pages)
        mask = self._mask.read(box).samples[:, :, 0] if self._mask else None
        return ReadImage(rasters, mask, self._image.channels, self._image.pixel_size)


class _PageWindows:
    """Page of a TIFF that is read in windows."""

    def __init__(self, page: tifffile.TiffPage, fetch: Fetch, cache_bytes: int) -> None:
        self._page = page
        self._fetch = fetch
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any] | None] = OrderedDict()
        self.height = int(page.imagelength)
        self.width = int(page.imagewidth)
        check_large(self.height, self.width, page.samplesperpixel)
        if int(page.tags.valueof(ORIENTATION_TAG, 1)) != 1:
            raise ImageError(
                "unsupported",
                "a large image whose orientation tag is not upright; save it upright",
            )
        self._planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
        self._channels = 1 if self._planes > 1 else page.samplesperpixel
        self._rows, self._columns = self._find_grid()
        self._across = -(-self.width // self._columns)
        self._down = -(-self.height // self._rows)
        num_segments = self._across * self._down * self._planes
        if not self._is_plain and len(page.dataoffsets) < num_segments:
            raise ImageError(
                "unreadable",
                f"{len(page.dataoffsets)} tiles or strips, but the image needs {num_segments}",
            )

    def _find_grid(self) -> tuple[int, int]:
        """Return the rows and columns of a tile or strip.

        Strips of plain samples (uncompressed, contiguous) are cut into thinner ones.
        """
        page = self._page
        self._is_plain = False
        if page.is_tiled:
            rows = int(page.tilelength)
            columns = int(page.tilewidth)
        else:
            rows = min(int(page.rowsperstrip), self.height)
            columns = self.width
            is_as_stored = (
                page.bitspersample in (8, 16, 32)
                and int(page.compression) == 1
                and int(page.fillorder) == 1
                and int(page.predictor) == 1
            )
            if is_as_stored and rows > STRIP_ROWS and page.is_contiguous:
                self._is_plain = True
                rows = STRIP_ROWS
        sample_bytes = np.dtype(page.dtype).itemsize if page.dtype is not None else 1
        segment_bytes = rows * columns * self._channels * sample_bytes
        if rows < 1 or columns < 1 or segment_bytes > SEGMENT_BYTES:
            raise ImageError(
                "too_large",
                f"TIFF tiles or strips of {columns}×{rows} px, more than {SEGMENT_BYTES} bytes "
                "each; save the image with smaller ones",
            )
        return rows, columns

    def read(self, box: Box) -> Raster:
        """Return the samples of a window as the file holds them."""
        # a tile that was never written holds the no-data value, or 0, as in other TIFF readers
        shape = box.height, box.width, self._channels * self._planes
        samples = np.full(shape, self._page.nodata, self._page.dtype)
        wanted = [
            (plane, row, column)
            for plane in range(self._planes)
            for row in range(box.top // self._rows, -(-box.bottom // self._rows))
            for column in range(box.left // self._columns, -(-box.right // self._columns))
        ]
        for (plane, row, column), segment in zip(wanted, self._load_segments(wanted), strict=True):
            if segment is None:
                continue
            top = row * self._rows
            left = column * self._columns
            whole = Box(top, left, top + segment.shape[0], left + segment.shape[1])
            shared = whole.clipped(box)
            channels = slice(plane, plane + 1) if self._planes > 1 else slice(None)
            samples[(*_cut(shared, box), channels)] = segment[_cut(shared, whole)]
        return raster_of_page(self._page, samples)

    def _load_segments(self, wanted: Sequence[tuple[int, int, int]]) -> list[NDArray[Any] | None]:
        missing = [place for place in wanted if place not in self._cache]
        fetched = self._fetch_ranges([self._find_range(*place) for place in missing])
        for place, data in zip(missing, fetched, strict=True):
            self._cache[place] = self._decode_segment(place, data)
        found = [self._cache[place] for place in wanted]
        for place in wanted:
            self._cache.move_to_end(place)
        held = sum(segment.nbytes for segment in self._cache.values() if segment is not None)
        while held > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            held -= 0 if oldest is None else oldest.nbytes
        return found

    def _find_range(self, plane: int, row: int, column: int) -> tuple[int, int]:
        """Return the range of a tile or strip in the file: (offset, size)."""
        page = self._page
        if self._is_plain:
            row_bytes = self.width * self._channels * np.dtype(page.dtype).itemsize
            top = row * self._rows
            first = page.dataoffsets[0] + (plane * self.height + top) * row_bytes
            return first, min(self._rows, self.height - top) * row_bytes
        index = self._segment_index(plane, row, column)
        offset = int(page.dataoffsets[index])
        size = int(page.databytecounts[index])
        if size > 2 * SEGMENT_BYTES:
            raise ImageError(
                "unreadable", f"a tile or strip of {size} bytes; the limit is {2 * SEGMENT_BYTES}"
            )
        return offset, size if offset else 0

    def _segment_index(self, plane: int, row: int, column: int) -> int:
        return (plane * self._down + row) * self._across + column

    def _fetch_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each range.

        Ranges that lie close together are read in one piece, and pieces are read in parallel.
        """
        data: list[bytes] = [b""] * len(ranges)
        for pieces in _group_pieces(_join_ranges(ranges)):
            fetched = self._fetch([(piece.start, piece.size) for piece in pieces])
            for piece, found in zip(pieces, fetched, strict=True):
                view = memoryview(found)
                for index in piece.members:
                    offset, size = ranges[index]
                    start = offset - piece.start
                    data[index] = bytes(view[start : start + size])
        return data

    @QuietTifffile()
    def _decode_segment(self, place: tuple[int, int, int], data: bytes) -> NDArray[Any] | None:
        page = self._page
        if self._is_plain:
            kind = np.dtype(page.parent.byteorder + page.dtype.char)
            rows = min(self._rows, self.height - place[1] * self._rows)
            stored = np.frombuffer(data, kind).reshape(rows, self.width, self._channels)
            return stored.astype(page.dtype, copy=False)
        if not data:
            return None
        index = self._segment_index(*place)
        segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        if segment is None:
            return None
        whole = np.asarray(segment).reshape(segment.shape[-3:])
        _, rows, columns = shape[:3]
        return whole[:rows, :columns]


def _cut(part: Box, whole: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a part within a box that contains it."""
    top = part.top - whole.top
    left = part.left - whole.left
    return slice(top, top + part.height), slice(left, left + part.width)


@dataclass
class _Piece:
    """Piece of a file that covers several ranges and is read at once."""

    start: int
    stop: int
    members: list[int]
    """Indices of the ranges that the piece covers."""

    @property
    def size(self) -> int:
        return self.stop - self.start


def _join_ranges(ranges: list[tuple[int, int]]) -> list[_Piece]:
    """Join ranges, (offset, size) each, that lie close together; skip empty ranges."""
    pieces: list[_Piece] = []
    for index in sorted(range(len(ranges)), key=lambda index: ranges[index]):
        offset, size = ranges[index]
        stop = offset + size
        last = pieces[-1] if pieces else None
        is_near = last is not None and offset <= last.stop + GAP_BYTES
        if last and is_near and max(last.stop, stop) - last.start <= SEGMENT_BYTES:
            last.stop = max(last.stop, stop)
            last.members.append(index)
        elif size:
            pieces.append(_Piece(offset, stop, [index]))
    return pieces


def _group_pieces(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Yield groups of pieces that are fetched at once, each within the size limit of one piece."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and sum(other.size for other in group) + piece.size > SEGMENT_BYTES:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
