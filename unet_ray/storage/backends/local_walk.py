"""Listing a local folder. Links may turn it into a graph, so each real folder is walked once.

Otherwise links could multiply an archive: fourteen folders that each link twice to the next one
make 2^14 paths to the last.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from heapq import heappop, heappush

from unet_ray.storage.backends.base import FileInfo, Links
from unet_ray.storage.uris import is_below

_OF_FILE_SYSTEM = ("lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that file systems keep at their root for themselves; most users cannot list them."""
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Error numbers for paths at which there is no file: nothing is there, a folder in the path is a
file, a name is too long for the file system, or a link leads back to itself."""


class FolderWalk:
    """A walk through all files below a folder.

    Real folders come first, so the files in them have the names that they have without links.
    Links to folders wait, and are followed afterwards in the order of their paths. A link to a
    folder that has been walked already is skipped, which also ends loops. A link to a file counts
    as a file of its own.

    Hidden folders, links and files are left out, and so are the folders of the file system itself.
    A link to nothing is yielded with an empty etag, since it may stand for a file, or for a folder
    on a disk that is not mounted. A file that is deleted meanwhile is left out, and so is anything
    but a regular file: a pipe would block its reader.

    Args:
        top: Path of the folder.
        links: Rule for links that lead out of the folder; it counts those that are left out.
    """

    def __init__(self, top: str, links: Links) -> None:
        self._prefix = top.rstrip("/") + "/"
        self._real_top = os.path.realpath(top)
        self._links = links
        self._waiting = [top]
        self._trees = set[str]()
        """Real paths of `top` and of the folders that links led to."""

    def files(self) -> Iterator[FileInfo]:
        """Yield the files; raise OSError for a folder that cannot be listed to its end."""
        while self._waiting:
            start = heappop(self._waiting)
            real = os.path.realpath(start)
            if not self._was_walked(real):
                self._trees.add(real)
                yield from self._walk_tree(start, real)

    def _walk_tree(self, start: str, real_start: str) -> Iterator[FileInfo]:
        """Yield the files of a folder and of the real folders below it."""
        folders = [(start, real_start)]
        while folders:
            here, real = folders.pop()
            with os.scandir(here) as entries:
                for entry in entries:
                    if not _is_visible(entry.name):
                        continue
                    if entry.is_symlink():
                        yield from self._look_at_link(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        inner = os.path.join(real, entry.name)
                        if inner not in self._trees:
                            folders.append((entry.path, inner))
                    else:
                        yield from self._describe(entry.path, _stat_or_none(entry.path))

    def _look_at_link(self, path: str) -> Iterator[FileInfo]:
        """Yield the file that a link leads to, or keep the folder that it leads to for later."""
        may_follow = self._links.follow or is_below(os.path.realpath(path), self._real_top)
        if not may_follow:
            self._links.left_out += 1
            return
        found = _stat_or_none(path)
        if found is None and os.path.islink(path):
            yield FileInfo(path.removeprefix(self._prefix), 0, "")
        elif found is not None and stat.S_ISDIR(found.st_mode):
            heappush(self._waiting, path)
        else:
            yield from self._describe(path, found)

    def _describe(self, path: str, found: os.stat_result | None) -> Iterator[FileInfo]:
        if found is not None and stat.S_ISREG(found.st_mode):
            yield to_file_info(path.removeprefix(self._prefix), found)

    def _was_walked(self, real: str) -> bool:
        """Tell whether a real folder belongs to a tree that was walked."""
        here = real
        while here not in self._trees:
            above, _, name = here.rpartition("/")
            if not name or not _is_visible(name):
                return False
            here = above or "/"
        return True


def to_file_info(path: str, found: os.stat_result) -> FileInfo:
    """Convert the file system's description of a file or folder."""
    return FileInfo(
        path=path,
        size=found.st_size,
        etag=f"{found.st_size}-{found.st_mtime_ns}",
        is_file=not stat.S_ISDIR(found.st_mode),
        modified_s=found.st_mtime,
    )


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _OF_FILE_SYSTEM


def stat_path(path: str) -> os.stat_result:
    """Describe the file at a path, links followed; raise FileNotFoundError if there is none."""
    try:
        return os.stat(path)
    except ValueError:  # a NUL, or a surrogate that encodes no byte
        raise FileNotFoundError(errno.ENOENT, "no file can have this name", path) from None
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        raise


def _stat_or_none(path: str) -> os.stat_result | None:
    """Describe the file at a path, links followed; None if there is none."""
    try:
        return stat_path(path)
    except FileNotFoundError:
        return None
