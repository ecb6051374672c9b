"""Everything that a command shows passes here, on its way to a terminal.

What others wrote, such as file names, cannot command the terminal: `show` and `LineFormatter` print
lines, in which every control character is escaped. A stream escapes all but newlines and tabs,
whoever writes to it. It also outlives its reader, as in `unet-ray segment … | head`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from unet_ray.text import escape_controls


class LastingStream:
    """A text stream that escapes control characters, and loses what nobody reads any more.

    Neither a terminal or pipe that is gone nor a log on a full disk is worth a run.

    Args:
        stream: Stdout or stderr; None where the process has none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
        if isinstance(self._stream, io.TextIOWrapper):  # a terminal that knows few characters
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write text, with escapes for all control characters but newlines and tabs.

        Returns:
            Length of the text.
        """
        try:
            self._stream.write(escape_controls(text, keep="\n\t"))
        except OSError:
            self._give_up()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts as `write` does."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Say no, so that nobody writes colours or progress bars, which would be escaped."""
        return False

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
    """Make stdout and stderr of this process outlive their readers, and show any text."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), LastingStream):
            setattr(sys, name, LastingStream(getattr(sys, name)))


class LineFormatter(logging.Formatter):
    """Formats the message of each log record as one line without control characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name in logging)
        """Return the message as it is shown."""
        return escape_controls(super().formatMessage(record))


def show(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, each as one line without control characters.

    Args:
        lines: Lines without their newlines.
        file: Stream that takes them; None: stdout.
    """
    for line in lines:
        print(escape_controls(line), file=file)
    (file or sys.stdout).flush()


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for first, *cells in rows
    ]
