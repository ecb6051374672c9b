"""The log of tifffile, kept silent only while this package reads a TIFF file."""

from __future__ import annotations

import logging
import threading
from contextlib import ContextDecorator

_LOGGER = logging.getLogger("tifffile")


class QuietTifffile(ContextDecorator):
    """Silences tifffile in a `with` block or a decorated function, in any number of threads.

    tifffile logs each bad tag; readers here raise one error instead. The level that the host chose
    for the logger is restored when the last block ends.
    """

    _lock = threading.Lock()
    _depth = 0
    _level = logging.NOTSET

    def __enter__(self) -> QuietTifffile:
        with QuietTifffile._lock:
            if QuietTifffile._depth == 0:
                QuietTifffile._level = _LOGGER.level
                _LOGGER.setLevel(logging.CRITICAL)
            QuietTifffile._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with QuietTifffile._lock:
            QuietTifffile._depth -= 1
            if QuietTifffile._depth == 0:
                _LOGGER.setLevel(QuietTifffile._level)
