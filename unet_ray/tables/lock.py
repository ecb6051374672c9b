"""The lock on an output: one run at a time, known by its heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unet_ray.errors import InputError, OutputHeldError
from unet_ray.storage.storage import Storage

LOCK_LEASE_S = 600.0
"""A lock without heartbeat for so long is taken over: ten times the longest PUT, three times 20 s."""
HEARTBEAT_S = 20.0
_GRACE_S = 5.0
_SETTLE_S = 2.0
"""Longest time between a run's look at the lock and the end of its PUT, on stores that take the last one."""
_LOCK = "_lock.json"


class OutputLock:
    """The lock on an output (`_lock.json`), held by a heartbeat while the `with` block runs.

    A local file system, and S3 where it knows conditional PUT, let one run only make the lock's file. On other stores,
    and where a dead run's lock is taken over, the last one to write it within a moment has it: each looks again after
    a while, and the write tasks look once more before each commit.

    Args:
        output — the root of the tables.
        run_id — the run that wants it.

    Raises: OutputHeldError — another run holds it; InputError — the store does not let it be read or written.
    """

    def __init__(self, output: Storage, run_id: str) -> None:
        self._output, self._run_id = output, run_id
        self._stop = threading.Event()
        self._started_at = datetime.now(UTC)
        self._beat = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> OutputLock:
        try:
            self._take()
        except OSError as error:
            raise InputError(
                f"{self._output.uri}/{_LOCK}: cannot be read or written: {error}"
            ) from error
        self._beat.start()
        return self

    def _take(self) -> None:
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
            return OutputHeldError(
                f"{self._output.uri}: another run had this output a moment ago; run again"
            )
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
            with suppress(
                OSError
            ):  # a missed beat is made up for by the next; the lease is thirty beats long
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
    same_machine = (
        lock["boot"] == _boot_id() and lock.get("pid_namespace") == _pid_namespace() != ""
    )
    return (
        same_machine and not Path(f"/proc/{lock['pid']}").exists() and Path("/proc/self").exists()
    )


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
