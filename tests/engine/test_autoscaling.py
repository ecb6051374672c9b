"""The node types of cluster.yaml on an autoscaler: nodes come up from none, and go away again.

Nodes are raylets on this machine, and their GPUs are logical: the network of each GPU actor runs on
the CPU.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_noise
from tests.clusters import autoscaling_cluster
from tests.training_job import Job
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive

_GPU_NODES = 3
_RUN = """
import json, sys, threading, time
from dataclasses import replace
import ray
from unet_ray.cluster.session import connect
from unet_ray.network.config import PredictorConfig
from unet_ray.segmentation import run
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment

def on_cpu(*some, **named):
    return replace(PredictorConfig(*some, **named), device="cpu")

run.PredictorConfig = on_cpu
logging.basicConfig(level=logging.INFO, format="%(message)s")

def gpu_nodes():
    return sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU"))

def watch():
    while True:
        seen.append((time.monotonic() - started, gpu_nodes()))
        time.sleep(0.5)

flags = json.loads(sys.argv[1])
connect("auto")
started, seen = time.monotonic(), []
threading.Thread(target=watch, daemon=True).start()
try:
    done = segment(SegmentConfig(**flags), "auto").images_done
except Exception as error:
    done = f"{type(error).__name__}: {error}"
ended = time.monotonic() - started
while gpu_nodes() and time.monotonic() - started < ended + 120:
    time.sleep(0.5)
print(json.dumps({"done": done, "ended": ended, "gone": time.monotonic() - started, "seen": seen}))
"""


def _run(environment: dict[str, str], **flags: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(flags)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.soak
def test_gpu_nodes_come_all_at_once_and_go(tmp_path: Path, tiny_model: str) -> None:
    archive = write_noise(tmp_path / "archive", count=40, side=300)
    flags = {
        "model": tiny_model,
        "images": str(archive),
        "output": f"{tmp_path}/tables",
        "device": "gpu",
    }
    with autoscaling_cluster(tmp_path, {"cpu": 1, "gpu": _GPU_NODES}) as environment:
        refused = _run(environment, **flags, actors=f"{_GPU_NODES + 1}")
        assert refused["done"].startswith(
            f"InputError: --actors {_GPU_NODES + 1} on GPUs: needs {_GPU_NODES + 1} GPUs"
        )
        assert refused["ended"] < 30
        # two of the actors never get a node
        found = _run(environment, **flags, actors=f"1,{_GPU_NODES + 2}", node_price="0.2,gpu=1")
    assert found["done"] == 40
    up = {
        count: min(at for at, nodes in found["seen"] if nodes >= count)
        for count in range(1, _GPU_NODES + 1)
    }
    print(
        f"nodes up after {up} s, run ended after {found['ended']:.0f} s, "
        f"nodes gone at {found['gone']:.0f} s"
    )
    assert up[_GPU_NODES] - up[1] < 15  # s: together, not one after the other
    assert found["gone"] - found["ended"] < 90  # s; nodes are idle after 0.15 minutes
    records = [json.loads(file.read_text()) for file in (tmp_path / "tables/runs").iterdir()]
    (record,) = [record for record in records if record["status"] == "done"]
    assert record["node_hours"]["gpu"] > 0
    hours = record["node_hours"]
    assert record["cost"]["total"] == pytest.approx(
        hours["gpu"] + 0.2 * (sum(hours.values()) - hours["gpu"])
    )


@pytest.mark.soak
def test_training_brings_up_the_nodes_that_it_may_have(tmp_path: Path) -> None:
    """Training starts on no worker node, and ends on MAX of them with a worker on each."""
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=8, check=0, archive=0)
    flags = ["--workers", "1,2", "--device", "cpu", "--resize-check-s", "2"]
    flags += ["--epochs", "400", "--patience", "0"]
    with (
        autoscaling_cluster(tmp_path, {"cpu": 2}) as environment,
        Job(str(tmp_path), *flags, **environment) as job,
    ):
        job.wait_for(r"2 workers, effective batch 8, .* from epoch \d+\n(.*\n)+.*epoch +\d+/400")
        job.process.send_signal(signal.SIGINT)
        job.process.wait(60)
