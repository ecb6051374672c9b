"""Variables of the driver's process reach the workers of other nodes, which do not have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from tests.builders import write_scenes
from tests.conftest import REPOSITORY, new_bucket
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
    monkeypatch: pytest.MonkeyPatch,
    nodes: int,
) -> None:
    """Only the driver has the variables: the raylets were started without any of S3."""
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), 40)
    drivers = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in drivers:
        monkeypatch.delenv(name)
    small = {"num_cpus": 2 // nodes, "object_store_memory": 300 * 2**20 // nodes}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**small)
        with faulty_store(s3_server, answer=_refuse_checksums) as store:
            environment = os.environ | drivers | _CHECKSUMS | {"AWS_ENDPOINT_URL": store.endpoint}
            environment |= {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(REPOSITORY)}
            flags = ["--model", tiny_model, "--images", f"{root}/archive"]
            flags += ["--output", f"{root}/tables", "--shard-images", "10", "--actors", "1"]
            flags += ["--stall-minutes", "4"]  # rather a line that says why than a timeout
            done = subprocess.run(
                [sys.executable, str(Path(REPOSITORY, "jobs/segment.py")), *flags],
                env=environment,
                capture_output=True,
                text=True,
                timeout=500,
            )
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    for name, value in drivers.items():
        monkeypatch.setenv(name, value)
    rows = read_tables(f"{root}/tables").images
    assert len(rows) == rows["error_type"].null_count == 40
