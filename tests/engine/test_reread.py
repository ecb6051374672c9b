"""A stack that an earlier version read page by page, and this one reads as planes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from unet_ray.output.config import ExportConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
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


def test_a_stack_is_read_again_on_request_and_changes_all_at_once(
    tmp_path: Path, tiny_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    stack = archive / "s.tif"
    with tifffile.TiffWriter(stack) as writer:
        for page in PAGES:
            writer.write(page, metadata=None)
    manifest = tmp_path / "archive.parquet"
    pq.write_table(pa.table({"image_uri": [str(stack)], "image_etag": ["1"]}), manifest)

    def run(**flags: object) -> tuple[int, int]:
        config = SegmentConfig(
            model=tiny_model,
            images=str(manifest),
            output=f"{tmp_path}/tables",
            image_roots=str(archive),
            **flags,  # type: ignore[arg-type]
        )
        result = segment(config)
        return result.images_done, result.images_failed

    assert run() == (9, 0)
    forget_added_columns(tmp_path / "tables")
    stored = PAGES.reshape(3, 3, *PAGES.shape[1:])
    tifffile.imwrite(stack, stored, imagej=True, metadata={"axes": "ZCYX"})

    assert run() == (0, 0)
    assert "1 files of several pages (9 images) were read page by" in caplog.text
    assert list_current(tmp_path) == [OLD] * 3
    assert run(reread="stacks", limit=2) == (2, 0)
    assert list_current(tmp_path) == [OLD] * 3
    assert run(reread="stacks") == (1, 0)
    assert list_current(tmp_path) == [PLANES] * 3
    assert run(reread="stacks") == run() == (0, 0)
    report(ReportConfig(tables=f"{tmp_path}/tables", output=f"{tmp_path}/report.html"))
    assert "s.tif#z=2" in (tmp_path / "report.html").read_text()
