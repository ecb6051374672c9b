"""Disturbed runs: stuck actors, killed processes, two at once, bad stores, damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.builders import make_tiny_model, write_noise, write_scenes
from tests.conftest import new_bucket, run_job, s3_server_in, start_job
from tests.faulty_store import faulty_store
from tests.soak import Soak, title
from unet_ray.output.config import VerifyConfig
from unet_ray.output.reader import read_tables
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.tables.runs import read_records


@pytest.mark.soak
def test_a_run_that_hangs_is_ended_by_its_watchdog(tiny_model: str, tmp_path: Path) -> None:
    """An actor that is stopped by a signal does not fail; it never answers."""
    write_scenes(Storage.of(f"{tmp_path}/archive"), 120)
    flags = ["--model", tiny_model]
    flags += ["--images", f"{tmp_path}/archive", "--output", f"{tmp_path}/tables"]
    process = start_job("segment", *flags, "--shard-images", 16, "--stall-minutes", 0.3)
    stopped: list[psutil.Process] = []
    while not stopped and process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        stopped = [p for p in family if "ray::MapWorker" in title(p)]
        time.sleep(0.02)
    for actor in stopped:
        actor.send_signal(signal.SIGSTOP)
    try:
        said = process.communicate(timeout=180)[0]
    finally:
        for actor in stopped:
            if actor.is_running():
                actor.kill()
    assert process.returncode == 1, said
    assert "no image was measured for 0.3 min (--stall-minutes)" in said
    (record,) = Path(tmp_path, "tables/runs").iterdir()
    assert json.loads(record.read_text())["status"] == "failed"
    again = start_job("segment", *flags)
    assert "120 images done" in again.communicate(timeout=300)[0]


@pytest.mark.soak
def test_of_two_runs_at_once_one_works_and_the_other_exits(
    request: pytest.FixtureRequest, tiny_model: str
) -> None:
    """The store has no conditional PUT. Then the holder of the lock is killed, on this machine."""
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), 40)
    flags = ["--model", tiny_model, "--images", f"{root}/archive", "--output", f"{root}/tables"]
    both = [start_job("segment", *flags), start_job("segment", *flags)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 4], said
    loser = said[[process.returncode for process in both].index(4)]
    assert "this output" in loser
    assert len(read_tables(f"{root}/tables").images) == 40

    write_scenes(Storage.of(f"{root}/archive/more"), 5)
    first = start_job("segment", *flags)
    while not Storage.of(f"{root}/tables").exists("_lock.json"):
        time.sleep(0.05)
    first.kill()
    first.communicate()
    second = start_job("segment", *flags)
    assert "5 images done" in second.communicate(timeout=300)[0]


@pytest.mark.soak
@pytest.mark.usefixtures("ray_local")
def test_a_store_that_fails_now_and_then_costs_nothing(
    request: pytest.FixtureRequest, s3_server: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), 80)
    with faulty_store(s3_server, 0.05, seed=1) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        config = SegmentConfig(
            model=tiny_model, images=f"{root}/archive", output=f"{root}/tables", shard_images=30
        )
        result = segment(config)
        assert (result.images_done, result.images_failed) == (80, 0)
        assert store.spoilt.total() >= 4
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert not verify(VerifyConfig(tables=f"{root}/tables", images=f"{root}/archive")).problems


@pytest.mark.soak
def test_killed_runs_leave_the_tables_of_undisturbed_ones(tmp_path: Path) -> None:
    """The soak kills three times, on a server of its own that may be killed as well."""
    before = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL",)}
    server = s3_server_in(tmp_path)
    try:
        Storage.of("s3://soak").filesystem.mkdir("s3://soak")
        soak = Soak(
            "s3://soak", make_tiny_model(tmp_path), images=80, seed=5, server=server.restart
        )
        soak.run(kills=3)
        assert soak.hung == 0
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_damaged_file_costs_one_error_row_and_no_good_image(
    tiny_model: str, tmp_path: Path
) -> None:
    """Files that are cut short, have flipped bits or another suffix lie among good ones."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    for index in range(20):
        archive.write(f"good/{index}.png", encode(draw_scene(60, 70, rng)[0], "png"))
    for index in range(200):
        suffix = ("png", "jpg", "tif")[index % 3]
        data = bytearray(encode(draw_scene(60, 70, rng)[0], suffix))
        for place in rng.integers(0, len(data), rng.integers(0, 30)):
            data[place] ^= 1 << int(rng.integers(8))
        kept = int(rng.integers(1, len(data) + 1)) if index % 2 else len(data)
        other = ("png", "jpg", "tif")[(index + index % 5) % 3]
        archive.write(f"bad/{index}.{other}", bytes(data[:kept]))
    config = SegmentConfig(
        model=tiny_model, images=archive.uri, output=f"{tmp_path}/tables", max_error_rate=1.0
    )
    segment(config)
    rows = read_tables(config.output, current=False).images.to_pylist()
    files = {row["image_uri"].partition("#")[0] for row in rows}
    assert len(files) == 220  # 20 good and 200 damaged
    assert all(row["error_type"] is None for row in rows if "/good/" in row["image_uri"])
    assert {row["error_type"] for row in rows} <= {None, "unreadable", "unsupported", "too_large"}
    assert not verify(VerifyConfig(tables=config.output, images=archive.uri)).problems


@pytest.mark.slow
def test_a_disk_that_fills_ends_a_run_in_one_line(tmp_path: Path, small_disk: Path) -> None:
    """The record says so, too; with more room the same command does the rest."""
    images, output = write_noise(tmp_path / "images", 6, 1000), small_disk / "tables"
    places = ["--model", make_tiny_model(tmp_path), "--images", images, "--output", output]
    full = run_job("segment", *places, "--shard-images", 2)
    assert full.returncode == 1
    assert "Traceback" not in full.stdout + full.stderr
    assert "UDF" not in full.stdout + full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: no space left on {output}/")
    assert line.endswith(": free some and run again")
    (record,) = read_records(Storage.of(str(output)))[0].values()
    assert (record["status"], record["exit_code"]) == ("failed", 1)
    assert f"error: {record['message']}" == line
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    rest = run_job("segment", *places, "--shard-images", 2)
    assert rest.returncode == 0, rest.stderr
    assert not list(output.glob("**/.*"))
