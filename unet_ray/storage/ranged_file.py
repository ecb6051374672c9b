"""A file on a remote store of which a few ranges are read, each by one request."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable

from unet_ray.storage.storage import Storage

_GAP_BYTES = 2**20
"""Gap between two ranges up to which both are fetched by one request: it takes less time than
another answer of a store that is far away (bytes)."""


class RangedFile(io.RawIOBase):
    """Seekable file whose ranges are fetched before they are read; others are fetched when read.

    Args:
        file: The one file.
        size: Size of the file (bytes).
    """

    def __init__(self, file: Storage, size: int) -> None:
        self._file, self._size = file, size
        self._at = 0
        self._pieces: list[tuple[int, bytes]] = []
        """First byte of each piece, and its bytes."""

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch ranges that will be read, those close to each other together.

        Args:
            ranges: First byte of each, and the byte after its last one. What lies beyond the file
                is left out.
        """
        merged: list[tuple[int, int]] = []
        inside = ((max(0, first), min(self._size, last)) for first, last in ranges)
        for first, last in sorted(piece for piece in inside if piece[0] < piece[1]):
            if merged and first - merged[-1][1] <= _GAP_BYTES:
                merged[-1] = merged[-1][0], max(last, merged[-1][1])
            else:
                merged.append((first, last))
        for first, last in merged:
            if self._find(first, last) is None:
                self._pieces.append((first, self._get(first, last)))

    def _get(self, first: int, last: int) -> bytes:
        """Return the bytes of a range from the store."""
        try:
            return self._file.read_range(first, last - first)
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # Arrow says so of damage
                raise OSError(errno.EIO, str(error)) from error
            raise

    def _find(self, first: int, last: int) -> bytes | None:
        """Return bytes that a piece has; None where no piece has all of them."""
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
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
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
