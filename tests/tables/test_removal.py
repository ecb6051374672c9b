"""The rows of an image go from all shards of all runs, and the records agree at every moment."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import make_record
from unet_ray.cli.prune import main
from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.output.config import PruneConfig, VerifyConfig
from unet_ray.output.prune import prune
from unet_ray.output.shard_checks import RegionRules, check_shard
from unet_ray.output.verify import _check_files, _check_ledger, verify
from unet_ray.segmentation.segment import _look_at, _remove_unfinished
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import open_ledger, summarize_run
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.removal import REMOVED, REMOVING, hash_uri
from unet_ray.tables.runs import read_run_record, write_run_record
from unet_ray.tables.schemas import TABLES
from unet_ray.tables.shards import ShardName, shard_run_id, write_shard

CLASSES = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
A, B, STACK, BROKEN = "s3://x/a.png", "s3://x/b,c.png", "s3://x/s.tif", "s3://x/broken.png"
RUNS = {
    "run-a": ("2026-01-01", "1" * 64, [[A, f"{STACK}#page=1"], [BROKEN, f"{STACK}#page=2"], [B]]),
    "run-b": ("2026-01-02", "2" * 64, [[B, A], [f"{STACK}#page=1"]]),
    "run-c": ("2026-01-02", "3" * 64, [[B]]),
}
"""Runs: date, model, and the images of each shard."""
LISTED = ("images_done", "images_failed", "megapixels", "error_types", "regions", "shards")


def write_output(output: Storage) -> None:
    """Write three runs as `segment` does, with their records."""
    rng = np.random.default_rng(0)
    for run_id, (day, digest, shards) in RUNS.items():
        measure = Measure(CLASSES, Postprocessing((ObjectRule(),) * 2))
        for task, uris in enumerate(shards):
            measured = []
            for uri in uris:
                record = make_record(uri, (12, 16, 1), pages=2 if "#" in uri else 1)
                if uri == BROKEN:
                    why = ImageError("unreadable", f"{BROKEN}: damaged")
                    record = replace(record, height=None, width=None, channels=None)
                    measured.append(measure.failed(record.fail(why, "decode")))
                else:
                    prob_u8 = rng.integers(0, 256, (2, 12, 16), np.uint8)
                    measured.append(measure.image(record, prob_u8))
            tables = split_into_tables(Measure.join(measured), RunStamp(run_id, digest, "c"))
            write_shard(output, ShardName(day, run_id, task), tables, lambda: None)
        objects = {"parted": False, "min_areas": {"1": 1, "2": 1}}
        record = {"run_id": run_id, "status": "done", "exit_code": 0, "date": day}
        record |= {"model_digest": digest, "config_digest": "c", "objects": objects}
        record |= {"error_messages": {f"{BROKEN}: damaged": 1}} if run_id == "run-a" else {}
        write_run_record(output, run_id, record | summarize_run(output, run_id))


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    storage = Storage.of(f"{tmp_path}/tables")
    write_output(storage)
    return storage


def uris_of(output: Storage, table: str) -> set[tuple[str, str]]:
    """Return the run and image of each row of a table."""
    found = set()
    for entry in output.entries(table):
        rows = pq.read_table(entry.uri, columns=["image_uri"], partitioning=None)
        found |= {(shard_run_id(entry.path), uri) for uri in rows["image_uri"].to_pylist()}
    return found


def expected_uris(*gone: str) -> set[tuple[str, str]]:
    return {
        (run_id, uri)
        for run_id, (_, _, shards) in RUNS.items()
        for uris in shards
        for uri in uris
        if uri not in gone and uri.partition("#")[0] not in gone
    }


def assert_sound(output: Storage) -> None:
    """Check what `segment` checks before it starts, and what `verify` does, without Ray."""
    inventory = _look_at(output)
    with open_workspace() as database:
        inventory.check_rows(open_ledger(database, output, inventory.images, "1" * 64, "c"))
        assert not list(_check_ledger(database, inventory, inventory.records))
    assert not list(_check_files(inventory, None))
    rules = {key: RegionRules.of_record(record) for key, record in inventory.records.items()}
    for entry in inventory.images:
        tables = {
            t: pq.read_table(f"{output.uri}/{t}/{entry.path}", partitioning=None) for t in TABLES
        }
        assert not check_shard(tables, rules)
    for run_id, record in inventory.records.items():
        counted = summarize_run(output, run_id)
        assert {key: record[key] for key in LISTED} == {
            key: pytest.approx(counted[key]) if key == "megapixels" else counted[key]
            for key in LISTED
        }


def test_an_image_goes_from_all_runs(output: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    assert_sound(output)
    before = {entry.path: entry.etag for entry in output.entries()}
    planned = prune(PruneConfig(tables=output.uri, image=A, dry_run=True))
    assert before == {entry.path: entry.etag for entry in output.entries()}
    main(PruneConfig(tables=output.uri, image=A), "")
    assert_sound(output)
    assert uris_of(output, "images") == expected_uris(A)
    for table in ("masks", "regions"):
        assert uris_of(output, table) == expected_uris(A, BROKEN)
    after = {entry.path: entry.etag for entry in output.entries()}
    assert {path.rpartition("/")[2] for path in before if before[path] != after[path]} == {
        "run-a-000000.parquet", "run-b-000000.parquet", "run-a.json", "run-b.json",
    }  # fmt: skip
    for rows in planned.images:
        (removed,) = take_inventory(output).records[rows.run_id][REMOVED]
        assert removed["uri_sha256"] == rows.uri_sha256 == hash_uri(A)
        assert (removed["images"], removed["masks"]) == (rows.images, rows.masks) == (1, 2)
        assert removed["regions"] == rows.regions > 0
        assert A not in output.read(f"runs/{rows.run_id}.json").decode()
    assert [rows.run_id for rows in planned.images] == ["run-a", "run-b"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("run run-a: 1 images, 2 masks and ")
    assert said[-1].startswith("the next run of segment does these images again")
    assert len(said) == 3


def test_a_file_stands_for_its_pages_and_a_page_for_itself(output: Storage) -> None:
    prune(PruneConfig(tables=output.uri, image=f"{STACK}#page=2"))
    assert uris_of(output, "images") == expected_uris(f"{STACK}#page=2")
    prune(PruneConfig(tables=output.uri, image=f"{STACK},{BROKEN}"))
    assert uris_of(output, "images") == expected_uris(STACK, BROKEN)
    assert_sound(output)
    record = read_run_record(output, "run-a")
    assert record is not None
    assert [rows["images"] for rows in record[REMOVED]] == [1, 1, 1]
    assert (record["images_failed"], record["error_types"], record["error_messages"]) == (0, {}, {})
    assert BROKEN not in json.dumps(record)


def test_uris_may_have_commas_and_a_run_may_lose_all_its_rows(output: Storage) -> None:
    prune(PruneConfig(tables=output.uri, image=f"{B}"))
    assert uris_of(output, "images") == expected_uris(B)
    assert_sound(output)
    assert prune(PruneConfig(tables=output.uri, model_digest="3" * 8)).runs == ["run-c"]
    _look_at(output)


def test_local_paths_are_resolved(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tests.tables.test_removal.RUNS", {"run-d": ("2026-01-03", "1" * 64, [["/x/i.png"]])}
    )
    write_output(output)
    monkeypatch.chdir("/")
    (rows,) = prune(PruneConfig(tables=output.uri, image="x/i.png", dry_run=True)).images
    assert (rows.run_id, rows.uri_sha256) == ("run-d", hash_uri("/x/i.png"))


def test_what_cannot_be_removed_is_one_line(output: Storage) -> None:
    with pytest.raises(
        InputError, match=r"--image s3://x/nothing.png: no row of .* has this image"
    ):
        prune(PruneConfig(tables=output.uri, image=f"{A},s3://x/nothing.png"))
    assert uris_of(output, "images") == expected_uris()
    output.write("masks/date=2026-01-01/unknown-000000.parquet", b"x")
    with pytest.raises(InputError, match="1 files without their images file may hold rows"):
        prune(PruneConfig(tables=output.uri, image=A))
    output.write("runs/run-b.json", b"{")
    with pytest.raises(InputError, match=r"run-b.json: not a readable run record"):
        prune(PruneConfig(tables=output.uri, image=A, leftovers=True))
    assert uris_of(output, "images") == expected_uris()
    output.delete("runs/run-b.json")
    prune(PruneConfig(tables=output.uri, image=A))
    assert uris_of(output, "images") == expected_uris(A)
    record = read_run_record(output, "run-b")
    assert record is not None
    assert (record["status"], record["date"]) == ("unknown", "2026-01-02")
    with pytest.raises(InputError, match="removes rows from all runs; give it without"):
        PruneConfig(tables="t", image=A, last_date="2026-01-01")
    with pytest.raises(InputError, match="--image 'a,': an empty URI"):
        PruneConfig(tables="t", image="a,")


class _Code:
    """An object that makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._file,)


@pytest.mark.parametrize("column", ["model_digest", "error_type", "more"])
def test_rows_that_are_removed_run_no_code(output: Storage, tmp_path: Path, column: str) -> None:
    """A shard names the type of its values, and Ray Data registers one that is unpickled."""
    import ray.data  # noqa: F401 (registers the type)
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    kind, mark = ArrowPythonObjectType(), tmp_path / "was_run"
    shard = next(Path(output.uri).glob("images/*/run-a-000000.parquet"))
    rows = pq.read_table(shard, partitioning=None)
    pickled = pa.array([pickle.dumps(_Code(mark))] * len(rows), kind.storage_type)
    values = pa.ExtensionArray.from_storage(kind, pickled)
    if column in rows.column_names:
        rows = rows.drop_columns([column])
    pq.write_table(rows.append_column(column, values), shard)
    assert column in pq.read_schema(shard).names
    with pytest.raises(InputError, match=rf"its column '{column}' has the type extension<ray"):
        prune(PruneConfig(tables=output.uri, image=A))
    record = read_run_record(output, "run-a")
    assert record is not None
    record[REMOVING] = {"uri_sha256": [hash_uri(A)], "rows": []}
    write_run_record(output, "run-a", record)
    with pytest.raises(InputError, match="has the type"):
        _remove_unfinished(_look_at(output), "run-e")
    assert not mark.exists()


class KilledError(Exception):
    """The end of a process."""


def killed_prunes(
    output: Storage, config: PruneConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """Prune copies of an output; each dies at one write or delete later than the one before.

    The lock is let go, since the process of these tests lives on.
    """
    left, undisturbed = 0, f"{output.uri}-undisturbed"
    shutil.copytree(output.uri, undisturbed)

    def dying(operation: Callable[..., Any]) -> Callable[..., Any]:
        def step(storage: Storage, path: str, *more: Any, **named: Any) -> Any:
            nonlocal left
            if path != "_lock.json":
                left -= 1
                if left < 0:
                    raise KilledError
            return operation(storage, path, *more, **named)

        return step

    for survived in range(1000):
        shutil.rmtree(output.uri)
        shutil.copytree(undisturbed, output.uri)
        left = survived
        with monkeypatch.context() as patch:
            for name in ("write", "delete"):
                patch.setattr(Storage, name, dying(getattr(Storage, name)))
            try:
                prune(config)
                return
            except KilledError:
                pass
        yield survived


@pytest.mark.parametrize("repair", ["prune", "another prune", "segment"])
def test_a_kill_at_any_moment_is_repaired(
    output: Storage, monkeypatch: pytest.MonkeyPatch, repair: str
) -> None:
    config, kills, began = PruneConfig(tables=output.uri, image=f"{A},{STACK}"), 0, 0
    for _ in killed_prunes(output, config, monkeypatch):
        kills += 1
        inventory = _look_at(output)
        with open_workspace() as database:
            inventory.check_rows(open_ledger(database, output, inventory.images, "1" * 64, "c"))
        has_begun = any(REMOVING in record for record in inventory.records.values())
        began += has_begun
        if repair == "prune":
            if has_begun or uris_of(output, "images") == expected_uris():
                assert {rows.uri_sha256 for rows in prune(config).images} == {
                    hash_uri(A), hash_uri(STACK),
                }  # fmt: skip
                has_begun = True
        elif repair == "another prune":
            prune(PruneConfig(tables=output.uri, model_digest="9" * 8))
        else:
            _remove_unfinished(inventory, "run-e")
        assert uris_of(output, "images") == (
            expected_uris(A, STACK) if has_begun else expected_uris()
        )
        assert_sound(output)
    # the test of the output, two records, three files of each of four shards, and the records again
    assert kills == 2 + 2 + 3 * 4 + 2
    assert began == kills - 3  # before the first record nothing has begun


@pytest.mark.usefixtures("ray_local")
def test_verify_passes_after_a_removal_and_names_one_that_is_not_finished(
    output: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for survived in killed_prunes(output, PruneConfig(tables=output.uri, image=A), monkeypatch):
        if survived == 5:
            problems = verify(VerifyConfig(tables=output.uri)).problems
            assert any("removal has begun but not finished" in kind for kind in problems)
    assert not verify(VerifyConfig(tables=output.uri)).problems
