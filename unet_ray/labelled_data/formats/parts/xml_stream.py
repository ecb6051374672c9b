"""Reader of XML files of any size, one child of their root at a time.

XML files can refer to other files, and expand a kilobyte to gigabytes. Both need a document type
(DTD), which no labelling tool writes: a file that has one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

from unet_ray.labelled_data.annotations import LabelError

_PIECE = 2**20
"""Bytes that are read at once."""
_MOST_BYTES = 2**27
"""Longest child of the root (bytes)."""
_MOST_ELEMENTS = 2**20
"""Largest number of elements in a child of the root."""
_MOST_LEVELS = 64
"""Deepest nesting of elements."""


@dataclass(slots=True)
class Node:
    """An element with its content."""

    tag: str
    attributes: dict[str, str]
    line: int
    """Line where it begins, from 1."""
    children: list[Node] = field(default_factory=list)
    text: str = ""

    def texts(self, *path: str) -> Iterator[str]:
        """Yield the texts of the elements on a path of tags below this one."""
        if not path:
            yield self.text.strip()
            return
        for child in self.children:
            if child.tag == path[0]:
                yield from child.texts(*path[1:])


def read_children(file: BinaryIO, root: str) -> Iterator[Node]:
    """Yield the children of the root of an XML file, each with its content.

    Args:
        file: The file, in UTF-8, UTF-16, Latin-1, or ASCII.
        root: Tag that the root must have.

    Raises:
        LabelError: The file has another form; the text names line and column.
    """
    tree = _Tree(root)
    is_end = False
    while not is_end:
        piece = file.read(_PIECE)
        is_end = not piece
        tree.feed(piece, is_end)
        yield from tree.take_finished()


class _Tree:
    """Builds the children of the root from the events of a parser."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open = list[Node]()
        """Elements that have begun but not ended, below the root, the outermost first."""
        self._finished = list[Node]()
        """Children of the root that have ended."""
        self._texts: list[list[str]] = []
        """Pieces of the text of each open element."""
        self._depth = 0
        self._begin = 0
        """Byte where the child of the root that is open begins."""
        self._num_bytes = 0
        """Number of bytes that were parsed."""
        self._num_elements = 0
        """Number of elements in the child of the root that is open."""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text

    def feed(self, piece: bytes, is_end: bool) -> None:
        """Parse the next piece; raise LabelError if the file is not XML."""
        try:
            self._parser.Parse(piece, is_end)
        except expat.ExpatError as error:
            place = f"line {error.lineno}, column {error.offset + 1}"
            raise LabelError(f"{place}: {expat.ErrorString(error.code)}") from None
        except (LookupError, ValueError, OSError) as error:
            if isinstance(error, LabelError):
                raise
            raise LabelError("its encoding is not supported; save it as UTF-8") from None
        self._num_bytes += len(piece)
        begin = self._begin if self._open else max(self._parser.CurrentByteIndex, 0)
        if self._num_bytes - begin > _MOST_BYTES:
            raise self._error(f"an element has more than {_MOST_BYTES} bytes")

    def take_finished(self) -> list[Node]:
        """Return the children of the root that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            if tag != self._root:
                raise self._error(f"the outermost element is {tag[:80]}, not {self._root}")
            return
        if self._depth > _MOST_LEVELS:
            raise self._error("it is nested too deeply")
        node = Node(tag, attributes, self._parser.CurrentLineNumber)
        if self._open:
            self._open[-1].children.append(node)
            self._num_elements += 1
        else:
            self._begin, self._num_elements = self._parser.CurrentByteIndex, 0
        if self._num_elements > _MOST_ELEMENTS:
            raise self._error(f"more than {_MOST_ELEMENTS} elements in one {self._open[0].tag}")
        self._open.append(node)
        self._texts.append([])

    def _end(self, _: str) -> None:
        self._depth -= 1
        if self._open:
            node = self._open.pop()
            node.text = "".join(self._texts.pop())
            if not self._open:
                self._finished.append(node)

    def _add_text(self, text: str) -> None:
        if self._texts:
            self._texts[-1].append(text)

    def _refuse_doctype(self, *_: object) -> None:
        raise self._error("it has a document type (<!DOCTYPE …>), which is not read; remove it")

    def _error(self, message: str) -> LabelError:
        return LabelError(f"line {self._parser.CurrentLineNumber}: {message}")
