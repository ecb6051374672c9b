"""The interface of a storage backend: bytes at the URIs of one kind of store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow.fs

Retry = Callable[[Callable[[], Any]], Any]
"""Function that runs one request, and runs it again after an error that may pass."""


class IrregularFileError(OSError):
    """A path is a pipe, a socket or a device. It is never opened."""


class DanglingLinkError(OSError):
    """A path is a link to nothing: to a deleted file, or to a disk that is not mounted."""


class OutsideError(PermissionError):
    """A link leads to a file outside of the folders in which files may be opened."""


class FileTooLargeError(OSError):
    """A file is longer than its reader accepts. None of its bytes were kept."""


class ArchivedFileError(PermissionError):
    """A store keeps a file in an archive. It must be restored there before it can be read."""


@dataclass
class Links:
    """Rule for symbolic links that lead out of a listed folder, and the number left out."""

    follow: bool = True
    """True to follow them; links that stay in the folder are always followed."""
    left_out: int = 0
    """Number of links so far that were not followed."""


@dataclass(frozen=True)
class FileInfo:
    """A file or folder as its store describes it."""

    path: str
    """Path below the listed folder; empty if one file was asked for."""
    size: int | None
    """Size in bytes; None if the store does not state it."""
    etag: str
    """Changes with the content: the store's etag without quotes, or `size-mtime_ns`; empty for a
    link to nothing."""
    is_file: bool = True
    modified_s: float | None = None
    """Time of the last change (s since 1970); None if the store does not state it."""
    is_archived: bool | None = False
    """True if it must be restored before it can be read; None: `Backend.is_archived` tells."""


def check_size(uri: str, size: int | None, limit: int | None) -> None:
    """Raise FileTooLargeError for a file of `size` bytes that is longer than its limit, if any."""
    if limit is not None and size is not None and size > limit:
        raise FileTooLargeError(f"{uri}: the file has {size} bytes; at most {limit} are read")


class Backend(ABC):
    """One kind of store. Every operation is a single attempt, which `Storage` may repeat.

    Errors are those of the store or built-in ones; `storage.retry` maps them. A missing file is a
    FileNotFoundError everywhere.

    Args:
        scheme: Scheme of the URIs.
        options: Storage options of fsspec.
    """

    attempts_once = False
    """True if errors do not pass by themselves, so operations are not repeated."""
    is_local = False
    """True for files of this machine."""

    def __init__(self, scheme: str, options: dict[str, Any]) -> None:
        self._scheme, self._options = scheme, options

    @property
    @abstractmethod
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system. Listings are never cached."""

    @abstractmethod
    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of a file, fewer at its end, and its description if the store sends one.

        Args:
            uri: URI of the file.
            offset: First byte.
            size: Number of bytes; None: all that are left.
            limit: Largest size of a file that is read (bytes); None: no limit.

        Raises:
            FileTooLargeError: The file itself is longer than `limit`, whatever a manifest says.
        """

    @abstractmethod
    def open(self, uri: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for seeking reads."""

    @abstractmethod
    def write(self, uri: str, data: bytes) -> None:
        """Store a file as one whole object."""

    @abstractmethod
    def put(self, uri: str, file: Path) -> None:
        """Store a file of this machine, which may be larger than memory, as one whole object."""

    @abstractmethod
    def create(self, uri: str, data: bytes) -> bool:
        """Store a file that must not exist; return whether the store excludes other writers.

        Raises:
            FileExistsError: There is a file already.
        """

    @abstractmethod
    def delete(self, uri: str) -> None:
        """Remove a file."""

    @abstractmethod
    def info(self, uri: str) -> FileInfo | None:
        """Describe a file or folder; None where there is none.

        Raises:
            OSError: This cannot be determined, for instance behind a link to nothing.
        """

    def is_archived(self, uri: str) -> bool:  # noqa: ARG002 (most stores have no archive)
        """Tell whether a file must be restored before it can be read."""
        return False

    @abstractmethod
    def list_files(self, uri: str, retry: Retry, links: Links | None = None) -> Iterator[FileInfo]:
        """Yield all files below a folder, in the memory of one page or one folder.

        Args:
            uri: URI of the folder.
            retry: Runs one request, again after an error that may pass.
            links: Rule for links that lead out of the folder, on stores with links; None: they are
                followed.

        Raises:
            OSError: The folder cannot be listed to its end.
        """

    @property
    @abstractmethod
    def arrow_handler(self) -> pyarrow.fs.FSSpecHandler:
        """Handler for Arrow and Ray Train that stores files whole or not at all."""
