"""Files of this machine: stored whole or not at all, links followed."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pyarrow
import pyarrow.fs

from unet_ray.storage.backends.base import (
    Backend,
    DanglingLinkError,
    FileInfo,
    IrregularFileError,
    Links,
    OutsideError,
    Retry,
    check_size,
)
from unet_ray.storage.backends.local_walk import FolderWalk, stat_path, to_file_info
from unet_ray.storage.temporary import name_beside, temporary_prefix
from unet_ray.storage.uris import is_below


class _WholeFiles(pyarrow.fs.FSSpecHandler):
    """Stores each file whole or not at all."""

    def open_output_stream(
        self,
        path: str,
        metadata: dict[str, str] | None,  # noqa: ARG002 (there is none)
    ) -> pyarrow.PythonFile:
        """Return a file that appears at its path when it is closed."""
        return pyarrow.PythonFile(FileBeside(path), mode="w")


class LocalBackend(Backend):
    """The file systems of this machine; URIs are absolute paths.

    Args:
        scheme: `file`.
        options: Unused.
        within: Real paths of the folders in which a file must lie to be opened for reading; None:
            anywhere.
    """

    attempts_once = True
    is_local = True

    def __init__(
        self, scheme: str, options: dict[str, Any], within: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(scheme, options)
        self._within = within

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system."""
        return fsspec.filesystem("file")

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of a file, and the description of the file that they come from."""
        with self.open(uri) as file:
            length = os.fstat(file.fileno()).st_size
            check_size(uri, length, limit)
            file.seek(offset)
            if size is not None:
                data = file.read(min(size, max(0, length - offset)))
            elif limit is not None:
                data = file.read(length + 1)  # allocates that many bytes, not the limit
                if len(data) > length:  # the file is growing
                    data += file.read(limit + 1 - len(data))
                check_size(uri, len(data), limit)
            else:
                data = file.read()
            return data, to_file_info("", os.fstat(file.fileno()))

    def open(self, uri: str) -> io.BufferedReader:
        """Open a file for seeking reads; raise OutsideError if it really lies elsewhere."""
        file = _open_regular(uri)
        if self._within is None:
            return file
        try:
            # whatever links led to the file when it was opened
            real = os.readlink(f"/proc/self/fd/{file.fileno()}")
        except OSError:  # without /proc, only the path can be resolved again
            real = os.path.realpath(uri)
        if not any(is_below(real, folder) for folder in self._within):
            file.close()
            raise OutsideError(
                errno.EACCES, f"its real path is {real}, outside the listed folders", uri
            )
        return file

    def write(self, uri: str, data: bytes) -> None:
        """Write a temporary file beside the path and rename it."""
        with _file_beside(uri, data) as temporary:
            os.replace(temporary, uri)

    def put(self, uri: str, file: Path) -> None:
        """Copy a file to a temporary one beside the path and rename it."""
        with _file_beside(uri, b"") as temporary:
            shutil.copyfile(file, temporary)
            os.replace(temporary, uri)

    def create(self, uri: str, data: bytes) -> bool:
        """Write a temporary file beside the path and link it there; fail if the path exists."""
        with _file_beside(uri, data) as temporary:
            try:
                os.link(temporary, uri)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                with open(uri, "xb"):  # from here on the file exists, empty at first
                    os.replace(temporary, uri)
                return False
            return True

    def delete(self, uri: str) -> None:
        """Remove a file."""
        os.unlink(uri)

    def info(self, uri: str) -> FileInfo | None:
        """Describe a file or folder; an unmounted disk behind a link is an error."""
        try:
            return to_file_info("", stat_path(uri))
        except FileNotFoundError:
            if os.path.islink(uri):
                target = os.readlink(uri)
                raise DanglingLinkError(f"{uri} is a link to nothing ({target})") from None
            return None

    def list_files(
        self,
        uri: str,
        retry: Retry,  # noqa: ARG002 (errors of this machine do not pass)
        links: Links | None = None,
    ) -> Iterator[FileInfo]:
        """Yield all files below a folder, with links as `FolderWalk` explains them."""
        return FolderWalk(uri, links or Links()).files()

    @property
    def arrow_handler(self) -> pyarrow.fs.FSSpecHandler:
        """Handler that stores whole files only."""
        return _WholeFiles(self.filesystem)


def delete_tree(path: str) -> None:
    """Remove a folder and everything in it, hidden files too; a missing one is not an error.

    No link is followed, since it may lead to files of others.
    """
    if os.path.islink(path):
        os.unlink(path)
        return
    for folder, folders, names in os.walk(path):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*names, *links]:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
    shutil.rmtree(path, ignore_errors=True)  # the folders; NFS may keep one for a while


class FileBeside:
    """A file that is written in pieces and appears when it is closed, if all writes succeeded.

    Until then it has another name, beside its path or among the temporary files. After a failed
    write, as on a full disk, closing the file stores nothing, and the file that was there before
    stays.

    Args:
        path: Path of the file.
        store: Function that stores the finished local file, given its path; None: it is renamed.
    """

    def __init__(self, path: str, store: Callable[[str], object] | None = None) -> None:
        self._path = path
        self._store = store
        self._failed = False
        if store:
            handle, self._name = tempfile.mkstemp(prefix=temporary_prefix())
            self._file = os.fdopen(handle, "wb")
        else:
            self._name = name_beside(path)
            self._file = open(self._name, "wb")  # noqa: SIM115 (closed by `close`)
        self._remove = weakref.finalize(self, _unlink, self._name)

    @property
    def closed(self) -> bool:
        """True once the file is closed."""
        return self._file.closed

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes, and return their number."""
        try:
            with _named_errors(self._path):
                return self._file.write(data)
        except BaseException:
            self._failed = True
            raise

    def flush(self) -> None:
        """Do nothing: a part of the file is of no use."""

    def close(self) -> None:
        """Move the file to its path, unless a write failed; raise OSError if moving fails."""
        if self._file.closed:
            return
        try:
            with self._file:
                if self._failed:
                    return
                with _named_errors(self._path):
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if self._store is None:
                os.replace(self._name, self._path)
            else:
                self._store(self._name)
        finally:
            self._remove()


@contextmanager
def _file_beside(path: str, data: bytes) -> Iterator[str]:
    """Write data to a temporary file beside a path; the `with` block moves it there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = name_beside(path)
    try:
        with _named_errors(path), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        _unlink(temporary)


def _open_regular(path: str) -> io.BufferedReader:
    """Open a file for reading, if it is a regular one.

    A pipe would block its reader, and a device may do or hold anything.
    """
    if not stat.S_ISREG(stat_path(path).st_mode):  # first: opening a device may have effects
        _refuse_irregular(path)
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced meanwhile
        file.close()
        _refuse_irregular(path)
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_irregular(path: str) -> NoReturn:
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise IrregularFileError(errno.EINVAL, "not a regular file", path)


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Name the file in the error of a write that fails, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
