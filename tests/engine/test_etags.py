"""Images whose etags changed while their bytes did not."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import tifffile

from tests.builders import write_scenes
from tests.engine.test_reread import forget_added_columns, list_current
from unet_ray.cli.segment import summary
from unet_ray.errors import UnetRayError
from unet_ray.output.config import ReportConfig, VerifyConfig
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.segment import segment
from unet_ray.segmentation.unchanged import take_over_unchanged
from unet_ray.storage.storage import Storage

pytestmark = [pytest.mark.usefixtures("ray_local", "locks_settle_at_once"), pytest.mark.slow]

_SMALL = [f"{index:03d}.png" for index in range(6)]
_MARK = 77
"""Value of many samples on end."""
_PLANES = [f"stack.tif#z={z}" for z in range(3)]


@pytest.fixture
def config(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> SegmentConfig:
    """Write an archive of small files and a stack."""
    archive, rng = tmp_path / "archive", np.random.default_rng(0)
    write_scenes(Storage.of(str(archive)), len(_SMALL))
    planes = rng.integers(0, 255, (3, 3, 200, 220), np.uint8)
    planes[-1] = _MARK
    tifffile.imwrite(archive / "stack.tif", planes, imagej=True, metadata={"axes": "ZCYX"})
    return SegmentConfig(
        model=tiny_model,
        images=str(archive),
        output=f"{tmp_path}/tables",
        shard_images=4,
        max_error_rate=0.5,
        stall_minutes=5,
    )


def run(config: SegmentConfig, day: int, etag_by: Any = "content") -> SegmentResult:
    result = segment(replace(config, date=f"2026-01-{day:02}", etag_by=etag_by))
    problems = verify(VerifyConfig(tables=config.output, images=config.images)).problems
    assert not problems
    return result


def touch(config: SegmentConfig) -> None:
    """Change the time, and so the etag, of every file."""
    for file in Path(config.images).iterdir():
        status = file.stat()
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def read_rows(config: SegmentConfig) -> dict[str, list[dict[str, Any]]]:
    """Return the current rows of each table, without what tells of the run."""
    tables = read_tables(config.output)
    told = ("run_id", "date", "segmented_at", "image_etag")
    rows: dict[str, pa.Table] = {
        name: getattr(tables, name) for name in ("images", "masks", "regions")
    }
    return {
        name: sorted(
            table.drop_columns([c for c in told if c in table.column_names]).to_pylist(),
            key=lambda row: [
                str(row.get(k)) for k in ("image_uri", "class_id", "top", "left", "region_id")
            ],
        )
        for name, table in rows.items()
    }


def test_rows_of_images_of_which_only_the_etag_changed_are_taken_over(
    config: SegmentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(config, 1)
    assert (first.images_done, first.images_taken_over) == (9, 0)
    before, current = read_rows(config), list_current(tmp_path)
    assert all(row["content_hash"] for row in before["images"])
    assert len({row["content_hash"] for row in before["images"]}) == 9

    touch(config)
    segment(replace(config, dry_run=True))
    assert "9 changed by etag, all of the same size; --etag-by content tells" in caplog.text
    second = run(config, 2)
    assert "9 have a content hash, and are read before they are done again" in caplog.text
    assert (second.images_done, second.images_taken_over, second.exit_code) == (9, 9, 0)
    assert (second.stage_s, second.megapixels) == ({}, 0.0)  # no stage has worked
    assert "9 of them have unchanged content: their rows were taken over" in summary(config, second)
    assert second.regions == first.regions
    assert read_rows(config) == before
    assert list_current(tmp_path) == current
    assert sorted(current[0]) == sorted([*_SMALL, *_PLANES])
    page = f"{tmp_path}/report.html"
    report(ReportConfig(tables=config.output, date="2026-01-02", output=page))
    assert re.search(r"images done\D*9\D|\D9\D*images done", Path(page).read_text())
    record = json.loads((tmp_path / f"tables/runs/{second.run_id}.json").read_text())
    assert (record["images_taken_over"], record["config_digest"]) == (
        9,
        json.loads((tmp_path / f"tables/runs/{first.run_id}.json").read_text())["config_digest"],
    )

    for etag_by in ("content", "store"):  # switching redoes nothing
        again = run(config, 3, etag_by)
        assert (again.images_done, again.images_skipped) == (0, 9)


def test_images_whose_bytes_changed_are_done_again(
    config: SegmentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One changes within the same size, a stack in one plane of three, and one in its size."""
    run(config, 1)
    archive = Path(config.images)
    touch(config)
    stack, small = archive / "stack.tif", archive / _SMALL[0]
    data = bytearray(stack.read_bytes())
    data[data.find(bytes([_MARK]) * 1000)] ^= 255
    stack.write_bytes(data)
    small.write_bytes((archive / _SMALL[1]).read_bytes())
    result = run(config, 2)
    assert "9 changed by etag, 8 of them of the same size; 8 have a content hash" in caplog.text
    taken_over = {*_SMALL[1:], *_PLANES[:2]}
    assert (result.images_done, result.images_taken_over) == (9, len(taken_over))
    assert result.stage_s["predict"] > 0
    assert [*map(len, list_current(tmp_path))] == [9, 9, 9]
    touch(config)
    assert run(config, 3).images_taken_over == 9


def test_a_comparison_in_which_nothing_happens_ends_the_run() -> None:
    def hang(*_: object) -> None:
        time.sleep(600)

    known = iter([("a.parquet", pa.table({"a": [1]}))])
    with pytest.raises(UnetRayError) as stopped:
        next(take_over_unchanged(cast(Any, hang), known, stall_minutes=0.05))
    assert str(stopped.value) == (
        "no image was taken over for 0.05 min (--stall-minutes), after 0; what was taken over is "
        "kept: run again with the same flags to go on"
    )


def test_rows_without_a_hash_are_kept_and_get_none_until_their_images_are_done_again(
    config: SegmentConfig, tmp_path: Path
) -> None:
    assert run(config, 1, "store").images_done == 9
    assert not any(row["content_hash"] for row in read_rows(config)["images"])
    forget_added_columns(tmp_path / "tables")
    assert run(config, 2).images_done == 0
    touch(config)
    result = run(config, 3)
    assert (result.images_done, result.images_taken_over) == (9, 0)
    touch(config)
    assert run(config, 4).images_taken_over == 9
