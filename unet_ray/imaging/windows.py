"""Windows of images that are never decoded whole: TIFF by its tiles and strips, PNG and JPEG row by row.

What holds for small images holds here: the same colours, the same errors. Files are read in ranges, by whatever gives
them; nothing of a file makes a library open another one.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.images import colours_of, decode_image
from unet_ray.imaging.raster import ORIENTATION_TAG, Raster, check_samples, mapped_errors
from unet_ray.imaging.tiffs import TIFF_MAGIC, image_pages, raster_of_page
from unet_ray.imaging.tiling import Box

WHOLE_PIXELS = 2**25
"""Largest image that is decoded whole (px): 34 megapixels. Larger ones are read in windows, where their format can."""
MAX_PIXELS = 2**34
"""Largest image (px): 17 gigapixels, 131,072 squared."""
_SEGMENT_BYTES = 2**28
"""Largest tile or strip of a TIFF that is decoded (bytes)."""
_CACHE_BYTES = 2**28
"""Decoded tiles and strips that are kept for the next window."""
_GAP_BYTES = 2**16
"""Ranges so close together are read as one."""
_STRIP_ROWS = 64
_READ_AHEAD = 2**18

Fetch = Callable[[int, int], bytes]
"""Gives bytes of a file: (offset, size) → at most so many, fewer at its end."""


class RangeFile(io.RawIOBase):
    """A seekable file over ranges, read ahead a little: headers are read in many small pieces.

    Args:
        fetch — gives the bytes.
        size — of the file (bytes).
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self._size, self._at = fetch, size, 0
        self._start, self._held = 0, b""

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as files do."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        """Return where it is (bytes)."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        begin = self._at - self._start
        if begin < 0 or begin + wanted > len(self._held):
            self._start, begin = self._at, 0
            self._held = self._fetch(self._at, max(wanted, min(_READ_AHEAD, left)))
        piece = self._held[begin : begin + wanted]
        self._at += len(piece)
        return piece

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return how far."""
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class WindowReader(ABC):
    """An open image: its size, and any window of it."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return a window, HWC, as `images.decode_image` gives it; the box lies inside the image.

        Raises: ImageError — as `decode_image`.
        """
        with mapped_errors():
            window, alpha = colours_of(self._raster(box))
        if self._alpha not in (None, alpha):
            raise ImageError("unsupported", "transparency that varies over the image; flatten it")
        self._alpha = alpha
        return check_samples(window)

    _alpha: float | None = None
    """Of the windows so far."""

    @abstractmethod
    def _raster(self, box: Box) -> Raster:
        """Return the samples of a window as the file holds them."""


def open_windows(fetch: Fetch, size: int, page: int | None = None) -> WindowReader:
    """Open an image for windows.

    Args:
        fetch — gives the file's bytes.
        size — of the file (bytes).
        page — 1-based page of a TIFF stack.

    Raises: ImageError — `unreadable`, `too_large` or `unsupported`.
    """
    with mapped_errors():
        file = RangeFile(fetch, size)
        magic = file.read(8)
        file.seek(0)
        if not magic:
            raise ImageError("unreadable", "the file is empty (0 bytes)")
        if magic[:4] in TIFF_MAGIC:
            return _TiffWindows(fetch, file, page)
        if page is not None:
            raise ImageError("unreadable", f"page {page} of a file that is no TIFF")
        if magic[:3] == b"\xff\xd8\xff" or magic == b"\x89PNG\r\n\x1a\n":
            return _RowWindows(fetch, size, is_png=magic[:1] == b"\x89")
        return _WholeImage(fetch, size)


def check_large(height: int, width: int, channels: int) -> None:
    """Raise ImageError for an image that is too large even for windows."""
    if height * width > MAX_PIXELS:
        raise ImageError("too_large", f"{width}×{height} px; images up to {MAX_PIXELS} px are read")
    if channels > 64:
        raise ImageError("unsupported", f"{channels} channels; up to 64 are read")


class _WholeImage(WindowReader):
    """A format that cannot be read in pieces: decoded whole, up to the limit of small images."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._image = decode_image(fetch(0, size))
        self.height, self.width = self._image.shape[:2]

    def read(self, box: Box) -> NDArray[Any]:
        return self._image[box.top : box.bottom, box.left : box.right]

    def _raster(self, box: Box) -> Raster:
        raise NotImplementedError


class _TiffWindows(WindowReader):
    """A page of a TIFF: the tiles or strips that a window meets are fetched and decoded."""

    def __init__(self, fetch: Fetch, file: RangeFile, page: int | None) -> None:
        self._fetch = fetch
        self._cache: OrderedDict[tuple[int, int, int], NDArray[Any] | None] = OrderedDict()
        tiff = tifffile.TiffFile(file)
        pages = image_pages(tiff, cast(BinaryIO, file)) or [tiff.pages[0]]
        if page is None and len(pages) > 1:
            raise ImageError("unsupported", f"a stack of {len(pages)} pages where one image was expected")
        if (page or 1) > len(pages):
            raise ImageError("unreadable", f"page {page} of a stack of {len(pages)}")
        self._page = found = pages[(page or 1) - 1]
        self.height, self.width = int(found.imagelength), int(found.imagewidth)
        check_large(self.height, self.width, found.samplesperpixel)
        if found.imagedepth > 1:
            raise ImageError("unsupported", f"a volume of {found.imagedepth} planes in one page")
        if int(found.tags.valueof(ORIENTATION_TAG, 1)) != 1:
            raise ImageError("unsupported", "a large image that is to be turned (orientation tag); save it upright")
        self._planes = found.samplesperpixel if int(found.planarconfig) == 2 else 1
        self._channels = 1 if self._planes > 1 else found.samplesperpixel
        self._rows, self._columns = self._grid()
        self._across = -(-self.width // self._columns)
        self._down = -(-self.height // self._rows)
        segments = self._across * self._down * self._planes
        if not self._is_plain and len(found.dataoffsets) < segments:
            raise ImageError("unreadable", f"{len(found.dataoffsets)} tiles or strips where {segments} are needed")

    def _grid(self) -> tuple[int, int]:
        """Return rows and columns of a tile or strip; strips of plain samples are cut to thin ones."""
        page = self._page
        sample = np.dtype(page.dtype).itemsize if page.dtype is not None else 1
        self._is_plain = False
        if page.is_tiled:
            rows, columns = int(page.tilelength), int(page.tilewidth)
        else:
            rows, columns = min(int(page.rowsperstrip), self.height), self.width
            whole_rows = page.bitspersample in (8, 16, 32) and int(page.compression) == 1 and int(page.fillorder) == 1
            if whole_rows and int(page.predictor) == 1 and rows > _STRIP_ROWS and page.is_contiguous:
                self._is_plain, rows = True, _STRIP_ROWS
        if rows < 1 or columns < 1 or rows * columns * self._channels * sample > _SEGMENT_BYTES:
            raise ImageError("too_large", f"TIFF tiles or strips of {columns}×{rows} px; save it in smaller ones")
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
            samples[low - box.top : high - box.top, first - box.left : last - box.left, channels] = segment[
                low - top : high - top, first - left : last - left
            ]
        return raster_of_page(self._page, samples)

    def _segments(self, wanted: Sequence[tuple[int, int, int]]) -> list[NDArray[Any] | None]:
        missing = [place for place in wanted if place not in self._cache]
        for place, data in zip(missing, self._fetched([self._range(*place) for place in missing]), strict=True):
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
        """Return the bytes of ranges; those that lie close together are read in one piece."""
        order = sorted(range(len(ranges)), key=lambda index: ranges[index])
        data: list[bytes] = [b""] * len(ranges)
        while order:
            start = ranges[order[0]][0]
            stop, taken = start, 0
            for index in order:
                offset, size = ranges[index]
                if offset > stop + _GAP_BYTES or (max(stop, offset + size) - start > _SEGMENT_BYTES and taken):
                    break
                stop, taken = max(stop, offset + size), taken + 1
            piece = memoryview(self._fetch(start, stop - start)) if stop > start else memoryview(b"")
            for index in order[:taken]:
                offset, size = ranges[index]
                data[index] = bytes(piece[offset - start : offset - start + size])
            order = order[taken:]
        return data

    def _decoded(self, place: tuple[int, int, int], data: bytes) -> NDArray[Any] | None:
        page = self._page
        if self._is_plain:
            kind = np.dtype(page.parent.byteorder + page.dtype.char)
            rows = min(self._rows, self.height - place[1] * self._rows)
            return np.frombuffer(data, kind).reshape(rows, self.width, self._channels).astype(page.dtype, copy=False)
        if not data:
            return None
        segment, _, shape = page.decode(data, self._index(*place), jpegtables=page.jpegtables)
        if segment is None:
            return None
        return np.asarray(segment).reshape(segment.shape[-3:])[: shape[1], : shape[2]]


class _RowWindows(WindowReader):
    """A PNG or JPEG: decoded from the top, row by row; a window above the last one starts again.

    Memory: the rows of a window, over the whole width; interlaced PNG and progressive JPEG are held whole by their
    decoders.
    """

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        self._source = fetch, size, is_png
        self._start_again()
        image = self._rows_from.image
        self.height, self.width = image.height, image.width
        check_large(self.height, self.width, image.bands)
        if image.format not in ("uchar", "ushort") or image.interpretation == "cmyk" or image.bands > 4:
            raise ImageError("unsupported", f"a large {image.interpretation} image of {image.format}; save it as TIFF")
        if "orientation" in image.get_fields() and image.get("orientation") != 1:
            raise ImageError("unsupported", "a large image that is to be turned (EXIF orientation); save it upright")
        self._dtype = np.uint8 if image.format == "uchar" else np.uint16

    def _start_again(self) -> None:
        self._rows_from = _RowSource(*self._source)
        self._top = 0
        self._rows: list[NDArray[Any]] = []

    def _raster(self, box: Box) -> Raster:
        if box.top < self._top:
            self._start_again()
        strips = self._rows
        while self._top + len(strips) * _STRIP_ROWS < box.bottom:
            at = self._top + len(strips) * _STRIP_ROWS
            strips.append(self._strip(at))
            if self._top + _STRIP_ROWS <= box.top:
                del strips[0]
                self._top += _STRIP_ROWS
        while self._top + _STRIP_ROWS <= box.top:
            del strips[0]
            self._top += _STRIP_ROWS
        last = -(-(box.bottom - self._top) // _STRIP_ROWS)
        columns = [strip[:, box.left : box.right] for strip in strips[:last]]
        samples = np.concatenate(columns)[box.top - self._top : box.bottom - self._top]
        has_alpha = samples.shape[2] in (2, 4)
        return Raster(samples, has_alpha=has_alpha, bits=samples.dtype.itemsize * 8)

    def _strip(self, top: int) -> NDArray[Any]:
        rows = min(_STRIP_ROWS, self.height - top)
        return np.frombuffer(self._rows_from.rows(top, rows), self._dtype).reshape(rows, self.width, -1)


class _RowSource:
    """A PNG or JPEG that libvips decodes from the top; the loaders are named, so that no content chooses another."""

    def __init__(self, fetch: Fetch, size: int, is_png: bool) -> None:
        import pyvips  # not above: a shared library of 40 MB that only large PNG and JPEG files need

        self._file, self._error = RangeFile(fetch, size), None
        self._source = pyvips.SourceCustom()  # libvips does not keep it: we do
        self._source.on_read(self._read)
        self._source.on_seek(self._file.seek)
        load = pyvips.Image.pngload_source if is_png else pyvips.Image.jpegload_source
        self.image = load(self._source, access="sequential", fail_on="truncated")
        self._region = pyvips.Region.new(self.image)

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # a callback of C code: nobody would hear of it
            self._error = error
            return b""

    _error: Exception | None

    def rows(self, top: int, count: int) -> bytes:
        """Return whole rows; raise what reading the file raised, or libvips' own error."""
        try:
            return bytes(self._region.fetch(0, top, self.image.width, count))
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
