"""Jobs as a user runs them: exit codes and one-line errors, the quickstart, and `ray job submit`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, free_port, run_job
from unet_ray.archive.storage import Storage
from unet_ray.synthetic import draw_scene, encode

NOT_YET = ("Failed to connect", "Connection refused", "No available agent")
"""What the job server says while the cluster is still starting."""

READ_ONLY = "/proc/nothing-can-be-written-here"


@pytest.fixture
def images(tmp_path: Path) -> str:
    folder = Storage.of(f"{tmp_path}/images")
    for index in range(3):
        folder.write(f"{index}.png", encode(draw_scene(64, 64, np.random.default_rng(index))[0], "png"))
    return folder.uri


@pytest.mark.parametrize(
    ("job", "flags", "message"),
    [
        ("segment", "--model {model} --images {images} --output {tmp}/t --foo 3", "Unknown option: --foo"),
        ("segment", "--images {images} --output {tmp}/t", "--model requires an argument"),
        ("segment", "--model {images} --images {images} --output {tmp}/t", "no model here"),
        ("segment", "--model {model} --images {tmp}/nowhere --output {tmp}/t", "no such folder or file"),
        ("segment", "--model {model} --images {model} --output {tmp}/t", "none with a known image suffix"),
        (
            "segment",
            f"--model {{model}} --images {{images}} --output {READ_ONLY}",
            "check the URI|no permission",
        ),
        (
            "segment",
            "--model {model} --images {images} --output {tmp}/t --date today",
            "--date today: give a day",
        ),
        ("segment", "--model {model} --images s3://No_Bucket!/x --output {tmp}/t", "not a name that the store allows"),
        ("segment", "--model {model} --images {tmp}/empty --output {tmp}/t", "no files"),
        ("train", "--images {images} --masks {tmp}/nowhere --output {tmp}/m", "no such folder or file"),
        ("train", "--images {images} --masks {images} --output {tmp}/m --crop 100", "nearest: 96 and 112"),
        ("train", "--images {images} --masks {images} --output {tmp}/m --workers 2,1", "--workers 2,1"),
        ("evaluate", "--model {model} --images {images} --masks {model}", "none with a known image suffix"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    job: str, flags: str, message: str, images: str, tiny_model: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    filled = flags.format(model=tiny_model, images=images, tmp=tmp_path).split()
    done = run_job(job, *filled)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert any(part in done.stderr for part in message.split("|")), done.stderr


def test_help_names_every_flag() -> None:
    done = run_job("segment", "--help")
    assert done.returncode == 0
    for flag in ("--model", "--shard-images", "--max-error-rate", "--retry-failed", "--dry-run"):
        assert flag in done.stdout


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    done = run_job("quickstart", "--output", tmp_path / "q")
    assert done.returncode == 0, done.stderr
    assert "29 images done, 1 failed" in done.stdout
    assert Image.open(tmp_path / "q/overlays.png").width > 500
    found = duckdb.sql(
        f"select class_name, count(*) from '{tmp_path}/q/tables/regions/*/*.parquet' group by 1 order by 1"
    )
    counts = dict(found.fetchall())
    assert counts["cell"] > 100
    assert counts["fibre"] > 20
    metrics = [line.split()[:3] for line in done.stdout.splitlines() if line.startswith(("cell", "fibre"))]
    assert len(metrics) == 2
    assert all(float(dice) > 0.7 for _, _, dice in metrics)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Start a Ray cluster as an administrator would, tokens on; return the environment of its users."""
    dashboard, agent = free_port(), free_port()  # another Ray of this machine may hold the default ones
    ray_files = tempfile.mkdtemp(prefix="unet-ray-")  # sockets lie in it: its path must be short
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    binaries = Path(sys.executable).parent
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {
        "PATH": f"{binaries}:{environment['PATH']}",  # as in an activated environment
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    head = [
        f"{binaries}/ray",
        "start",
        "--head",
        "--num-cpus=2",
        "--port=0",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={ray_files}",
        "--block",
    ]
    with (tmp_path / "head.log").open("wb") as log:
        process = subprocess.Popen(head, env=environment, stdout=log, stderr=log)
    try:
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(ray_files, ignore_errors=True)


@pytest.mark.slow
def test_ray_job_submit(cluster: dict[str, str], images: str, tiny_model: str, tmp_path: Path) -> None:
    job = f"python jobs/segment.py --model {tiny_model} --images {images} --output {tmp_path}/tables"
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", str(REPOSITORY)]
    excludes = json.dumps({"excludes": [".git", ".venv*", "quickstart"]})
    for _ in range(15):
        done = subprocess.run(
            [*command, "--runtime-env-json", excludes, "--", *job.split()], env=cluster, capture_output=True, text=True
        )
        if not any(reason in done.stdout + done.stderr for reason in NOT_YET):
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "3 images done, 0 failed" in done.stdout
    rows = duckdb.sql(f"select count(*), sum(region_count) from '{tmp_path}/tables/images/*/*.parquet'").fetchall()
    assert rows[0][0] == 3
    wrong = subprocess.run([*command, "--", *job.split(), "--foo"], env=cluster, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "Unknown option" in wrong.stdout + wrong.stderr
