"""Reader of JSON files of any size, one element of their outermost lists at a time.

Label files may have gigabytes. `json.load` takes ten times their size in memory; here memory
depends only on the largest element. The scanner is that of Python's `json`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from unet_ray.labelled_data.annotations import LabelError

_PIECE = 2**20
"""Bytes that are read at once."""
_MOST_CHARACTERS = 2**27
"""Longest element of a list, or value that is not a list (characters)."""
_CUT_OFF = 16
"""Number of characters at the end of the text read so far in which an error may just mean that the
text continues."""
_SPACE = " \t\n\r"
_SCAN = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class Element:
    """A value of the outermost object of a JSON file or, if the value is a list, one element of it.

    If the outermost value is a list, its elements are those of a list with an empty key.
    """

    key: str
    """Key of the value; empty if the outermost value is a list."""
    index: int | None
    """Place in the list, from 0; None for a value that is not a list, or an empty one."""
    value: Any

    @property
    def where(self) -> str:
        """Its place, for messages: `annotations[17]`."""
        return self.key if self.index is None else f"{self.key}[{self.index}]"


def read_elements(file: BinaryIO) -> Iterator[Element]:
    """Yield the parts of a JSON file whose outermost value is an object or a list.

    An empty list yields one element with the index None and the value `[]`, so that it differs from
    a key that is missing.

    Args:
        file: The file; it may begin with a byte order mark.

    Raises:
        LabelError: The file has another form; the text names line and column.
    """
    text = _Text(file)
    opening = text.peek()
    if opening == "[":
        yield from _read_list(text, "")
    elif opening == "{":
        yield from _read_object(text)
    else:
        raise LabelError("not JSON: it begins with neither { nor [")
    if text.peek():
        raise text.error("there is text after the end of the JSON")


def _read_object(text: _Text) -> Iterator[Element]:
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    while True:
        key = text.scan()
        if not isinstance(key, str):
            raise text.error("a key is not text")
        text.take(":")
        if text.peek() == "[":
            yield from _read_list(text, key)
        else:
            yield Element(key, None, text.scan())
        if text.peek() == "}":
            text.take("}")
            return
        text.take(",")


def _read_list(text: _Text, key: str) -> Iterator[Element]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        yield Element(key, None, [])
        return
    index = 0
    while True:
        yield Element(key, index, text.scan())
        index += 1
        if text.peek() == "]":
            text.take("]")
            return
        text.take(",")


class _Text:
    """The text of a file from the current position; the text before it is discarded."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._held = ""
        self._at = 0
        """Position in the text that is held."""
        self._is_whole = False
        """True if the file was read to its end."""
        self._line, self._column = 1, 1
        """Line and column of the beginning of the text that is held, from 1."""

    def peek(self) -> str:
        """Return the next character that is not white space; an empty text at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._read(_PIECE):
                return ""

    def take(self, wanted: str) -> None:
        """Skip a character; raise LabelError if another one is next."""
        found = self.peek()
        if found != wanted:
            raise self.error(f"{wanted} is missing" if found else "it ends too early")
        self._at += 1

    def scan(self) -> Any:
        """Return the next value and skip it; raise LabelError if there is none."""
        self.peek()
        while True:
            try:
                value, end = _SCAN(self._held, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.pos > len(self._held) - _CUT_OFF or "Unterminated" in error.msg
                if is_cut and self._read(max(_PIECE, len(self._held) - self._at)):
                    continue
                raise self.error(error.msg, error.pos) from None
            except RecursionError:
                raise self.error("it is nested too deeply") from None
            except ValueError as error:  # a number of thousands of digits
                raise self.error(str(error).partition(";")[0]) from None
            # a number may continue in unread text: 2 may be 2.5 or 2e-5
            if end > len(self._held) - _CUT_OFF and self._read(_PIECE):
                continue
            self._at = end
            return value

    def error(self, message: str, at: int | None = None) -> LabelError:
        """Return an error with line and column.

        Args:
            message: What is wrong.
            at: Position of the fault in the text that is held; None: the current one.
        """
        line, column = self._locate(self._at if at is None else at)
        return LabelError(f"line {line}, column {column}: {message}")

    def _locate(self, at: int) -> tuple[int, int]:
        """Return line and column of a position in the text that is held."""
        before = self._held[:at]
        num_lines = before.count("\n")
        if num_lines:
            return self._line + num_lines, len(before) - before.rfind("\n")
        return self._line, self._column + len(before)

    def _read(self, size: int) -> bool:
        """Read more text; return False at the end of the file."""
        if self._is_whole:
            return False
        try:
            piece = self._file.read(size)
            text = self._decode(piece, not piece)
        except UnicodeDecodeError as error:
            self._held += error.object[: error.start].decode(errors="ignore")
            message = f"it is not UTF-8 text: {error.reason}; save it as UTF-8"
            raise self.error(message, len(self._held)) from None
        self._is_whole = not piece
        if self._is_whole:
            return False
        self._line, self._column = self._locate(self._at)
        self._held = self._held[self._at :] + text
        self._at = 0
        if len(self._held) > _MOST_CHARACTERS:
            raise self.error(f"a value has more than {_MOST_CHARACTERS} characters")
        return True
