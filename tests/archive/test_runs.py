"""Records of runs: what lies beside them, what is damaged, and what a run that ended badly had written."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from unet_ray.archive.ledger import sums_of_run
from unet_ray.archive.runs import close_lost_runs, read_run_record, run_records, write_run_record
from unet_ray.archive.shards import ShardName, write_shard
from unet_ray.archive.storage import Storage
from unet_ray.archive.tables import SCHEMAS

_ANYTHING = {
    "string": "",
    "binary": b"",
    "timestamp[us, tz=UTC]": datetime.now(UTC),
    "bool": False,
    "struct<xmin: double not null, ymin: double not null, xmax: double not null, ymax: double not null>": dict.fromkeys(
        ("xmin", "ymin", "xmax", "ymax"), 0.0
    ),
}


def _table(name: str, **columns: Any) -> Any:
    rows = len(next(iter(columns.values())))
    whole = {
        f.name: columns.get(f.name, [None if f.nullable else _ANYTHING.get(str(f.type), 0)] * rows)
        for f in SCHEMAS[name]
    }
    return pa.Table.from_pydict(whole, SCHEMAS[name])


def test_what_else_lies_in_runs_is_no_record(tmp_path: Path) -> None:
    output = Storage.of(str(tmp_path))
    write_run_record(output, "20260101T000000Z-aaaaaa", {"status": "done"})
    for name, data in (
        ("20260102T000000Z-bbbbbb.json", b"{damaged"),
        ("model/checkpoint.bin", b"\xff\x00"),
        ("a/b.json", b"{}"),
    ):
        output.write(f"runs/{name}", data)
    assert dict(run_records(output)) == {"20260101T000000Z-aaaaaa": {"status": "done"}}
    assert read_run_record(output, "20260102T000000Z-bbbbbb") is None
    assert read_run_record(output, "nothing") is None


def test_the_record_of_a_lost_run_has_what_it_wrote(tmp_path: Path) -> None:
    output, run_id = Storage.of(str(tmp_path)), "20260101T000000Z-aaaaaa"
    known = {
        "image_uri": ["/a", "/b", "/c"],
        "run_id": [run_id] * 3,
        "height": [1000, 1000, None],
        "width": [500, 500, None],
    }
    tables = {
        "images": _table("images", **known, error_type=[None, None, "unreadable"]),
        "masks": _table("masks", image_uri=["/a"]),
        "regions": _table("regions", image_uri=["/a"] * 3, class_name=["cell", "fibre", "cell"]),
    }
    write_shard(output, ShardName("2026-01-01", run_id, 0), tables, may_commit=lambda: None)
    write_run_record(output, run_id, {"status": "running", "images_done": 0})
    close_lost_runs(output, "20260102T000000Z-bbbbbb")
    record = read_run_record(output, run_id)
    assert record is not None
    assert record["status"] == "lost"
    assert (record["images_done"], record["images_failed"], record["megapixels"]) == (2, 1, 1.0)
    assert (record["error_types"], record["regions"]) == ({"unreadable": 1}, {"cell": 2, "fibre": 1})
    assert sums_of_run(output, "20260103T000000Z-cccccc") == {}
