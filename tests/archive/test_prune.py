"""Prune on outputs that are written by hand, shard by shard."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from unet_ray.archive.ledger import open_ledger
from unet_ray.archive.lock import OutputLock
from unet_ray.archive.scratch import scratch
from unet_ray.archive.shards import ShardName, write_shard
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import IMAGES, MASKS, REGIONS
from unet_ray.errors import InputError, OutputHeldError
from unet_ray.prune import PruneConfig, prune

RUNS = {"run-a": ("2026-01-01", "1" * 64), "run-b": ("2026-01-02", "2" * 64), "run-c": ("2026-01-03", "1" * 64)}


@pytest.fixture
def output(root: str) -> Storage:
    """Return an output of three runs of two shards each, of two models."""
    storage = Storage.of(root)
    for run_id, (day, digest) in RUNS.items():
        for task in range(2):
            row = {
                "image_uri": f"{run_id}-{task}.png", "image_etag": "e", "image_bytes": 1, "pages": 1, "height": 1,
                "width": 1, "channels": 1, "model_digest": digest, "config_digest": "c", "run_id": run_id,
                "segmented_at": datetime.now(UTC), "region_count": 0,
            }  # fmt: skip
            tables = {
                "images": pa.Table.from_pylist([row], schema=IMAGES),
                "masks": MASKS.empty_table(),
                "regions": REGIONS.empty_table(),
            }
            write_shard(storage, ShardName(day, run_id, task), tables, lambda: None)
        storage.write(f"runs/{run_id}.json", json.dumps({"status": "done", "images_done": 2}).encode())
    return storage


def left(output: Storage) -> set[str]:
    names = {e.path.rpartition("/")[2] for table in ("images", "masks", "regions") for e in output.entries(table)}
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
def test_whole_runs_go(output: Storage, conditions: dict[str, str], removed: set[str]) -> None:
    expected = prune(PruneConfig(tables=output.uri, dry_run=True, **conditions))
    assert left(output) == set(RUNS)
    result = prune(PruneConfig(tables=output.uri, **conditions))
    assert set(result.runs) == removed == set(expected.runs)
    assert result.shards == 2 * len(removed) == expected.shards
    assert left(output) == set(RUNS) - removed
    for run_id in RUNS:
        status = json.loads(output.read(f"runs/{run_id}.json"))["status"]
        assert status == ("pruned" if run_id in removed else "done")
    with scratch() as database:
        open_ledger(database, output, "1" * 64, "c")
        kept = database.table("FROM done")["image_uri"].to_pylist()
    assert {uri.rpartition("-")[0] for uri in kept} == {"run-a", "run-c"} - removed


def test_a_prune_that_was_killed_is_finished_by_the_next(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies after each number of deletions; the ledger knows of what is left until the end."""
    delete, config = Storage.delete, PruneConfig(tables=output.uri, model_digest="22222222")
    for survived in range(6):
        count = iter(range(survived))

        def dying(storage: Storage, path: str, count: object = count) -> None:
            if path.startswith(("masks", "regions", "images")) and next(count, None) is None:  # type: ignore[call-overload]
                raise ConnectionError("killed")
            delete(storage, path)

        monkeypatch.setattr(Storage, "delete", dying)
        with pytest.raises(ConnectionError):
            prune(config)
        monkeypatch.undo()
        assert "run-b" in left(output)
    prune(config)
    assert left(output) == {"run-a", "run-c"}


def test_it_waits_for_nobody_and_takes_no_guesses(output: Storage, tmp_path: Path) -> None:
    with OutputLock(output, "a-run"), pytest.raises(OutputHeldError, match="run a-run holds this output"):
        prune(PruneConfig(tables=output.uri, model_digest="11111111"))
    with pytest.raises(InputError, match="nothing to remove is named"):
        PruneConfig(tables=output.uri)
    with pytest.raises(InputError, match="--model-digest 111: give at least 8 digits"):
        PruneConfig(tables=output.uri, model_digest="111")
    with pytest.raises(InputError, match="--last-date 2026-1-1: give a day"):
        PruneConfig(tables=output.uri, last_date="2026-1-1")
    with pytest.raises(InputError, match="no tables here"):
        prune(PruneConfig(tables=f"{tmp_path}/nothing", model_digest="11111111"))
