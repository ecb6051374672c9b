"""The files of an output are compared with the records of its runs.

Nothing is removed because something else is absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.storage.temporary import name_beside
from unet_ray.tables.output_folder import remove_leftovers, take_inventory
from unet_ray.tables.schemas import TABLES

DAY = "date=2026-01-01"


def write_run(
    output: Storage, run_id: str, record: Mapping[str, Any] | None, tasks: int = 2
) -> None:
    """Write the files of a run, without content, and its record."""
    for table in TABLES:
        for task in range(tasks):
            output.write(f"{table}/{DAY}/{run_id}-{task:06d}.parquet", b"x")
    if record is not None:
        write_record(output, run_id, record)


def write_record(output: Storage, run_id: str, record: Mapping[str, Any]) -> None:
    output.write(f"runs/{run_id}.json", json.dumps({"run_id": run_id, **record}).encode())


def write_leftovers(output: Storage, run_id: str) -> list[str]:
    """Write the files that a run leaves that crashes between its masks and its images."""
    paths = [f"{table}/{DAY}/{run_id}-000009.parquet" for table in ("masks", "regions")]
    for path in paths:
        output.write(path, b"x")
    return paths


@pytest.mark.parametrize(
    ("record", "goes"),
    [
        ({"status": "running"}, True),
        ({"status": "lost", "exit_code": 1}, True),
        ({"status": "failed", "exit_code": 1}, True),
        ({"status": "stopped", "exit_code": 1}, True),
        ({"status": "failed", "exit_code": 3}, False),  # it finished, with too many failed images
        ({"status": "done", "exit_code": 0}, False),
        ({"status": "pruned"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_leftovers_are_removed_if_their_run_recorded_that_it_did_not_finish(
    root: str, record: dict[str, Any] | None, goes: bool
) -> None:
    output = Storage.of(root)
    write_run(output, "whole", {"status": "done"})
    paths = write_leftovers(output, "broken")
    if record is not None:
        write_record(output, "broken", record)
    before = {entry.path for entry in output.entries()}
    assert remove_leftovers(output) == ((paths, []) if goes else ([], paths))
    assert {entry.path for entry in output.entries()} == before - set(paths if goes else [])
    assert remove_leftovers(output, of_any_run=True) == ([] if goes else paths, [])


@pytest.mark.parametrize("damaged", [b"", b'{"status": "run', b"[1]", b"\xff"])
def test_a_damaged_record_keeps_leftovers(root: str, damaged: bytes) -> None:
    output = Storage.of(root)
    paths = write_leftovers(output, "broken")
    output.write("runs/broken.json", damaged)
    assert remove_leftovers(output) == ([], paths)
    assert take_inventory(output).unreadable == ("runs/broken.json",)


def test_an_empty_place_is_a_new_output(root: str) -> None:
    inventory = take_inventory(Storage.of(root).join("nowhere"))
    assert inventory.is_new
    inventory.check_shards()
    inventory.check_rows({})


WHOLE = {"status": "done", "images_done": 30, "images_failed": 1}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("table", TABLES)
def test_shards_that_a_record_counts_must_be_there(root: str, table: str, listed: bool) -> None:
    """Records list shards; those of earlier versions count images."""
    output = Storage.of(root)
    record = WHOLE | ({"date": "2026-01-01", "shards": [0, 1]} if listed else {})
    write_run(output, "run-a", record)
    write_run(output, "run-b", {"status": "failed", "exit_code": 1}, tasks=1)
    take_inventory(output).check_shards()
    if table == "images" and not listed:
        for task in range(2):
            output.delete(f"images/{DAY}/run-a-{task:06d}.parquet")
        absent = r"images/date=\*/run-a-\*.parquet: missing"
    else:
        output.delete(f"{table}/{DAY}/run-a-000001.parquet")
        absent = f"{table}/{DAY}/run-a-000001.parquet: missing"
    with pytest.raises(InputError, match=f"{absent}, but runs/run-a.json counts them"):
        take_inventory(output).check_shards()


def test_rows_that_a_finished_run_counts_must_be_there(root: str) -> None:
    output = Storage.of(root)
    write_run(output, "run-a", WHOLE)
    write_run(output, "run-b", {"status": "lost", "images_done": 500})
    inventory = take_inventory(output)
    inventory.check_rows({"run-a": 31})
    inventory.check_rows({"run-a": 40, "run-b": 2})
    with pytest.raises(
        InputError, match="15 of 31 images of run run-a are missing from its shards"
    ):
        inventory.check_rows({"run-a": 16})


@pytest.mark.parametrize("exit_code", [0, 3])
def test_runs_that_a_prune_removed_are_not_expected(root: str, exit_code: int) -> None:
    """Their records keep the exit code, also that of a run with too many failed images."""
    output = Storage.of(root)
    for status in ("pruned", "pruning"):
        record = WHOLE | {"status": status, "exit_code": exit_code, "shards": [0]}
        write_record(output, "run-a", record)
        inventory = take_inventory(output)
        inventory.check_shards()
        inventory.check_rows({})


def test_half_written_files_of_dead_writers_and_of_unfinished_runs_are_removed(
    tmp_path: Path,
) -> None:
    """Nothing is known of a process of another machine, but what the record of its run says."""
    output = Storage.of(str(tmp_path))
    write_run(output, "whole", {"status": "done"})
    write_run(output, "broken", {"status": "running"})
    alive = Path(name_beside(f"{tmp_path}/_lock.json"))
    owner = alive.name.removeprefix("._lock.json.").rpartition("-")[0]
    host, pid, start = owner.split("-")
    dead, elsewhere = f"{host}-{pid}-{int(start) + 1}-0", f"{'f' * 8}-{pid}-{start}-0"
    goes = {
        f"masks/{DAY}/.whole-000005.parquet.{dead}",
        f"regions/{DAY}/.broken-000005.parquet.{dead}",
        f"images/{DAY}/.broken-000005.parquet.{elsewhere}",
        f"runs/.broken.json.{dead}",
        f"._lock.json.{dead}",
    }
    stays = {
        f"masks/{DAY}/.whole-000005.parquet.{elsewhere}",
        f"masks/{DAY}/.broken-000005.parquet.swp",
        f"runs/.broken.json.{elsewhere}",
        f"._lock.json.{elsewhere}",
        alive.name,
    }
    for path in goes | stays:
        (tmp_path / path).touch()
    assert set(take_inventory(output).half_written) == goes
    removed, kept = remove_leftovers(output)
    assert (set(removed), kept) == (goes, [])
    assert {path for path in goes | stays if (tmp_path / path).exists()} == stays
