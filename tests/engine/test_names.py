"""A bad name or row costs itself: the other images are segmented, and no terminal is commanded."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY, new_bucket, run_job
from tests.faults import without_capabilities
from tests.faulty_store import faulty_store
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage import retry as retry_module
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.text import escape_controls

HOSTILE = "\x1b]0;title\x07\x9b2J\n\u202e\u2066"
"""Sets a title, clears, begins a line, turns text around."""
SCENE = encode(draw_scene(40, 40, np.random.default_rng(0))[0], "png")


def read_rows(tables: str) -> dict[str, str | None]:
    """Return the error type of each image of an output, by its URI; None for a success."""
    query = f"select image_uri, error_type from '{tables}/images/*/*.parquet'"
    rows = duckdb.sql(query).fetchall()
    assert len(dict(rows)) == len(rows)
    return dict(rows)


@pytest.mark.slow
def test_names_are_true_in_tables_and_escaped_on_a_terminal(
    tmp_path: Path, tiny_model: str
) -> None:
    archive, tables = tmp_path / "archive", f"{tmp_path}/tables"
    archive.mkdir()
    names = [f"{HOSTILE}.png", "q'uo\"te;--.png", "%FF.png", "שלום.png", "a\\b.png", "#page=2.png"]
    for name in (*names, os.fsdecode(b"b\xff.png")):
        (archive / name).write_bytes(SCENE)
    (archive / os.fsdecode(b"readme\xff.txt")).write_bytes(b"")
    (archive / f"bad{HOSTILE}.png").write_bytes(b"no image")
    flags = ["--model", tiny_model, "--images", archive, "--output", tables]
    done = run_job("segment", *flags, "--max-error-rate", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 images listed: 7 new" in done.stdout
    assert "1 other files" in done.stdout
    assert (
        "1 images are left out because their file names are not UTF-8, the first is b\\xff.png"
        in done.stdout
    )
    assert read_rows(tables) == {f"{archive}/{name}": None for name in names} | {
        f"{archive}/bad{HOSTILE}.png": "unreadable"
    }
    # an image without a row: verify names it
    (archive / f"new{HOSTILE}.png").write_bytes(SCENE)
    said = [
        done,
        run_job("verify", "--tables", tables, "--images", archive),
        run_job("report", "--tables", tables, "--output", tmp_path / "report.html"),
        run_job("export", "--tables", tables, "--format", "coco", "--output", tmp_path / "c.json"),
        run_job("prune", "--tables", tables, "--image", f"{archive}/none{HOSTILE}.png"),
        run_job("segment", *flags[:-1], f"{tmp_path}/other", "--include", f"{HOSTILE}.jpg"),
    ]
    assert [job.returncode for job in said] == [0, 1, 0, 0, 2, 2], [job.stderr for job in said]
    assert f"new{escape_controls(HOSTILE)}.png" in said[1].stdout
    for job in said:
        for text in (job.stdout, job.stderr):
            assert text == escape_controls(text, keep="\n\t")
            assert "\n.png" not in text


@pytest.mark.slow
def test_rows_of_a_manifest_that_cannot_be_read_are_error_rows(
    tmp_path: Path, tiny_model: str
) -> None:
    """The next run does those that can be read then; a user who may not read one folder runs it."""
    archive = Storage.of(f"{tmp_path}/archive")
    for name in ("a.png", "closed/b.png", "folder/c.png"):
        archive.write(name, SCENE)
    errors = {
        "a.png": None,
        "closed/b.png": "denied",
        "a.png/below.png": "missing",
        "a" * 256 + ".png": "missing",
        "nul\0.png": "missing",
        "gone.png": "missing",
        "folder": "unreadable",
    }
    pq.write_table(
        pa.table({"image_uri": [*errors, None, ""]}), tmp_path / "archive/manifest.parquet"
    )
    images, tables = f"{archive.uri}/manifest.parquet", f"{tmp_path}/tables"
    flags = ["--model", tiny_model, "--images", images, "--output", tables]
    closed = tmp_path / "archive/closed"
    closed.chmod(0)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "jobs/segment.py", *flags, "--max-error-rate", "0.9"],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        preexec_fn=without_capabilities,
    )
    closed.chmod(0o755)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rows are left out because their image_uri is null, empty, longer" in done.stdout
    assert "\0" not in done.stdout
    rows = read_rows(tables)
    assert rows == {f"{archive.uri}/{name}": error for name, error in errors.items()}
    archive.write("gone.png", SCENE)
    again = run_job("segment", *flags, "--max-error-rate", "0.9")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "7 images listed: 0 new, 5 changed or to be redone, 1 done before, 1 failed" in (
        again.stdout
    )
    done_now = duckdb.sql(
        f"select image_uri from '{tables}/images/*/*.parquet' where error_type is null"
    ).fetchall()
    assert sorted(done_now) == [
        (f"{archive.uri}/{name}",) for name in ("a.png", "closed/b.png", "gone.png")
    ]


@pytest.mark.usefixtures("ray_local")
def test_an_object_that_a_store_refuses_is_an_error_row(
    request: pytest.FixtureRequest,
    s3_server: str,
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = Storage.of(new_bucket(request))
    for number in range(4):
        bucket.write(f"{number}.png", SCENE)
    pq.write_table(
        pa.table({"image_uri": [f"{number}.png" for number in range(4)]}),
        (sink := pa.BufferOutputStream()),
    )
    bucket.write("m.parquet", sink.getvalue().to_pybytes())

    def refuse(command: str, path: str) -> int | None:
        """Deny the second object, and have the description of the third fail."""
        if path.endswith("/1.png"):
            return 403
        return 500 if command == "HEAD" and path.endswith("/2.png") else None

    config = SegmentConfig(
        model=tiny_model,
        images=f"{bucket.uri}/m.parquet",
        output=f"{tmp_path}/tables",
        max_error_rate=0.5,
    )
    monkeypatch.setattr(retry_module, "ATTEMPTS", 1)
    monkeypatch.setattr("unet_ray.storage.backends.s3._ATTEMPTS", 1)
    with faulty_store(s3_server, refuse=refuse) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        segment(config)
    assert read_rows(config.output) == {
        f"{bucket.uri}/0.png": None,
        f"{bucket.uri}/1.png": "denied",
        f"{bucket.uri}/2.png": "changed",
        f"{bucket.uri}/3.png": None,
    }
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    result = segment(replace(config, date="2026-01-02"))
    assert (result.images_done, result.images_skipped, result.images_failed) == (2, 2, 0)
    assert not verify(VerifyConfig(tables=config.output, images=config.images)).problems
