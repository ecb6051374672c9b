"""Storage on a store that fails now and then."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.errors import OutputHeldError
from unet_ray.storage import retry as attempts
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock


@pytest.mark.slow
def test_what_may_pass_is_tried_again(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twelfth of all requests spoilt: every object arrives, whole, once."""
    bucket = new_bucket(request)
    contents = {f"folder/{index:03d}": bytes([index]) * (1000 * index + 1) for index in range(40)}
    monkeypatch.setattr(S3FileSystem, "read_timeout", 2)
    monkeypatch.setattr("tests.faulty_store.STALL_S", 3)
    with faulty_store(s3_server, 0.08, seed=3) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        root = Storage.of(bucket)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: root.write(*item), contents.items()))
            read = dict(zip(contents, pool.map(root.read, contents), strict=True))
        assert read == contents
        assert [entry.path for entry in root.entries()] == list(contents)
        assert not root.exists("nothing")
        for path in contents:
            root.delete(path)
        assert root.entries() == []
        assert len(store.spoilt) == 4


def test_what_will_not_pass_is_an_error_at_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Storage.of(new_bucket(request))
    monkeypatch.setattr(
        attempts.time, "sleep", lambda _: pytest.fail("waits for what will not come")
    )
    with pytest.raises(FileNotFoundError):
        root.read("nothing")


def test_whether_a_file_may_be_written_is_asked_before_each_attempt(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that lost its lock while a store failed does not commit with its second attempt."""
    bucket, asked = new_bucket(request), iter([True, False])

    def may_write() -> None:
        if not next(asked):
            raise OutputHeldError("another run has it")

    monkeypatch.setattr("tests.faulty_store.FAULTS", ("slow_down",))
    with faulty_store(s3_server, 1.0) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(OutputHeldError):
            Storage.of(bucket).write("shard", b"rows", may_write)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert not Storage.of(bucket).exists("shard")
    assert next(asked, None) is None


@pytest.mark.slow
def test_a_store_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    waits: list[float] = []
    monkeypatch.setattr(attempts, "ATTEMPTS", 2)
    monkeypatch.setattr(attempts.time, "sleep", waits.append)
    with pytest.raises(ConnectionError):
        Storage.of("s3://bucket").read("object")
    assert len(waits) == 1
    assert 0.25 <= waits[0] <= 0.5


def test_a_file_is_made_by_one_only(root: str) -> None:
    """Many create one file at the same moment; a store that keeps them apart lets one through."""
    folder = Storage.of(root)

    def create(index: int) -> tuple[int, bool] | None:
        try:
            return index, folder.create("lock", str(index).encode())
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [one for one in pool.map(create, range(8)) if one]
    assert made
    if all(exclusive for _, exclusive in made):
        assert [index for index, _ in made] == [int(folder.read("lock"))]
    knows_conditions = not root.startswith("s3://")  # the server here knows none
    assert knows_conditions is all(exclusive for _, exclusive in made)
    with pytest.raises(FileExistsError):
        folder.create("lock", b"late")


def test_a_store_that_keeps_conditions_gives_the_lock_to_one(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(request)
    with faulty_store(s3_server, 0.0, keeps_conditions=True) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        output = Storage.of(bucket)

        def take(index: int) -> OutputLock | str:
            try:
                return OutputLock(output, f"run-{index}").__enter__()
            except OutputHeldError as error:
                return str(error)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(take, range(8)))
        ((holder, held),) = [
            (index, one) for index, one in enumerate(found) if isinstance(one, OutputLock)
        ]
        refusals = [text for text in found if isinstance(text, str)]
        assert all(f"run run-{holder} has held this output since" in text for text in refusals)
        held.__exit__()
        assert output.create("_lock.json", b"{}")


def test_file_systems_without_links_have_locks_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    folder = Storage.of(str(tmp_path))
    assert not folder.create("lock", b"mine")
    assert folder.read("lock") == b"mine"
    with pytest.raises(FileExistsError):
        folder.create("lock", b"late")
    assert [entry.path for entry in folder.entries()] == ["lock"]
    assert len(list(tmp_path.iterdir())) == 1
