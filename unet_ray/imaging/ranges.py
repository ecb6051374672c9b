"""Files that are read in ranges of bytes, by whatever gives them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

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
