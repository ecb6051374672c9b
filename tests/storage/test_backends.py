"""What every storage backend does, whatever it stores on: one class of tests, run for each of them.

The tests look at a store by raw access that bypasses the backend.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
import requests
from fsspec.asyn import sync

from tests.conftest import new_bucket
from tests.emulators import new_place
from unet_ray.storage.backends.azure import AzureBackend
from unet_ray.storage.backends.base import ArchivedFileError, Backend, FileTooLargeError
from unet_ray.storage.backends.fsspec import FsspecBackend, to_file_info
from unet_ray.storage.backends.gcs import GcsBackend
from unet_ray.storage.backends.local import LocalBackend
from unet_ray.storage.backends.s3 import S3Backend
from unet_ray.storage.storage import Storage


def once(operation: Callable[[], Any]) -> Any:
    return operation()


class BackendContract(ABC):
    """Tests that each backend passes; `root` is an empty place on its store."""

    tells_content_with_bytes = True
    """Whether a read says which content its bytes belong to."""
    keeps_conditions = True
    """Whether a file is created by one of several that do so at the same moment."""
    has_folders = True
    """Whether a folder is more than the beginning of names."""

    @pytest.fixture
    @abstractmethod
    def root(self) -> str: ...

    @abstractmethod
    def backend(self) -> Backend: ...

    @abstractmethod
    def raw_write(self, uri: str, data: bytes) -> None: ...

    @abstractmethod
    def raw_read(self, uri: str) -> bytes: ...

    def test_what_is_written_is_there_whole(self, root: str) -> None:
        for data in (b"first", b"", bytes(range(256)) * 1000):
            self.backend().write(f"{root}/deep/file", data)
            assert self.raw_read(f"{root}/deep/file") == data

    def test_bytes_and_ranges_are_read(self, root: str) -> None:
        self.raw_write(f"{root}/file", b"0123456789")
        backend = self.backend()
        assert backend.read(f"{root}/file")[0] == b"0123456789"
        assert backend.read(f"{root}/file", 3, 4)[0] == b"3456"
        assert backend.read(f"{root}/file", 8, 100)[0] == b"89"
        with backend.open(f"{root}/file") as file:
            file.seek(5)
            assert file.read(2) == b"56"

    def test_the_length_that_counts_is_the_stores(self, root: str) -> None:
        for data in (b"", b"0123456789"):
            self.raw_write(f"{root}/file", data)
            for limit in (len(data), len(data) + 1, 2**40):
                assert self.backend().read(f"{root}/file", limit=limit)[0] == data
        with pytest.raises(FileTooLargeError, match="the file has 10 bytes; at most 9 are read"):
            self.backend().read(f"{root}/file", limit=9)
        with pytest.raises(FileNotFoundError):
            self.backend().read(f"{root}/nothing", limit=9)

    def test_bytes_come_with_their_etag_where_the_store_tells_it(self, root: str) -> None:
        self.raw_write(f"{root}/file", b"0123456789")
        _, told = self.backend().read(f"{root}/file")
        known = self.backend().info(f"{root}/file")
        assert known is not None
        assert known.size == 10
        assert known.is_file
        assert (told is not None) == self.tells_content_with_bytes
        assert told is None or (told.etag, told.size) == (known.etag, 10)

    def test_nothing_is_not_something(self, root: str) -> None:
        backend = self.backend()
        assert backend.info(f"{root}/nothing") is None
        with pytest.raises(FileNotFoundError):
            backend.read(f"{root}/nothing")
        with pytest.raises(FileNotFoundError):
            backend.open(f"{root}/nothing").__enter__()

    def test_each_name_is_that_of_one_file(self, root: str) -> None:
        names = [
            "a.png", "a.png?versionId=1", "a.png?versionId=", "a.png?x=1&y=2", "a.png#page=1",
            "a%2Epng", "a+b.png", "a b.png", "?versionId=1",
        ]  # fmt: skip
        backend = self.backend()
        for name in names:
            self.raw_write(f"{root}/raw/{name}", name.encode())
            backend.write(f"{root}/ours/{name}", name.encode())
        for name in names:
            uri = f"{root}/raw/{name}"
            assert self.raw_read(f"{root}/ours/{name}") == name.encode()
            assert backend.read(uri)[0] == backend.read(uri, 0, 100)[0] == name.encode()
            with backend.open(uri) as file:
                assert file.read() == name.encode()
            info = backend.info(uri)
            assert info is not None
            assert info.size == len(name)
        assert {info.path for info in backend.list_files(f"{root}/ours", once)} == set(names)
        backend.delete(f"{root}/raw/a.png?versionId=1")
        assert backend.info(f"{root}/raw/a.png?versionId=1") is None
        assert backend.info(f"{root}/raw/a.png") is not None

    def test_a_folder_is_no_file(self, root: str) -> None:
        self.raw_write(f"{root}/folder/file", b"x")
        info = self.backend().info(f"{root}/folder")
        assert info is not None
        assert not info.is_file

    def test_files_are_listed_with_what_info_says_of_them(self, root: str) -> None:
        for name in ("a/1", "a/deep/2", "b"):
            self.raw_write(f"{root}/{name}", name.encode())
        listed = {info.path: info for info in self.backend().list_files(root, once)}
        assert listed.keys() == {"a/1", "a/deep/2", "b"}
        for path, info in listed.items():
            known = self.backend().info(f"{root}/{path}")
            assert known is not None
            assert (info.size, info.etag) == (len(path), known.etag)
            for told in (info, known):
                assert told.modified_s == pytest.approx(time.time(), abs=600)

    def test_a_listing_of_several_pages_has_all_files(self, root: str) -> None:
        names = {f"a/{index}" for index in range(8)} | {"a/deep/1", "ab/1", "b"}
        for name in names:
            self.raw_write(f"{root}/{name}", b"x")
        if not self.has_folders:
            assert not [*self.backend().list_files(f"{root}/nothing", once)]
        found = [info.path for info in self.backend().list_files(root, once)]
        assert sorted(found) == sorted(names)
        below = [info.path for info in self.backend().list_files(f"{root}/a", once)]
        assert sorted(below) == sorted(name[2:] for name in names if name.startswith("a/"))

    def test_a_range_may_reach_far_beyond_the_end(self, root: str) -> None:
        data = bytes(range(256)) * 2**13  # 2 MiB
        self.raw_write(f"{root}/file", data)
        assert self.backend().read(f"{root}/file", 2**20, 2**26)[0] == data[2**20 :]

    def test_large_files_arrive_whole(self, root: str, tmp_path: Path) -> None:
        """Stores take them in parts above some size; they are there when all of it arrived."""
        data = bytes(range(256)) * (6 * 2**12)  # 6 MiB
        (tmp_path / "large").write_bytes(data)
        backend = self.backend()
        for index in range(2):  # the second replaces the first
            backend.put(f"{root}/large", tmp_path / "large")
            info = backend.info(f"{root}/large")
            assert info is not None
            assert info.size == len(data), index
        assert backend.read(f"{root}/large")[0] == data

    def test_etags_change_with_the_content(self, root: str) -> None:
        etags = set()
        for data in (b"one", b"two", b"three"):
            self.raw_write(f"{root}/file", data)
            info = self.backend().info(f"{root}/file")
            assert info is not None
            etags.add(info.etag)
        assert len(etags) == 3
        assert "" not in etags

    def test_a_file_is_created_once(self, root: str) -> None:
        backend = self.backend()
        assert backend.create(f"{root}/lock", b"mine") is self.keeps_conditions
        with pytest.raises(FileExistsError):
            backend.create(f"{root}/lock", b"late")
        assert self.raw_read(f"{root}/lock") == b"mine"

    def test_local_files_are_stored(self, root: str, tmp_path: Path) -> None:
        (tmp_path / "local").write_bytes(b"large")
        self.backend().put(f"{root}/stored", tmp_path / "local")
        assert self.raw_read(f"{root}/stored") == b"large"

    def test_what_is_deleted_is_gone(self, root: str) -> None:
        self.raw_write(f"{root}/file", b"x")
        self.backend().delete(f"{root}/file")
        assert self.backend().info(f"{root}/file") is None

    def test_arrow_writes_whole_files(self, root: str) -> None:
        self.raw_write(f"{root}/folder/file", b"before")
        handler = self.backend().arrow_handler
        path = self.backend().filesystem._strip_protocol(f"{root}/folder/file")
        stream = handler.open_output_stream(path, None)
        stream.write(b"after")
        assert self.raw_read(f"{root}/folder/file") == b"before"
        stream.close()
        assert self.raw_read(f"{root}/folder/file") == b"after"
        handler.delete_dir(path.rpartition("/")[0])
        assert self.backend().info(f"{root}/folder/file") is None


class TestLocal(BackendContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> str:
        return str(tmp_path / "root")

    def backend(self) -> Backend:
        return LocalBackend("file", {})

    def raw_write(self, uri: str, data: bytes) -> None:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_bytes(data)

    def raw_read(self, uri: str) -> bytes:
        return Path(uri).read_bytes()


class TestS3(BackendContract):
    keeps_conditions = False  # of the server here
    has_folders = False

    @pytest.fixture
    def root(self, request: pytest.FixtureRequest) -> str:
        return f"{new_bucket(request)}/root"

    def backend(self) -> Backend:
        return S3Backend("s3", Storage.of("s3://any").options)

    def raw_write(self, uri: str, data: bytes) -> None:
        self._call("put_object", uri, Body=data)

    def raw_read(self, uri: str) -> bytes:
        body = self._call("get_object", uri)["Body"]
        return bytes(sync(self.backend().filesystem.loop, body.read))

    def _call(self, method: str, uri: str, **more: Any) -> Any:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.backend().filesystem.call_s3(method, Bucket=bucket, Key=key, **more)


class TestFsspec(BackendContract):
    """What is behind fsspec's general interface, here its store in memory."""

    tells_content_with_bytes = False

    @pytest.fixture
    def root(self) -> str:
        return f"memory://root-{uuid4()}"

    def backend(self) -> Backend:
        return FsspecBackend("memory", {})

    def raw_write(self, uri: str, data: bytes) -> None:
        self.backend().filesystem.pipe_file(uri, data)

    def raw_read(self, uri: str) -> bytes:
        return bytes(self.backend().filesystem.cat_file(uri))


class CloudContract(BackendContract):
    """Tests of stores to which a name is a name, whatever the slashes in it."""

    has_folders = False

    def test_names_with_nameless_folders_are_names(self, root: str) -> None:
        names = ["a//b.png", "/c.png", "d.png"]
        for name in names:
            self.backend().write(f"{root}/{name}", name.encode())
        found = [info.path for info in self.backend().list_files(root, once)]
        assert sorted(found) == sorted(names)
        for name in names:
            assert self.backend().read(f"{root}/{name}")[0] == name.encode()


class TestGcs(CloudContract):
    """Google Cloud Storage, here an emulator behind a proxy that plays what it does not know.

    These are `ifGenerationMatch`, generations of a GET, pages of a listing, and 416.
    """

    @pytest.fixture
    def root(self, gcs_server: str) -> str:
        return f"{new_place('gs')}/root"

    def backend(self) -> Backend:
        return GcsBackend("gs", {})

    def raw_write(self, uri: str, data: bytes) -> None:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        url = f"{os.environ['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{bucket}/o"
        described = b"Content-Type: application/json\n\n" + json.dumps({"name": name}).encode()
        parts = [described, b"Content-Type: application/octet-stream\n\n" + data]
        body = b"".join(b"--cut\n" + part + b"\n" for part in parts) + b"--cut--"
        headers = {"Content-Type": 'multipart/related; boundary="cut"'}
        answer = requests.post(f"{url}?uploadType=multipart", body, headers=headers, timeout=20)
        answer.raise_for_status()

    def raw_read(self, uri: str) -> bytes:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        place = f"{os.environ['STORAGE_EMULATOR_HOST']}/download/storage/v1/b/{bucket}/o/"
        answer = requests.get(f"{place}{quote(name, safe='')}?alt=media", timeout=20)
        answer.raise_for_status()
        return answer.content


class TestAzure(CloudContract):
    """Azure Blob Storage, here Azurite, which keeps `If-None-Match` by itself."""

    @pytest.fixture
    def root(self, azure_server: str) -> str:
        return f"{new_place('az')}/root"

    def backend(self) -> Backend:
        return AzureBackend("az", {})

    def raw_write(self, uri: str, data: bytes) -> None:
        self._blob(uri).upload_blob(data, overwrite=True)

    def raw_read(self, uri: str) -> bytes:
        return bytes(self._blob(uri).download_blob().readall())

    def _blob(self, uri: str) -> Any:
        from azure.storage.blob import BlobServiceClient

        service = BlobServiceClient.from_connection_string(
            os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        )
        return service.get_blob_client(*uri.removeprefix("az://").split("/", 1))

    def test_a_blob_in_the_archive_is_told_by_its_tier(self, root: str) -> None:
        self.raw_write(f"{root}/cold", b"x")
        self.raw_write(f"{root}/warm", b"x")
        self._blob(f"{root}/cold").set_standard_blob_tier("Archive")
        listed = {info.path: info.is_archived for info in self.backend().list_files(root, once)}
        assert listed == {"cold": True, "warm": False}
        known = self.backend().info(f"{root}/cold")
        assert known is not None
        assert known.is_archived
        with pytest.raises(ArchivedFileError, match="restore it"):
            Storage.of(root).read("cold")

    def test_what_stands_for_a_folder_is_no_file(self, root: str) -> None:
        """Accounts with folders list a blob for each of them."""
        self._blob(f"{root}/folder").upload_blob(b"", metadata={"hdi_isfolder": "true"})
        self.raw_write(f"{root}/folder/file", b"x")
        assert [info.path for info in self.backend().list_files(root, once)] == ["folder/file"]
        info = self.backend().info(f"{root}/folder")
        assert info is not None
        assert not info.is_file


def test_a_time_that_a_store_does_not_tell_is_unknown() -> None:
    for found in ({}, {"mtime": None}, {"last_modified": "Sun, 29 Nov 2026 07:00:00 GMT"}):
        assert to_file_info("a", {"size": 3, **found}).modified_s is None
    assert to_file_info("a", {"size": 3, "mtime": 1.5}).modified_s == 1.5


@pytest.mark.parametrize(
    ("found", "is_archived"),
    [
        ({}, False),
        ({"StorageClass": "STANDARD"}, False),
        ({"StorageClass": "GLACIER_IR"}, False),
        ({"StorageClass": "GLACIER"}, None),
        ({"StorageClass": "DEEP_ARCHIVE"}, None),
        ({"blob_tier": "Archive"}, True),
        ({"blob_tier": "Cool"}, False),
        ({"blob_tier": None}, False),
    ],
)
def test_a_file_in_an_archive_is_told_by_its_class_or_tier(
    found: dict[str, str | None], is_archived: bool | None
) -> None:
    """A copy that S3 restored keeps its class; a blob that Azure restored gets another tier."""
    assert to_file_info("a", {"size": 3, **found}).is_archived is is_archived
