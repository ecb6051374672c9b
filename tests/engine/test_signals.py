"""Runs and trainings that are stopped at random moments end as the documentation says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.builders import small_training_flags, write_scenes
from tests.conftest import start_job
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive

ROUNDS = 25
_MOMENTS_S = (2.5, 25.0)
"""Earliest and latest moment of a signal: between them Python has started, and a run ends."""
_GONE_S = 60.0
"""Time that the processes of a Ray may take to end."""


def stop_somewhere(
    name: str, flags: list[object], place: Path, rng: random.Random
) -> tuple[int, str]:
    """Start a job, stop it by one or two signals, and check that nothing of it is left.

    Returns:
        Its exit code and what it printed.
    """
    mark, place = str(uuid.uuid4()), place / "tmp"
    place.mkdir(exist_ok=True)
    # Ray's sockets need a short path
    process = start_job(name, *flags, MARK=mark, TMPDIR=f"{place}", RAY_TMPDIR="/tmp")
    number, moment = rng.choice([signal.SIGTERM, signal.SIGINT]), rng.uniform(*_MOMENTS_S)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 1))
            process.send_signal(number)
    said = f"{number.name} after {moment:.1f} s:\n" + process.communicate(timeout=180)[0]
    deadline = time.monotonic() + _GONE_S
    while (left := find_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, said
    # a worker that ended after the command leaves its folder to the next one
    next_one = [sys.executable, "-c", "import unet_ray.storage.temporary as t; t.remove_dead()"]
    subprocess.run(next_one, env=os.environ | {"TMPDIR": f"{place}"}, check=True)
    assert [path.name for path in place.iterdir() if "unet_ray" in path.name] == [], said
    assert "Traceback" not in said, said
    return process.returncode, said


def find_processes(mark: str) -> list[str]:
    """Return the names of the living processes that have a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != "zombie":
                found.append(process.name())
        except psutil.Error:  # it ended meanwhile, or belongs to somebody else
            continue
    return found


@pytest.mark.soak
def test_runs_that_are_stopped_at_any_moment_end_as_documented(
    tiny_model: str, tmp_path: Path
) -> None:
    rng, codes = random.Random(1), []
    write_scenes(Storage.of(f"{tmp_path}/archive"), 600)
    for number in range(ROUNDS):
        tables = tmp_path / f"tables{number}"
        flags = ["--model", tiny_model, "--images", f"{tmp_path}/archive", "--output", tables]
        code, said = stop_somewhere("segment", flags, tmp_path, rng)
        codes.append(code)
        assert code in (0, 1), said
        records = [json.loads(path.read_text()) for path in (tables / "runs").glob("*.json")]
        rows = sum(pq.read_metadata(path).num_rows for path in tables.glob("images/*/*.parquet"))
        assert not (tables / "_lock.json").exists(), said
        if not records:  # it was stopped before the plan
            assert (code, rows) == (1, 0), said
            continue
        (record,) = records
        assert record["status"] == ("done" if code == 0 else "stopped"), said
        assert (record["exit_code"], record["images_done"]) == (code, rows), said
        if rows:
            assert verify(VerifyConfig(tables=f"{tables}")).problems == {}, said
    assert codes.count(1) > ROUNDS / 2


@pytest.mark.soak
def test_trainings_that_are_stopped_at_any_moment_end_as_documented(tmp_path: Path) -> None:
    """Each goes on where the one before was stopped."""
    rng, codes = random.Random(2), []
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=6, check=0, archive=0)
    for number in range(ROUNDS):
        storage = tmp_path / f"run{number // 5}"
        flags = [*small_training_flags(tmp_path), "--storage", storage, "--epochs", 12]
        code, said = stop_somewhere("train", flags, tmp_path, rng)
        codes.append(code)
        assert code in (0, 1), said
        assert not (storage / "_lock.json").exists(), said
    assert codes.count(1) > ROUNDS / 2
