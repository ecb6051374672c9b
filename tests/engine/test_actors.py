"""Any number of actors on any small machine: a run goes to its end, or is refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import write_noise
from tests.conftest import REPOSITORY

_IMAGES = 5
_RUNS = """
import json, sys
import ray
from unet_ray.errors import InputError
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment

cpus, model, archive, tables, *asked = sys.argv[1:]
ray.init("local", num_cpus=int(cpus), include_dashboard=False, log_to_driver=False, runtime_env={})
found = {}
for actors in asked:
    flags = {"model": model, "images": archive, "output": f"{tables}-{actors}", "actors": actors}
    config = SegmentConfig(**flags, device="cpu", stall_minutes=2)
    try:
        found[actors] = segment(config).images_done
    except InputError as error:
        found[actors] = str(error)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpus", "asked"),
    [
        (1, ("1", "2", "1,4")),
        (4, ("1", "3", "4", "1,4")),
        pytest.param(2, ("1", "2", "3", "1,4"), marks=pytest.mark.soak),
        pytest.param(4, ("2",), marks=pytest.mark.soak),
    ],
)
def test_no_number_of_actors_hangs(
    tmp_path: Path, tiny_model: str, cpus: int, asked: tuple[str, ...]
) -> None:
    archive = write_noise(tmp_path / "archive", _IMAGES, side=40)
    done = subprocess.run(
        [sys.executable, "-c", _RUNS, str(cpus), tiny_model, archive, tmp_path / "tables", *asked],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        | {"PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    most = max(1, cpus - 1)  # one CPU is for reading, unless there is only one
    for actors in asked:
        if int(actors.split(",")[0]) <= most:
            assert found[actors] == _IMAGES
        else:
            assert found[actors] == (
                f"--actors {actors}: the cluster has {cpus} CPUs, one of which is for reading; "
                f"give at most {most}"
            )
