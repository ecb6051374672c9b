"""Check an output against its rules: first each shard alone in a Ray task, then across shards."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from unet_ray.cluster.ray_data import TASK_CPUS
from unet_ray.cluster.session import connect, quiet_ray
from unet_ray.errors import InputError, one_line
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.output.config import VerifyConfig
from unet_ray.output.shard_checks import Problem, RegionRules, check_shard
from unet_ray.segmentation.open_images import count_archived, find_open_images
from unet_ray.segmentation.result import describe_archived
from unet_ray.storage.listing import FileScan, Selection, describe_links, scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.store_options import read_store_options
from unet_ray.tables.duckdb_workspace import Workspace, open_workspace
from unet_ray.tables.ledger import open_ledger, read_images, tables_at
from unet_ray.tables.lock import read_lock
from unet_ray.tables.output_folder import Inventory, take_inventory
from unet_ray.tables.parquet_file import DamagedFileError, read_parquet
from unet_ray.tables.removal import REMOVING
from unet_ray.tables.runs import PRUNED, PRUNING, recorded_images
from unet_ray.tables.schemas import ADDED, SCHEMAS
from unet_ray.tables.shards import shard_run_id

_logger = logging.getLogger("unet_ray")

_EXAMPLES = 3
"""Number of examples kept of each kind of breach."""
_NO_TABLE = (
    "a file that is damaged, or does not fit its schema (restore it, or remove its shard with "
    "unet-ray prune --damaged)"
)
_FOREIGN = "a file that is not a shard (move it away)"
_UNCHECKED = "a shard whose rows cannot be checked"
_LEFTOVER = "a leftover of a run that did not finish (the next run removes it)"
_UNKNOWN = (
    "a file without its images file, of a run that no record calls unfinished (unet-ray prune "
    "--leftovers removes it)"
)
_HALF_PRUNED = "a run whose removal has begun but not finished (the next run or prune finishes it)"
_HALF_REMOVED = (
    "images whose removal has begun but not finished (the next run or prune finishes it)"
)
_SHARDS_IN_FLIGHT = 64
_ROWS = 10_000
"""Number of rows of a query's result that are held at a time."""


@dataclass
class VerifyResult:
    """Counts of what was checked, and the breaches that were found."""

    rows: Counter[str] = field(default_factory=Counter)
    """Number of rows by table."""
    shards: int = 0
    """Number of shards."""
    problems: Counter[str] = field(default_factory=Counter)
    """Number of breaches by kind."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Image or file of the first few breaches, by kind."""

    def add(self, problems: Iterable[Problem]) -> None:
        """Count breaches and keep the first few of each kind as examples."""
        for problem in problems:
            self.problems[problem.kind] += 1
            known = self.examples.setdefault(problem.kind, [])
            if len(known) < _EXAMPLES:
                known.append(problem.where)


@quiet_ray()
def verify(config: VerifyConfig, ray_address: str = "local") -> VerifyResult:
    """Check an output; nothing is written.

    Args:
        config: Tables and what to check them against.
        ray_address: Ray cluster that checks the shards.

    Returns:
        Counts of what was checked, and the breaches that were found.

    Raises:
        InputError: There are no tables.
    """
    output = tables_at(config.tables, read_store_options(config, "tables"))
    inventory = take_inventory(output, others_ok=True)
    result = VerifyResult()
    records = dict(reversed(inventory.records.items()))  # the oldest first
    try:
        lock = read_lock(output)
    except InputError:
        lock = None
        result.add([Problem("a lock file that unet_ray did not write", "_lock.json")])
    holder = lock["run_id"] if lock else None  # its open shards are not leftovers
    result.add(_check_files(inventory, holder))
    images = sorted(entry.path for entry in inventory.images)
    result.shards = len(images)
    connect(ray_address)
    damaged = set()
    for path, rows, problems in _check_shards(output, images, records, config.pixels):
        result.rows.update(rows)
        result.add(problems)
        if any(problem.kind == _NO_TABLE for problem in problems):
            damaged.add(path)
    with open_workspace() as database:
        result.add(_check_ledger(database, inventory, records, damaged))
        if config.images and not damaged:  # images of damaged shards would seem to lack a row
            selection = Selection.parse(config.include, config.exclude)
            options = read_store_options(config, "images")
            roots = Roots.parse(config.image_roots, config.follow_links, options)
            scan = scan_files(
                config.images, IMAGE_SUFFIXES, "--images", selection=selection, roots=roots
            )
            result.add(_check_archive(database, inventory, scan, records))
            if scan.links.left_out:
                _logger.info(f"note: {scan.named}: {describe_links(scan.links.left_out)}")
    return result


def _check_files(inventory: Inventory, holder: str | None) -> Iterator[Problem]:
    """Yield the breaches found from file names and run records: missing files and leftovers."""
    shards, half_pruned = inventory.shards, inventory.half_pruned
    for table in ("masks", "regions"):
        absent = sorted(shards["images"].keys() - shards[table].keys())
        kind = f"an images file without its {table} file"
        for path in absent:
            if shard_run_id(path) not in half_pruned:
                yield Problem(kind, f"images/{path}")
    for run_id, paths in inventory.missing.items():
        if any(path.startswith("images/") for path in paths):
            kind = "a run whose record counts images files that are missing"
            yield Problem(kind, f"runs/{run_id}.json")
    for left in inventory.leftovers:
        if left.run_id != holder:
            yield Problem(_LEFTOVER if left.is_unfinished else _UNKNOWN, left.path)
    for run_id in half_pruned:
        yield Problem(_HALF_PRUNED, f"runs/{run_id}.json")
    for run_id, record in inventory.records.items():
        if REMOVING in record:
            yield Problem(_HALF_REMOVED, f"runs/{run_id}.json")
    for path in inventory.others:
        yield Problem(_FOREIGN, path)
    for path in inventory.unreadable:
        yield Problem("a file in runs/ that is not a record of a run", path)


def _check_shards(
    output: Storage, paths: list[str], records: dict[str, dict[str, Any]], pixels: bool
) -> Iterator[tuple[str, Counter[str], list[Problem]]]:
    """Check all shards, many at a time; yield path, numbers of rows and breaches of each."""
    rules = {
        run_id: RegionRules.of_record(record)
        for run_id, record in records.items()
        if "objects" in record
    }
    shared = ray.put((output, rules, pixels))
    waiting = list(paths)
    pending: dict[ray.ObjectRef, str] = {}
    while waiting or pending:
        while waiting and len(pending) < _SHARDS_IN_FLIGHT:
            path = waiting.pop()
            pending[_check_shard_at.remote(shared, path)] = path
        (done,), _ = ray.wait(list(pending))
        path = pending.pop(done)
        try:
            yield path, *ray.get(done)
        except (WorkerCrashedError, OutOfMemoryError) as error:
            problem = Problem(_UNCHECKED, f"images/{path}: {one_line(error)}")
            yield path, Counter(), [problem]


@ray.remote(num_cpus=TASK_CPUS)  # type: ignore[untyped-decorator]
def _check_shard_at(
    shared: tuple[Storage, dict[str, RegionRules], bool], path: str
) -> tuple[Counter[str], list[Problem]]:
    output, rules, pixels = shared
    tables = {}
    with ThreadPoolExecutor(len(SCHEMAS)) as pool:
        files = {name: pool.submit(output.read, f"{name}/{path}") for name in SCHEMAS}
    for name, schema in SCHEMAS.items():
        try:
            tables[name] = _read_table(files.pop(name).result(), schema)
        except FileNotFoundError:
            tables[name] = schema.empty_table()  # `_check_files` reports the missing file
        except (DamagedFileError, OSError, KeyError, ValueError, pa.ArrowException) as error:
            problem = Problem(_NO_TABLE, f"{name}/{path}: {one_line(error)}")
            return Counter(), [problem]
    try:
        problems = check_shard(tables, rules, pixels)
    except Exception as error:  # values that no rule foresees
        problems = [Problem(_UNCHECKED, f"images/{path}: {one_line(error)}")]
    foreign = set(tables["images"]["run_id"].to_pylist()) - {shard_run_id(path)}
    problems += [Problem("rows of a run other than the file's", f"images/{path}") for _ in foreign]
    num_rows = {name: table.num_rows for name, table in tables.items()}
    return Counter(num_rows), problems


def _read_table(data: bytes, schema: pa.Schema) -> pa.Table:
    """Return the rows of a file; columns that its version did not have yet are null.

    Raises:
        DamagedFileError, KeyError, ValueError, pa.ArrowException: The table breaks its schema.
    """
    found = read_parquet(io.BytesIO(data))
    absent = ADDED & set(schema.names) - set(found.column_names)
    for name in sorted(absent):
        nulls = pa.nulls(len(found), schema.field(name).type)
        found = found.append_column(name, nulls)
    return found.select(schema.names).cast(schema)


def _check_ledger(
    database: Workspace,
    inventory: Inventory,
    records: dict[str, dict[str, Any]],
    damaged: Collection[str] = (),
) -> Iterator[Problem]:
    """Check the rules across all shards: unique keys, and the counts of the run records.

    Damaged shards are left out, and so are the counts of their runs.
    """
    columns = (
        "image_uri",
        "image_etag",
        "model_digest",
        "config_digest",
        "run_id",
        "error_type",
        "reader_version",
    )
    whole = [entry for entry in inventory.images if entry.path not in damaged]
    read_images(database, name="rows", output=inventory.output, images=whole, columns=columns)
    for query, kind in (
        (
            "SELECT image_uri FROM rows WHERE error_type IS NULL "
            "GROUP BY image_uri, image_etag, model_digest, config_digest, reader_version "
            "HAVING count(*) > 1",  # --reread adds a row with a version to one without
            "more than one successful row of an image, content, model and configuration",
        ),
        (
            "SELECT image_uri FROM rows GROUP BY image_uri, run_id HAVING count(*) > 1",
            "an image more than once in a run",
        ),
    ):
        for uri in _query_uris(database, query):
            yield Problem(kind, uri)
    counts = database.table(
        "SELECT run_id, count(*) AS images FROM rows GROUP BY run_id"
    ).to_pylist()
    written = {row["run_id"]: row["images"] for row in counts}
    for run_id in written.keys() - records.keys():
        yield Problem("a run without a record", run_id)
    uncounted = {shard_run_id(path) for path in damaged}
    for run_id, record in records.items():
        if run_id in uncounted:
            continue
        if record["status"] == "done" and recorded_images(record) != written.get(run_id, 0):
            yield Problem("a run record whose counts differ from its rows", f"runs/{run_id}.json")


def _check_archive(
    database: Workspace, inventory: Inventory, scan: FileScan, records: dict[str, dict[str, Any]]
) -> Iterator[Problem]:
    """Check that each image of the archive has a row of the newest run's model and configuration.

    The row may be that of a failed image.
    """
    kept = (
        record
        for record in reversed(records.values())
        if record["status"] not in (PRUNING, PRUNED)
        and {"model_digest", "config_digest"} <= record.keys()
    )
    newest = next(kept, None)
    if newest is None:
        yield Problem("no run record, so the model of the tables is unknown", "runs/")
        return
    digests = newest["model_digest"], newest["config_digest"]
    open_ledger(database, inventory.output, inventory.images, *digests)
    database.view("left_out", "FROM retry")
    find_open_images(database, scan)
    archived = count_archived(database)
    if archived:
        _logger.info(f"note: {scan.named}: {describe_archived(archived)}")
    for missing in _query_uris(database, "SELECT image_uri FROM open_images"):
        yield Problem("an image of the archive without a row", missing)


def _query_uris(database: Workspace, query: str) -> Iterator[str]:
    for batch in database.batches(query, _ROWS):
        yield from batch["image_uri"].to_pylist()
