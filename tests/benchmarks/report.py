"""Time and memory of jobs/report.py and jobs/export.py over large synthetic tables.

    python -m tests.benchmarks.report --output FILE.json [--images 1000000] [--export-images 50000]

The tables have three dates of a growing archive, 20 regions per image, in shards of 2,000 images as
segmentation writes them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import shapely

from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.storage.storage import Storage
from unet_ray.tables.runs import write_run_record
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS
from unet_ray.tables.shards import ShardName, write_shard

REPOSITORY = Path(__file__).parent.parent.parent
_SHARD, _EACH, _SIDE = 2000, 20, 512
_DATES = ("2026-01-01", "2026-01-02", "2026-01-03")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--export-images", type=int, default=50_000)
    flags = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, images, job in (
            ("report", flags.images, ["report.py", "--output", f"{folder}/report.html"]),
            (
                "coco",
                flags.export_images,
                ["export.py", "--format", "coco", "--output", f"{folder}/all.json"],
            ),
        ):
            _write_tables(Storage.of(f"{folder}/{name}"), images)
            seconds, gib = _timed([*job, "--tables", f"{folder}/{name}"])
            size = Path(job[job.index("--output") + 1]).stat().st_size / 2**20
            found[name] = {
                "images": images,
                "regions": _EACH * images,
                "s": seconds,
                "GiB": gib,
                "MiB": size,
            }
            print(name, found[name], flush=True)
    Path(flags.output).write_text(json.dumps(found, indent=2))


def _write_tables(output: Storage, images: int) -> None:
    """Write shards of images of one size, half of them on the last date."""
    rng = np.random.default_rng(0)
    empty = encode_rle(np.zeros((_SIDE, _SIDE)))
    shards = max(1, images // _SHARD)
    for shard in range(shards):
        run = min(2, 4 * shard // shards)
        run_id = f"2026010{run + 1}T000000Z-aaaaaa"
        uris = np.array(
            [f"/archive/plate{shard:05d}/image{index:05d}.png" for index in range(_SHARD)]
        )
        tables = {
            "images": _images(uris, run_id),
            "masks": _masks(uris, run_id, empty, rng),
            "regions": _regions(uris, run_id, rng),
        }
        write_shard(output, ShardName(_DATES[run], run_id, shard), tables, may_commit=lambda: None)
        write_run_record(
            output, run_id, {"status": "done", "images_skipped": 0, "elapsed_s": 3600.0}
        )


def _table(columns: dict[str, Any], schema: Any, rows: int) -> Any:
    whole = {
        name: value if len(np.shape(value)) else [value] * rows for name, value in columns.items()
    }
    return pa.Table.from_pydict(
        {name: whole.get(name, [None] * rows) for name in schema.names}, schema=schema
    )


def _images(uris: Any, run_id: str) -> Any:
    known = {
        "image_uri": uris,
        "image_etag": "e",
        "image_bytes": 100_000,
        "pages": 1,
        "height": _SIDE,
        "width": _SIDE,
    }
    known |= {
        "channels": 3,
        "model_digest": "m",
        "config_digest": "c",
        "run_id": run_id,
        "region_count": _EACH,
    }
    return _table(known | {"segmented_at": datetime.now(UTC)}, IMAGES, len(uris))


def _masks(uris: Any, run_id: str, counts: bytes, rng: np.random.Generator) -> Any:
    known = {
        "image_uri": uris,
        "run_id": run_id,
        "class_id": 1,
        "class_name": "cell",
        "top": 0,
        "left": 0,
    }
    known |= {
        "height": _SIDE,
        "width": _SIDE,
        "counts": counts,
        "area": rng.integers(1000, 9000, len(uris)),
    }
    return _table(known, MASKS, len(uris))


def _regions(uris: Any, run_id: str, rng: np.random.Generator) -> Any:
    rows = _EACH * len(uris)
    cell_y, cell_x = np.divmod(
        np.tile(np.arange(_EACH), len(uris)), 5
    )  # regions of a class do not overlap
    left, top = rng.integers(0, 60, (2, rows)) + 100 * np.stack([cell_x, cell_y])
    widths, heights = rng.integers(4, 40, (2, rows))
    outlines = shapely.box(left, top, left + widths, top + heights)
    box = [
        {"xmin": a, "ymin": b, "xmax": a + c, "ymax": b + d}
        for a, b, c, d in zip(left, top, widths, heights, strict=True)
    ]
    known = {
        "image_uri": np.repeat(uris, _EACH),
        "run_id": run_id,
        "class_id": 1,
        "class_name": "cell",
    }
    known |= {
        "region_id": np.tile(np.arange(1, _EACH + 1), len(uris)),
        "score": rng.beta(8, 2, rows),
    }
    known |= {
        "score_max": 0.99,
        "area": widths * heights,
        "bbox": box,
        "centroid_x": left + widths / 2,
    }
    known |= {
        "centroid_y": top + heights / 2,
        "touches_border": False,
        "geometry": shapely.to_wkb(outlines),
    }
    return _table(known, REGIONS, rows)


def _timed(job: list[str]) -> tuple[float, float]:
    """Return seconds and the peak of a job's memory (GiB)."""
    started = time.monotonic()
    process = psutil.Popen(
        [sys.executable, REPOSITORY / "jobs" / job[0], *job[1:]], stdout=subprocess.DEVNULL
    )
    most = 0
    while process.poll() is None:
        most = max(most, process.memory_info().rss)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{job[0]} failed")
    return time.monotonic() - started, most / 2**30


if __name__ == "__main__":
    main()
