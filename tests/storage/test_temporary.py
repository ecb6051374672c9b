"""Leftovers of dead processes are removed; everything else in a shared folder stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from unet_ray.storage.backends.local import LocalBackend
from unet_ray.storage.temporary import (
    half_written,
    name_beside,
    remove_dead,
    temporary_prefix,
)

_LEAVE = """
import os, sys, tempfile
from unet_ray.storage.temporary import name_beside, temporary_prefix
folder = tempfile.mkdtemp(prefix=temporary_prefix())
open(f"{folder}/weights", "w").close()
_, file = tempfile.mkstemp(prefix=temporary_prefix())
beside = name_beside(sys.argv[1])
open(beside, "w").close()
print(folder, file, beside, flush=True)
if sys.argv[2] == "dies":
    os.kill(os.getpid(), 9)
sys.stdin.read()
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the temporary folder of this process and its children."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def leave(target: Path, then: str) -> tuple[subprocess.Popen[str], list[Path]]:
    """Start a process that makes temporary files, and then dies or waits; return what it made."""
    process = subprocess.Popen(
        [sys.executable, "-c", _LEAVE, str(target), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    made = [Path(path) for path in process.stdout.readline().split()]
    if then == "dies":
        process.wait()
    return process, made


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(
    shared: Path, tmp_path: Path
) -> None:
    target = tmp_path / "table.parquet"
    _, dead = leave(target, "dies")
    living, alive = leave(target, "waits")  # which removes what is dead when it starts
    try:
        assert [path.exists() for path in dead] == [False, False, True]
        _, dead_later = leave(target, "dies")
        remove_dead()
        assert sorted(shared.iterdir()) == sorted(alive[:2])
        found = {path: (name, is_dead) for path, name, is_dead in half_written(tmp_path, [])}
        assert found == {
            dead[2]: ("table.parquet", True),
            dead_later[2]: ("table.parquet", True),
            alive[2]: ("table.parquet", False),
        }
    finally:
        living.communicate()


def test_a_process_whose_parent_does_not_ask_for_it_is_dead(shared: Path, tmp_path: Path) -> None:
    process, _ = leave(tmp_path / "table.parquet", "waits")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    remove_dead()
    assert list(shared.iterdir()) == []
    process.communicate()


def test_what_others_made_stays(shared: Path) -> None:
    """Links, another machine's files, those of a later process with the same id, other names."""
    host, pid, start = temporary_prefix().removeprefix("unet_ray_").rstrip("_").split("-")
    kept = shared / "kept"
    kept.mkdir()
    no_process = 2**22 + 1  # the largest pid of Linux is 2^22
    (shared / f"unet_ray_{host}-{no_process}-1_link").symlink_to(kept)
    for name in (
        "unet_ray_x1b2c3d4",  # of version 0.1
        f"unet_ray_{'0' * 8}-{no_process}-1_x",  # no /proc there
        f"unet_ray_{'f' * 8}-{no_process}-1_x",  # another machine or container
        f"unet_ray_{host}-{pid}-{start}_x",
        f"my_unet_ray_{host}-{no_process}-1_x",
    ):
        (shared / name).mkdir()
    before = set(shared.iterdir())
    (shared / f"unet_ray_{host}-{no_process}-1_x").mkdir()
    (shared / f"unet_ray_{host}-{pid}-{int(start) + 1}_x").mkdir()
    remove_dead()
    assert set(shared.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_other_users_stay(shared: Path) -> None:
    host = temporary_prefix().removeprefix("unet_ray_")[:8]
    theirs = shared / f"unet_ray_{host}-{2**22 + 1}-1_x"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    remove_dead()
    assert theirs.exists()
    os.chown(theirs, os.geteuid(), -1)
    remove_dead()
    assert not theirs.exists()


def test_a_temporary_folder_that_cannot_be_listed_is_no_error(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(shared / "nothing"))
    remove_dead()


def test_hidden_names_differ_and_are_found_below_the_folders_that_are_named(tmp_path: Path) -> None:
    inner, other = tmp_path / "masks/date=2026-01-01", tmp_path / "images-of-the-user"
    for folder in (tmp_path, inner, other):
        folder.mkdir(parents=True, exist_ok=True)
        names = {name_beside(f"{folder}/a.b-000001.parquet") for _ in range(2)}
        assert len(names) == 2
        for name in names:
            Path(name).touch()
        (folder / ".hidden").touch()
    found = half_written(tmp_path, ["masks", "nowhere"])
    assert {path.parent for path, _, _ in found} == {tmp_path, inner}
    assert {name for _, name, _ in found} == {"a.b-000001.parquet"}
    assert len(found) == 4


def test_a_write_that_fails_leaves_nothing_and_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "table"
    target.mkdir()
    with pytest.raises(IsADirectoryError):
        LocalBackend("file", {}).write(str(target), b"x")
    assert list(tmp_path.iterdir()) == [target]
