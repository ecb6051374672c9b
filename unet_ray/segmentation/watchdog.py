"""The watchdog ends a run that hangs: vanished tasks and stuck actors raise no error."""

from __future__ import annotations

import _thread
import ctypes
import logging
import os
import signal
import threading
import time

_logger = logging.getLogger("unet_ray")

_LAST_WORDS_S = 60.0
"""Time that the interrupted thread has to end its `with` block."""


class Watchdog:
    """Interrupts the thread of its `with` block when there is no progress for too long.

    The thread, which need not be the main one, gets a KeyboardInterrupt, with `has_barked` set. If
    it does not respond to that, the process ends.

    Args:
        limit_s: Longest time without progress.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._heard_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._watched_thread = 0
        self.has_barked = False

    def hear(self) -> None:
        """Report progress."""
        self._heard_at = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.hear()
        self._watched_thread = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(5.0, self._limit_s / 4)):
            if time.monotonic() - self._heard_at > self._limit_s:
                self.has_barked = True
                _interrupt(self._watched_thread)
                if not self._stop.wait(_LAST_WORDS_S):
                    _logger.error(
                        "error: no progress, and the run does not end: run again to go on"
                    )
                    os._exit(1)
                return


def _interrupt(thread_id: int) -> None:
    """Raise a KeyboardInterrupt in a thread as soon as it executes Python code.

    Waiting for Ray Data's output does so all the time: it polls.
    """
    is_main = thread_id == threading.main_thread().ident
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _thread.interrupt_main()  # it also ends calls that check for signals, such as ray.get
        return
    # The only way to raise in another thread, to which signals never go, and in a process whose
    # SIGINT does not: the host handles it, or a shell started it in the background, ignoring it.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), ctypes.py_object(KeyboardInterrupt)
    )
