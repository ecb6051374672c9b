"""A deadline on which a process without progress ends itself, so that Ray starts another one."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Deadline:
    """Ends this process if none of its work makes progress for too long.

    A native thread of the standard library's `faulthandler` ends it. It needs no Python lock, so
    code that hangs in C is ended too. It first prints the stack of each thread to stderr.

    Args:
        limit_s: Longest time without progress (s).
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._working = 0
        self._lock = threading.Lock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Require progress or the end of the `with` block in time; threads may use it together."""
        with self._lock:
            self._working += 1
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
                self._set()

    def postpone(self) -> None:
        """Restart the timer after progress."""
        with self._lock:
            self._set()

    def _set(self) -> None:
        if self._working:
            stderr = sys.__stderr__ or sys.stderr
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=stderr)
        else:
            faulthandler.cancel_dump_traceback_later()
