"""Damaged shards, rows and records cost themselves: one line, or a note with a count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from tests.builders import flip_bit, write_tables
from unet_ray.cli.prune import main
from unet_ray.errors import InputError
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.prune import prune
from unet_ray.output.reader import Tables, current_keys, image_objects, read_tables
from unet_ray.output.report.report import report
from unet_ray.segmentation.segment import _look_at, _remove_unfinished
from unet_ray.storage.storage import Storage
from unet_ray.tables.committed import CommittedShards
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import open_ledger
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.removal import REMOVING, hash_uri
from unet_ray.tables.runs import read_run_record, write_run_record
from unet_ray.tables.schemas import SCHEMAS, TABLES

RUN, DAY = "20260101T000000Z-aaaaaa", "2026-01-01"
SHARDS = [["/x/a.png", "/x/b.png"], ["/x/c.png"], ["/x/d.png", "/x/e.png"]]
SECOND = f"date={DAY}/{RUN}-000001.parquet"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_tables(Storage.of(str(folder)), SHARDS, RUN, DAY)
    return folder


@pytest.fixture
def tables(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "tables")
    return tmp_path / "tables"


def plan(tables: Path) -> set[str]:
    """Return the images that planning takes for done, after all its checks."""
    inventory = _look_at(Storage.of(str(tables)))
    with open_workspace() as database:
        rows = open_ledger(database, inventory.output, inventory.images, "1" * 64, "c")
        inventory.check_rows(rows)
        return set(database.table("FROM done")["image_uri"].to_pylist())


def export_as(kind: str) -> Callable[[Path], object]:
    def run(tables: Path) -> object:
        output = f"{tables.parent}/out" + (".json" if kind == "coco" else "")
        return export(ExportConfig(tables=str(tables), format=kind, output=output))  # type: ignore[arg-type]

    return run


def report_on(tables: Path) -> Any:
    return report(ReportConfig(tables=str(tables), output=f"{tables.parent}/report.html"))


def load(tables: Tables) -> None:
    """Read the three tables into memory."""
    assert all(len(rows) for rows in (tables.images, tables.masks, tables.regions))


COMMANDS: dict[str, Callable[[Path], object]] = {
    "plan": plan,
    "read": lambda tables: load(read_tables(str(tables))),
    "history": lambda tables: load(read_tables(str(tables), current=False)),
    "iterate": lambda tables: [*read_tables(str(tables)).shards()],
    "objects": lambda tables: image_objects(read_tables(str(tables)), "/x/c.png"),
    "report": report_on,
    "coco": export_as("coco"),
    "png": export_as("png"),
    "geojson": export_as("geojson"),
    "geoparquet": export_as("geoparquet"),
    "prune image": lambda tables: prune(PruneConfig(tables=str(tables), image="/x/c.png")),
}


def repeat_rows(file: Path, rows: int) -> None:
    """Write a file whose first row stands there many times; it has a few hundred kilobytes."""
    some = pq.read_table(file, partitioning=None).take([0] * 100_000)
    with pq.ParquetWriter(file, some.schema, compression="zstd") as writer:
        for _ in range(rows // len(some)):
            writer.write_table(some)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a page": lambda file: flip_bit(file, 60, 3),
    "the footer": lambda file: flip_bit(file, -300, 5),
    "the size of the footer": lambda file: flip_bit(file, -7),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-50]),
    "empty": lambda file: file.write_bytes(b""),
    "a text": lambda file: file.write_text("see the other disk"),
    "rows without end": lambda file: repeat_rows(file, 4_000_000),
    "another table": lambda file: pq.write_table(pa.table({"other": [1]}), file),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_shard_is_one_line_that_names_it(tables: Path, table: str, damage: str) -> None:
    DAMAGES[damage](tables / table / SECOND)
    reading = set(COMMANDS) - ({"plan", "prune image"} if table != "images" else set())
    if table != "images":
        assert plan(tables) == {uri for uris in SHARDS for uri in uris}
    for name in reading:
        with pytest.raises(InputError) as refusal:
            COMMANDS[name](tables)
        line = str(refusal.value)
        assert line.startswith(f"{tables}/{table}/{SECOND}: damaged, or not a shard"), name
        assert "\n" not in line
        assert "prune --damaged" in line


@pytest.mark.parametrize("table", TABLES)
def test_prune_removes_damaged_shards_and_planning_does_their_images_again(
    tables: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(tables / table / SECOND, 60)
    before = {file for file in tables.rglob("*") if file.is_file()}
    config = PruneConfig(tables=str(tables), damaged=True)
    assert prune(PruneConfig(tables=str(tables), damaged=True, dry_run=True)).damaged == [SECOND]
    assert before == {file for file in tables.rglob("*") if file.is_file()}
    main(config, "")
    assert f"1 damaged shards removed: {SECOND}\n" in capsys.readouterr().out
    gone = before - {file for file in tables.rglob("*") if file.is_file()}
    assert gone == {tables / name / SECOND for name in TABLES}
    assert plan(tables) == {*SHARDS[0], *SHARDS[2]}
    record = read_run_record(Storage.of(str(tables)), RUN)
    assert record is not None
    assert (record["images_done"], record["shards"]) == (4, [0, 2])
    assert prune(config).damaged == []


@pytest.mark.parametrize("survived", range(4))
def test_a_removal_of_damaged_shards_may_be_killed_at_any_moment(
    tables: Path, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_bit(tables / "images" / SECOND, 60)
    delete, left = Storage.delete, iter(range(survived))

    def die(storage: Storage, path: str) -> None:
        if path.endswith(".parquet") and next(left, None) is None:
            raise ConnectionError("killed")
        delete(storage, path)

    monkeypatch.setattr(Storage, "delete", die)
    if survived < len(TABLES):
        with pytest.raises(ConnectionError):
            prune(PruneConfig(tables=str(tables), damaged=True))
    monkeypatch.undo()
    prune(PruneConfig(tables=str(tables), damaged=True, leftovers=True))
    assert plan(tables) == {*SHARDS[0], *SHARDS[2]}
    assert {file.name for file in tables.rglob("*.parquet")} == {
        f"{RUN}-000000.parquet", f"{RUN}-000002.parquet",
    }  # fmt: skip


def test_damaged_shards_do_not_stop_a_removal_of_images_for_good(tables: Path) -> None:
    output = Storage.of(str(tables))
    record = take_inventory(output).records[RUN] | {"images_done": 4}
    row = {"uri_sha256": hash_uri("/x/a.png"), "images": 1, "masks": 2, "regions": 1}
    intent = {"uri_sha256": [hash_uri("/x/a.png")], "rows": [row]}
    write_run_record(output, RUN, record | {REMOVING: intent})
    flip_bit(tables / "images" / SECOND, 60)
    with pytest.raises(InputError, match="prune --damaged"):
        prune(PruneConfig(tables=str(tables), leftovers=True))
    prune(PruneConfig(tables=str(tables), damaged=True))
    assert plan(tables) == {"/x/b.png", *SHARDS[2]}


def test_a_store_that_fails_is_not_taken_for_damage(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file for file in tables.rglob("*.parquet")}
    read = Storage.read

    def fail(storage: Storage, path: str = "") -> bytes:
        if "parquet" in storage.uri_of(path):
            raise ConnectionError("reset")
        return read(storage, path)

    monkeypatch.setattr(Storage, "read", fail)
    with pytest.raises(InputError, match="cannot be read: reset"):
        prune(PruneConfig(tables=str(tables), damaged=True))
    assert before == {file for file in tables.rglob("*.parquet")}


def test_a_damaged_run_can_be_removed_by_its_date(tables: Path) -> None:
    flip_bit(tables / "images" / SECOND, 60)
    assert prune(PruneConfig(tables=str(tables), first_date=DAY)).shards == 3
    (tables / f"runs/{RUN}.json").unlink()  # then only the shards would tell the model
    assert plan(tables) == set()


def test_other_files_among_the_shards_are_one_line_or_nothing(tables: Path) -> None:
    (tables / "images/notes.txt").write_text("mine")
    (tables / f"masks/date={DAY}/_SUCCESS").write_text("")
    for name in set(COMMANDS) - {"plan", "prune image"}:
        COMMANDS[name](tables)
    for name in ("plan", "prune image"):
        with pytest.raises(InputError, match=r"not part of the tables \(2 such files"):
            COMMANDS[name](tables)
    shutil.copy(tables / "images" / SECOND, tables / "images/copy.parquet")
    for name in set(COMMANDS) - {"plan", "prune image"}:
        with pytest.raises(InputError, match=r"copy.parquet: not part of the tables; move it away"):
            COMMANDS[name](tables)


@pytest.mark.parametrize(("table", "column"), [("images", "run_id"), ("regions", "class_name")])
def test_texts_that_fill_memory_are_refused_before_they_do(
    tables: Path, table: str, column: str
) -> None:
    """Some kilobytes of a shard may stand for a gigabyte, and for as much more as one likes."""
    shard = next(tables.glob(f"{table}/*/*.parquet"))
    rows = pq.read_table(shard, partitioning=None).take([0] * 1100)
    long = pa.DictionaryArray.from_arrays([0] * 1100, ["y" * 2**20])
    rows = rows.set_column(rows.schema.get_field_index(column), column, long)
    pq.write_table(rows, shard, compression="zstd", store_schema=False)
    with pytest.raises(
        InputError, match=rf"{shard}: damaged, .*1100 rows take at least 1\d\d\d MB"
    ):
        load(read_tables(str(tables)))
    if table == "images":
        with pytest.raises(InputError, match="1100 rows take"):
            current_keys(CommittedShards.of(Storage.of(str(tables))))


DEEP = b'{"a":' * 100_000
FOREIGN = {
    "notes.json": b'{"mine": true}',
    "zz-done.json": b'{"status": "done", "images_done": 7}',
    "zz-running.json": b'{"status": "running"}',
    "zz-deep.json": DEEP,
    "zz-list.json": b"[1]",
    "zz-bytes.json": b"\xff\xfe",
    "20250101T000000Z-dddddd.json": DEEP,
    "20270101T000000Z-bbbbbb.json": b'{"status": "done", "images_done": "seven"}',
    "20270101T000000Z-cccccc.json": b'{"run_id": "x", "stat',
    "20270101T000000Z-dddddd.json": (
        b'{"status": "done", "objects": {"parted": false, "min_areas": {"cell": 1}}}'
    ),
}


def test_other_files_beside_the_records_stop_nothing_and_are_left_alone(
    tables: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = Storage.of(str(tables))
    for name, content in FOREIGN.items():
        output.write(f"runs/{name}", content)
    lost, unfinished = "20260102T000000Z-eeeeee", {"status": "running", "run_id": "x"}
    unfinished["run_id"] = lost
    write_run_record(output, lost, unfinished)
    # a record that is damaged could say that its run did not finish: its files stay
    kept = [f"{table}/date={DAY}/20270101T000000Z-cccccc-000000.parquet" for table in TABLES[:2]]
    for path in kept:
        output.write(path, b"x")
    inventory = _look_at(output)
    assert set(inventory.unreadable) == {f"runs/{name}" for name in FOREIGN}
    assert "10 files in runs/ are not readable run records, the first is runs/zz-" in caplog.text
    _remove_unfinished(inventory, "me")
    record = read_run_record(output, lost)
    assert record is not None
    assert record["status"] == "lost"
    assert plan(tables) == {uri for uris in SHARDS for uri in uris}
    assert report_on(tables).facts.images == 5
    prune(PruneConfig(tables=str(tables), model_digest="f" * 8))
    assert all(output.exists(path) for path in kept)
    assert {name: output.read(f"runs/{name}") for name in FOREIGN} == FOREIGN


def change_rows(file: Path, table: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Write a shard's file again with other rows, which may have nulls."""
    rows = pq.read_table(file, partitioning=None).to_pylist()
    change(rows)
    schema = pa.schema([field.with_nullable(True) for field in SCHEMAS[table]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def set_first(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[0].update(values)


BOX = dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), 0.0)
BAD_ROWS = [
    ("images", {"image_uri": None}),
    ("images", {"image_uri": ""}),
    ("images", {"run_id": None}),
    ("images", {"run_id": "../../x"}),
    ("images", {"height": -5}),
    ("images", {"width": None}),
    ("images", {"segmented_at": None}),
    ("images", {"height": 2**31 - 1, "width": 2**31 - 1}),
    ("masks", {"image_uri": None}),
    ("masks", {"class_name": None}),
    ("masks", {"class_id": -1}),
    ("masks", {"height": -1}),
    ("masks", {"top": 2**31 - 1}),
    ("masks", {"counts": None}),
    ("regions", {"image_uri": None}),
    ("regions", {"geometry": b"junk"}),
    ("regions", {"geometry": None}),
    ("regions", {"score": float("nan")}),
    ("regions", {"area": 0}),
    ("regions", {"area": -(2**63)}),
    ("regions", {"class_id": 77}),
    ("regions", {"bbox": BOX | {"xmax": float("inf")}}),
    ("regions", {"bbox": None}),
    ("regions", {"region_id": None}),
]

_HARMLESS = ({"class_id": 77}, {"height": 2**31 - 1, "width": 2**31 - 1})
"""Values that GeoJSON, which has neither categories nor sizes, can hold."""


@pytest.mark.parametrize(("table", "values"), BAD_ROWS, ids=[f"{t} {v}" for t, v in BAD_ROWS])
def test_a_bad_row_costs_itself(tables: Path, table: str, values: dict[str, Any]) -> None:
    change_rows(tables / table / f"date={DAY}/{RUN}-000000.parquet", table, set_first(**values))
    readers = {
        "images": {"coco", "png", "geojson"},
        "masks": {"png"},
        "regions": {"coco", "geojson"},
    }
    for kind in ("coco", "png", "geojson"):
        result: Any = export_as(kind)(tables)
        assert result.images in (4, 5)
        if kind in readers[table] and not (kind == "geojson" and values in _HARMLESS):
            assert set(result.notes) - {"images in pixels, y upwards"}, kind
    assert report_on(tables).facts.images in (4, 5)
    read_tables(str(tables))


def test_an_image_that_stands_twice_in_a_shard_is_exported_once(tables: Path) -> None:
    file = tables / "images" / f"date={DAY}/{RUN}-000000.parquet"
    change_rows(file, "images", lambda rows: rows.append(dict(rows[0])))
    result: Any = export_as("geojson")(tables)
    assert (result.images, result.files) == (5, 5)


def test_a_damaged_outline_is_left_out_with_a_count(tables: Path) -> None:
    before: Any = export_as("coco")(tables)
    file = tables / "regions" / f"date={DAY}/{RUN}-000000.parquet"
    change_rows(file, "regions", set_first(geometry=b"junk"))
    uri = pq.read_table(file, partitioning=None)["image_uri"][0].as_py()
    for kind in ("coco", "geojson"):
        result: Any = export_as(kind)(tables)
        assert (result.images, result.regions) == (5, before.regions - 1)
        assert result.notes["regions left out: damaged outlines"] == 1
    with pytest.raises(InputError, match=f"{uri}: the outline of a region of cell is damaged"):
        image_objects(read_tables(str(tables)), uri)


def test_regions_that_are_wider_than_memory_are_left_out_with_a_count(tables: Path) -> None:
    before: Any = export_as("coco")(tables)
    name, width = f"date={DAY}/{RUN}-000001.parquet", 2**31 - 1
    change_rows(tables / "images" / name, "images", set_first(height=1, width=width))
    wide = {"geometry": shapely.box(0, 0, width, 1).wkb, "area": width}
    change_rows(tables / "regions" / name, "regions", set_first(**wide))
    result: Any = export_as("coco")(tables)
    too_long = "regions left out: outlines too long for run lengths, give --polygons"
    assert result.notes[too_long] == 1
    outside = result.notes["regions left out: damaged outlines"]  # of an image that was higher
    assert (result.images, result.regions) == (5, before.regions - 1 - outside)


def test_classes_without_end_are_exported_and_a_report_shows_some(tables: Path) -> None:
    """Comparing each name with all others took a minute for 30,000."""
    number, name = 3000, f"date={DAY}/{RUN}-000001.parquet"
    for table in ("masks", "regions"):
        first = pq.read_table(tables / table / name, partitioning=None)
        rows = first.take([0] * number).to_pylist()
        for index, row in enumerate(rows, 1):
            row |= {"class_id": index, "class_name": f"class {index}"}
            row |= {"region_id": index} if table == "regions" else {}
        rows[0]["class_name"], rows[1]["class_name"] = "cell", "fibre"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMAS[table]), tables / table / name)
    assert export_as("coco")(tables).images == 5  # type: ignore[attr-defined]
    categories = json.loads((tables.parent / "out.json").read_text())["categories"]
    assert len(categories) == number
    result = report_on(tables)
    assert f"{number - 256} further classes: a page shows at most 256" in result.problems
    assert result.size_bytes < 2_000_000


def test_hostile_uris_are_exported_under_names_of_their_own(tmp_path: Path) -> None:
    uris = [
        *("/x/a.png", "/x/../../../up.png", "/x//b.png", "/x/" + "n" * 240 + ".png"),
        *("/x/A.png", "/x/s.tif#page=2", "/x/s.tif.page2", "/x/a.png.png/c", "/x/a\x00\x1b[2J.png"),
        *("s3://other/bucket.png", "gopher://nowhere/x.tif", "/x/" + "d/" * 600 + "deep.png"),
    ]
    write_tables(Storage.of(f"{tmp_path}/tables"), [uris], RUN, DAY)
    for kind in ("png", "geojson"):
        output = tmp_path / "out" / kind
        config = ExportConfig(tables=f"{tmp_path}/tables", format=kind, output=str(output))  # type: ignore[arg-type]
        result = export(config)
        files = [file for file in output.rglob("*") if file.is_file()]
        left_out = result.notes["images left out: the output cannot hold a file of that name"]
        assert result.files == len(files) == len(uris) - left_out
        assert left_out <= 1  # a.png.png, which is the folder of another image, or the other way
        known = {
            Image.open(file).text["image_uri"]  # type: ignore[attr-defined]
            if kind == "png"
            else json.loads(file.read_text())["image_uri"]
            for file in files
        }
        assert known <= set(uris)
        assert len(known) == len(files)
    assert {entry.name for entry in tmp_path.iterdir()} == {"tables", "out"}
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"png", "geojson"}
    export(ExportConfig(tables=f"{tmp_path}/tables", format="coco", output=f"{tmp_path}/c.json"))
    images = json.loads((tmp_path / "c.json").read_text())["images"]
    assert {image["image_uri"] for image in images} == set(uris)
    assert len({image["file_name"] for image in images}) == len(uris)
    for image in images:
        assert not {"", ".", ".."} & set(image["file_name"].split("/"))


def test_masks_that_do_not_fit_their_image_leave_it_out(tables: Path) -> None:
    file = tables / "masks" / f"date={DAY}/{RUN}-000001.parquet"
    change_rows(file, "masks", set_first(top=5))
    result: Any = export_as("png")(tables)
    assert result.images == 4
    assert result.notes["images left out: masks that do not fit or do not decode"] == 1
    assert np.asarray(Image.open(tables.parent / "out/a.png.png")).shape == (12, 16)
