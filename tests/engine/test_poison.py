"""Images that kill, or hang, the process that works on them; signals that end a run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import write_scenes
from tests.conftest import run_job, start_job
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.storage.storage import Storage

SITE = {"PYTHONPATH": f"{Path(__file__).parent.parent / 'poison'}"}
"""Environment in which names are poison, see tests/poison/sitecustomize.py."""


def run_poisoned(tmp_path: Path, model: str, images: int, poison: list[str], *more: object) -> None:
    """Segment scenes and poison; each poison has one row with its stage, and nothing is lost.

    Args:
        tmp_path: Folder of the archive and the tables.
        model: Model folder.
        images: Number of scenes.
        poison: Words of poison; each becomes the name of an image amid the others.
        more: More flags.
    """
    archive = Storage.of(f"{tmp_path}/archive")
    write_scenes(archive, images)
    scene = archive.read("000.png")
    for index, word in enumerate(poison):
        archive.write(f"{images * index // len(poison):03d}-{word}.png", scene)
    os.mkfifo(tmp_path / "archive/pipe.png")
    names = [entry.uri for entry in archive.entries()] + [f"{archive.uri}/pipe.png"]
    pq.write_table(pa.table({"image_uri": names}), tmp_path / "all.parquet")
    flags = ["--model", model, "--images", f"{tmp_path}/all.parquet"]
    flags += ["--output", f"{tmp_path}/tables", "--max-error-rate", "0.5"]
    done = run_job("segment", *flags, *more, **SITE)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = duckdb.sql(
        f"select image_uri, error_type, error_stage from '{tmp_path}/tables/images/*/*.parquet'"
    ).fetchall()
    assert sorted(uri for uri, *_ in rows) == sorted(names)
    failed = {Path(uri).stem: (kind, stage) for uri, kind, stage in rows if kind}
    killers = {
        f"{images * index // len(poison):03d}-{word}": ("kills_worker", word.split("-")[1])
        for index, word in enumerate(poison)
    }
    assert failed == killers | {"pipe": ("unreadable", "read")}
    assert verify(VerifyConfig(tables=f"{tmp_path}/tables")).problems == {}
    (record,) = [json.loads(p.read_text()) for p in Path(tmp_path, "tables/runs").iterdir()]
    assert (record["images_done"], record["images_failed"]) == (images, len(poison) + 1)
    assert record["set_aside"] == []
    assert any("seccomp" in active for active in record["decoder_confinement"])
    again = run_job("segment", *flags, **SITE)
    assert "0 images done" in again.stdout, again.stdout + again.stderr


@pytest.mark.slow
def test_an_image_that_kills_its_process_costs_one_row(tiny_model: str, tmp_path: Path) -> None:
    run_poisoned(tmp_path, tiny_model, 20, ["kills-measure"])


@pytest.mark.soak
def test_poison_of_every_kind_costs_one_row_each(tiny_model: str, tmp_path: Path) -> None:
    poison = ["kills-decode", "kills-predict", "kills-measure", "kills-write"]
    poison += ["aborts-measure", "aborts-predict", "hangs-measure", "hangs-predict"]
    run_poisoned(tmp_path, tiny_model, 491, poison, "--stall-minutes", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
def test_a_run_that_is_stopped_commits_what_was_measured(
    tiny_model: str, tmp_path: Path, number: int
) -> None:
    """Two signals, as people press Ctrl-C twice; an image that hangs keeps the run from ending."""
    archive = Storage.of(f"{tmp_path}/archive")
    write_scenes(archive, 299)
    archive.write("hangs-measure.png", archive.read("000.png"))
    flags = ["--model", tiny_model, "--images", f"{tmp_path}/archive"]
    process = start_job("segment", *flags, "--output", f"{tmp_path}/tables", **SITE)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if (found := re.match(r"(\d+)/300 images", line)) and int(found[1]) > 30:
            break
    process.send_signal(number)
    process.send_signal(number)
    said += process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    (record,) = [json.loads(p.read_text()) for p in Path(tmp_path, "tables/runs").iterdir()]
    rows = sum(
        pq.read_metadata(path).num_rows for path in tmp_path.glob("tables/images/*/*.parquet")
    )
    assert (record["status"], record["exit_code"]) == ("stopped", 1)
    assert 0 < record["images_done"] == rows < 300
    assert f"{rows} images done" in said
    assert "tables: " in said
    assert not Path(tmp_path, "tables/_lock.json").exists()
    assert verify(VerifyConfig(tables=f"{tmp_path}/tables")).problems == {}
