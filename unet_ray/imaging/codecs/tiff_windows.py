"""Windows of TIFF files: the tiles or strips that a window meets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import GAP_BYTES, RangeFile
from unet_ray.imaging.codecs.raster import ORIENTATION_TAG, Raster
from unet_ray.imaging.codecs.tiff import open_page, raster_of_page
from unet_ray.imaging.codecs.window_reader import STRIP_ROWS, WindowReader, check_large
from unet_ray.imaging.geometry import Box

_SEGMENT_BYTES = 2**28
"""Largest tile or strip of a TIFF that is decoded (bytes)."""
_CACHE_BYTES = 2**28
"""Decoded tiles and strips that are kept for the next window."""


class TiffWindows(WindowReader):
    """A page of a TIFF: the tiles or strips that a window meets are fetched and decoded."""

    def __init__(self, file: RangeFile) -> None:
        self._fetch = file.fetch
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any] | None] = OrderedDict()
        self._page = found = open_page(cast(BinaryIO, file))
        self.height, self.width = int(found.imagelength), int(found.imagewidth)
        check_large(self.height, self.width, found.samplesperpixel)
        if int(found.tags.valueof(ORIENTATION_TAG, 1)) != 1:
            raise ImageError(
                "unsupported",
                "a large image that is to be turned (orientation tag); save it upright",
            )
        self._planes = found.samplesperpixel if int(found.planarconfig) == 2 else 1
        self._channels = 1 if self._planes > 1 else found.samplesperpixel
        self._rows, self._columns = self._grid()
        self._across = -(-self.width // self._columns)
        self._down = -(-self.height // self._rows)
        segments = self._across * self._down * self._planes
        if not self._is_plain and len(found.dataoffsets) < segments:
            raise ImageError(
                "unreadable",
                f"{len(found.dataoffsets)} tiles or strips where {segments} are needed",
            )

    def _grid(self) -> tuple[int, int]:
        """Return rows and columns of a tile or strip; strips of plain samples are cut to thin ones."""
        page = self._page
        sample = np.dtype(page.dtype).itemsize if page.dtype is not None else 1
        self._is_plain = False
        if page.is_tiled:
            rows, columns = int(page.tilelength), int(page.tilewidth)
        else:
            rows, columns = min(int(page.rowsperstrip), self.height), self.width
            whole_rows = (
                page.bitspersample in (8, 16, 32)
                and int(page.compression) == 1
                and int(page.fillorder) == 1
            )
            if whole_rows and int(page.predictor) == 1 and rows > STRIP_ROWS and page.is_contiguous:
                self._is_plain, rows = True, STRIP_ROWS
        if rows < 1 or columns < 1 or rows * columns * self._channels * sample > _SEGMENT_BYTES:
            raise ImageError(
                "too_large", f"TIFF tiles or strips of {columns}×{rows} px; save it in smaller ones"
            )
        return rows, columns

    def _raster(self, box: Box) -> Raster:
        samples = np.zeros((box.height, box.width, self._channels * self._planes), self._page.dtype)
        wanted = [
            (plane, row, column)
            for plane in range(self._planes)
            for row in range(box.top // self._rows, -(-box.bottom // self._rows))
            for column in range(box.left // self._columns, -(-box.right // self._columns))
        ]
        for (plane, row, column), segment in zip(wanted, self._segments(wanted), strict=True):
            if segment is None:
                continue  # a tile that was never written: zeros, as TIFF readers give them
            top, left = row * self._rows, column * self._columns
            low, high = max(top, box.top), min(top + segment.shape[0], box.bottom)
            first, last = max(left, box.left), min(left + segment.shape[1], box.right)
            channels = slice(plane, plane + 1) if self._planes > 1 else slice(None)
            samples[
                low - box.top : high - box.top, first - box.left : last - box.left, channels
            ] = segment[low - top : high - top, first - left : last - left]
        return raster_of_page(self._page, samples)

    def _segments(self, wanted: Sequence[tuple[int, int, int]]) -> list[NDArray[Any] | None]:
        missing = [place for place in wanted if place not in self._cache]
        for place, data in zip(
            missing, self._fetched([self._range(*place) for place in missing]), strict=True
        ):
            self._cache[place] = self._decoded(place, data)
        found = [self._cache[place] for place in wanted]
        for place in wanted:
            self._cache.move_to_end(place)
        held = sum(segment.nbytes for segment in self._cache.values() if segment is not None)
        while held > _CACHE_BYTES:
            _, oldest = self._cache.popitem(last=False)
            held -= 0 if oldest is None else oldest.nbytes
        return found

    def _range(self, plane: int, row: int, column: int) -> tuple[int, int]:
        """Return where the bytes of a tile or strip lie: (offset, size)."""
        page = self._page
        if self._is_plain:
            row_bytes = self.width * self._channels * np.dtype(page.dtype).itemsize
            first = page.dataoffsets[0] + (plane * self.height + row * self._rows) * row_bytes
            return first, min(self._rows, self.height - row * self._rows) * row_bytes
        index = self._index(plane, row, column)
        offset, size = int(page.dataoffsets[index]), int(page.databytecounts[index])
        if size > 2 * _SEGMENT_BYTES:
            raise ImageError("unreadable", f"a tile or strip of {size} bytes")
        return offset, size if offset else 0

    def _index(self, plane: int, row: int, column: int) -> int:
        return (plane * self._down + row) * self._across + column

    def _fetched(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of ranges; those that lie close together are read in one piece, pieces side by side."""
        data: list[bytes] = [b""] * len(ranges)
        for pieces in _together(_pieces_of(ranges)):
            for piece, found in zip(
                pieces, self._fetch([(p.start, p.size) for p in pieces]), strict=True
            ):
                for index in piece.members:
                    offset, size = ranges[index]
                    data[index] = bytes(
                        memoryview(found)[offset - piece.start : offset - piece.start + size]
                    )
        return data

    def _decoded(self, place: tuple[int, int, int], data: bytes) -> NDArray[Any] | None:
        page = self._page
        if self._is_plain:
            kind = np.dtype(page.parent.byteorder + page.dtype.char)
            rows = min(self._rows, self.height - place[1] * self._rows)
            return (
                np.frombuffer(data, kind)
                .reshape(rows, self.width, self._channels)
                .astype(page.dtype, copy=False)
            )
        if not data:
            return None
        segment, _, shape = page.decode(data, self._index(*place), jpegtables=page.jpegtables)
        if segment is None:
            return None
        return np.asarray(segment).reshape(segment.shape[-3:])[: shape[1], : shape[2]]


@dataclass
class _Piece:
    """Ranges that are read as one."""

    start: int
    stop: int
    members: list[int]
    """Indices of the ranges."""

    @property
    def size(self) -> int:
        return self.stop - self.start


def _pieces_of(ranges: list[tuple[int, int]]) -> list[_Piece]:
    """Join ranges, (offset, size) each, that lie close together; empty ones are in none."""
    pieces: list[_Piece] = []
    for index in sorted(range(len(ranges)), key=lambda index: ranges[index]):
        offset, size = ranges[index]
        stop, last = offset + size, pieces[-1] if pieces else None
        if (
            last
            and offset <= last.stop + GAP_BYTES
            and max(last.stop, stop) - last.start <= _SEGMENT_BYTES
        ):
            last.stop = max(last.stop, stop)
            last.members.append(index)
        elif size:
            pieces.append(_Piece(offset, stop, [index]))
    return pieces


def _together(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces that are fetched at once: no more bytes than one may have."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and sum(other.size for other in group) + piece.size > _SEGMENT_BYTES:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
