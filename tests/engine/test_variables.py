"""Variables of the driver's process reach the workers of other nodes, which do not have them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.builders import write_scenes
from tests.clusters import started_cluster
from tests.conftest import REPOSITORY, free_port, new_bucket
from tests.faulty_store import Answer, Request, faulty_store
from unet_ray.output.reader import read_tables
from unet_ray.storage.storage import Storage

_CHECKSUMS = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


def _refuse_checksums(request: Request) -> Answer | None:
    names = [name.lower() for name in request.headers]
    if any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in names):
        return Answer.error(400, "InvalidRequest", "x-amz-checksum is not known")
    return None


@pytest.mark.parametrize(
    "nodes", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.soak)]
)
def test_a_store_without_the_newer_checksums_is_used_from_all_nodes(
    request: pytest.FixtureRequest,
    s3_server: str,
    tiny_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
) -> None:
    """Only the driver has the variables: the raylets were started without any of S3."""
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), 40)
    of_driver = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in of_driver:
        monkeypatch.delenv(name)
    port = free_port()
    size = [f"--num-cpus={2 // nodes}", f"--object-store-memory={300 * 2**20 // nodes}"]
    with (
        started_cluster(tmp_path, port, *size) as users,
        faulty_store(s3_server, answer=_refuse_checksums) as store,
    ):
        join = [Path(sys.executable).with_name("ray"), "start", f"--address=127.0.0.1:{port}"]
        for _ in range(nodes - 1):
            time.sleep(10)  # the head must be up
            subprocess.run([*join, *size], env=users, check=True)
        flags = ["--model", tiny_model, "--images", f"{root}/archive"]
        flags += ["--output", f"{root}/tables", "--shard-images", "10", "--actors", "1"]
        flags += ["--stall-minutes", "4"]  # rather a line that says why than a timeout
        done = subprocess.run(
            [sys.executable, str(Path(REPOSITORY, "jobs/segment.py")), *flags],
            env=users
            | of_driver
            | _CHECKSUMS
            | {
                "AWS_ENDPOINT_URL": store.endpoint,
                "RAY_ADDRESS": f"127.0.0.1:{port}",
                "PYTHONPATH": str(REPOSITORY),
            },
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name, value in of_driver.items():
        monkeypatch.setenv(name, value)
    rows = read_tables(f"{root}/tables").images
    assert len(rows) == rows["error_type"].null_count == 40
