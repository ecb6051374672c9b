"""Prune, on outputs that these tests write shard by shard."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from unet_ray.errors import InputError, OutputHeldError
from unet_ray.output.config import PruneConfig
from unet_ray.output.prune import prune
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import open_ledger
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import finish_prunes, take_inventory
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS
from unet_ray.tables.shards import ShardName, shard_run_id, write_shard

RUNS = {
    "run-a": ("2026-01-01", "1" * 64),
    "run-b": ("2026-01-02", "2" * 64),
    "run-c": ("2026-01-03", "1" * 64),
}


@pytest.fixture
def output(root: str) -> Storage:
    """Return an output of three runs of two shards each, of two models."""
    storage = Storage.of(root)
    for run_id, (day, digest) in RUNS.items():
        for task in range(2):
            row = {"image_uri": f"{run_id}-{task}.png", "image_etag": "e", "image_bytes": 1}
            row |= {"pages": 1, "height": 1, "width": 1, "channels": 1, "region_count": 0}
            row |= {"model_digest": digest, "config_digest": "c", "run_id": run_id}
            row |= {"segmented_at": datetime.now(UTC)}
            tables = {
                "images": pa.Table.from_pylist([row], schema=IMAGES),
                "masks": MASKS.empty_table(),
                "regions": REGIONS.empty_table(),
            }
            write_shard(storage, ShardName(day, run_id, task), tables, lambda: None)
        storage.write(
            f"runs/{run_id}.json",
            json.dumps({"run_id": run_id, "status": "done", "images_done": 2}).encode(),
        )
    return storage


def runs_with_shards(output: Storage) -> set[str]:
    names = {
        e.path.rpartition("/")[2]
        for table in ("images", "masks", "regions")
        for e in output.entries(table)
    }
    return {name.rpartition("-")[0] for name in names}


@pytest.mark.parametrize(
    ("conditions", "removed"),
    [
        ({"model_digest": "11111111"}, {"run-a", "run-c"}),
        ({"first_date": "2026-01-02"}, {"run-b", "run-c"}),
        ({"last_date": "2026-01-02"}, {"run-a", "run-b"}),
        ({"first_date": "2026-01-02", "last_date": "2026-01-02"}, {"run-b"}),
        ({"model_digest": "1" * 64, "last_date": "2026-01-02"}, {"run-a"}),
        ({"model_digest": "33333333"}, set()),
    ],
)
def test_whole_runs_are_removed(
    output: Storage, conditions: dict[str, str], removed: set[str]
) -> None:
    expected = prune(PruneConfig(tables=output.uri, dry_run=True, **conditions))
    assert runs_with_shards(output) == set(RUNS)
    result = prune(PruneConfig(tables=output.uri, **conditions))
    assert set(result.runs) == removed == set(expected.runs)
    assert result.shards == 2 * len(removed) == expected.shards
    assert runs_with_shards(output) == set(RUNS) - removed
    for run_id in RUNS:
        status = json.loads(output.read(f"runs/{run_id}.json"))["status"]
        assert status == ("pruned" if run_id in removed else "done")
    with open_workspace() as database:
        open_ledger(database, output, take_inventory(output).images, "1" * 64, "c")
        kept = database.table("FROM done")["image_uri"].to_pylist()
    assert {uri.rpartition("-")[0] for uri in kept} == {"run-a", "run-c"} - removed


@pytest.mark.parametrize("command", ["the same", "another", "segment"])
def test_a_prune_that_was_killed_is_finished_by_the_next(
    output: Storage, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It dies after each deletion. Its record says so before the first, and the ledger skips it."""
    delete, config = Storage.delete, PruneConfig(tables=output.uri, model_digest="22222222")
    for survived in (0, 2, 3):  # of six files
        count = iter(range(survived))

        def dying(storage: Storage, path: str, count: object = count) -> None:
            if path.startswith(("masks", "regions", "images")) and next(count, None) is None:  # type: ignore[call-overload]
                raise ConnectionError("killed")
            delete(storage, path)

        monkeypatch.setattr(Storage, "delete", dying)
        with pytest.raises(ConnectionError):
            prune(config)
        monkeypatch.undo()
        inventory = take_inventory(output)
        assert inventory.records["run-b"]["status"] == "pruning"
        assert "run-b" in runs_with_shards(output)
        inventory.check_shards()
        assert not inventory.leftovers
        assert {shard_run_id(entry.path) for entry in inventory.images} == {"run-a", "run-c"}
    if command == "segment":
        assert finish_prunes(take_inventory(output)) == ["run-b"]
    else:
        prune(
            config
            if command == "the same"
            else PruneConfig(tables=output.uri, model_digest="33333333")
        )
    assert runs_with_shards(output) == {"run-a", "run-c"}
    assert take_inventory(output).records["run-b"]["status"] == "pruned"


def test_runs_without_shards_or_without_records_can_be_pruned(output: Storage) -> None:
    """The shards of one run were removed by hand; the record of another run is gone."""
    for table in ("images", "masks", "regions"):
        for task in range(2):
            output.delete(f"{table}/date=2026-01-02/run-b-{task:06d}.parquet")
    record = {"run_id": "run-b", "status": "done", "images_done": 2, "date": "2026-01-02"}
    record["model_digest"] = "2" * 64
    output.write("runs/run-b.json", json.dumps(record).encode())
    output.delete("runs/run-c.json")
    with pytest.raises(
        InputError,
        match=r"images/date=\*/run-b-\*.parquet: missing, but runs/run-b.json counts them",
    ):
        take_inventory(output).check_shards()
    assert prune(PruneConfig(tables=output.uri, first_date="2026-01-02")).runs == ["run-b", "run-c"]
    assert runs_with_shards(output) == {"run-a"}
    records = take_inventory(output).records
    assert {run_id: record["status"] for run_id, record in records.items()} == {
        "run-a": "done", "run-b": "pruned", "run-c": "pruned",
    }  # fmt: skip
    assert records["run-c"]["model_digest"] == "1" * 64
    take_inventory(output).check_shards()


def test_leftovers_of_unknown_runs_are_removed_on_request(output: Storage) -> None:
    output.write("masks/date=2026-01-02/unknown-000000.parquet", b"x")
    output.write("masks/date=2026-01-02/run-b-000007.parquet", b"x")
    output.write("masks/date=2026-01-02/lost-000000.parquet", b"x")
    output.write("runs/lost.json", b'{"run_id": "lost", "status": "lost"}')
    assert prune(PruneConfig(tables=output.uri, model_digest="33333333")).leftovers == [
        "masks/date=2026-01-02/lost-000000.parquet"
    ]
    would_go = [
        f"masks/date=2026-01-02/{name}.parquet" for name in ("run-b-000007", "unknown-000000")
    ]
    assert prune(PruneConfig(tables=output.uri, leftovers=True, dry_run=True)).leftovers == would_go
    result = prune(PruneConfig(tables=output.uri, leftovers=True))
    assert (result.runs, result.leftovers) == ([], would_go)
    assert runs_with_shards(output) == set(RUNS)


def test_prune_does_not_wait_for_a_lock_and_does_not_guess(output: Storage, tmp_path: Path) -> None:
    with (
        OutputLock(output, "a-run"),
        pytest.raises(OutputHeldError, match="run a-run has held this output"),
    ):
        prune(PruneConfig(tables=output.uri, model_digest="11111111"))
    with pytest.raises(InputError, match="nothing to remove; give"):
        PruneConfig(tables=output.uri)
    with pytest.raises(InputError, match="--model-digest 111: give at least 8 digits"):
        PruneConfig(tables=output.uri, model_digest="111")
    with pytest.raises(InputError, match="--last-date 2026-1-1: give a day"):
        PruneConfig(tables=output.uri, last_date="2026-1-1")
    with pytest.raises(InputError, match="no tables here"):
        prune(PruneConfig(tables=f"{tmp_path}/nothing", model_digest="11111111"))
