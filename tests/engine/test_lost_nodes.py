"""Nodes that die in the middle of a segmentation.

A GPU node costs no image. A head costs the images of shards that were still open: the next run does
them.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from tests.builders import write_noise
from tests.clusters import Nodes, started_cluster
from tests.conftest import REPOSITORY, free_port, run_job
from unet_ray.output.reader import read_tables
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene

_IMAGES = 60
_RUN = """
import logging
import sys
from dataclasses import replace
from unet_ray.network.config import PredictorConfig
from unet_ray.segmentation import run
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment

def on_cpu(*some, **named):
    return replace(PredictorConfig(*some, **named), device="cpu")

run.PredictorConfig = on_cpu
logging.basicConfig(level=logging.INFO, format="%(message)s")
model, images, output, actors = sys.argv[1:]
flags = {"device": "gpu", "actors": actors, "shard_images": 16}
config = SegmentConfig(model=model, images=images, output=output, **flags)
print("done", segment(config, "auto").images_done)
"""


_HEAD = ("--num-cpus=1", f"--object-store-memory={200 * 2**20}")
_NODE = (*_HEAD, "--num-gpus=1")
_IDLE = {"RAY_idle_worker_killing_time_threshold_ms": "120000"}
"""As in cluster.yaml."""


def _statuses(tables: Path) -> list[tuple[str, int]]:
    records = [json.loads(file.read_text()) for file in sorted((tables / "runs").iterdir())]
    return [(record["status"], record.get("images_done", 0)) for record in records]


@contextmanager
def _running(flags: list[str], users: dict[str, str], port: int) -> Iterator[subprocess.Popen[str]]:
    """Run `_RUN` on a cluster; it is killed after a quarter of an hour."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", _RUN, *flags],
        env=users | {"RAY_ADDRESS": f"127.0.0.1:{port}", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(900, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()


@pytest.mark.soak
def test_a_gpu_node_that_dies_costs_no_image(tmp_path: Path, tiny_model: str) -> None:
    archive = write_noise(tmp_path / "archive", _IMAGES, side=300)
    said = list[str]()
    port = free_port()
    with started_cluster(tmp_path, port, *_HEAD, **_IDLE) as users:
        nodes = Nodes(port, users, *_NODE)
        nodes.add()
        nodes.add()
        with _running([tiny_model, str(archive), f"{tmp_path}/tables", "1,2"], users, port) as run:
            assert run.stdout
            for line in run.stdout:
                said.append(line)
                measured = re.match(rf"(\d+)/{_IMAGES} images", line)
                if measured and len(nodes) == 2 and 0 < int(measured[1]) < _IMAGES:
                    nodes.kill()
            assert run.wait() == 0, "".join(said[-30:])
            assert len(nodes) == 1, "the run was over before a node could be killed"
    assert f"done {_IMAGES}" in "".join(said)
    assert _statuses(tmp_path / "tables") == [("done", _IMAGES)]
    assert len(read_tables(f"{tmp_path}/tables").images) == _IMAGES
    verified = run_job(
        "verify", "--tables", f"{tmp_path}/tables", "--images", Storage.of(str(archive)).uri
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.soak
def test_nodes_that_die_under_a_long_image_never_count_against_it(
    tmp_path: Path, tiny_model: str
) -> None:
    """Five nodes die while they predict it; on the sixth it ends."""
    archive = write_noise(tmp_path / "archive", 10, side=60)
    pixels = np.tile(draw_scene(512, 512, np.random.default_rng(0))[0], (16, 16, 1))
    tifffile.imwrite(archive / "long.tif", pixels, tile=(512, 512), photometric="rgb")
    said = list[str]()
    kills, tiles_before, port = 0, 0, free_port()
    with started_cluster(tmp_path, port, *_HEAD, **_IDLE) as users:
        nodes = Nodes(port, users, *_NODE)
        nodes.add()
        with _running([tiny_model, str(archive), f"{tmp_path}/tables", "1"], users, port) as run:
            assert run.stdout
            for line in run.stdout:
                said.append(line)
                if (found := re.search(r"large images: (\d+)/", line)) is None:
                    continue
                if kills < 5 and int(found[1]) > tiles_before:
                    nodes.kill()
                    nodes.add()
                    kills += 1
                tiles_before = int(found[1])
            assert run.wait() == 0, "".join(said[-30:])
    assert kills == 5, "".join(said[-30:])
    assert "done 11" in "".join(said)
    assert _statuses(tmp_path / "tables") == [("done", 11)]


@pytest.mark.soak
def test_a_run_whose_head_dies_ends_and_the_next_run_goes_on(
    tmp_path: Path, tiny_model: str
) -> None:
    """The driver notices within about a minute, and ends; the same command does the rest.

    The next run calls the first one lost if its record still says `running`.
    """
    archive = write_noise(tmp_path / "archive", _IMAGES, side=300)
    tables = tmp_path / "tables"
    flags = ["--model", tiny_model, "--images", str(archive)]
    flags += ["--output", str(tables), "--shard-images", "8"]
    port = free_port()
    with started_cluster(
        tmp_path, port, "--num-cpus=2", f"--object-store-memory={200 * 2**20}"
    ) as environment:
        command = [sys.executable, "-u", str(REPOSITORY / "jobs/segment.py"), *flags]
        driver = subprocess.Popen(
            command,
            env=environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"},
            stdout=subprocess.DEVNULL,
        )
        while not [*tables.glob("images/*/*.parquet")]:
            assert driver.poll() is None
            time.sleep(0.1)
        for process in psutil.process_iter(["cmdline"]):
            if environment["RAY_FILES"] in " ".join(process.info["cmdline"] or []):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        assert driver.wait(200) != 0
    ((status, _),) = _statuses(tables)
    assert status in ("running", "failed", "stopped")
    done = run_job("segment", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    (first, _), (second, rest) = _statuses(tables)
    assert (first, second) == ("lost" if status == "running" else status, "done")
    assert 0 < rest < _IMAGES
    verified = run_job("verify", "--tables", str(tables), "--images", Storage.of(str(archive)).uri)
    assert verified.returncode == 0, verified.stdout + verified.stderr
