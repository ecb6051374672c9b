"""What is done and what is to do: the images table read as a ledger, the lock on an output, the run record."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
from pyarrow.fs import FSSpecHandler, PyFileSystem

from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import IMAGES
from unet_ray.errors import OutputHeldError

TRANSIENT_ERRORS = ("network", "denied", "missing", "out_of_memory", "internal")
"""Failures that were not the file's: such an image is tried again on the next night."""

LOCK_LEASE_S = 600.0
"""A lock without heartbeat for so long is taken over: more than ten times the time that s3fs waits for a PUT."""
HEARTBEAT_S = 20.0
_GRACE_S = 5.0
_SETTLE_S = 2.0
"""Longest time between a run's look at the lock and the end of its PUT, on stores that take the last one."""
_LOCK = "_lock.json"


def new_run_id() -> str:
    """Return an id that sorts by time: 20261122T031500Z-4f2a9c."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Ledger:
    """The keys (image_uri, image_etag) that need no work for one model and configuration."""

    done: frozenset[tuple[str, str]]
    """Successful."""
    failed: frozenset[tuple[str, str]]
    """Failed by the file's own fault, and not successful since."""
    uris: frozenset[str]
    """Every URI that was done with any content, model or configuration."""


def read_ledger(output: Storage, model_digest: str, config_digest: str) -> Ledger:
    """Read the images table of an output; an output that is not there yet has an empty ledger."""
    done, failed, uris = set(), set(), set()
    columns = ["image_uri", "image_etag", "model_digest", "config_digest", "error_type"]
    for batch in _scan_images(output, columns):
        for uri, etag, model, config, error_type in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            uris.add(uri)
            if (model, config) != (model_digest, config_digest):
                continue
            if error_type is None:
                done.add((uri, etag))
            elif error_type not in TRANSIENT_ERRORS:
                failed.add((uri, etag))
    return Ledger(frozenset(done), frozenset(failed - done), frozenset(uris))


def run_keys(output: Storage, run_id: str) -> list[tuple[str, str]]:
    """Return (image_uri, image_etag) of every images row that a run wrote."""
    rows = _scan_images(output, ["image_uri", "image_etag"], pc.field("run_id") == run_id)
    return [key for batch in rows for key in zip(*(c.to_pylist() for c in batch.columns), strict=True)]


def _scan_images(output: Storage, columns: list[str], only: Any = None) -> Iterator[Any]:
    if not output.exists("images"):
        return
    table = open_dataset(output, "images", IMAGES)
    yield from table.to_batches(columns=columns, filter=only)


def open_dataset(output: Storage, table: str, schema: Any) -> Any:
    """Open one table of an output as an Arrow dataset with its hive partition `date`."""
    root = output.join(table)
    return pds.dataset(
        root.path,
        schema=schema.append(pa.field("date", pa.string())),
        format="parquet",
        filesystem=PyFileSystem(FSSpecHandler(root.filesystem)),
        partitioning=pds.partitioning(pa.schema([pa.field("date", pa.string())]), flavor="hive"),
    )


def remove_leftovers(output: Storage) -> list[str]:
    """Remove masks and regions files without an images file of the same name: what a crash left; return their paths."""
    present = {table: {e.path for e in _entries(output, table)} for table in ("masks", "regions", "images")}
    leftovers = [f"{t}/{path}" for t in ("masks", "regions") for path in sorted(present[t] - present["images"])]
    for path in leftovers:
        output.delete(path)
    return leftovers


def _entries(output: Storage, folder: str) -> list[Any]:
    return output.entries(folder) if output.exists(folder) else []


def write_run_record(output: Storage, run_id: str, record: dict[str, Any]) -> None:
    """Write `runs/RUN_ID.json`."""
    output.write(f"runs/{run_id}.json", json.dumps(record, indent=2, default=str).encode())


def run_records(output: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield run id and record of every run, the newest first; each is read when its turn comes."""
    for entry in reversed(_entries(output, "runs")):
        yield entry.path.removesuffix(".json"), json.loads(output.read(f"runs/{entry.path}"))


class OutputLock:
    """The lock on an output (`_lock.json`), held by a heartbeat while the `with` block runs.

    A local file system, and S3 where it knows conditional PUT, let one run only make the lock's file. On other stores,
    and where a dead run's lock is taken over, the last one to write it within a moment has it: each looks again after
    a while, and the write tasks look once more before each commit.

    Args:
        output — the root of the tables.
        run_id — the run that wants it.

    Raises: OutputHeldError — another run holds it.
    """

    def __init__(self, output: Storage, run_id: str) -> None:
        self._output, self._run_id = output, run_id
        self._stop = threading.Event()
        self._started_at = datetime.now(UTC)
        self._beat = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> OutputLock:
        held = read_lock(self._output)
        if held and not _is_dead(held):
            raise self._refusal(held)
        if held:  # dead: nobody else is kept from taking it over, and a holder that only slept may come back
            self._write()
            time.sleep(_GRACE_S)
        elif not self._create():
            time.sleep(_SETTLE_S)
        held = read_lock(self._output)
        if not held or held["run_id"] != self._run_id:
            raise self._refusal(held)
        self._beat.start()
        return self

    def _create(self) -> bool:
        """Make the lock's file; return whether the store kept others from doing so at the same moment."""
        try:
            if _parsed(self._output.read(_LOCK)) is None:
                self._output.delete(_LOCK)  # half a lock
        except FileNotFoundError:
            pass
        try:
            return self._output.create(_LOCK, self._content())
        except FileExistsError:
            return False  # somebody was faster, or an attempt of ours went through unheard

    def _refusal(self, held: dict[str, Any] | None) -> OutputHeldError:
        if held is None:
            return OutputHeldError(f"{self._output.uri}: another run had this output a moment ago; run again")
        return OutputHeldError(
            f"{self._output.uri}: run {held['run_id']} holds this output since {held['started_at']} (on "
            f"{held['host']}, process {held['pid']}); wait for it, or choose another --output"
        )

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beat.join()
        with suppress(OutputHeldError):
            self.check(self._output, self._run_id)
            self._output.delete(_LOCK)

    @staticmethod
    def check(output: Storage, run_id: str) -> None:
        """Raise OutputHeldError unless the run holds the output's lock."""
        held = read_lock(output)
        if not held or held["run_id"] != run_id:
            holder = f"run {held['run_id']}" if held else "nobody"
            raise OutputHeldError(
                f"{output.uri}: {holder} holds this output now, not run {run_id}; nothing was committed"
            )

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(OSError):  # a missed beat is made up for by the next; the lease is thirty beats long
                self.check(self._output, self._run_id)
                self._write()

    def _write(self) -> None:
        self._output.write(_LOCK, self._content())

    def _content(self) -> bytes:
        lock = {
            "run_id": self._run_id,
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "pid": os.getpid(),
            "pid_namespace": _pid_namespace(),
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "heartbeat_at": time.time(),
            "lease_s": LOCK_LEASE_S,
        }
        return json.dumps(lock).encode()


def read_lock(output: Storage) -> dict[str, Any] | None:
    """Return the lock on an output, or None where nobody holds it."""
    try:
        return _parsed(output.read(_LOCK))
    except FileNotFoundError:
        return None


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        lock = json.loads(data)
    except ValueError:
        return None  # half a lock of a store that writes in pieces: nobody's
    return lock if isinstance(lock, dict) and "run_id" in lock else None


def _is_dead(lock: dict[str, Any]) -> bool:
    if time.time() - float(lock["heartbeat_at"]) > float(lock["lease_s"]):
        return True
    same_machine = lock["boot"] == _boot_id() and lock.get("pid_namespace") == _pid_namespace() != ""
    return same_machine and not Path(f"/proc/{lock['pid']}").exists() and Path("/proc/self").exists()


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
