"""Files that are read in byte ranges, through a function that fetches the ranges."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING

from unet_ray.imaging.codecs.image_place import ImagePlace, PagePlace

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GAP_BYTES = 2**16
"""Largest gap between two ranges that are read as one (bytes)."""
_READ_AHEAD = 2**18

Fetch = Callable[[Sequence[tuple[int, int]]], list[bytes]]
"""Function that returns the bytes of ranges of a file, (offset, size) each.

It fetches the ranges in parallel if the store is remote. Each result has `size` bytes, or fewer at
the end of the file.
"""


class RangeFile(io.RawIOBase):
    """Seekable file over byte ranges.

    It reads ahead a little, because headers are read in many small pieces.

    Args:
        fetch: Function that returns the bytes of ranges.
        size: Size of the file (bytes).
        pieces: Parts of the file that need not be fetched, (offset, bytes) each.
        read_ahead: Smallest number of bytes that are fetched at once.
    """

    def __init__(
        self,
        fetch: Fetch,
        size: int,
        pieces: Sequence[tuple[int, bytes]] = (),
        read_ahead: int = _READ_AHEAD,
    ) -> None:
        self.fetch = fetch
        self.size = size
        self.pieces = tuple(pieces)
        self._read_ahead = read_ahead
        self._at = 0
        self._ahead = self._recent = (0, b"")

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position in the file, as files do, and return it (bytes).

        Raises:
            TypeError: `offset` is not an integer.
            ValueError: The position lies before the start of the file.
        """
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        at = origin + index(offset)
        if at < 0:
            raise ValueError(f"position before the start of the file: {at}")
        self._at = at
        return at

    def tell(self) -> int:
        """Return the position in the file (bytes)."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes (all that are left for None or -1), fewer at the end of the file."""
        left = max(0, self.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        for start, held in (self._recent, self._ahead, *self.pieces):
            if start <= self._at and self._at + wanted <= start + len(held):
                self._recent = (start, held)
                break
        else:
            (held,) = self.fetch([(self._at, max(wanted, min(self._read_ahead, left)))])
            start, self._ahead = self._at, (self._at, held)
        piece = held[self._at - start : self._at - start + wanted]
        self._at += len(piece)
        return piece

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer and return the number of bytes written to it."""
        samples = memoryview(buffer).cast("B")
        piece = self.read(len(samples))
        samples[: len(piece)] = piece
        return len(piece)


class PageFile(RangeFile):
    """TIFF file of which only one page is used.

    It is usually the first page, behind a header that points directly to it.

    Args:
        fetch: Function that returns the bytes of ranges.
        size: Size of the file (bytes).
        pieces: Parts of the file that need not be fetched, (offset, bytes) each.
        page: The page.
    """

    def __init__(
        self, fetch: Fetch, size: int, pieces: Sequence[tuple[int, bytes]], page: PagePlace
    ) -> None:
        super().__init__(fetch, size, [(0, page.header), *pieces])
        self.index = page.index


class PlaneFile(RangeFile):
    """TIFF file of which only one image is used, which may have a page for each channel.

    Args:
        fetch: Function that returns the bytes of ranges.
        pieces: Parts of the file that need not be fetched, (offset, bytes) each.
        place: The image.
    """

    def __init__(
        self, fetch: Fetch, pieces: Sequence[tuple[int, bytes]], place: ImagePlace
    ) -> None:
        super().__init__(fetch, place.file_size, pieces)
        self.place = place

    def page(self, page: PagePlace) -> PageFile:
        """Return the file with one page of the image."""
        return PageFile(self.fetch, self.size, self.pieces, page)
