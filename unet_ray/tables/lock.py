"""The lock on an output, which admits one run at a time and is kept alive by a heartbeat."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unet_ray.errors import InputError, OutputHeldError, UnetRayError
from unet_ray.periodic import every
from unet_ray.storage.json_file import parse_json, read_limited
from unet_ray.storage.storage import Storage

_logger = logging.getLogger("unet_ray")

LOCK_LEASE_S = 600.0
"""Time without a heartbeat after which a lock is taken over (s). The longest PUT, three attempts of
20 s, takes a tenth of it."""
HEARTBEAT_S = 20.0
"""Time between two heartbeats (s)."""
_POLL_S = 5.0
"""Time between two reads of a lock whose run may be dead (s)."""
_GRACE_S = 5.0
"""Wait after a dead run's lock is overwritten, before it is read again (s)."""
_SETTLE_S = 2.0
"""Wait after a lock is written to a store without conditional PUT, before it is read again (s). It
covers the longest time from a run's read of the lock to the end of its PUT; the last PUT wins."""
_LOCK = "_lock.json"
_MAX_BYTES = 2**20
"""Largest lock file (bytes)."""
_BEGINNING = b'{"run_id": "'
"""Beginning of every lock file, by which a partly written one differs from a foreign file."""
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "host": str,
    "boot": str,
    "pid": int,
    "started_at": str,
    "heartbeat_at": (int, float),
}
"""Fields that a lock has in every version, and their types."""


class OutputLock:
    """The lock on an output (`_lock.json`), kept by a heartbeat while the `with` block runs.

    A local file system, Google Cloud Storage, Azure, and S3 with conditional PUT let only one run
    create the lock file. On other stores, and where a dead run's lock is taken over, several runs
    may write it within a moment, and the last of them holds it. Each therefore reads the lock again
    after a wait, and the write tasks read it once more before each commit.

    A run is never declared dead by comparing the clocks of two machines. A heartbeat that is
    younger than a lease by our clock belongs to a live run. Any other lock is watched for the time
    of a lease on our monotonic clock, and taken over only if its file does not change.

    Args:
        output: Root of the tables.
        run_id: Run that takes the lock.

    Raises:
        OutputHeldError: Another run holds the lock.
        InputError: The store does not allow the lock to be read or written, or the file is not a
            lock of this library.
    """

    def __init__(self, output: Storage, run_id: str) -> None:
        self._output, self._run_id = output, run_id
        self._started_at = datetime.now(UTC)
        self._heartbeats = ExitStack()

    def __enter__(self) -> OutputLock:
        try:
            self._take()
        except OSError as error:
            raise InputError(
                f"{self._output.uri}/{_LOCK}: cannot be read or written: {error}"
            ) from error
        self._heartbeats.enter_context(every(HEARTBEAT_S, self._send_heartbeat, "heartbeat"))
        return self

    def _take(self) -> None:
        content = _read_content(self._output)
        held = _parse_lock(self._output, content)
        if held and not _is_process_gone(held):
            now = time.time()
            if now - LOCK_LEASE_S < held["heartbeat_at"] <= now:
                raise self._make_refusal(held)
            self._watch(held, content)
        if held:
            # The holder seems dead. But other runs may take over the lock too, and a holder that
            # was only suspended may come back: the lock is read again after a wait.
            self._write()
            time.sleep(_GRACE_S)
        elif not self._create():
            time.sleep(_SETTLE_S)
        held = read_lock(self._output)
        if not held or held["run_id"] != self._run_id:
            raise self._make_refusal(held)

    def _watch(self, held: dict[str, Any], content: bytes | None) -> None:
        """Wait for the time of a lease; raise OutputHeldError as soon as the lock changes."""
        _logger.warning(
            f"{self._output.uri}: run {held['run_id']} (on {held['host']}, process {held['pid']}) "
            f"seems to be dead, but clocks may differ; its lock is watched for {LOCK_LEASE_S:g} s "
            "and taken over if it does not change"
        )
        deadline = time.monotonic() + LOCK_LEASE_S
        left_s = LOCK_LEASE_S
        while left_s > 0:
            time.sleep(min(_POLL_S, left_s))
            found = _read_content(self._output)
            if found != content:
                raise self._make_refusal(_parse_lock(self._output, found))
            left_s = deadline - time.monotonic()

    def _create(self) -> bool:
        """Create the lock file; return whether the store guarantees that no other run did too."""
        content = _read_content(self._output)
        if content is not None and _parse_lock(self._output, content) is None:
            with suppress(FileNotFoundError):
                self._output.delete(_LOCK)  # it was only partly written
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
        self._heartbeats.close()
        with suppress(UnetRayError):
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

    def _send_heartbeat(self) -> None:
        """Write the time into the lock. If the lock is lost, do nothing: the next commit finds out.

        If the store does not answer, the next heartbeat follows soon; a lease is thirty of them.
        """
        with suppress(OSError, UnetRayError):
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
    """Return the lock on an output, or None where no run holds it.

    Raises:
        InputError: The file is not a lock of this library.
    """
    return _parse_lock(output, _read_content(output))


def _read_content(output: Storage) -> bytes | None:
    try:
        return read_limited(output, _LOCK, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except (IsADirectoryError, InputError):  # or too large
        raise _make_shape_error(output) from None


def _parse_lock(output: Storage, content: bytes | None) -> dict[str, Any] | None:
    """Return the lock in a file; None without a file, or for one that was only partly written."""
    if content is None or not content.strip(b"\0"):
        return None  # a file system that crashed may leave an empty file, or one of zeros
    try:
        lock = parse_json(content, _LOCK)
    except InputError:
        is_ours = content.startswith(_BEGINNING) or _BEGINNING.startswith(content)
        if is_ours and not content.rstrip().endswith(b"}"):
            return None  # a store that writes in pieces may hold only half of it
        raise _make_shape_error(output) from None
    if not all(isinstance(lock.get(name), kinds) for name, kinds in _FIELDS.items()):
        raise _make_shape_error(output)
    return lock


def _make_shape_error(output: Storage) -> InputError:
    return InputError(
        f"{output.uri}/{_LOCK}: not a lock file of unet_ray; if no run writes to this output, "
        "remove it"
    )


def _is_process_gone(lock: dict[str, Any]) -> bool:
    """Tell whether a process of this machine took a lock and does not exist any more."""
    namespace = _pid_namespace()
    if lock["boot"] != _boot_id() or lock.get("pid_namespace") != namespace or not namespace:
        return False
    return Path("/proc/self").exists() and not Path(f"/proc/{lock['pid']}").exists()


def _pid_namespace() -> str:
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
