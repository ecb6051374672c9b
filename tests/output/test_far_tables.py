"""Commands on a store that answers late: shards are read side by side, by one request for a file.

A real S3 server is behind a proxy that counts requests. Nothing is timed: what matters is how many
requests there are, and how many of them wait for their answers at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_tables
from tests.conftest import new_bucket
from tests.faulty_store import FaultyStore, faulty_store
from unet_ray.output import verify
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.prune import prune
from unet_ray.output.reader import Tables, image_masks, image_objects, read_tables
from unet_ray.output.report.report import report
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import TABLES

DATES = [f"2026-01-0{day}" for day in range(1, 5)]
RUNS = [f"{date.replace('-', '')}T000000Z-aaaaaa" for date in DATES]
SHARDS = 10
"""Number of shards of each date."""
FILES = 3 * SHARDS * len(DATES)
_OTHERS = 40
"""Largest number of requests for anything else: listings, records, the lock."""


def write_far_tables(request: pytest.FixtureRequest) -> str:
    """Write tables of 40 small shards, and return their URI."""
    output = Storage.of(f"{new_bucket(request)}/tables")
    for date, run_id in zip(DATES, RUNS, strict=True):
        uris = [[f"/x/{date}-{shard}.png"] for shard in range(SHARDS)]
        write_tables(output, uris, run_id, date)
    return output.uri


@pytest.fixture(scope="module")
def tables(request: pytest.FixtureRequest) -> str:
    """Return the URI of tables that tests only read."""
    return write_far_tables(request)


@pytest.fixture
def own_tables(request: pytest.FixtureRequest) -> str:
    """Return the URI of tables of which the test removes some."""
    return write_far_tables(request)


@pytest.fixture
def store(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, locks_settle_at_once: None
) -> Iterator[FaultyStore]:
    """Return the store, which is far away; to be asked for after the tables."""
    with faulty_store(s3_server, delay_s=0.1) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        yield store


def load(tables: Tables) -> None:
    lengths = [len(rows) for rows in (tables.images, tables.masks, tables.regions)]
    assert lengths[:2] == [SHARDS * len(DATES), 2 * SHARDS * len(DATES)]


def count_from_masks(store: FaultyStore) -> None:
    """Count the requests under way only from the first masks file on: the ledger is read before."""
    seen: list[str] = []

    def watch(method: str, path: str) -> None:
        if method == "GET" and "/masks/" in path and not seen:
            seen.append(path)
            store.most_under_way = 0

    store.refuse = watch


COMMANDS: dict[str, Callable[[str, Path], object]] = {
    "report": lambda uri, folder: report(
        ReportConfig(tables=uri, output=f"{folder}/report.html", pictures=0)
    ),
    "coco": lambda uri, folder: export(
        ExportConfig(tables=uri, format="coco", output=f"{folder}/all.json")
    ),
    "read_tables": lambda uri, _: load(read_tables(uri)),
    "history": lambda uri, _: load(read_tables(uri, current=False)),
    "prune": lambda uri, _: prune(PruneConfig(tables=uri, damaged=True, dry_run=True)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_shards_are_read_side_by_side_once(
    tables: str, store: FaultyStore, tmp_path: Path, name: str
) -> None:
    count_from_masks(store)
    COMMANDS[name](tables, tmp_path)
    assert store.most_under_way > 8
    assert store.requests < FILES + 2 * SHARDS * len(DATES) + _OTHERS  # keys are read first


def test_all_shards_are_iterated_side_by_side(tables: str, store: FaultyStore) -> None:
    count_from_masks(store)
    shards = read_tables(tables).shards()
    uris = [uri for shard in shards for uri in shard.images["image_uri"].to_pylist()]
    assert uris == [f"/x/{date}-{shard}.png" for date in DATES for shard in range(SHARDS)]
    assert store.most_under_way > 8


def test_one_image_takes_its_own_shard(tables: str, store: FaultyStore) -> None:
    found = read_tables(tables)
    image_masks(found, f"/x/{DATES[0]}-3.png")
    before = store.requests
    assert before < SHARDS * len(DATES) + _OTHERS  # the images files, and listings
    image_objects(found, f"/x/{DATES[0]}-3.png")
    assert store.requests == before  # the shard is kept
    image_masks(found, f"/x/{DATES[1]}-3.png")
    assert store.requests == before + 3


def test_the_files_of_removed_runs_go_side_by_side(own_tables: str, store: FaultyStore) -> None:
    result = prune(PruneConfig(tables=own_tables, last_date=DATES[1]))
    assert (result.runs, result.shards) == (RUNS[:2], 2 * SHARDS)
    assert store.most_under_way > 5
    assert len(read_tables(own_tables).images) == 2 * SHARDS


def test_runs_are_removed_side_by_side_in_steps(own_tables: str, store: FaultyStore) -> None:
    """Records say that all go before the first file goes, and that they are gone after the last."""
    seen: list[tuple[str, str]] = []

    def watch(method: str, path: str) -> None:
        place = path.split("/tables/")[-1].partition("/")[0]
        if method in ("PUT", "DELETE") and place in ("runs", *TABLES):
            seen.append((method, place))

    store.refuse = watch
    prune(PruneConfig(tables=own_tables, last_date=DATES[2]))
    assert [(step, len([*requests])) for step, requests in groupby(seen)] == [
        (("PUT", "runs"), 3),
        *((("DELETE", table), 3 * SHARDS) for table in TABLES),
        (("PUT", "runs"), 3),
    ]
    assert store.most_under_way > 2 * SHARDS


def test_models_of_runs_without_records_are_read_side_by_side(
    own_tables: str, store: FaultyStore
) -> None:
    output = Storage.of(own_tables)
    output.delete_all(f"runs/{run_id}.json" for run_id in RUNS)
    store.requests = store.most_under_way = 0
    result = prune(PruneConfig(tables=own_tables, model_digest="1" * 8, dry_run=True))
    assert (result.runs, result.shards) == (RUNS, len(DATES) * SHARDS)
    assert store.requests < _OTHERS
    assert store.most_under_way >= len(RUNS)


@pytest.mark.parametrize("kind", ["png", "geojson"])
def test_the_files_of_images_are_stored_side_by_side(
    request: pytest.FixtureRequest, tables: str, s3_server: str, kind: Any
) -> None:
    """Only the output is far away."""
    output = Storage.of(f"{new_bucket(request)}/files")
    with faulty_store(s3_server, delay_s=0.2) as far:
        result = export(
            ExportConfig(
                tables=tables,
                format=kind,
                output=output.uri,
                output_options=f"endpoint_url={far.endpoint}",
            )
        )
        assert far.most_under_way > 3
    assert (result.images, result.files) == (SHARDS * len(DATES), SHARDS * len(DATES))
    assert len(output.entries()) == SHARDS * len(DATES)


def test_shards_that_lose_rows_are_rewritten_side_by_side(
    own_tables: str, store: FaultyStore
) -> None:
    written: list[str] = []
    store.refuse = lambda method, path: written.append(path) if method == "PUT" else None
    uris = [f"/x/{DATES[2]}-{shard}.png" for shard in range(SHARDS)]
    rows = prune(PruneConfig(tables=own_tables, image=",".join(uris))).images
    assert [row.images for row in rows] == [1] * SHARDS
    places = [path.split("/tables/")[1].partition("/")[0] for path in written]
    assert places.count("images") == SHARDS
    assert places[: places.index("images")].count("masks") > 3
    assert len(read_tables(own_tables).images) == SHARDS * (len(DATES) - 1)


def test_verify_reads_the_files_of_a_shard_side_by_side(tables: str, store: FaultyStore) -> None:
    output, path = Storage.of(tables), f"date={DATES[0]}/{RUNS[0]}-000000.parquet"
    store.most_under_way = 0
    rows, problems = verify._check_shard_at._function((output, {}, True), path)
    assert (rows["images"], problems) == (1, [])
    assert store.most_under_way == 3
