"""Records of runs: other files beside them, damaged ones, and those of runs that ended badly."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.tables import shards
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import open_ledger, summarize_run
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.runs import (
    close_lost_runs,
    groups_set_aside,
    read_records,
    read_run_record,
    write_run_record,
)
from unet_ray.tables.schemas import REGIONS, SCHEMAS
from unet_ray.tables.shards import ShardName, write_shard

_ANYTHING = {
    "string": "",
    "binary": b"",
    "timestamp[us, tz=UTC]": datetime.now(UTC),
    "bool": False,
    str(REGIONS.field("bbox").type): dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 0.0),
}


def make_table(name: str, **columns: Any) -> Any:
    rows = len(next(iter(columns.values())))
    whole = {
        f.name: columns.get(f.name, [None if f.nullable else _ANYTHING.get(str(f.type), 0)] * rows)
        for f in SCHEMAS[name]
    }
    return pa.Table.from_pydict(whole, SCHEMAS[name])


def test_the_ledger_costs_one_request_per_shard(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store answers late; shards that are too large for one request give the same rows."""
    bucket = new_bucket(request)
    plain = {
        "config_digest": ["c", "c", "d"],
        "pages": [1, 1, 1],
        "error_type": [None, "unreadable", None],
    }
    for index in range(40):
        uris = [f"s3://archive/{index}-{row}" for row in range(3)]
        tables = {name: SCHEMAS[name].empty_table() for name in ("masks", "regions")}
        rows = make_table("images", image_uri=uris, model_digest=["m"] * 3, **plain)
        write_shard(
            Storage.of(bucket),
            ShardName("2026-01-01", "run", index),
            tables | {"images": rows},
            lambda: None,
        )
    with faulty_store(s3_server, delay_s=0.2) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        for whole_bytes in (2**20, 0):
            monkeypatch.setattr(shards, "_WHOLE_BYTES", whole_bytes)
            before, store.most_under_way = store.requests, 0
            with open_workspace() as database:
                open_ledger(
                    database, Storage.of(bucket), Storage.of(bucket).entries("images"), "m", "c"
                )
                counts = [
                    database.value(f"SELECT count(*) FROM {n}")
                    for n in ("done", "failed", "retry", "known")
                ]
                assert counts == [40, 40, 80, 120]  # 40 shards of three rows
                assert database.value("SELECT count(DISTINCT image_uri) FROM known") == 120
            assert store.most_under_way > (20 if whole_bytes else 2)
            if whole_bytes:
                assert store.requests - before < 50


@pytest.mark.parametrize("whole_bytes", [2**20, 0])  # read whole, and in ranges
def test_a_damaged_shard_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_bytes: int
) -> None:
    monkeypatch.setattr(shards, "_WHOLE_BYTES", whole_bytes)
    output = Storage.of(str(tmp_path))
    for data in (b"", b"PAR1 and nothing else", to_parquet(pa.table({"other": [1]}))):
        output.write("images/date=2026-01-01/run-000000.parquet", data)
        with (
            open_workspace() as database,
            pytest.raises(InputError, match="run-000000.parquet: damaged, or not a shard"),
        ):
            open_ledger(database, output, output.entries("images"), "m", "c")


def test_a_shard_that_lacks_a_column_or_a_value_counts(tmp_path: Path) -> None:
    output = Storage.of(str(tmp_path))
    rows = {
        "image_uri": ["/a", "/b"],
        "model_digest": ["m", "m"],
        "config_digest": ["c", "c"],
        "image_etag": ["e", None],
    }
    whole = make_table(
        "images", **rows | {"image_etag": ["e", "e"]}, error_type=[None, "unreadable"]
    )
    for index, shard in enumerate((pa.table(rows), whole.drop_columns(["pages"]))):
        output.write(f"images/date=2026-01-01/run-{index:06}.parquet", to_parquet(shard))
    with open_workspace() as database:
        open_ledger(database, output, output.entries("images"), "m", "c")
        counts = [
            database.value(f"SELECT count(*) FROM {name}")
            for name in ("done", "failed", "retry", "known")
        ]
    assert counts == [3, 1, 4, 4]


def test_other_files_beside_records_are_not_taken_for_records(tmp_path: Path) -> None:
    output = Storage.of(str(tmp_path))
    write_run_record(output, "20260101T000000Z-aaaaaa", {"status": "done"})
    for name, data in (
        ("20260102T000000Z-bbbbbb.json", b"{damaged"),
        ("model/checkpoint.bin", b"\xff\x00"),
        ("a/b.json", b"{}"),
    ):
        output.write(f"runs/{name}", data)
    records, unreadable = read_records(output)
    assert records == {"20260101T000000Z-aaaaaa": {"status": "done"}}
    assert unreadable == ("runs/20260102T000000Z-bbbbbb.json",)
    assert read_run_record(output, "20260102T000000Z-bbbbbb") is None
    assert read_run_record(output, "nothing") is None


def test_a_record_of_many_megabytes_is_none(tmp_path: Path) -> None:
    """Twenty million empty lists take gigabytes of memory."""
    output, record = Storage.of(str(tmp_path)), {"run_id": "r", "status": "done"}
    write_run_record(output, "r", record | {"note": "x" * 2**20})
    assert read_run_record(output, "r") is not None
    write_run_record(output, "r", record | {"note": "x" * 2**24})
    assert read_run_record(output, "r") is None
    assert read_records(output) == ({}, ("runs/r.json",))


def test_the_record_of_a_lost_run_counts_what_it_wrote(tmp_path: Path) -> None:
    output, run_id = Storage.of(str(tmp_path)), "20260101T000000Z-aaaaaa"
    known = {
        "image_uri": ["/a", "/b", "/c"],
        "run_id": [run_id] * 3,
        "height": [1000, 1000, None],
        "width": [500, 500, None],
    }
    tables = {
        "images": make_table("images", **known, error_type=[None, None, "unreadable"]),
        "masks": make_table("masks", image_uri=["/a"]),
        "regions": make_table(
            "regions", image_uri=["/a"] * 3, class_name=["cell", "fibre", "cell"]
        ),
    }
    write_shard(output, ShardName("2026-01-01", run_id, 0), tables, may_commit=lambda: None)
    write_run_record(output, run_id, {"status": "running", "images_done": 0})
    close_lost_runs(output, read_records(output)[0], "20260102T000000Z-bbbbbb")
    record = read_run_record(output, run_id)
    assert record is not None
    assert record["status"] == "lost"
    assert (record["images_done"], record["images_failed"], record["megapixels"]) == (2, 1, 1.0)
    assert record["shards"] == [0]
    assert (record["error_types"], record["regions"]) == (
        {"unreadable": 1},
        {"cell": 2, "fibre": 1},
    )
    assert summarize_run(output, "20260103T000000Z-cccccc") == {}


def test_the_next_run_goes_on_with_what_a_lost_run_set_aside() -> None:
    lost = {"status": "lost", "exit_code": 1, "set_aside": [["a", "b"], ["c"]]}
    done = {"status": "done", "exit_code": 0, "set_aside": []}
    assert groups_set_aside({"2": lost, "1": done}) == [["a", "b"], ["c"]]
    assert groups_set_aside({"3": done, "2": lost}) == []
    assert groups_set_aside({}) == []
    assert groups_set_aside({"1": {"status": "failed", "exit_code": 1}}) == []  # an older version
    assert groups_set_aside({"1": lost | {"set_aside": "?"}}) == []
