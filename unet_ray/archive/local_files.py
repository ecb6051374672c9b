"""Files of this machine: written whole or not at all, made by one only, walked with their links."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def whole_file(path: str, data: bytes) -> Iterator[str]:
    """Write data to a temporary file beside a path, for the `with` block to put it there in one step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.getpid()}.{threading.get_ident()}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


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

    What vanishes or dangles is left out, and what is no file: a pipe would keep its reader waiting.
    """
    # of each folder that is still to be walked: where it and those that it lies in really are
    above = {folder: {os.path.realpath(folder)}}
    for here, folders, names in os.walk(folder, followlinks=True):
        around = above.pop(here)
        real = {name: os.path.realpath(os.path.join(here, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in around]
        above.update({os.path.join(here, name): around | {real[name]} for name in folders})
        for name in names:
            path = os.path.join(here, name)
            with suppress(FileNotFoundError):
                found = os.stat(path)
                if stat.S_ISREG(found.st_mode):
                    yield {"name": path, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
