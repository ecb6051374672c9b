"""Listing a local folder whose links make it a graph: each real folder is walked once.

Links could otherwise multiply an archive: fourteen folders that each link twice to the next one
have 2^14 paths to the last.
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
"""Folders that a file system keeps at its root for itself, and that most users may not list."""
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Error numbers of paths at which there is no file: its folder is a file, its name is longer than
the file system's are, it is a link to itself."""


class FolderWalk:
    """A walk through all files below a folder.

    Real folders come first: what lies below them has the name that it has without links. Links to
    folders wait. Each then leads to a folder that has not been walked yet, in the order of their
    paths, or is left aside, so that loops end as well. A link to a file is a file of its own.

    Hidden folders, links and files are left out, and so are the folders of the file system itself.
    A link to nothing is yielded with an empty etag: it may stand for a file, or for a folder of a
    disk that is not mounted. A file that is deleted meanwhile is left out, and so is what is not a
    regular file: a pipe would keep its reader waiting.

    Args:
        top: Path of the folder.
        links: What to do with links that lead out of the folder; counts those that are left out.
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
        """Yield the file that a link leads to, or keep the folder for later."""
        if not (self._links.follow or is_below(os.path.realpath(path), self._real_top)):
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
    """Return what the file system says of a file or folder."""
    etag = f"{found.st_size}-{found.st_mtime_ns}"
    return FileInfo(path, found.st_size, etag, not stat.S_ISDIR(found.st_mode), found.st_mtime)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _OF_FILE_SYSTEM


def stat_path(path: str) -> os.stat_result:
    """Describe what is at a path, links followed; raise FileNotFoundError where nothing can be."""
    try:
        return os.stat(path)
    except ValueError:  # a NUL, or a surrogate that stands for no byte
        raise FileNotFoundError(errno.ENOENT, "not a name that files can have", path) from None
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        raise


def _stat_or_none(path: str) -> os.stat_result | None:
    """Return what is at a path, links followed, or None where nothing is."""
    try:
        return stat_path(path)
    except FileNotFoundError:
        return None
