"""A store that answers late, compared with one that answers at once.

    python -m tests.benchmarks.distance --images DIR --model MODEL --output FILE.json
        [--copies 4] [--delay 0.05]
    python -m tests.benchmarks.distance --shards 80 --output FILE.json [--other CHECKOUT]

The first form measures planning and the image rate. The second measures the commands that read
tables, of this checkout and, in turn, of another one.

A real S3 server is behind a proxy that waits before it answers, or does not; both in each round,
one after the other. The archive is several copies of the images, a small TIFF file for each, and a
ledger of earlier runs with a shard for each ten of them. Planning is the whole command
`jobs/segment.py --dry-run` on the TIFF files; rates are steady state.

The tables are of ten dates. A shard has 50 images of 128² with two classes and 20 regions each.
Times are those of whole commands, Ray's start included where they use it. `prune` removes five
dates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tests.conftest import s3_server_in
from tests.faulty_store import FaultyStore, faulty_store
from unet_ray.flags import ClassSpec
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.image_place import WHOLE
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.runs import write_run_record
from unet_ray.tables.schemas import IMAGES
from unet_ray.tables.shards import ShardName, write_shard

REPOSITORY = Path(__file__).parent.parent.parent
JOB = REPOSITORY / "jobs/segment.py"
_ROOT = "s3://bucket"
_IMAGES, _SIDE, _DATES = 50, 128, 10
"""Images of a shard, their side (px), and dates of the tables."""
_LOAD = (
    "import sys, unet_ray; tables = unet_ray.read_tables(sys.argv[1]); "
    "print(*(len(getattr(tables, name)) for name in ('images', 'masks', 'regions')))"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--model")
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.05, help="s before an answer")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shards", type=int, help="measure commands on tables of this many shards")
    parser.add_argument("--other", help="checkout to compare with")
    flags = parser.parse_args()
    if flags.shards:
        found = _measure_tables(flags.shards, flags.delay, flags.runs, flags.other)
        Path(flags.output).write_text(json.dumps(found, indent=2))
    elif flags.images and flags.model:
        _measure_runs(flags)
    else:
        parser.error("give --images and --model, or --shards")


def _measure_runs(flags: argparse.Namespace) -> None:
    found: dict[str, dict[str, list[float]]] = {
        "near": {"plan_s": [], "rate": []},
        "far": {"plan_s": [], "rate": []},
    }
    with tempfile.TemporaryDirectory() as folder:
        server = s3_server_in(Path(folder))
        try:
            count = _fill(Path(flags.images), flags.copies)
            for turn in range(flags.runs):
                for side, figures in found.items():
                    with faulty_store(
                        server.endpoint, delay_s=flags.delay if side == "far" else 0.0
                    ) as store:
                        os.environ["AWS_ENDPOINT_URL"] = store.endpoint
                        figures["plan_s"].append(_plan_s(flags.model))
                        figures["rate"].append(_rate(flags.model, f"{_ROOT}/tables-{side}-{turn}"))
                    print(
                        side,
                        {name: f"{values[-1]:.1f}" for name, values in figures.items()},
                        flush=True,
                    )
        finally:
            server.stop()
    near, far = (
        {name: median(values) for name, values in figures.items()} for figures in found.values()
    )
    rate, more_s = far["rate"] / near["rate"], far["plan_s"] - near["plan_s"]
    print(
        f"{count} images, {flags.delay * 1000:.0f} ms to an answer: "
        f"{rate:.2f} times the rate of a near store, ",
        end="",
    )
    print(f"planning {count} TIFF files and {count // 10} shards takes {more_s:.1f} s more")
    Path(flags.output).write_text(
        json.dumps(found | {"ratios": {"near": rate}, "plan_more_s": more_s}, indent=2)
    )


def _fill(images: Path, copies: int) -> int:
    """Write the archive and the ledger to the store; return the number of images."""
    root = Storage.of(_ROOT)
    root.filesystem.mkdir("bucket")
    rng, files = np.random.default_rng(0), sorted(images.iterdir())
    objects = {
        f"images/{copy}-{file.name}": file.read_bytes() for copy in range(copies) for file in files
    }
    count = len(objects)
    tiff = encode(rng.integers(0, 255, (64, 64), np.uint8), "tif")
    objects |= {f"tiffs/{index:06}.tif": tiff for index in range(count)}
    for index in range(count // 10):
        day = date(2025, 1, 1) + timedelta(index)
        rows = {"image_uri": [f"{_ROOT}/earlier/{index}-{row}.png" for row in range(200)]}
        objects[f"ledger/images/date={day}/{day:%Y%m%d}T010000Z-abcdef-000000.parquet"] = (
            to_parquet(_ledger(rows))
        )
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: root.write(*item), objects.items()))
    return count


def _ledger(columns: dict[str, list[str]]) -> pa.Table:
    fill = {"string": "x", "timestamp[us, tz=UTC]": datetime.now(UTC)}
    rows = len(columns["image_uri"])
    plain = {f.name: [None if f.nullable else fill.get(str(f.type), 1)] * rows for f in IMAGES}
    return pa.Table.from_pydict(plain | columns, IMAGES)


def _job(model: str, images: str, output: str, *more: str) -> None:
    command = [
        sys.executable,
        str(JOB),
        f"--model={model}",
        f"--images={_ROOT}/{images}",
        f"--output={output}",
        *more,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _plan_s(model: str) -> float:
    started = time.perf_counter()
    _job(model, "tiffs", f"{_ROOT}/ledger", "--dry-run")
    return time.perf_counter() - started


def _rate(model: str, tables: str) -> float:
    _job(model, "images", tables)
    runs = Storage.of(tables).join("runs")
    (entry,) = runs.entries()
    return float(json.loads(runs.read(entry.path))["steady_images_per_s"])


def _measure_tables(
    shards: int, delay_s: float, runs: int, other: str | None
) -> dict[str, dict[str, list[float]]]:
    """Measure the commands on far tables; return seconds and requests by side and command."""
    sides = {"this": REPOSITORY} | ({"other": Path(other).resolve()} if other else {})
    found: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        server = s3_server_in(Path(folder))
        try:
            Storage.of(_ROOT).filesystem.mkdir("bucket")
            _write_far_tables(shards)
            for _, (side, checkout) in itertools.product(range(runs), sides.items()):
                with faulty_store(server.endpoint, delay_s=delay_s) as store:
                    for name, command in _commands(folder).items():
                        if name == "prune":
                            _write_far_tables(shards)
                        seconds, requests = _time(command, checkout, store)
                        found[side].setdefault(f"{name}_s", []).append(seconds)
                        found[side].setdefault(f"{name}_requests", []).append(requests)
                        print(f"{side} {name}: {seconds:.1f} s, {requests} requests", flush=True)
                    _write_far_tables(shards)
        finally:
            server.stop()
    for name, values in found["this"].items():
        line = f"{name}: {median(values):.1f}"
        if other:
            before = median(found["other"][name])
            line += f", other {before:.1f}: {before / median(values):.1f} times"
        print(line)
    return found


def _commands(folder: str) -> dict[str, list[str]]:
    """Return the commands by name."""
    tables = f"--tables={_ROOT}/tables"
    return {
        "report": ["jobs/report.py", tables, f"--output={folder}/report.html"],
        "coco": ["jobs/export.py", tables, "--format=coco", f"--output={folder}/all.json"],
        "png": ["jobs/export.py", tables, "--format=png", f"--output={folder}/png"],
        "verify": ["jobs/verify.py", tables, "--no-pixels"],
        "damaged": ["jobs/prune.py", tables, "--damaged", "--dry-run"],
        "read": ["-c", _LOAD, f"{_ROOT}/tables"],
        "prune": ["jobs/prune.py", tables, "--last-date=2026-01-05"],
    }


def _time(command: list[str], checkout: Path, store: FaultyStore) -> tuple[float, int]:
    """Run a command of a checkout; return its seconds and the number of its requests."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "AWS_ENDPOINT_URL": store.endpoint}
    before, started = store.requests, time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=checkout,
        env=environment,
    )
    return time.perf_counter() - started, store.requests - before


def _write_far_tables(shards: int) -> None:
    """Write tables of small shards that pass `verify`, the images of the last date, and records."""
    root = Storage.of(_ROOT)
    output, rng = root.join("tables"), np.random.default_rng(0)
    png = encode(rng.integers(0, 255, (_SIDE, _SIDE), np.uint8), "png")
    prob_u8 = np.zeros((2, _SIDE, _SIDE), np.uint8)
    for top, left in itertools.product(range(0, _SIDE - 16, 24), range(0, _SIDE - 16, 32)):
        prob_u8[rng.integers(2), top : top + 12, left : left + 12] = rng.integers(130, 255)
    run_ids = [f"202601{date + 1:02d}T000000Z-aaaaaa" for date in range(_DATES)]
    with ThreadPoolExecutor(16) as pool:
        for shard in range(shards):
            date = shard * _DATES // shards
            uris = [f"{_ROOT}/archive/{shard}/{image}.png" for image in range(_IMAGES)]
            tables = _measure_images(uris, prob_u8, len(png), run_ids[date])
            name = ShardName(f"2026-01-{date + 1:02d}", run_ids[date], shard)
            pool.submit(write_shard, output, name, tables, lambda: None)
            if date == _DATES - 1:
                for uri in uris:
                    pool.submit(root.write, uri.removeprefix(f"{_ROOT}/"), png)
    for date, run_id in enumerate(run_ids):
        record = {"run_id": run_id, "status": "done", "date": f"2026-01-{date + 1:02d}"}
        record |= {
            "model_digest": "m" * 64,
            "config_digest": "c",
            "image_roots": [f"{_ROOT}/archive"],
        }
        record |= {"objects": {"parted": False, "min_areas": {"1": 1, "2": 1}}, "elapsed_s": 60.0}
        write_run_record(output, run_id, record | summarize_run(output, run_id))


def _measure_images(
    uris: list[str], prob_u8: NDArray[np.uint8], image_bytes: int, run_id: str
) -> dict[str, pa.Table]:
    """Return the tables of a shard whose images are alike."""
    classes = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    measure = Measure(classes, Postprocessing((ObjectRule(),) * 2))
    sources = [ImageSource(uri, WHOLE, etag="e", size=image_bytes) for uri in uris]
    records = [ImageRecord(source, _SIDE, _SIDE, channels=1) for source in sources]
    return split_into_tables(
        Measure.join([measure.image(record, prob_u8) for record in records]),
        RunStamp(run_id, "m" * 64, "c"),
    )


if __name__ == "__main__":
    main()
