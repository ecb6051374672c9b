"""Output of a command that outlives its reader, as in `unet-ray segment … | head`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class LastingStream:
    """A text stream that loses what is written once nobody reads it, instead of raising.

    Neither a terminal or pipe that is gone nor a log on a full disk is worth a run.

    Args:
        stream: Stdout or stderr; None where the process has none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)

    def write(self, text: str) -> int:
        """Write text and return its length."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Hand on what is written."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """Let what is buffered, and what Python writes when it exits, go nowhere."""
        with suppress(OSError, ValueError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def keep_streams() -> None:
    """Make stdout and stderr of this process outlive their readers."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), LastingStream):
            setattr(sys, name, LastingStream(getattr(sys, name)))
