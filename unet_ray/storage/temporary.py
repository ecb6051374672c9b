"""Names of temporary files and folders, which tell their process so that leftovers can be removed.

An owner is `HOST-PID-START`. HOST stands for one boot of one machine and one namespace of process
ids, since a PID means nothing elsewhere: containers may share a temporary folder, and machines an
output. START distinguishes a process from a later one with the same id.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path

_UNKNOWN = "0" * 8
"""Host where there is no /proc; nothing is known of processes there, and nothing is removed."""
_OWNER = r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)"
_TEMPORARY = re.compile(rf"unet_ray_{_OWNER}_.*")
_HALF_WRITTEN = re.compile(rf"\.(?P<name>.+)\.{_OWNER}-\d+")
_numbers = count()


def temporary_prefix() -> str:
    """Return the beginning of the name of a temporary file or folder of this process.

    All temporary files of the package have it: `tempfile.mkdtemp(prefix=temporary_prefix())`. The
    first call in a process removes what dead processes left, so every machine that does
    work is cleaned.
    """
    _remove_dead_once()
    return f"unet_ray_{_owner(os.getpid())}_"


def name_beside(path: str) -> str:
    """Return a hidden path beside a path; it holds the content until the file is complete."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.{_owner(os.getpid())}-{next(_numbers)}"


def remove_dead() -> None:
    """Remove what dead processes of this user left in the temporary folder.

    Links, files of other users, and files of other machines, boots or containers stay. What cannot
    be removed stays too: no run should fail because of a leftover.
    """
    try:
        entries = list(os.scandir(tempfile.gettempdir()))
    except OSError:
        return
    for entry in entries:
        made = _TEMPORARY.fullmatch(entry.name)
        if made and _is_dead(made):
            _remove(entry)


def half_written(root: Path, folders: Sequence[str]) -> list[tuple[Path, str, bool]]:
    """Find the hidden files of unfinished writes by any process.

    Args:
        root: Local folder whose own files are searched.
        folders: Folders in it that are searched recursively, without following links.

    Returns:
        For each hidden file: its path, the name of the file that was to be written, and whether its
        writer is known to be dead.

    Raises:
        OSError: A folder cannot be listed.
    """
    found = []
    itself = islice(os.walk(root, onerror=_raise_unless_gone), 1)
    below = [os.walk(root / folder, onerror=_raise_unless_gone) for folder in folders]
    for here, _, names in chain(itself, *below):
        for name in names:
            path = Path(here, name)
            made = _HALF_WRITTEN.fullmatch(name)
            if made and not path.is_symlink():
                found.append((path, made["name"], _is_dead(made)))
    return found


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@cache
def _remove_dead_once() -> None:
    remove_dead()


@cache
def _owner(pid: int) -> str:
    """Return this process as an owner; the cache is by id, since a fork has another id."""
    host = _host()
    start = 0 if host == _UNKNOWN else _start(pid)
    return f"{host}-{pid}-{start}"


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        namespace = os.stat("/proc/self/ns/pid").st_ino
        _start(os.getpid())
    except (OSError, ValueError, IndexError):
        return _UNKNOWN
    return sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _start(pid: int) -> int:
    """Return when a process started, in ticks since the boot: field 22, 20 after its name.

    Raises:
        ProcessLookupError: It has ended, and its parent has not asked for its exit code yet.
    """
    fields = Path(f"/proc/{pid}/stat").read_text()
    state, *rest = fields.rpartition(")")[2].split()
    if state in "ZX":
        raise ProcessLookupError(pid)
    return int(rest[18])


def _is_dead(owner: re.Match[str]) -> bool:
    """Tell whether an owner is known to be dead: it ran on this host and no longer exists."""
    if owner["host"] != _host() or owner["host"] == _UNKNOWN:
        return False
    try:
        return _start(int(owner["pid"])) != int(owner["start"])
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError, IndexError):
        return False


def _remove(entry: os.DirEntry[str]) -> None:
    try:
        found = entry.stat(follow_symlinks=False)
        if found.st_uid != os.geteuid():
            return
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif stat.S_ISREG(found.st_mode):
            os.unlink(entry.path)
    except OSError:
        return
