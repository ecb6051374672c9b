"""The lock on an output: who is alive is seen from changes, never from another machine's clock."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import new_bucket
from tests.faulty_store import Answer, Request, faulty_store
from unet_ray.errors import InputError, OutputHeldError
from unet_ray.storage.storage import Storage
from unet_ray.tables import lock
from unet_ray.tables.lock import OutputLock, read_lock

LEASE_S = 1.0


@pytest.fixture
def output(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(lock, "LOCK_LEASE_S", LEASE_S)
    monkeypatch.setattr(lock, "_POLL_S", 0.1)
    monkeypatch.setattr(lock, "_GRACE_S", 0.1)
    return Storage.of(str(tmp_path))


def write_lock(output: Storage, heartbeat_at: Any, **other: Any) -> None:
    """Write the lock of a run on another machine."""
    fields = {"run_id": "other", "host": "far", "boot": "its", "pid": 1, "started_at": "then"}
    content = fields | {"heartbeat_at": heartbeat_at, "lease_s": LEASE_S} | other
    output.write("_lock.json", json.dumps(content).encode())


@contextmanager
def heartbeats(output: Storage, skew_s: float) -> Iterator[None]:
    """Let a run on a machine whose clock is wrong send heartbeats meanwhile, five per lease."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(LEASE_S / 5):
            write_lock(output, time.time() + skew_s)

    write_lock(output, time.time() + skew_s)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_young_heartbeat_refuses_at_once(output: Storage) -> None:
    write_lock(output, time.time() - LEASE_S / 2)
    started = time.monotonic()
    with pytest.raises(OutputHeldError, match="run other has held this output"):
        OutputLock(output, "mine").__enter__()
    assert time.monotonic() - started < LEASE_S / 2


@pytest.mark.parametrize("skew_s", [-660.0, 660.0, -3.2e8, 3.2e8])
def test_a_live_run_whose_clock_is_wrong_keeps_its_lock(output: Storage, skew_s: float) -> None:
    """Eleven minutes and ten years, either way."""
    with heartbeats(output, skew_s):
        for _ in range(2):
            with pytest.raises(OutputHeldError, match="run other has held this output"):
                OutputLock(output, "mine").__enter__()
    held = read_lock(output)
    assert held is not None
    assert held["run_id"] == "other"


_OLD = 1.7e9


@pytest.mark.parametrize(
    ("heartbeat_at", "lease_s"),
    [
        *((heartbeat_at, 600.0) for heartbeat_at in (0, _OLD, 4e9, math.nan, math.inf, -math.inf)),
        (10**400, 600.0),
        *((_OLD, lease_s) for lease_s in (math.inf, -1, "long")),
    ],
)
def test_a_dead_run_is_watched_for_our_lease_and_taken_over(
    output: Storage, caplog: pytest.LogCaptureFixture, heartbeat_at: float, lease_s: Any
) -> None:
    write_lock(output, heartbeat_at, lease_s=lease_s)
    started = time.monotonic()
    with (
        caplog.at_level(logging.INFO, "unet_ray"),
        OutputLock(output, "mine"),
    ):
        assert LEASE_S <= time.monotonic() - started < 10 * LEASE_S
        OutputLock.check(output, "mine")
    assert not output.exists("_lock.json")
    (line,) = caplog.messages
    assert "run other (on far, process 1) seems to be dead" in line
    assert "watched for 1 s" in line


def test_a_dead_process_of_this_machine_is_not_watched(output: Storage) -> None:
    """Its heartbeat is young; with another boot id the same process number says nothing."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = {"boot": lock._boot_id(), "pid_namespace": lock._pid_namespace(), "pid": dead.pid}
    for elsewhere in ({"boot": "another"}, {"pid_namespace": "another"}, {"pid": os.getpid()}):
        write_lock(output, time.time(), **here | elsewhere)
        with pytest.raises(OutputHeldError):
            OutputLock(output, "mine").__enter__()
    write_lock(output, time.time(), **here)
    started = time.monotonic()
    with OutputLock(output, "mine"):
        assert time.monotonic() - started < LEASE_S


def test_a_lock_that_goes_while_it_is_watched_asks_for_another_run(output: Storage) -> None:
    write_lock(output, 0)
    threading.Timer(LEASE_S / 3, output.delete, ["_lock.json"]).start()
    with pytest.raises(OutputHeldError, match="another run held this output a moment ago"):
        OutputLock(output, "mine").__enter__()
    with OutputLock(output, "mine"):
        pass


_DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "content",
    [
        b'{"run_id": "x"}',
        b'{"run_id": 5, "host": "", "boot": "", "pid": 1, "started_at": "", "heartbeat_at": 1}',
        b'{"run_id": "", "host": "", "boot": "", "pid": "1", "started_at": "", "heartbeat_at": 1}',
        b'{"run_id": "", "host": "", "boot": "", "pid": 1, "started_at": "", "heartbeat_at": "1"}',
        b"{}",
        b"[]",
        b"null",
        b"locked by Ann",
        b"\xff\xfe",
        _DEEP,
        b'{"run_id": "x", "more": ' + _DEEP + b"}",
    ],
    ids=range(11),
)
def test_a_foreign_lock_is_one_line_with_the_remedy(output: Storage, content: bytes) -> None:
    output.write("_lock.json", content)
    check_refusals(output)
    assert output.read("_lock.json") == content


def test_a_folder_in_place_of_the_lock_is_one_line_with_the_remedy(output: Storage) -> None:
    output.write("_lock.json/file", b"")
    check_refusals(output)


def check_refusals(output: Storage) -> None:
    message = (
        f"{output.uri}/_lock.json: not a lock file of unet_ray; "
        "if no run writes to this output, remove it"
    )
    for read in (
        lambda: OutputLock(output, "mine").__enter__(),
        lambda: OutputLock.check(output, "mine"),
        lambda: read_lock(output),
    ):
        with pytest.raises(InputError) as error:
            read()
        assert str(error.value) == message


@pytest.mark.parametrize("size", [0, 1, 5, 12, 30, -1])
def test_a_lock_that_was_written_in_part_belongs_to_no_run(output: Storage, size: int) -> None:
    write_lock(output, time.time())
    output.write("_lock.json", output.read("_lock.json")[:size])
    assert read_lock(output) is None
    with OutputLock(output, "mine"):
        OutputLock.check(output, "mine")


def test_zeros_that_a_crashed_file_system_left_belong_to_no_run(output: Storage) -> None:
    output.write("_lock.json", bytes(200))
    with OutputLock(output, "mine"):
        OutputLock.check(output, "mine")


@pytest.mark.parametrize("content", [b"locked by Ann", None])
def test_a_run_that_lost_its_lock_ends_without_touching_it(
    output: Storage, content: bytes | None
) -> None:
    """Its heartbeats say nothing, and write nothing."""
    with OutputLock(output, "mine") as mine:
        if content is None:
            write_lock(output, time.time())
        else:
            output.write("_lock.json", content)
        after = output.read("_lock.json")
        mine._send_heartbeat()
    assert output.read("_lock.json") == after


# as the references of these stores and of S3 have them
_CONDITIONS_UNKNOWN = [
    Answer.error(501, "NotImplemented", "A header you provided implies functionality"),
    Answer.error(400, "InvalidRequest", "The request is not valid"),
    Answer.error(400, "InvalidArgument", "If-None-Match is not supported"),
    Answer.error(405, "MethodNotAllowed", "The method is not allowed"),
]
_NOT_MET = [
    Answer.error(412, "PreconditionFailed", "A condition did not hold."),
    Answer(412, b""),
]


@contextmanager
def store_with_conditions(answer: Answer, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer each PUT that has a condition by itself, in front of the S3 server."""

    def judge(request: Request) -> Answer | None:
        return answer if request.command == "PUT" and request.headers["If-None-Match"] else None

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    with faulty_store(endpoint, answer=judge) as store:
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        yield
    patch.setenv("AWS_ENDPOINT_URL", endpoint)


@pytest.mark.usefixtures("locks_settle_at_once")
@pytest.mark.parametrize("answer", _CONDITIONS_UNKNOWN, ids=lambda answer: str(answer.status))
def test_a_store_that_knows_no_conditions_is_locked_all_the_same(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: Answer,
) -> None:
    bucket = new_bucket(request)
    with store_with_conditions(answer, monkeypatch), caplog.at_level(logging.INFO, "unet_ray"):
        output = Storage.of(bucket)
        with OutputLock(output, "first"):
            OutputLock.check(output, "first")
            with pytest.raises(OutputHeldError, match="run first has held this output since"):
                OutputLock(output, "second").__enter__()
        assert not output.exists("_lock.json")
    (note,) = caplog.messages
    assert f"answers {answer.status} " in note
    assert "does not keep runs apart" in note


@pytest.mark.parametrize("answer", _NOT_MET, ids=["with a text", "without"])
def test_a_store_that_calls_a_free_key_taken_is_one_line(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """It is no other run that holds the output, and waiting would not help."""
    bucket = new_bucket(request)
    with (
        store_with_conditions(answer, monkeypatch),
        pytest.raises(InputError, match="answers 412 to .* although there is no file; choose"),
    ):
        OutputLock(Storage.of(bucket), "first").__enter__()


def test_a_put_that_is_refused_for_another_reason_says_that_one(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the condition it is refused as well."""
    bucket, full = new_bucket(request), Answer.error(400, "InvalidRequest", "The quota is used up")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    with faulty_store(endpoint, answer=lambda r: full if r.command == "PUT" else None) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(InputError, match="cannot be read or written: .*The quota is used up"):
            OutputLock(Storage.of(bucket), "first").__enter__()
