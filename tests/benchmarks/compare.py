"""Two checkouts, compared: the same results, and the same speed.

    python -m tests.benchmarks.compare --other CHECKOUT --work DIR --output FILE.json [--rounds 3]
        --case NAME MODEL IMAGES [MASKS] [--case ...]

Each case is segmented by both checkouts in turn, in every round into tables of its own. After that:

- All columns of the three tables are compared, except run ids and times: outlines, masks and scores
  must be the same to the last bit. Columns that only one checkout writes are named.
- This checkout segments again what the other one has written, and must find nothing to do.
- With masks, both evaluate the model, and their figures must be the same.

It prints the ratio of the image rates (steady state; this checkout over the other) and exits with 1
if any result differs. The tables stay in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from unet_ray.output.reader import read_tables

REPOSITORY = Path(__file__).parent.parent.parent
_KEYS = {"images": [], "masks": ["class_id", "top", "left"], "regions": ["region_id"]}
"""Columns that tell the rows of an image apart, by table."""
_OF_A_RUN = {"run_id", "segmented_at", "date"}
"""Columns that always differ."""


@dataclass(frozen=True)
class Case:
    """A set of images and the model that segments it."""

    name: str
    model: str
    images: str
    masks: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", required=True, type=Path, help="checkout to compare with")
    parser.add_argument("--work", required=True, type=Path, help="folder for tables; made")
    parser.add_argument("--output", required=True, type=Path, help="JSON file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--case",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME MODEL IMAGES", "MASKS"),
        help="name, model folder, images, and masks to evaluate with",
    )
    flags = parser.parse_args()
    checkouts = {"other": flags.other.resolve(), "this": REPOSITORY}
    cases = [Case(*words) for words in flags.case]
    found = {case.name: _compare(case, checkouts, flags.work, flags.rounds) for case in cases}
    flags.output.write_text(json.dumps(found, indent=2))
    if any(figures["differences"] for figures in found.values()):
        sys.exit(1)


def _compare(case: Case, checkouts: dict[str, Path], work: Path, rounds: int) -> dict[str, Any]:
    """Segment a case with both checkouts; return its rates and what differs."""
    rates: dict[str, list[float]] = {side: [] for side in checkouts}
    for turn in range(rounds):
        for side, checkout in checkouts.items():
            tables = work / f"{case.name}-{side}-{turn}"
            _run(checkout, "segment", _segment_flags(case, tables))
            record = _read_records(tables)[0]
            # a run of one block has no steady state
            rates[side].append(record["steady_images_per_s"] or record["images_per_s"])
    folders = {side: work / f"{case.name}-{side}-0" for side in checkouts}
    differences = _compare_tables(folders["other"], folders["this"])
    differences += _continue(case, checkouts["this"], folders["other"])
    if case.masks is not None:
        differences += _compare_evaluations(case, checkouts, work)
    ratio = median(rates["this"]) / median(rates["other"])
    print(f"{case.name}: {ratio:.2f} times the rate;", *(differences or ["results are equal"]))
    return {"rates": rates, "ratio": ratio, "differences": differences}


def _segment_flags(case: Case, tables: Path) -> list[str]:
    return [f"--model={case.model}", f"--images={case.images}", f"--output={tables}"]


def _run(checkout: Path, command: str, flags: list[str]) -> str:
    """Run a command of a checkout; return what it prints."""
    done = subprocess.run(
        [sys.executable, f"jobs/{command}.py", *flags],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def _read_records(tables: Path) -> list[dict[str, Any]]:
    """Return the run records of an output, oldest first."""
    return [json.loads(file.read_text()) for file in sorted((tables / "runs").glob("*.json"))]


def _compare_tables(before: Path, after: Path) -> list[str]:
    """Return what differs between the tables of two outputs, a line each."""
    differences = []
    outputs = [read_tables(str(folder), current=False) for folder in (before, after)]
    for table, keys in _KEYS.items():
        old, new = (
            getattr(output, table).sort_by([(key, "ascending") for key in ["image_uri", *keys]])
            for output in outputs
        )
        if len(old) != len(new):
            differences.append(f"{table}: {len(old)} and {len(new)} rows")
            continue
        print(f"  {table}: {len(new)} rows", end="")
        only_one = set(old.column_names) ^ set(new.column_names)
        print(f", columns of one checkout: {', '.join(sorted(only_one)) or 'none'}")
        for name in set(old.column_names) & set(new.column_names) - _OF_A_RUN:
            if not _is_equal(old[name], new[name]):
                differences.append(f"{table}.{name} differs")
    return differences


def _is_equal(old: pa.ChunkedArray, new: pa.ChunkedArray) -> bool:
    """Return whether two columns have the same bits; NaN equals NaN, and 0.0 differs from -0.0."""
    return repr(old.to_pylist()) == repr(new.to_pylist())


def _continue(case: Case, checkout: Path, tables: Path) -> list[str]:
    """Segment the case again over an earlier output; return a line if that did anything."""
    rows = len(read_tables(str(tables), current=False).images)
    _run(checkout, "segment", _segment_flags(case, tables))
    more = len(read_tables(str(tables), current=False).images) - rows
    return [f"{more} images were segmented again"] if more else []


def _compare_evaluations(case: Case, checkouts: dict[str, Path], work: Path) -> list[str]:
    """Evaluate the model with both checkouts; return a line if their figures differ."""
    figures = []
    for side, checkout in checkouts.items():
        file = work / f"{case.name}-{side}.json"
        flags = [f"--model={case.model}", f"--images={case.images}", f"--masks={case.masks}"]
        _run(checkout, "evaluate", [*flags, f"--output={file}"])
        figures.append(json.loads(file.read_text()))
    old, new = figures
    names = [name for name in old if name != "config" and name in new and old[name] != new[name]]
    return [f"evaluate: {', '.join(names)} differ"] if names else []


if __name__ == "__main__":
    main()
