"""A file on a remote store of which a few ranges are read, each by one request."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable

from unet_ray.storage.storage import Storage

_GAP_BYTES = 2**20
"""Largest gap between two ranges that are fetched by one request (bytes). Fetching the gap as well
takes less time than waiting for another answer of a distant store."""


class RangedFile(io.RawIOBase):
    """Seekable file whose ranges can be fetched ahead; other ranges are fetched when read.

    Args:
        file: The one file.
        size: Size of the file (bytes).
    """

    def __init__(self, file: Storage, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._pieces: list[tuple[int, bytes]] = []
        """First byte of each piece, and its bytes."""

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch ranges that will be read; those that lie close together take one request.

        Args:
            ranges: First byte of each range, and the byte after its last one. Parts beyond the file
                are left out.
        """
        merged: list[tuple[int, int]] = []
        for first, last in sorted((max(0, first), min(self._size, last)) for first, last in ranges):
            if first >= last:
                continue
            if merged and first - merged[-1][1] <= _GAP_BYTES:
                start, end = merged.pop()
                merged.append((start, max(last, end)))
            else:
                merged.append((first, last))
        for first, last in merged:
            if self._find(first, last) is None:
                self._pieces.append((first, self._get(first, last)))

    def _get(self, first: int, last: int) -> bytes:
        """Fetch the bytes of a range."""
        try:
            return self._file.read_range(first, last - first)
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # Arrow's error for a damaged file
                raise OSError(errno.EIO, str(error)) from error
            raise

    def _find(self, first: int, last: int) -> bytes | None:
        """Return the bytes of a range from a piece that holds it; None where none does."""
        for start, data in self._pieces:
            if start <= first and last <= start + len(data):
                return data[first - start : last - start]
        return None

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        first = self._at
        last = self._size if size < 0 else min(self._size, first + size)
        if first >= last:
            return b""
        data = self._find(first, last)
        if data is None:
            data = self._get(first, last)
        self._at += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, and return the number of bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = max(0, starts[whence] + offset)
        return self._at

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True
