import json
import os
import pickle
import socket
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry

from tests.conftest import S3_KEYS, S3Server, new_bucket
from tests.faulty_store import faulty_store
from unet_ray.errors import ImageError, InputError, OutputHeldError, UnetRayError
from unet_ray.image_sources.image_files import open_ranges, read_file
from unet_ray.storage.listing import list_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Content, Storage
from unet_ray.tables import lock
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import remove_leftovers, take_inventory

PNG = {".png"}
FOLLOWING = Roots(follow_links=True)


def test_what_is_written_is_read_and_listed(root: str) -> None:
    storage = Storage.of(root).join("deep/folder")
    storage.write("b/two.png", b"22")
    storage.write("one.png", b"1")
    storage.write(".hidden", b"")
    assert storage.read("b/two.png") == b"22"
    assert [(e.path, e.size, e.uri) for e in storage.entries()] == [
        ("b/two.png", 2, storage.uri + "/b/two.png"),
        ("one.png", 1, storage.uri + "/one.png"),
    ]
    with storage.open("b/two.png") as file:
        file.seek(1)
        assert file.read() == b"2"
    storage.delete("one.png")
    storage.delete("one.png")
    assert not storage.exists("one.png")
    with pytest.raises(FileNotFoundError):
        storage.read("one.png")


def test_the_etag_changes_with_the_content(root: str) -> None:
    storage = Storage.of(root)
    storage.write("x", b"old")
    (before,) = storage.entries()
    storage.write("x", b"new")
    (after,) = storage.entries()
    assert before.etag
    assert '"' not in before.etag
    assert before.etag != after.etag


def test_bytes_come_with_the_etag_and_size_of_their_file(root: str) -> None:
    storage = Storage.of(root)
    for content in (b"0123456789", b"others", b""):
        storage.write("folder/x", content)
        (entry,) = storage.entries()
        file = Storage(entry.uri, storage.options)
        assert file.read_content() == Content(content, entry.etag, len(content))
        assert file.entry().etag == entry.etag
        if content:
            assert file.read_content(2, 3) == Content(content[2:5], entry.etag, len(content))
            assert file.read_content(4, 100) == Content(content[4:], entry.etag, len(content))
            assert file.read_range(4, 100) == content[4:]


def test_ranges_of_a_file_wait_beside_each_other(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, content = new_bucket(request), bytes(range(256))
    Storage.of(bucket).write("x", content)
    with faulty_store(s3_server, delay_s=0.5) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        fetch = open_ranges(Storage.of(bucket), f"{bucket}/x")
        assert fetch([(start, 10) for start in range(0, 100, 10)]) == [
            content[i : i + 10] for i in range(0, 100, 10)
        ]
        assert store.requests == 10
        assert store.most_under_way > 5


def test_a_store_without_etags_says_the_same_of_a_file_that_did_not_change(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path, tells_etags=False)
    request.addfinalizer(server.stop)
    for name, value in (
        S3_KEYS | {"AWS_ENDPOINT_URL": server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    ).items():
        monkeypatch.setenv(name, value)
    storage = Storage.of("s3://no-etags/images")
    storage.filesystem.mkdir("no-etags")
    for name, content in {"a": b"1", "b": b"22", "c": b"333"}.items():
        storage.write(name, content)
        time.sleep(0.4)  # so that some of them end in another fraction of a second
    entries = storage.entries()
    assert [read_file(storage, entry.uri, entry.etag) for entry in entries] == [b"1", b"22", b"333"]
    storage.write("a", b"4444")
    with pytest.raises(ImageError, match="changed"):
        read_file(storage, entries[0].uri, entries[0].etag)


def test_a_local_etag_is_size_and_mtime_in_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    os.utime(tmp_path / "x", ns=(1, 1_700_000_000_123_456_789))
    assert Storage.of(str(tmp_path)).entries()[0].etag == "3-1700000000123456789"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe would keep its reader waiting, and a device may never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/socket")
    folder = Storage.of(str(tmp_path))
    for path in (f"{tmp_path}/pipe", f"{tmp_path}/link", f"{tmp_path}/socket", "/dev/zero"):
        with pytest.raises(ImageError, match="unreadable: a pipe, a socket or a device"):
            read_file(folder, path)
        with pytest.raises(ImageError, match="unreadable: a pipe, a socket or a device"):
            open_ranges(folder, path)([(0, 10)])
        with pytest.raises(OSError, match="not a regular file"), Storage(path).open():
            pass


def test_no_path_leaves_its_folder(tmp_path: Path) -> None:
    for path in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(InputError, match="leaves the folder"):
            Storage.of(str(tmp_path)).read(path)


def test_credentials_travel_but_do_not_show(s3_server: str) -> None:
    storage = Storage.of("s3://bucket/x")
    assert (
        pickle.loads(pickle.dumps(storage)).options["secret"] == os.environ["AWS_SECRET_ACCESS_KEY"]
    )
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in f"{storage!r} {storage}"


def test_missing_extras_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, package in (("gs://b", "gcsfs"), ("az://b", "adlfs")):
        monkeypatch.delitem(_registry, uri[:2], raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            InputError, match=f"needs a package that is not installed: pip install {package}"
        ):
            Storage.of(uri)


def test_listing_takes_folders_globs_and_manifests(root: str) -> None:
    storage = Storage.of(root).join("images")
    for name in ("a/1.png", "a/2.PNG", "b/3.png", "notes.txt"):
        storage.write(name, name.encode())
    listing = list_files(storage.uri, PNG, "--images")
    assert [e.path for e in listing.entries] == ["a/1.png", "a/2.PNG", "b/3.png"]
    assert listing.others == 1
    assert [e.path for e in list_files(f"{storage.uri}/*/*.png", PNG, "--images").entries] == [
        "a/1.png",
        "b/3.png",
    ]
    manifest = pa.table(
        {
            "image_uri": ["a/1.png", f"{storage.uri}/b/3.png"]
            if "://" not in root
            else ["a/1.png", "b/3.png"]
        }
    )
    pq.write_table(manifest, (sink := pa.BufferOutputStream()))
    storage.write("manifest.parquet", sink.getvalue().to_pybytes())
    entries = list_files(f"{storage.uri}/manifest.parquet", PNG, "--images").entries
    assert [e.uri for e in entries] == [f"{storage.uri}/a/1.png", f"{storage.uri}/b/3.png"]
    assert entries[0].etag == listing.entries[0].etag


def test_odd_local_folders_are_listed_as_they_are(tmp_path: Path) -> None:
    for name in ("odd[1]/a b#1.png", "real/b.png"):
        Storage.of(str(tmp_path)).write(name, b"x")
    (tmp_path / "odd[1]/link").symlink_to(tmp_path / "real")
    (tmp_path / "odd[1]/loop").symlink_to(tmp_path / "odd[1]")
    (tmp_path / "odd[1]/gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "odd[1]/pipe.png")
    found = list_files(f"{tmp_path}/odd[1]", PNG, "--images", FOLLOWING).entries
    assert [(e.path, bool(e.etag)) for e in found] == [
        ("a b#1.png", True),
        ("gone.png", False),
        ("link/b.png", True),
    ]
    assert [e.path for e in list_files(f"{tmp_path}/real/b.png", PNG, "--images").entries] == [
        "b.png"
    ]
    Storage.of(str(tmp_path)).write("twice/z/deep/c.png", b"x")
    for name in ("a", "y"):
        (tmp_path / "twice" / name).symlink_to(tmp_path / "twice/z")
    found = list_files(f"{tmp_path}/twice", PNG, "--images").entries
    assert [e.path for e in found] == ["z/deep/c.png"]
    table = pa.table({"image_uri": [f"file://{tmp_path}/real/b.png"]})
    pq.write_table(table, tmp_path / "m.parquet")
    assert [e.uri for e in list_files(f"{tmp_path}/m.parquet", PNG, "--images").entries] == [
        f"{tmp_path}/real/b.png"
    ]
    (tmp_path / "m.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match="not a Parquet manifest"):
        list_files(f"{tmp_path}/m.parquet", PNG, "--images")


def test_what_cannot_be_listed_is_one_line(root: str) -> None:
    storage = Storage.of(root)
    with pytest.raises(InputError, match="there is no such folder or file"):
        list_files(f"{root}/nowhere", PNG, "--images")
    storage.write("only/notes.txt", b"")
    with pytest.raises(InputError, match="1 files, none with a known image suffix"):
        list_files(f"{root}/only", PNG, "--images")
    pq.write_table(pa.table({"image_uri": ["x.png", "x.png"]}), (sink := pa.BufferOutputStream()))
    storage.write("twice.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(InputError, match="1 URIs are listed more than once, the first is .*/x.png"):
        list_files(f"{root}/twice.parquet", PNG, "--images")
    pq.write_table(pa.table({"image_uri": ["../x.png"]}), (sink := pa.BufferOutputStream()))
    storage.write("m/escape.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(
        InputError,
        match=r"1 images are (not below .*|at places that are never opened), for example .*/x\.png",
    ):
        list_files(f"{root}/m/escape.parquet", PNG, "--images")


def test_what_is_no_part_of_tables_is_never_removed(root: str) -> None:
    output = Storage.of(root)
    output.write("masks/date=2026-01-01/broken-000000.parquet", b"x")
    for name in ("masks/a.png", "images/a.jpg", "regions/date=2026-01-01/notes.txt"):
        output.write("masks/date=2026-01-01/broken-000000.parquet", b"x")
        output.write(name, b"somebody's")
        for check in (remove_leftovers, take_inventory):
            with pytest.raises(InputError, match=r"is not part of the tables \(1 such files"):
                check(output)
        assert len(output.entries()) == 2
        output.delete(name)


def test_one_run_holds_an_output(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Storage.of(root)
    with (
        OutputLock(output, "first"),
        pytest.raises(OutputHeldError, match="run first has held this output since"),
    ):
        OutputLock(output, "second").__enter__()
    with OutputLock(output, "second"):
        OutputLock.check(output, "second")
        with pytest.raises(
            OutputHeldError, match="run second holds this output now, not run first"
        ):
            OutputLock.check(output, "first")
    monkeypatch.setattr(lock, "_GRACE_S", 0.1)
    monkeypatch.setattr(lock, "LOCK_LEASE_S", 2.0)
    stale = {
        "run_id": "dead",
        "host": "gone",
        "boot": "",
        "pid": 1,
        "started_at": "then",
        "lease_s": 600,
    }
    output.write("_lock.json", json.dumps(stale | {"heartbeat_at": time.time()}).encode())
    with pytest.raises(OutputHeldError, match="run dead"):
        OutputLock(output, "third").__enter__()
    output.write("_lock.json", json.dumps(stale | {"heartbeat_at": time.time() - 601}).encode())
    with OutputLock(output, "third"):
        OutputLock.check(output, "third")
    assert not output.exists("_lock.json")


def test_arrow_sees_and_deletes_what_is_stored(root: str) -> None:
    storage = Storage.of(root)
    for path in ("run/one/a", "run/one/b", "run/two/c"):
        storage.write(path, b"x")
    arrow = pickle.loads(pickle.dumps(storage.arrow_filesystem))
    arrow.delete_dir(f"{storage.path}/run/one")
    assert [entry.path for entry in storage.entries()] == ["run/two/c"]


def test_a_full_disk_is_found_before_the_work(small_disk: Path) -> None:
    output = Storage.of(f"{small_disk}/tables")
    output.check_writable()
    (small_disk / "others").write_bytes(bytes(800 * 1024))
    with pytest.raises(UnetRayError, match=f"no space left on {small_disk}/.*: free some") as error:
        output.check_writable()
    assert error.value.exit_code == 1
    output.check_writable(0)  # for what makes room
    assert not list((small_disk / "tables").iterdir())
