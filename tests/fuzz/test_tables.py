"""Damaged shards and run records: whatever reads them gives one line, or the rows that were there.

    python -m pytest -m soak tests/fuzz/test_tables.py

One child process with a limit of memory goes through all cases. Each case damages one file of an
output that is sound: bytes are flipped, cut, zeroed, repeated or moved, JSON gets other values. A
reader then either raises InputError, or gives what it gives of the sound output; of a damaged
record, planning never forgets a row, and never removes a shard.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_tables
from unet_ray.errors import InputError
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.prune import prune
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.output.verify import _check_files, _check_ledger, _check_shard_at
from unet_ray.segmentation.segment import _look_at, _remove_unfinished
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import open_ledger
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.schemas import TABLES

NUM_CASES = 1000
SEED = 30
CASE_S = 60
"""Longest time that a case may take (s)."""
MEMORY_BYTES = 8 * 2**30
"""Address space of the child: DuckDB and the threads of Arrow reserve much of it."""
DAYS = ("2026-01-01", "2026-01-02")
RUNS = ("20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb")
HOSTILE: list[Any] = [
    *(None, True, "", "x", "done", "running", "../../x", "\x1b[2J", "\ud800", [], {}, [[]], [{}]),
    *([None], [1, "2"], {"a": 1}, {"a": None}, 0, -1, 2**63, 10**400, 1e308, 0.5),
    *(float("nan"), float("inf"), "n" * 10**5, list(range(10**4))),
]


def make_output(folder: Path) -> Storage:
    """Write an output of two runs on two days, and return its root."""
    output = Storage.of(str(folder))
    for run_id, day in zip(RUNS, DAYS, strict=True):
        shards = [[f"/x/{day}-{task}-{index}.png" for index in range(3)] for task in range(2)]
        write_tables(output, shards, run_id, day)
    return output


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes of which a part is flipped, cut, zeroed, repeated or moved."""
    place = rng.randrange(len(data))
    if rng.random() < 0.5:  # the footer is the smaller part, and the more dangerous one
        place = len(data) - 1 - rng.randrange(min(len(data), 6000))
    size = rng.choice([1, 2, 8, 64, 1000])
    damaged = bytearray(data)
    kind = rng.randrange(6)
    if kind in (0, 1):
        for at in range(place, min(place + rng.choice([1, 1, 3]), len(data))):
            damaged[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del damaged[place : place + size]
    elif kind == 3:
        damaged[place : place + size] = bytes(len(damaged[place : place + size]))
    elif kind == 4:
        damaged[place:place] = damaged[place : place + size]
    else:
        damaged = damaged[: rng.choice([0, 3, 8, 11, 12, place])]
    return bytes(damaged)


def damage_record(data: bytes, rng: random.Random) -> bytes:
    """Return a record with another value, without one, of another form, or of other bytes."""
    record, kind = json.loads(data), rng.randrange(8)
    if kind < 4:
        record[rng.choice([*record, "set_aside", "removing_images", "shards"])] = rng.choice(
            HOSTILE
        )
    elif kind == 4:
        del record[rng.choice([*record])]
    elif kind == 5:
        nested = rng.choice(["regions", "objects", "error_types"])
        record[nested] = {"a": rng.choice(HOSTILE), "parted": rng.choice(HOSTILE)}
    elif kind == 6:
        return rng.choice([b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"null", b"", b"\xff" * 9])
    else:
        return damage_bytes(data, rng)
    return json.dumps(record).encode()


def list_rows(output: Storage) -> object:
    """Return all rows that readers get."""
    tables = read_tables(output.uri, current=False)
    return [
        rows.sort_by([(name, "ascending") for name in keys]).to_pylist()
        for rows, keys in (
            (tables.images, ["image_uri"]),
            (tables.masks, ["image_uri", "class_id"]),
            (tables.regions, ["image_uri", "region_id"]),
        )
    ]


def list_current(output: Storage) -> object:
    """Return the numbers of current rows."""
    tables = read_tables(output.uri)
    return [len(rows) for rows in (tables.images, tables.masks, tables.regions)]


def plan(output: Storage) -> object:
    """Return the images that planning takes for done, after its checks and removals."""
    inventory = _look_at(output)
    with open_workspace() as database:
        inventory.check_rows(open_ledger(database, output, inventory.images, "1" * 64, "c"))
        done = sorted(database.table("FROM done")["image_uri"].to_pylist())
    _remove_unfinished(inventory, "20260103T000000Z-cccccc")
    return done


def write_report(output: Storage) -> object:
    """Return the facts of a report, without those of the records."""
    place = f"{output.uri}-report.html"
    facts = report(ReportConfig(tables=output.uri, output=place, pictures=2)).facts
    by_date = {
        (date, number): (
            figures.pixels,
            figures.regions,
            # sums of floats depend on the order of threads
            {name: round(f.value, 9) if f else None for name, f in figures.figures.items()},
        )
        for date, classes in facts.by_date.items()
        for number, figures in classes.items()
    }
    return facts.date, facts.images, facts.classes, by_date, facts.areas, facts.unsound


def write_export(kind: str) -> Callable[[Storage], object]:
    def run(output: Storage) -> object:
        place = f"{output.uri}-export" + (".json" if kind == "coco" else "")
        result = export(ExportConfig(tables=output.uri, format=kind, output=place))  # type: ignore[arg-type]
        return result.images, result.regions, result.files, result.notes

    return run


def prune_nothing(output: Storage) -> object:
    """Return what a prune of one image would remove."""
    uri = f"/x/{DAYS[0]}-0-0.png"
    rows = prune(PruneConfig(tables=output.uri, image=uri, dry_run=True)).images
    return [(row.images, row.masks, row.regions) for row in rows]


READERS: dict[str, Callable[[Storage], object]] = {
    "history": list_rows,
    "current": list_current,
    "plan": plan,
    "report": write_report,
    "coco": write_export("coco"),
    "png": write_export("png"),
    "geojson": write_export("geojson"),
    "prune": prune_nothing,
}
ALWAYS = ("history", "current", "plan", "prune")
"""Readers of each case; of the slower ones it has one."""


def find_problems(output: Storage) -> Counter[str]:
    """Return the breaches that verify finds, without Ray."""
    inventory, found = take_inventory(output, others_ok=True), Counter[str]()
    found.update(problem.kind for problem in _check_files(inventory, None))
    damaged = set()
    for entry in inventory.images:
        _, problems = _check_shard_at._function((output, {}, True), entry.path)
        found.update(problem.kind for problem in problems)
        damaged |= {entry.path for problem in problems if "damaged" in problem.kind}
    with open_workspace() as database:
        problems = _check_ledger(database, inventory, inventory.records, damaged)
        found.update(problem.kind for problem in problems)
    return found


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the `with` block after some time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def refuse_or_read(read: Callable[[Storage], object], output: Storage) -> tuple[object, str | None]:
    """Return what a reader gives, or the line with which it refuses."""
    try:
        return read(output), None
    except InputError as error:
        return None, str(error)


def check_case(sound: Path, case: Path, number: int, expected: dict[str, object]) -> str:
    """Damage one file of a copy of an output, and read it in all ways; return what came of it."""
    rng = random.Random(f"{SEED} {number}")
    shutil.copytree(sound, case)
    output = Storage.of(str(case))
    is_record = rng.random() < 0.3
    pattern = "runs/*.json" if is_record else f"{rng.choice(TABLES)}/*/*.parquet"
    file = rng.choice(sorted(case.glob(pattern)))
    before = file.read_bytes()
    file.write_bytes((damage_record if is_record else damage_bytes)(before, rng))
    if file.read_bytes() == before:
        return "nothing changed"
    problems = find_problems(output)
    refused = 0
    for name in (*ALWAYS, rng.choice(sorted(READERS.keys() - ALWAYS))):
        read = READERS[name]
        found, line = refuse_or_read(read, output)
        if line:
            assert "\n" not in line, line
            assert is_record or file.name in line, f"{name}: {line}"
            refused += 1
        else:
            assert found == expected[name], f"{name} gives something else"
    assert len(list(case.rglob("*.parquet"))) == len(list(sound.rglob("*.parquet")))
    assert problems or not refused, f"verify finds nothing, {refused} readers refuse"
    return "refused" if refused else "listed" if problems else "no harm"


def run_cases(folder: Path) -> None:
    """Go through all cases, and print how many came to what."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sound = folder / "sound"
    output = make_output(sound)
    assert not find_problems(output)
    expected = {name: read(output) for name, read in READERS.items()}
    outcomes = Counter[str]()
    for number in range(NUM_CASES):
        place = folder / "case"
        try:
            with time_limit(CASE_S):
                outcomes[check_case(sound, place / "tables", number, expected)] += 1
        except BaseException:
            print(f"case {number}", file=sys.stderr)
            raise
        shutil.rmtree(place)
    print(dict(outcomes))


@pytest.mark.soak
def test_damaged_tables_give_one_line_or_the_same_rows(tmp_path: Path) -> None:
    code = f"from tests.fuzz.test_tables import *; run_cases(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout)
    outcomes = json.loads(done.stdout.strip().splitlines()[-1].replace("'", '"'))
    assert sum(outcomes.values()) == NUM_CASES
    assert outcomes["refused"] > NUM_CASES / 3
