"""Files that are read in ranges of bytes, by whatever gives them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from operator import index
from typing import Any

GAP_BYTES = 2**16
"""Ranges so close together are read as one."""
_READ_AHEAD = 2**18

Fetch = Callable[[Sequence[tuple[int, int]]], list[bytes]]
"""Gives ranges of a file, (offset, size) each, side by side where the store is far: so many bytes, fewer at its end."""


class RangeFile(io.RawIOBase):
    """A seekable file over ranges, read ahead a little: headers are read in many small pieces.

    Args:
        fetch — gives the bytes.
        size — of the file (bytes).
        pieces — what need not be fetched: (offset, bytes) each.
        read_ahead — bytes that are fetched at once, at least.
    """

    def __init__(
        self,
        fetch: Fetch,
        size: int,
        pieces: Sequence[tuple[int, bytes]] = (),
        read_ahead: int = _READ_AHEAD,
    ) -> None:
        self.fetch, self.size, self.pieces, self._read_ahead = (
            fetch,
            size,
            tuple(pieces),
            read_ahead,
        )
        self._at = 0
        self._ahead = (0, b"")

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as files do; raise TypeError and ValueError for what is no place in a file."""
        at = index(offset) + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if at < 0:
            raise ValueError(f"a place before the file's begin: {at}")
        self._at = at
        return at

    def tell(self) -> int:
        """Return where it is (bytes)."""
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes, fewer at the end."""
        left = max(0, self.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        for start, held in (*self.pieces, self._ahead):
            if start <= self._at and self._at + wanted <= start + len(held):
                break
        else:
            (held,) = self.fetch([(self._at, max(wanted, min(self._read_ahead, left)))])
            start, self._ahead = self._at, (self._at, held)
        piece = held[self._at - start : self._at - start + wanted]
        self._at += len(piece)
        return piece

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return how far."""
        samples = memoryview(buffer).cast("B")
        piece = self.read(len(samples))
        samples[: len(piece)] = piece
        return len(piece)


class PageFile(RangeFile):
    """A TIFF file of which one page counts: one of a stack, by rule the first behind a header that points to it.

    Args:
        fetch, size, pieces — as `RangeFile`.
        index — of the page, as its header counts.
    """

    def __init__(
        self, fetch: Fetch, size: int, pieces: Sequence[tuple[int, bytes]], index: int
    ) -> None:
        super().__init__(fetch, size, pieces)
        self.index = index
