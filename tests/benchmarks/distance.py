"""A store that answers late, compared with one that answers at once: planning and image rate.

    python tests/benchmarks/distance.py --images DIR --model MODEL --output FILE.json
        [--copies 4] [--delay 0.05]

A real S3 server is behind a proxy that waits before it answers, or does not; both in each round,
one after the other. The archive is several copies of the images, a small TIFF file for each, and a
ledger of earlier runs with a shard for each ten of them. Planning is the whole command
`jobs/segment.py --dry-run` on the TIFF files; rates are steady state.
"""

from __future__ import annotations

import argparse
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

from tests.conftest import s3_server_in
from tests.faulty_store import faulty_store
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import encode
from unet_ray.tables.schemas import IMAGES, to_parquet

JOB = Path(__file__).parent.parent.parent / "jobs/segment.py"
_ROOT = "s3://bucket"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True, help="JSON file")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.05, help="s before an answer")
    parser.add_argument("--runs", type=int, default=3)
    flags = parser.parse_args()
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


if __name__ == "__main__":
    main()
