"""A listing that breaks off is an error: files that it did not show may well be there."""

from __future__ import annotations

import errno
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.conftest import new_bucket
from tests.faults import failing_scandir, is_listing
from tests.faulty_store import faulty_store
from unet_ray.errors import ImageError, InputError, ListingError
from unet_ray.image_sources.image_files import read_file
from unet_ray.storage import retry as retry_module
from unet_ray.storage import storage as storage_module
from unet_ray.storage.backends import s3
from unet_ray.storage.backends.fsspec import FsspecBackend
from unet_ray.storage.listing import FileScan, Selection, list_files, scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage

PNG = {".png"}
FOLLOWING = Roots(follow_links=True)


@pytest.fixture
def memory_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow fsspec's store in memory, in place of those that need an account."""
    monkeypatch.setitem(storage_module._BACKENDS, "memory", FsspecBackend)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT])
def test_a_local_folder_that_cannot_be_listed_is_named(tmp_path: Path, code: int) -> None:
    storage = Storage.of(str(tmp_path))
    for name in ("a/1.png", "a/deep/2.png", "b/3.png"):
        storage.write(name, b"x")
    with failing_scandir(0, code) as listed:
        assert len(storage.entries()) == 3
    assert len(listed) == 4
    for number, folder in enumerate(listed, 1):
        with failing_scandir(number, code), pytest.raises(ListingError) as error:
            list_files(str(tmp_path), PNG, "--images")
        assert str(error.value).startswith(f"{folder}: this folder cannot be listed completely")
        assert os.strerror(code) in str(error.value)
        with failing_scandir(number, code), pytest.raises(ListingError):
            storage.entries()


def test_hidden_folders_and_those_of_the_file_system_are_not_entered(tmp_path: Path) -> None:
    for name in ("1.png", ".snapshot/old/1.png", "lost+found/2.png", "a/.trash/3.png"):
        Storage.of(str(tmp_path)).write(name, b"x")
    with failing_scandir(0, 0) as listed:
        assert [entry.path for entry in Storage.of(str(tmp_path)).entries()] == ["1.png"]
    assert listed == [str(tmp_path), f"{tmp_path}/a"]


def test_a_link_to_nothing_is_no_empty_folder(tmp_path: Path) -> None:
    """It may lead to an unmounted disk. One named like an image is an image that cannot be read."""
    storage = Storage.of(str(tmp_path))
    storage.write("archive/1.png", b"x")
    (tmp_path / "archive/2.png").symlink_to(tmp_path / "unmounted/2.png")
    scan = scan_files(f"{tmp_path}/archive", PNG, "--images", roots=FOLLOWING)
    assert scanned(scan) == ["1.png", "2.png"]
    (tmp_path / "archive/more").symlink_to(tmp_path / "unmounted/more")
    for uri in (f"{tmp_path}/archive", f"{tmp_path}/archive/*/*.png", f"{tmp_path}/**/*.png"):
        with pytest.raises(ListingError, match="archive/more: a link to nothing; mount its target"):
            list_files(uri, PNG, "--images", FOLLOWING)
    assert len(list_files(f"{tmp_path}/archive/*.png", PNG, "--images", FOLLOWING).entries) == 2
    with pytest.raises(ListingError, match="a link to nothing"):
        storage.entries("archive")
    (tmp_path / "images").symlink_to(tmp_path / "unmounted/images")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    for name in ("images", "self"):
        with pytest.raises(
            OSError, match=rf"{name} is a link to nothing|symbolic links: '.*/{name}'"
        ):
            storage.exists(name)
        with pytest.raises(
            ListingError, match=rf"{name} is a link to nothing|{name}: .*symbolic links"
        ):
            storage.entries(name, missing_ok=True)
    assert storage.entries("nowhere", missing_ok=True) == []
    with pytest.raises(ListingError):
        storage.entries("nowhere")


def test_what_cannot_be_looked_at_is_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, stat = Storage.of(str(tmp_path)), os.stat

    def stale(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith("images"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", stale)
    with pytest.raises(OSError, match="Stale"):
        storage.exists("images")
    with pytest.raises(ListingError, match="Stale"):
        storage.entries("images", missing_ok=True)


@pytest.mark.parametrize("status", [403, 500])
def test_a_page_of_a_listing_that_fails_is_named(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The first page has come; the second never does."""
    bucket = new_bucket(request)
    for index in range(30):
        Storage.of(bucket).write(f"archive/{index}.png", b"x")
    pages = list[str]()

    def refuse(command: str, path: str) -> int | None:
        if not is_listing(command, path):
            return None
        pages.append(path)
        return status if "continuation-token" in path else None

    monkeypatch.setattr(retry_module, "ATTEMPTS", 1)
    monkeypatch.setitem(storage_module._BACKENDS, "s3", partial(s3.S3Backend, page_keys=20))
    assert len(Storage.of(bucket).entries("archive")) == 30
    with faulty_store(s3_server, refuse=refuse) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        for listing in (
            lambda: list_files(f"{bucket}/archive", PNG, "--images"),
            lambda: Storage.of(bucket).entries("archive"),
            lambda: Storage.of(bucket).entries("archive", missing_ok=True),
        ):
            with pytest.raises(
                ListingError, match=r"archive: this folder cannot be listed completely"
            ):
                listing()
    assert any("continuation-token" in path for path in pages)


def test_whether_something_is_there_is_not_answered_by_an_error(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(request)
    monkeypatch.setattr(retry_module, "ATTEMPTS", 1)
    with faulty_store(
        s3_server, refuse=lambda command, _: 403 if command in ("HEAD", "GET") else None
    ) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        for storage in (Storage.of(bucket), Storage.of(f"{bucket}/archive")):
            with pytest.raises(PermissionError):
                storage.exists()
            with pytest.raises(InputError, match="cannot be listed"):
                list_files(storage.uri, PNG, "--images")


@pytest.mark.usefixtures("memory_store")
def test_other_stores_name_what_cannot_be_listed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, ls = Storage.of("memory://archive"), MemoryFileSystem.ls
    for name in ("a/1.png", "b/2.png"):
        storage.write(name, b"x")
    assert len(storage.entries()) == 2

    def denied(self: MemoryFileSystem, path: str, **more: Any) -> Any:
        if path.endswith("/b"):
            raise PermissionError(path)
        return ls(self, path, **more)

    monkeypatch.setattr(MemoryFileSystem, "ls", denied)
    with pytest.raises(ListingError, match="this folder cannot be listed completely"):
        storage.entries()


def scanned(scan: FileScan) -> list[str]:
    return sorted(path for batch in scan for path in batch["path"].to_pylist())


NAMES = ("a.png", "raw/a.png", "raw/deep/b.png", "thumbs/a_thumb.png", "raw/thumbs/c.png")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, None, NAMES),
        ("a.png", None, ("a.png", "raw/a.png")),
        ("raw/*", None, ("raw/a.png", "raw/deep/b.png", "raw/thumbs/c.png")),
        ("*/raw/*", None, ()),
        (None, "*/thumbs/*,thumbs/*", ("a.png", "raw/a.png", "raw/deep/b.png")),
        (None, "thumb*", ("a.png", "raw/a.png", "raw/deep/b.png", "raw/thumbs/c.png")),
        ("raw/*, *_thumb.png", "?.png", ("thumbs/a_thumb.png",)),
        ("[ab].png", "raw/deep*", ("a.png", "raw/a.png")),
        ("A.png", None, ()),
        ("raw/*", "*", ()),
    ],
)
def test_patterns_select_files_by_path_or_name(
    root: str, include: str | None, exclude: str | None, expected: tuple[str, ...]
) -> None:
    for name in (*NAMES, "raw/notes.txt"):
        Storage.of(root).write(name, b"x")
    scan = scan_files(root, PNG, "--images", Selection.parse(include, exclude))
    assert scanned(scan) == sorted(expected)
    assert (scan.known, scan.excluded, scan.others) == (len(expected), 5 - len(expected), 1)
    if not expected:
        assert scan.emptiness == (
            f"--images {root}: --include/--exclude leave out all 5 images; change the patterns, or "
            "go on with --allow-empty"
        )


def test_patterns_of_globs_and_manifests(tmp_path: Path) -> None:
    """Paths begin below the folder before the first wildcard; a manifest's are as written."""
    for name in NAMES:
        Storage.of(str(tmp_path)).write(name, b"x")
    glob = scan_files(f"{tmp_path}/raw/**/*.png", PNG, "--images", Selection(exclude=("deep/*",)))
    assert scanned(glob) == ["a.png", "thumbs/c.png"]
    uris = ["raw/a.png", f"{tmp_path}/raw/deep/b.png", "a.png"]
    pq.write_table(pa.table({"image_uri": uris}), tmp_path / "m.parquet")
    selection = Selection(include=("raw/*", f"{tmp_path}/raw/*"))
    scan = scan_files(f"{tmp_path}/m.parquet", PNG, "--images", selection)
    assert scanned(scan) == sorted(uris[:2])
    assert scan.excluded == 1


def test_files_that_may_still_be_uploading_are_left_out(tmp_path: Path) -> None:
    """A time in the future is young; a link to nothing has none, and stays an error row."""
    now = time.time()
    for name, age_s in (("old", 7200), ("edge", 3700), ("new", 60), ("future", -7200)):
        Storage.of(str(tmp_path)).write(f"{name}.png", b"x")
        os.utime(tmp_path / f"{name}.png", (now, now - age_s))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    scan = scan_files(str(tmp_path), PNG, "--images", Selection(min_age_s=3600))
    assert scanned(scan) == ["edge.png", "gone.png", "old.png"]
    assert (scan.known, scan.young) == (3, 2)
    one = scan_files(f"{tmp_path}/new.png", PNG, "--images", Selection(min_age_s=3600))
    assert scanned(one) == []
    assert (one.young, one.emptiness) == (1, None)  # a later run does it
    pq.write_table(pa.table({"image_uri": ["old.png"]}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="a manifest does not state when files were modified"):
        scan_files(f"{tmp_path}/m.parquet", PNG, "--images", Selection(min_age_s=3600))


@pytest.mark.usefixtures("memory_store")
def test_other_stores_tell_ages_or_the_run_ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri in (f"{new_bucket(request)}/aged", "memory://aged"):
        Storage.of(uri).write("1.png", b"x")
        for min_age_s, young in ((0.0, 0), (3600.0, 1)):
            time.sleep(0.01)
            scan = scan_files(uri, PNG, "--images", Selection(min_age_s=min_age_s))
            assert (len(scanned(scan)), scan.young) == (1 - young, young)
    ls = MemoryFileSystem.ls

    def ageless(self: MemoryFileSystem, path: str, **more: Any) -> Any:
        return [{**found, "created": None} for found in ls(self, path, **more)]

    monkeypatch.setattr(MemoryFileSystem, "ls", ageless)
    assert scanned(scan_files("memory://aged", PNG, "--images")) == ["1.png"]
    with pytest.raises(InputError, match="this store does not state when files were modified"):
        scanned(scan_files("memory://aged", PNG, "--images", Selection(min_age_s=1)))


def test_a_file_whose_name_is_not_utf8_is_counted_like_other_files(tmp_path: Path) -> None:
    for name in (b"a.png", b"readme\xff.txt", b"b\xff.png", b"c\xff/d.PNG", b"%FF.png"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for uri in (str(tmp_path), f"{tmp_path}/**"):
        scan = scan_files(uri, PNG, "--images")
        assert scanned(scan) == ["%FF.png", "a.png"]
        assert (scan.known, scan.others, scan.nameless) == (2, 1, 2)
        assert scan.note is not None
        assert scan.note.startswith(
            f"--images {uri}: 2 images are left out because their file names are "
        )
    one = scan_files(str(tmp_path), PNG, "--images", Selection(include=("a.png",)))
    assert scanned(one) == ["a.png"]
    assert one.excluded == 1
    for name in ("a.png", "%FF.png"):
        (tmp_path / name).unlink()
    empty = scan_files(str(tmp_path), PNG, "--images")
    assert scanned(empty) == []
    assert empty.emptiness == empty.note
    (tmp_path / os.fsdecode(b"disk\xff")).symlink_to(tmp_path / "unmounted")
    with pytest.raises(ListingError, match=r"disk\\xff: a link to nothing"):
        scanned(scan_files(str(tmp_path), PNG, "--images"))


def test_a_folder_whose_name_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"images\xff")
    folder.mkdir()
    with pytest.raises(InputError, match=r"images\\xff: the name is not UTF-8; rename it"):
        scan_files(str(folder), PNG, "--images")


def write_manifest(folder: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), folder / "m.parquet")
    return f"{folder}/m.parquet"


def test_a_row_of_a_manifest_that_names_nothing_costs_itself(tmp_path: Path) -> None:
    """A null once became a file called None; bytes that are not UTF-8 were a traceback."""
    (tmp_path / "a.png").write_bytes(b"1234")
    encoded = pa.array([None, b"a.png", b"", b"\xff.png", "日本.png".encode(), b"y" * 8193])
    for names in (
        encoded,
        encoded.view(pa.string()),
        encoded.view(pa.string()).dictionary_encode(),
    ):
        scan = scan_files(write_manifest(tmp_path, image_uri=names), PNG, "--images")
        rows = [row for batch in scan for row in batch.to_pylist()]
        assert [(row["uri"], row["size"]) for row in rows] == [
            (f"{tmp_path}/a.png", 4),
            (f"{tmp_path}/日本.png", 0),
        ]
        assert scan.note == (
            f"--images {tmp_path}/m.parquet: 4 rows are left out because their image_uri is null, "
            "empty, longer than 8192 bytes or not UTF-8"
        )
    nothing = write_manifest(tmp_path, image_uri=pa.array([None, ""], pa.string()))
    with pytest.raises(InputError, match="2 rows are left out"):
        list_files(nothing, PNG, "--images")


def test_a_row_whose_name_no_file_can_have_costs_itself(root: str) -> None:
    """It is an image that cannot be read, wherever it stands, and its reason says why."""
    folder = Storage.of(root)
    folder.write("a.png", b"1234")
    reasons = {
        "file://host/x.png": "unreadable: file://host/x.png: names another machine",
        "file:///a%00.png": "unreadable: 'file:///a%00.png': a path cannot contain a NUL character",
        "file:///%FF.png": "unreadable: file:///%FF.png: the name is not UTF-8",
    }
    for names in ([*reasons, "a.png"], ["a.png", *reasons], [*reasons]):
        write_table(folder, {"image_uri": names})
        scan = scan_files(f"{root}/m.parquet", PNG, "--images")
        rows = [row for batch in scan for row in batch.to_pylist()]
        there = {f"{root}/a.png"} if "a.png" in names else set()
        assert {row["uri"] for row in rows} == {*reasons, *there}
        for row in rows:
            if row["uri"] in there:
                assert read_file(scan.root, row["uri"]) == b"1234"
            else:
                assert (row["etag"], row["size"]) == ("", 0)
                with pytest.raises(ImageError, match=reasons[row["uri"]]):
                    read_file(scan.root, row["uri"])


def test_rows_outside_the_roots_are_counted_together(root: str) -> None:
    folder = Storage.of(f"{root}/deep")
    write_table(folder, {"image_uri": ["a.png", "../b.png", "/etc/x.png", "file://host/x.png"]})
    with pytest.raises(InputError, match=f"--images {root}/deep/m.parquet: 2 images"):
        [*scan_files(f"{root}/deep/m.parquet", PNG, "--images")]


def write_table(folder: Storage, columns: dict[str, Any]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    folder.write("m.parquet", sink.getvalue().to_pybytes())


def test_names_are_read_in_bounded_memory(tmp_path: Path) -> None:
    """A file of some kilobytes can have a name of 400 MB, or one of 5 MB a thousand times."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 999 + [1]), ["y" * 5 * 10**6, "a.png"])
    uri = write_manifest(tmp_path, image_uri=long)
    scan = scan_files(uri, PNG, "--images")
    assert [row["path"] for batch in scan for row in batch.to_pylist()] == ["a.png"]
    assert scan.nameless == 999
    longer = write_manifest(tmp_path, image_uri=["y" * (2**24 + 1), "a.png"])
    with pytest.raises(
        InputError, match=r"has 167\d{5} bytes in 2 rows; at most 8192 bytes per row"
    ):
        scan_files(longer, PNG, "--images")


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_names_in_any_encoding_are_read(tmp_path: Path, encoding: str) -> None:
    """Spark and DuckDB write these, which Arrow cannot read as indices into those that differ."""
    names = pa.array([f"folder{number // 1000:05d}/{number:08d}.png" for number in range(30_000)])
    columns = pa.table({"image_uri": names, "image_etag": ["e"] * 30_000})
    columns = columns.append_column("image_bytes", pa.array([4] * 30_000))
    encodings = dict.fromkeys(("image_uri", "image_etag"), encoding)
    uri = f"{tmp_path}/m.parquet"
    pq.write_table(columns, uri, use_dictionary=False, column_encoding=encodings)
    rows = [row for batch in scan_files(uri, PNG, "--images") for row in batch.to_pylist()]
    assert [row["path"] for row in rows] == names.to_pylist()
    assert {(row["etag"], row["size"]) for row in rows} == {("e", 4)}


@pytest.mark.slow
def test_names_that_begin_alike_are_read_in_bounded_memory(tmp_path: Path) -> None:
    """Each may begin as the one before it: a gigabyte is stored as one megabyte."""
    uri, schema = f"{tmp_path}/m.parquet", pa.schema([("image_uri", pa.string())])
    encodings = {"image_uri": "DELTA_BYTE_ARRAY"}
    long = pa.record_batch([["y" * 2**20] * 100], schema=schema)
    with pq.ParquetWriter(
        uri, schema, use_dictionary=False, column_encoding=encodings, data_page_size=2**30
    ) as writer:
        for _ in range(12):
            writer.write_batch(long)
        writer.write_batch(pa.record_batch([["a.png"]], schema=schema))
    scan = scan_files(uri, PNG, "--images")
    assert [row["path"] for batch in scan for row in batch.to_pylist()] == ["a.png"]
    assert scan.nameless == 1200


@pytest.mark.parametrize(
    "name",
    ["gone.png", "a.png/below.png", "a" * 256 + ".png", "nul\0.png", "self.png", "dangling.png"],
)
def test_a_row_whose_file_is_not_there_reports_the_reason_when_it_is_read(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "unmounted/a.png")
    manifest = write_manifest(tmp_path, image_uri=["a.png", name])
    first, second = (
        row for batch in scan_files(manifest, PNG, "--images") for row in batch.to_pylist()
    )
    assert first["etag"]
    assert (second["path"], second["etag"], second["size"]) == (name, "", 0)
    with pytest.raises(ImageError, match="missing: no such file"):
        read_file(Storage.of(str(tmp_path)), second["uri"], second["etag"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image_uri": [["a.png"]]},
            "column image_uri of the manifest has the type list<.*write it as str",
        ),
        (
            {"image_uri": [7]},
            "column image_uri of the manifest has the type int64; write it as string",
        ),
        (
            {"image_etag": [["x"]]},
            "column image_etag of the manifest has the type list<.*write it as string",
        ),
        (
            {"image_bytes": ["4"]},
            "column image_bytes of the manifest has the type string; write it as int64",
        ),
        (
            {"image_bytes": [True]},
            "column image_bytes of the manifest has the type bool; write it as int64",
        ),
    ],
)
def test_a_column_of_a_manifest_with_a_wrong_type_is_one_line(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scan_files(write_manifest(tmp_path, **({"image_uri": ["a"]} | columns)), PNG, "--images")


def test_a_column_that_is_there_twice_is_one_line(tmp_path: Path) -> None:
    twice = pa.table([pa.array(["a.png"])] * 2, names=["image_uri"] * 2)
    pq.write_table(twice, tmp_path / "m.parquet")
    with pytest.raises(InputError, match="has 2 columns named image_uri; keep one"):
        scan_files(f"{tmp_path}/m.parquet", PNG, "--images")


def test_a_value_that_is_no_etag_or_size_is_asked_of_the_store(tmp_path: Path) -> None:
    sizes = {"whole": 4.0, "fraction": 1.5, "nan": float("nan"), "negative": -4.0, "huge": 1e300}
    for name in sizes:
        (tmp_path / name).write_bytes(b"1234")
    etags = pa.array([b"e", b"\xff", b"", b"e", None]).view(pa.string())
    columns = {"image_uri": list(sizes), "image_etag": etags, "image_bytes": list(sizes.values())}
    scan = scan_files(write_manifest(tmp_path, **columns), PNG, "--images")
    rows = [row for batch in scan for row in batch.to_pylist()]
    assert [row["size"] for row in rows] == [4] * 5
    assert [row["etag"] == "e" for row in rows] == [True, False, False, True, False]
    assert all(row["etag"] for row in rows)


def test_one_object_that_may_not_be_looked_at_is_no_error_of_the_others(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, refused = Storage.of(new_bucket(request)), {"/1.png": 403, "/2.png": 500}
    names = [f"{number}.png" for number in range(200)]
    bucket.write("0.png", b"x")
    pq.write_table(pa.table({"image_uri": names}), (sink := pa.BufferOutputStream()))
    bucket.write("m.parquet", sink.getvalue().to_pybytes())

    def refuse(command: str, path: str) -> int | None:
        if command != "HEAD":
            return None
        return next((status for end, status in refused.items() if path.endswith(end)), None)

    monkeypatch.setattr(retry_module, "ATTEMPTS", 1)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1, raising=False)
    monkeypatch.setattr(s3, "_ATTEMPTS", 1)
    with faulty_store(s3_server, refuse=refuse) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        entries = list_files(f"{bucket.uri}/m.parquet", PNG, "--images").entries
        assert [entry.path for entry in entries if entry.etag] == ["0.png"]
        assert len(entries) == 200
        refused = {".png": 500}  # the store has a fault of its own
        with pytest.raises(InputError, match="m.parquet: cannot be listed"):
            list_files(f"{bucket.uri}/m.parquet", PNG, "--images")


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_disk_that_gives_no_answer_ends_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """One file may have a fault of its own: it is not taken for missing."""
    names = [f"{number}.png" for number in range(150)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    manifest, stat, failing = write_manifest(tmp_path, image_uri=names), os.stat, "/7.png"

    def fail(path: Any, **more: Any) -> os.stat_result:
        if str(path).endswith(failing):
            raise OSError(code, os.strerror(code), path)
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", fail)
    (entry,) = (e for e in list_files(manifest, PNG, "--images").entries if not e.etag)
    with pytest.raises(ImageError, match="network: reading failed"):
        read_file(Storage.of(str(tmp_path)), entry.uri, entry.etag)
    failing = ".png"
    with pytest.raises(InputError, match=f"m.parquet: cannot be listed: .*{os.strerror(code)}"):
        list_files(manifest, PNG, "--images")
