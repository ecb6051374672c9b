"""Calls that a thread repeats while a `with` block runs, such as heartbeats."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unet_ray.errors import one_line

_logger = logging.getLogger("unet_ray")


@contextmanager
def every(
    interval_s: float, function: Callable[[], object], name: str, *, at_end: bool = False
) -> Iterator[None]:
    """Call a function every few seconds while the `with` block runs.

    A daemon thread calls it: first after one interval, and again one interval after the end of
    each call. The end of the block waits for a call in progress, never for the interval.

    An exception of the function does not end the calls. It is logged as a warning in one line. If
    consecutive calls fail with the same message, only the first is logged.

    Args:
        interval_s: Time from one call to the next (s).
        function: Function without arguments.
        name: Purpose of the calls, for the name of the thread and the warning.
        at_end: True for one more call at the end of the block.
    """
    ended = threading.Event()

    def repeat() -> None:
        """Call the function once in each interval until the block ends."""
        message = ""
        while not ended.wait(interval_s):
            message = call(message)
        if at_end:
            call(message)

    def call(last_message: str) -> str:
        """Call the function; return the message of its error, or an empty text."""
        try:
            function()
        except Exception as error:
            message = f"{name}: {one_line(error)}"
            if message != last_message:
                _logger.warning(message)
            return message
        return ""

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
