"""The lock on an output: it admits one run at a time and is kept alive by a heartbeat."""

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
"""Age at which a lock without a heartbeat is taken over (s).

It is ten times the longest PUT, which is three attempts of 20 s.
"""
HEARTBEAT_S = 20.0
"""Time between two heartbeats (s)."""
_GRACE_S = 5.0
"""Wait after a dead run's lock is overwritten, before it is read again (s)."""
_SETTLE_S = 2.0
"""Wait after a lock is written to a store without conditional PUT, before it is read again (s).

It covers the longest time from a run's look at the lock to the end of its PUT; the last PUT wins.
"""
_LOCK = "_lock.json"


class OutputLock:
    """The lock on an output (`_lock.json`), kept by a heartbeat while the `with` block runs.

    A local file system, and S3 with conditional PUT, let only one run create the lock file. On
    other stores, and where a dead run's lock is taken over, the last of several runs that write it
    within a moment holds it. Each of them therefore reads the lock again after a wait, and the
    write tasks read it once more before each commit.

    Args:
        output: Root of the tables.
        run_id: Run that takes the lock.

    Raises:
        OutputHeldError: Another run holds the lock.
        InputError: The store does not allow the lock to be read or written.
    """

    def __init__(self, output: Storage, run_id: str) -> None:
        self._output, self._run_id = output, run_id
        self._stop = threading.Event()
        self._started_at = datetime.now(UTC)
        self._beat = threading.Thread(target=self._send_heartbeats, daemon=True)

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
            raise self._make_refusal(held)
        if held:
            # The holder is dead. Other runs may take the lock over too, and a holder that only
            # slept may come back, so that the lock is read again after the wait.
            self._write()
            time.sleep(_GRACE_S)
        elif not self._create():
            time.sleep(_SETTLE_S)
        held = read_lock(self._output)
        if not held or held["run_id"] != self._run_id:
            raise self._make_refusal(held)

    def _create(self) -> bool:
        """Create the lock file; return whether the store kept others from doing so meanwhile."""
        try:
            if _parse_lock(self._output.read(_LOCK)) is None:
                self._output.delete(_LOCK)  # it was written in part only
        except FileNotFoundError:
            pass
        try:
            return self._output.create(_LOCK, self._content())
        except FileExistsError:
            return False  # another run was faster, or our own request succeeded without an answer

    def _make_refusal(self, held: dict[str, Any] | None) -> OutputHeldError:
        if held is None:
            return OutputHeldError(
                f"{self._output.uri}: another run held this output a moment ago; run again"
            )
        return OutputHeldError(
            f"{self._output.uri}: run {held['run_id']} has held this output since "
            f"{held['started_at']} (on {held['host']}, process {held['pid']}); wait for it, or "
            "choose another --output"
        )

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beat.join()
        with suppress(OutputHeldError):
            self.check(self._output, self._run_id)
            self._output.delete(_LOCK)

    @staticmethod
    def check(output: Storage, run_id: str) -> None:
        """Raise OutputHeldError unless the run still holds the output's lock."""
        held = read_lock(output)
        if not held or held["run_id"] != run_id:
            state = f"run {held['run_id']} holds" if held else "no run holds"
            raise OutputHeldError(
                f"{output.uri}: {state} this output now, not run {run_id}; nothing was committed"
            )

    def _send_heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(OSError):  # the next beat follows soon; the lease is thirty beats long
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
    """Return the lock on an output, or None where no run holds it."""
    try:
        return _parse_lock(output.read(_LOCK))
    except FileNotFoundError:
        return None


def _parse_lock(data: bytes) -> dict[str, Any] | None:
    try:
        lock = json.loads(data)
    except ValueError:
        return None  # a store that writes in pieces holds half of it: it belongs to no run
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
