"""Files of this machine: written whole or not at all, made by one only, walked with their links."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_OF_FILE_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that a file system keeps at its root for itself, and that most users may not list."""


@contextmanager
def whole_file(path: str, data: bytes) -> Iterator[str]:
    """Write data to a temporary file beside a path, for the `with` block to put it there in one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


class FileBeside:
    """A file that is written piece by piece, and is there when it is closed after writes that all went well.

    Until then it lies under another name, beside its place or in the folder for temporary files. A write that fails,
    as on a full disk, leaves what was there before: who closes a file while an exception is on its way stores nothing.

    Args:
        path — of the file.
        store — takes the path of the whole file and stores it; None: it is renamed.
    """

    def __init__(self, path: str, store: Callable[[str], object] | None = None) -> None:
        self._path, self._store, self._failed = path, store, False
        if store:
            handle, self._name = tempfile.mkstemp(prefix="unet_ray_")
            self._file = os.fdopen(handle, "wb")
        else:
            self._name = beside(path)
            self._file = open(self._name, "wb")  # noqa: SIM115 (closed by `close`)
        self._remove = weakref.finalize(self, _unlink, self._name)

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed

    def write(self, data: Any) -> int:
        """Write bytes, and return how many."""
        try:
            return self._file.write(data)
        except BaseException:
            self._failed = True
            raise

    def flush(self) -> None:
        """Do nothing: no part of the file is of use to anybody."""

    def close(self) -> None:
        """Put the file where it belongs, unless a write failed; raise OSError where that fails."""
        if self._file.closed:
            return
        try:
            with self._file:
                if self._failed:
                    return
                self._file.flush()
                os.fsync(self._file.fileno())
            if self._store is None:
                os.replace(self._name, self._path)
            else:
                self._store(self._name)
        finally:
            self._remove()


def beside(path: str) -> str:
    """Return a hidden name beside a path, for what is to be put there in one step."""
    return (
        f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.{threading.get_ident()}"
    )


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def read_local(path: str, offset: int, size: int | None) -> tuple[bytes, dict[str, Any]]:
    """Return bytes of a file from an offset on, all or so many, and of which content they are, as `walk_local`."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
        found = os.fstat(file.fileno())
    return data, {"size": found.st_size, "mtime_ns": found.st_mtime_ns}


def link(temporary: str, path: str) -> bool:
    """Give a file its name unless another has it; return whether that was one step: not all file systems have links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        with open(path, "xb"):  # from here on there is one, empty for a moment
            os.replace(temporary, path)
        return False
    return True


def walk_local(folder: str) -> Iterator[dict[str, Any]]:
    """Yield all files below a folder of this machine, links followed but for loops.

    Hidden folders and those of the file system itself are not entered. A link to nothing is yielded without a size: it
    may stand for a file or for a folder, of a disk that is not mounted. A file that is deleted meanwhile is left out,
    and what is no file: a pipe would keep its reader waiting.

    Raises: OSError — a folder that cannot be listed to its end, or that vanished.
    """
    # of each folder that is still to be walked: where it and those that it lies in really are
    above = {folder: {os.path.realpath(folder)}}
    for here, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        around = above.pop(here)
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in _OF_FILE_SYSTEM
        ]
        real = {name: os.path.realpath(os.path.join(here, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in around]
        above.update({os.path.join(here, name): around | {real[name]} for name in folders})
        for name in names:
            path = os.path.join(here, name)
            found = stat_or_none(path)
            if found is None and os.path.islink(path):
                yield {"name": path, "size": None}
            elif found is not None and stat.S_ISREG(found.st_mode):
                yield {"name": path, "size": found.st_size, "mtime_ns": found.st_mtime_ns}


def stat_or_none(path: str) -> os.stat_result | None:
    """Return what is at a path, links followed, or None where nothing is; raise OSError where that cannot be told."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return None
        raise


def _raise(error: OSError) -> None:
    raise error
