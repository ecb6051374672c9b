"""Everything that a command shows goes through here on its way to the terminal.

Text from elsewhere, such as file names, cannot command the terminal. `show` and `LineFormatter`
print lines in which every control character is escaped, and the streams escape all of them but
newlines and tabs, even if other libraries write to them. A stream also outlives its reader, as in
`unet-ray segment … | head`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TextIO

from unet_ray.text import escape_controls


class LastingStream:
    """A text stream that escapes control characters, and drops text once its reader is gone.

    A run must not fail because a terminal or pipe is gone, or the disk of its log is full.

    Args:
        stream: Stdout or stderr; None where the process has none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
        if isinstance(self._stream, io.TextIOWrapper):  # the terminal may lack characters
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
        """Return False, so that no library writes colours or progress bars."""
        return False

    def flush(self) -> None:
        """Flush the stream below."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """Redirect the stream, with its buffer and all later text, to the null device."""
        with suppress(OSError, ValueError):  # the stream may have no file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def keep_streams() -> None:
    """Make stdout and stderr of this process outlive their readers, and show any text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, LastingStream):
            setattr(sys, name, LastingStream(stream))


class LineFormatter(logging.Formatter):
    """Formats the message of each log record as one line without control characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name in logging)
        """Return the message as one line to show."""
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
    """Return rows of cells as lines, with the first column aligned left and all others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return lines
