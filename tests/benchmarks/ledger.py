"""Time and memory of planning a run: a ledger and a listing of the same size, at three sizes.

    python -m tests.benchmarks.ledger --output FILE.json [--millions 1,3,10]

The ledger has shards of 2,000 rows, as runs write them; the listing is a Parquet manifest with
etags, so that no store is asked. Of the listed objects 1 % are new, 1 % changed, 1 % failed before,
and the rest are done; 1 % of the ledger's rows are another model's. The benchmark measures the
whole command `jobs/segment.py --dry-run`, from start to exit, and its largest resident memory; the
counts that it prints are checked.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import config_digest
from unet_ray.storage.storage import Storage
from unet_ray.tables.parquet_file import to_parquet
from unet_ray.tables.schemas import IMAGES

REPOSITORY = Path(__file__).parent.parent.parent
_SHARD = 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True)
    parser.add_argument("--millions", default="1,3,10")
    flags = parser.parse_args()
    found = []
    for millions in map(float, flags.millions.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            found.append(_measure(Path(folder), int(1e6 * millions)))
        row = found[-1]
        print(
            f"{row['rows'] / 1e6:6.1f} million rows and objects: {row['seconds']:6.1f} s "
            f"({row['seconds_per_million']:.1f} s per million), {row['peak_gib']:.2f} GiB",
            flush=True,
        )
    Path(flags.output).write_text(json.dumps({"runs": found}, indent=2))


def _measure(folder: Path, rows: int) -> dict[str, float]:
    network = UNetConfig(in_channels=3, num_classes=1, base_channels=4, depth=2)
    torch.manual_seed(0)
    preprocessing = Preprocessing("uint8", (128.0,) * 3, (64.0,) * 3)
    model = Model(
        network,
        state_bytes(UNet(network)),
        (ClassSpec(1, "cell"),),
        preprocessing,
        Postprocessing((ObjectRule(),)),
    )
    save_model(model, Storage.of(f"{folder}/model"))
    config = SegmentConfig(
        model=f"{folder}/model",
        images=f"{folder}/archive.parquet",
        output=f"{folder}/tables",
        image_roots="s3://archive",
        dry_run=True,
    )
    _write(folder, rows, model.digest, config_digest(config, model))
    started = time.perf_counter()
    command = [sys.executable, REPOSITORY / "jobs/segment.py", "--dry-run"]
    for field in ("model", "images", "output", "image_roots"):
        command += [f"--{field.replace('_', '-')}", getattr(config, field)]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    share = rows // 100
    expected = (
        rf"{rows} images listed: {share} new, {share} changed .*, "
        rf"{rows - 3 * share} done before, {share} failed"
    )
    if not re.search(expected, done.stdout):
        sys.exit(f"not what was planned ({expected}):\n{done.stdout}{done.stderr}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {
        "rows": rows,
        "seconds": seconds,
        "seconds_per_million": seconds / rows * 1e6,
        "peak_gib": peak,
    }


def _write(folder: Path, rows: int, model_digest: str, digest: str) -> None:
    """Write listing and ledger; both are in the same order, as names sort by time."""
    share, database = rows // 100, duckdb.connect()
    names = """SELECT 's3://archive/line-' || (i % 40) || '/2026/'
        || lpad(i::VARCHAR, 12, '0') || '.png' AS image_uri"""
    listing = f"""{names}, md5(i::VARCHAR) AS image_etag, 1000000 + i AS image_bytes
        FROM range({rows}) t(i)"""
    database.execute(f"COPY ({listing}) TO '{folder}/archive.parquet'")
    ledger = f"""{names},
        md5((CASE WHEN i < {2 * share} THEN -i ELSE i END)::VARCHAR) AS image_etag,
        1000000 + i AS image_bytes, 1::INT AS pages,
        512::INT AS height, 512::INT AS width, 3::INT AS channels,
        CASE WHEN i >= {rows} THEN repeat('0', 64) ELSE '{model_digest}' END AS model_digest,
        '{digest}' AS config_digest, 'run-a' AS run_id, now() AS segmented_at,
        7::INT AS region_count,
        CASE WHEN i BETWEEN {2 * share} AND {3 * share - 1} THEN 'unreadable' END AS error_type,
        NULL::VARCHAR AS error, NULL::VARCHAR AS error_stage
        FROM range({share}, {rows + share}) t(i)"""
    place = folder / "tables/images/date=2026-11-24"
    place.mkdir(parents=True)
    for number, batch in enumerate(database.sql(ledger).to_arrow_reader(50 * _SHARD)):
        table = pa.Table.from_batches([batch]).cast(
            pa.schema([f.with_nullable(True) for f in IMAGES])
        )
        for start in range(0, len(table), _SHARD):
            part = table.slice(start, _SHARD)
            (place / f"run-a-{number:04d}{start:06d}.parquet").write_bytes(to_parquet(part))
    assert pq.ParquetFile(next(place.iterdir())).metadata.num_rows == _SHARD


if __name__ == "__main__":
    main()
