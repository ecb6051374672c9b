"""A run that hangs ends: vanished tasks and stuck actors have no error of their own, and a night has an end."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time

_LAST_WORDS_S = 60.0
"""How long the main thread may take to end after it was interrupted."""


class Watchdog:
    """Interrupts the main thread, while the `with` block runs, when nothing was heard for too long.

    The main thread gets a KeyboardInterrupt, with `has_barked` set; one that does not even take that is ended with its
    process.

    Args:
        limit_s — longest silence.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._heard_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.has_barked = False

    def hear(self) -> None:
        """Say that there was progress."""
        self._heard_at = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.hear()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(5.0, self._limit_s / 4)):
            if time.monotonic() - self._heard_at > self._limit_s:
                self.has_barked = True
                _thread.interrupt_main()
                if not self._stop.wait(_LAST_WORDS_S):
                    print(
                        "error: no progress, and no end: run again to go on",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)
                return
