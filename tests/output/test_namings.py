"""Files that were read in two ways: which rows are current, in Python and the documented view."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.image_sources.names import file_uri_sql, image_uri, keys_sql, split_uri
from unet_ray.imaging.codecs.image_place import ImageKey
from unet_ray.output.reader import current_keys, iterate_shards, read_tables
from unet_ray.output.report.facts import gather
from unet_ray.output.shard_checks import Problem
from unet_ray.output.verify import _check_ledger, _read_table
from unet_ray.storage.storage import Storage
from unet_ray.tables.committed import CommittedShards
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.schemas import ADDED, SCHEMAS
from unet_ray.tables.shards import ShardName, write_shard

README = Path(__file__).parents[2] / "unet_ray/output/README.md"
VIEW = next(
    code
    for code in re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL)
    if "VIEW current_images" in code
)
DATE = "2026-01-01"
PAGES = [(f"s.tif#page={page}", 9) for page in range(1, 10)]
PLANES = [(f"s.tif#z={z}", 3) for z in range(3)]
_minutes = itertools.count()


def write_run(
    output: Storage,
    run_id: str,
    images: list[tuple[str, int]],
    failed: str = "",
    is_old: bool = False,
    **columns: Any,
) -> None:
    """Write images, each with its name and the number of images of its file, as a shard of a run.

    Args:
        output: Output folder.
        run_id: The run.
        images: Name of each image, and number of images of its file.
        failed: Name of one that failed.
        is_old: Whether to write the columns of an earlier version only.
        **columns: Further columns of all rows.
    """
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=next(_minutes))
    rows = []
    for uri, pages in images:
        row = dict.fromkeys(SCHEMAS["images"].names) | {"image_uri": uri, "pages": pages}
        row |= {"image_etag": "e", "image_bytes": 9, "height": 4, "width": 5, "channels": 1}
        row |= {"model_digest": "m", "config_digest": "c", "run_id": run_id, "segmented_at": at}
        row |= {"region_count": 0} | columns
        if uri == failed:
            row |= {"error_type": "unsupported", "error": "x", "error_stage": "decode"}
        rows.append(row)
    masks = [
        {"image_uri": uri, "run_id": run_id, "class_id": 1, "class_name": "cell", "top": 0}
        | {"left": 0, "height": 4, "width": 5, "counts": b"d0", "area": 0}
        for uri, _ in images
        if uri != failed
    ]
    tables = {"images": pa.Table.from_pylist(rows, schema=SCHEMAS["images"])}
    tables["masks"] = pa.Table.from_pylist(masks, schema=SCHEMAS["masks"])
    tables["regions"] = SCHEMAS["regions"].empty_table()
    write_shard(output, ShardName(DATE, run_id, 0), tables, lambda: None)
    if is_old:
        for name in tables:
            file = output.join(ShardName(DATE, run_id, 0).path(name)).path
            old = pq.read_table(file, partitioning=None)
            pq.write_table(old.drop_columns([n for n in old.column_names if n in ADDED]), file)


def current(output: Storage) -> list[tuple[str, str]]:
    """Return image and run of the current rows; reader, exports and the view have to agree."""
    tables = read_tables(output.uri)
    listed = CommittedShards.of(output)
    keys, _ = current_keys(listed)
    found = keys_of(tables.images)
    shards = [*iterate_shards(listed, keys, Counter())]
    assert sorted(row for shard in shards for row in keys_of(shard.images)) == found
    assert keys_of(tables.masks) == keys_of(keys) == found
    with duckdb.connect() as database:
        database.execute(VIEW.replace("'tables/", f"'{output.path}/"))
        rows = database.sql("SELECT image_uri, run_id FROM current_images").fetchall()
    assert sorted(rows) == found
    return found


def reported_images(output: Storage) -> int:
    """Return the number of images in the report, which must be that of the masks it sums up."""
    with open_workspace() as database:
        facts = gather(database, CommittedShards.of(output), None)
        assert database.value("SELECT count(*) FROM masks") == facts.images
    return facts.images


def keys_of(table: pa.Table) -> list[tuple[str, str]]:
    return sorted(zip(*(table[name].to_pylist() for name in ("image_uri", "run_id")), strict=True))


def rows_of(images: list[tuple[str, int]], run_id: str) -> list[tuple[str, str]]:
    return [(uri, run_id) for uri, _ in images]


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return Storage.of(f"{tmp_path}/tables")


def test_pages_are_current_until_all_planes_are_done(output: Storage) -> None:
    other = [("a.png", 1)]
    write_run(output, "run-a", [*other, *PAGES], is_old=True)
    assert current(output) == rows_of([*other, *PAGES], "run-a")
    assert reported_images(output) == 10
    write_run(output, "run-b", PLANES[:2], reader_version=1)
    assert reported_images(output) == 10
    assert current(output) == rows_of([*other, *PAGES], "run-a")
    write_run(output, "run-c", PLANES[2:], reader_version=1)
    assert reported_images(output) == 4
    assert current(output) == [
        ("a.png", "run-a"),
        *rows_of(PLANES[:2], "run-b"),
        *rows_of(PLANES[2:], "run-c"),
    ]


def test_the_naming_with_the_largest_share_of_its_images_is_current(output: Storage) -> None:
    write_run(output, "run-a", PAGES, failed=PAGES[4][0])
    write_run(output, "run-b", PLANES, failed=PLANES[0][0])
    assert len(current(output)) == 8  # 8 of 9 pages are more than 2 of 3 planes
    write_run(output, "run-c", PLANES[:1])
    assert current(output) == [*rows_of(PLANES[:1], "run-c"), *rows_of(PLANES[1:], "run-b")]


def test_channels_that_were_pages_become_one_image(output: Storage) -> None:
    write_run(output, "run-a", PAGES[:1] + PAGES[1:])
    write_run(output, "run-b", [("s.tif", 1)])
    assert current(output) == [("s.tif", "run-b")]


def test_a_stack_that_lost_pages_has_no_rows_of_those(output: Storage) -> None:
    shorter = [(uri, 4) for uri, _ in PAGES[:4]]
    write_run(output, "run-a", PAGES)
    write_run(output, "run-b", shorter)
    assert current(output) == rows_of(shorter, "run-b")


def test_names_that_only_look_like_planes_are_files(output: Storage) -> None:
    files = [("s.tif", 1), ("s.tif#page=1", 1), ("s.tif#z=0", 1)]
    write_run(output, "run-a", files)
    assert current(output) == rows_of(files, "run-a")


NUMBERS = st.one_of(st.none(), st.integers(0, 10**8))
KEYS = st.one_of(
    st.builds(ImageKey, page=st.integers(1, 10**8)),
    st.builds(ImageKey, series=NUMBERS, t=NUMBERS, z=NUMBERS),
)


@given(st.text(st.sampled_from("a#=,\n'z%é"), min_size=1), KEYS)
def test_sql_splits_names_as_python_does(file: str, key: ImageKey) -> None:
    name = image_uri(file, key)
    if key == ImageKey():
        return
    assert split_uri(name) == (file, key)
    query = f"SELECT {file_uri_sql('u', 'p')}, {keys_sql('u', 'p')} FROM (SELECT ? AS u, 2 AS p)"
    with duckdb.connect() as database:
        (found,) = database.execute(query, [name]).fetchall()
    assert found == (file, re.sub("=[0-9]+", "", name[len(file) :]))


@pytest.mark.parametrize("runs", [("run-a", "run-b"), ("run-b", "run-a")])
def test_every_reader_opens_files_of_two_versions(output: Storage, runs: tuple[str, str]) -> None:
    """The documented options give nulls where a file has no such column, whichever comes first."""
    write_run(output, runs[0], [("a.png", 1)], is_old=True)
    write_run(output, runs[1], [("b.png", 1)], reader_version=1)
    schema = pq.read_schema(output.join(ShardName(DATE, runs[1], 0).path("images")).path)
    glob, expected = f"{output.path}/images/*/*.parquet", {"a.png": None, "b.png": 1}
    with duckdb.connect() as database:
        rows = database.sql(
            f"SELECT image_uri, reader_version FROM read_parquet('{glob}', union_by_name = true)"
        ).fetchall()
    assert dict(rows) == expected
    found = polars.scan_parquet(
        glob, schema=polars.from_arrow(schema.empty_table()).schema, missing_columns="insert",
        hive_partitioning=False,
    ).collect()  # fmt: skip
    assert dict(zip(found["image_uri"], found["reader_version"], strict=True)) == expected
    frame = pd.read_parquet(f"{output.path}/images", schema=schema)
    assert dict(zip(frame["image_uri"], frame["reader_version"], strict=True))["b.png"] == 1
    assert frame["reader_version"].isna().tolist() == [uri == "a.png" for uri in frame["image_uri"]]
    tables = read_tables(output.uri, current=False)
    columns = (tables.images[name].to_pylist() for name in ("image_uri", "reader_version"))
    assert dict(zip(*columns, strict=True)) == expected


def test_verify_takes_a_file_that_was_read_again(output: Storage) -> None:
    """A row with a reader's version beside one without is no row too many; two of a version are."""
    write_run(output, "run-a", [("a.png", 1)], is_old=True)
    write_run(output, "run-b", [("a.png", 1)], reader_version=1)
    assert current(output) == [("a.png", "run-b")]
    assert ledger_problems(output) == []
    write_run(output, "run-c", [("a.png", 1)], reader_version=1)
    (problem,) = ledger_problems(output)
    assert problem.kind.startswith("more than one successful row of an image")


def ledger_problems(output: Storage) -> list[Problem]:
    inventory = take_inventory(output)
    records = {run: {"status": "running"} for run in ("run-a", "run-b", "run-c")}
    with open_workspace() as database:
        return list(_check_ledger(database, inventory, records))


def test_a_shard_of_an_earlier_version_is_checked(output: Storage) -> None:
    write_run(output, "run-a", [("a.png", 1)], is_old=True)
    file = output.join(ShardName(DATE, "run-a", 0).path("images"))
    assert _read_table(file.read(), SCHEMAS["images"])["reader_version"].null_count == 1
    short = pq.read_table(file.path, partitioning=None).drop_columns("height")
    pq.write_table(short, file.path)
    with pytest.raises(KeyError, match="height"):
        _read_table(file.read(), SCHEMAS["images"])
