"""A stack that an earlier version read page by page, and this one reads as planes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from tests.conftest import new_bucket, start_job
from tests.faulty_store import faulty_store
from unet_ray.output.config import ExportConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import ADDED

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.slow]

OUTPUT_README = Path(__file__).parents[2] / "unet_ray/output/README.md"
PAGES = np.random.default_rng(0).integers(0, 255, (9, 40, 50), np.uint8)
PLANES = [f"s.tif#z={z}" for z in range(3)]
OLD = [f"s.tif#page={page}" for page in range(1, 10)]


def forget_added_columns(tables: Path) -> None:
    """Make the shards of an output those of the earlier version."""
    for file in tables.glob("*/*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        old = table.select([name for name in table.column_names if name not in ADDED])
        pq.write_table(old, file, compression="zstd", write_page_checksum=True)


def list_current(place: Path) -> list[list[str]]:
    """Return the images that are current for Python, the documented view, COCO and the report."""
    tables = f"{place}/tables"
    view = next(
        code
        for code in re.findall(r"```sql\n(.*?)```", OUTPUT_README.read_text(), re.DOTALL)
        if "VIEW current_images" in code
    )
    with duckdb.connect() as database:
        database.execute(view.replace("'tables/", f"'{tables}/"))
        rows = database.sql("SELECT image_uri FROM current_images").fetchall()
    coco = place / "coco.json"
    coco.unlink(missing_ok=True)
    export(ExportConfig(tables=tables, format="coco", output=str(coco)))
    found = [
        read_tables(tables).images["image_uri"].to_pylist(),
        [uri for (uri,) in rows],
        [image["file_name"] for image in json.loads(coco.read_text())["images"]],
    ]
    return [sorted(uri.rpartition("/")[2] for uri in uris) for uris in found]


def copy_output(source: Storage, target: Storage) -> None:
    """Copy the files of an output, into a place that may have some of them."""
    for entry in source.entries():
        name = source.name_of(entry.uri)
        target.write(name, source.read(name))


class OneCommit:
    """Lets one shard be committed, and keeps the writers of all others waiting.

    `FaultyStore` asks it about each request.
    """

    def __init__(self) -> None:
        self._lock, self._path = threading.Lock(), ""
        self.is_over = threading.Event()
        """Set when the writers are gone: what they asked for is refused then."""

    def __call__(self, command: str, path: str) -> int | None:
        """Return the status of a request, None to pass it on: a file of images commits a shard."""
        if command != "PUT" or "/images/date=" not in path:
            return None
        with self._lock:
            self._path = self._path or path
        if path == self._path:
            return None
        self.is_over.wait()
        return 500


def kill_run(process: subprocess.Popen[str]) -> None:
    """Kill a run and all processes of its Ray, the driver first."""
    driver = psutil.Process(process.pid)
    family = [driver, *driver.children(recursive=True)]
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate(timeout=60)
    psutil.wait_procs(family, timeout=60)


def run_until_one_commit(output: Storage, endpoint: str, *flags: object) -> int:
    """Start a run, kill it between the commits of its first two shards, return its exit code."""
    before, commits = len(output.entries("images")), OneCommit()
    with faulty_store(endpoint, refuse=commits) as store:
        process = start_job("segment", *flags, AWS_ENDPOINT_URL=store.endpoint)
        while process.poll() is None and len(output.entries("images")) == before:
            time.sleep(0.05)
        if process.poll() is None:
            kill_run(process)
        commits.is_over.set()
    return process.returncode


def test_a_stack_is_read_again_on_request_and_changes_all_at_once(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_model: str,
    s3_server: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The run that reads it again is killed half-way."""
    archive = tmp_path / "archive"
    archive.mkdir()
    stack = archive / "s.tif"
    with tifffile.TiffWriter(stack) as writer:
        for page in PAGES:
            writer.write(page, metadata=None)
    manifest = tmp_path / "archive.parquet"
    pq.write_table(pa.table({"image_uri": [str(stack)], "image_etag": ["1"]}), manifest)
    local, output = Storage.of(f"{tmp_path}/tables"), Storage.of(f"{new_bucket(request)}/tables")
    places = {"model": tiny_model, "images": str(manifest), "image_roots": str(archive)}

    def run(**flags: object) -> tuple[int, int]:
        result = segment(SegmentConfig(**places, output=output.uri, **flags))  # type: ignore[arg-type]
        copy_output(output, local)
        return result.images_done, result.images_failed

    assert run() == (9, 0)
    forget_added_columns(tmp_path / "tables")
    copy_output(local, output)
    stored = PAGES.reshape(3, 3, *PAGES.shape[1:])
    tifffile.imwrite(stack, stored, imagej=True, metadata={"axes": "ZCYX"})

    assert run() == (0, 0)
    assert "1 files of several pages (9 images) were read page by" in caplog.text
    assert list_current(tmp_path) == [OLD] * 3

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in places.items()]
    flags += [f"--output={output.uri}", "--reread=stacks", "--shard-images=1"]
    assert run_until_one_commit(output, s3_server, *flags) == -signal.SIGKILL
    copy_output(output, local)
    every = read_tables(local.uri, current=False).images["image_uri"].to_pylist()
    assert sum("#z=" in uri for uri in every) == 1
    assert list_current(tmp_path) == [OLD] * 3

    assert run(reread="stacks") == (2, 0)
    assert list_current(tmp_path) == [PLANES] * 3
    assert run(reread="stacks") == run() == (0, 0)
    report(ReportConfig(tables=local.uri, output=f"{tmp_path}/report.html"))
    assert "s.tif#z=2" in (tmp_path / "report.html").read_text()
