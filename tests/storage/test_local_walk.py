"""Links in a local folder: each real folder is walked once, and they lead out of it on demand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.image_files import open_ranges, read_file
from unet_ray.storage.backends.base import Links
from unet_ray.storage.backends.local_walk import FolderWalk
from unet_ray.storage.listing import list_files, scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage

PNG = {".png"}


def walk(folder: Path, follow: bool = False) -> tuple[list[str], int]:
    """Return the paths of all files, sorted, and the number of links that were left out."""
    links = Links(follow)
    return sorted(info.path for info in FolderWalk(str(folder), links).files()), links.left_out


@pytest.mark.parametrize("follow", [True, False])
def test_links_do_not_multiply_an_archive(tmp_path: Path, follow: bool) -> None:
    """28 links in 14 levels are 2^14 paths to one image."""
    for level in range(14):
        folder = tmp_path / f"d{level}"
        folder.mkdir()
        for name in "ab":
            (folder / name).symlink_to(f"../d{level + 1}")
    (tmp_path / "d14").mkdir()
    (tmp_path / "d14/x.png").write_bytes(b"x")
    assert walk(tmp_path, follow) == (["d14/x.png"], 0)


def test_links_that_lead_out_are_counted_or_followed(tmp_path: Path) -> None:
    for name in ("archive/1.png", "disk/2.png", "disk/deep/3.png", "archive/.hidden/4.png"):
        Storage.of(str(tmp_path)).write(name, b"x")
    archive = tmp_path / "archive"
    (archive / "disk").symlink_to(tmp_path / "disk")
    (archive / "again").symlink_to(tmp_path / "disk/deep")
    (archive / "5.png").symlink_to("../disk/2.png")
    (archive / "up").symlink_to("..")
    (archive / "gone.png").symlink_to("../nowhere.png")
    (archive / "shown").symlink_to(".hidden")
    (archive / "here").symlink_to(".")
    assert walk(archive) == (["1.png", "shown/4.png"], 5)
    followed = ["1.png", "5.png", "again/3.png", "disk/2.png", "gone.png", "shown/4.png"]
    assert walk(archive, follow=True) == (followed, 0)
    found = list_files(str(archive), PNG, "--images")
    assert ([entry.path for entry in found.entries], found.links) == (["1.png", "shown/4.png"], 5)
    with pytest.raises(
        InputError, match=r"no files \(.png\); 5 links that lead out .*\(--follow-links\)$"
    ):
        list_files(f"{archive}/9*.png", PNG, "--images")
    scan = scan_files(str(archive), PNG, "--images", roots=Roots(follow_links=True))
    assert sum(len(batch) for batch in scan) == len(followed)


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("listed", ["", "/*/*.png", "/all.parquet"])
def test_what_becomes_a_link_after_it_was_listed_is_opened_only_if_links_are_followed(
    tmp_path: Path, listed: str, follow: bool
) -> None:
    archive, names = tmp_path / "archive", ["deep/file.png", "deep/stays.png", "folder/1.png"]
    for name in (*names, "../secret/1.png"):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(name.encode())
    pq.write_table(pa.table({"image_uri": names}), archive / "all.parquet")
    found = list_files(f"{archive}{listed}", PNG, "--images", Roots(follow_links=follow))
    assert [entry.uri for entry in found.entries] == [f"{archive}/{name}" for name in names]
    (archive / "deep/file.png").unlink()
    (archive / "deep/file.png").symlink_to(tmp_path / "secret/1.png")
    shutil.rmtree(archive / "folder")
    (archive / "folder").symlink_to(tmp_path / "secret")

    assert read_file(found.root, f"{archive}/deep/stays.png") == b"deep/stays.png"
    for name in ("deep/file.png", "folder/1.png"):
        for read in (read_file, read_range):
            if follow:
                assert read(found.root, f"{archive}/{name}") == b"../secret/1.png"
            else:
                with pytest.raises(ImageError, match=f"its real path is {tmp_path}/secret/1.png"):
                    read(found.root, f"{archive}/{name}")


def read_range(root: Storage, uri: str) -> bytes:
    return open_ranges(root, uri)([(0, 100)])[0]


def test_a_file_that_is_named_is_opened_even_if_it_is_a_link(tmp_path: Path) -> None:
    Storage.of(str(tmp_path)).write("disk/1.png", b"x")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/1.png").symlink_to("../disk/1.png")
    found = list_files(f"{tmp_path}/archive/1.png", PNG, "--images")
    assert read_file(found.root, found.entries[0].uri) == b"x"


def test_a_link_to_a_file_of_the_archive_is_a_file_of_its_own(tmp_path: Path) -> None:
    """What it leads to may have no suffix, as in stores that name files by their content."""
    Storage.of(str(tmp_path)).write("blobs/5f3a", b"x")
    (tmp_path / "a.png").symlink_to("blobs/5f3a")
    (tmp_path / "b.png").symlink_to("a.png")
    assert [e.path for e in list_files(str(tmp_path), PNG, "--images").entries] == [
        "a.png",
        "b.png",
    ]


def test_an_archive_may_itself_be_a_link(tmp_path: Path) -> None:
    Storage.of(str(tmp_path)).write("disk/images/1.png", b"x")
    (tmp_path / "archive").symlink_to("disk/images")
    (tmp_path / "disk/images/loop").symlink_to("../images")
    assert walk(tmp_path / "archive") == (["1.png"], 0)


def test_the_output_may_have_its_tables_on_another_disk(tmp_path: Path) -> None:
    """Links of an output are the operator's: its files are never missed."""
    Storage.of(str(tmp_path)).write("disk/date=2026-01-01/a.parquet", b"x")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/images").symlink_to("../disk")
    output = Storage.of(f"{tmp_path}/tables")
    assert [entry.path for entry in output.entries()] == ["images/date=2026-01-01/a.parquet"]
    assert [entry.path for entry in output.entries("images")] == ["date=2026-01-01/a.parquet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walks")


NODES = 5


@given(
    st.lists(st.integers(0, NODES - 1), min_size=NODES, max_size=NODES),
    st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), max_size=8),
    st.booleans(),
)
def test_each_real_file_is_listed_once_however_folders_are_linked(
    folder: Path, above: list[int], linked: list[tuple[int, int]], follow: bool
) -> None:
    """Folder i > 0 lies in an earlier one; the last tree lies outside of what is listed."""
    place = folder / str(len(os.listdir(folder)))
    paths = [place / "in"]
    for number, parent in enumerate(above[1:], 1):
        inside = place / "out" if number == NODES - 1 else paths[parent % number]
        paths.append(inside / f"f{number}")
    for path in paths:
        path.mkdir(parents=True)
        (path / "x.png").write_bytes(b"x")
    for number, (where, target) in enumerate(linked):
        (paths[where] / f"l{number}").symlink_to(paths[target])
    found, left_out = walk(place / "in", follow)
    real = [os.path.realpath(place / "in" / path) for path in found]
    assert len(set(real)) == len(real)
    leads_out = any(target == NODES - 1 and where < NODES - 1 for where, target in linked)
    expected = set(paths) if leads_out and follow else set(paths[:-1])
    assert set(real) == {os.path.realpath(path / "x.png") for path in expected}
    assert (left_out > 0) is (leads_out and not follow)
