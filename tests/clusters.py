"""Ray clusters as an administrator starts them: `ray start` with tokens on.

One of them has an autoscaler, whose nodes are raylets on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.conftest import REPOSITORY, free_port

_NODE_BYTES = 150 * 2**20
"""Object store of a node that an autoscaler starts here, bytes."""


@contextmanager
def started_cluster(
    folder: Path, port: int, *flags: str, **environment: str
) -> Iterator[dict[str, str]]:
    """Start a head; yield the environment of its users. Every process of the cluster ends with it.

    Args:
        folder: Folder for the token and the head's log.
        port: Port of the head.
        flags: More flags of `ray start --head`.
        environment: More variables of the head, which jobs on it inherit.

    Yields:
        Environment variables with which users of the cluster start their commands.
    """
    dashboard, agent = free_port(), free_port()  # another Ray of this machine may hold the defaults
    ray_files = tempfile.mkdtemp(prefix="unet-ray-")  # sockets lie in it: its path must be short
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    binaries = Path(sys.executable).parent
    users = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    users |= {
        "PATH": f"{binaries}:{users['PATH']}",  # as in an activated environment
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [f"{binaries}/ray", "start", "--head", "--block", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={ray_files}"]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags], env=users | environment, stdout=log, stderr=log
        )
    try:
        yield users | {
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "RAY_FILES": ray_files,
        }
    finally:
        family = []
        # other nodes are no children of the head: they are found by their command line
        for member in psutil.process_iter(["cmdline"]):
            if member.pid == process.pid or ray_files in " ".join(member.info["cmdline"] or []):
                with suppress(psutil.NoSuchProcess):
                    family += [member, *member.children(recursive=True)]
        for member in family:  # killed: a head that is asked to stop takes half a minute
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        shutil.rmtree(ray_files, ignore_errors=True)


class Nodes:
    """Nodes of a cluster that are added, and killed as a machine dies; each is a raylet here.

    Args:
        port: Port of the cluster's head.
        users: Environment that `started_cluster` yields.
        flags: Flags of `ray start` for each node.
    """

    def __init__(self, port: int, users: dict[str, str], *flags: str) -> None:
        self._port, self._users, self._flags = port, users, flags
        self._nodes: list[subprocess.Popen[bytes]] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self) -> None:
        """Start a node, and wait until the cluster has it."""
        command = [f"{Path(sys.executable).parent}/ray", "start", "--block"]
        command += [f"--address=127.0.0.1:{self._port}", f"--temp-dir={self._users['RAY_FILES']}"]
        command += [f"--dashboard-agent-listen-port={free_port()}", *self._flags]
        handle, log = tempfile.mkstemp(dir=self._users["RAY_FILES"])
        with os.fdopen(handle, "wb") as output:
            node = subprocess.Popen(command, env=self._users, stdout=output, stderr=output)
        self._nodes.append(node)
        while b"Ray runtime started" not in Path(log).read_bytes():
            assert node.poll() is None, Path(log).read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill all processes of the newest node."""
        node = self._nodes.pop()
        with suppress(psutil.NoSuchProcess):
            member = psutil.Process(node.pid)
            for process in [member, *member.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        node.wait()


@contextmanager
def autoscaling_cluster(folder: Path, most: dict[str, int]) -> Iterator[dict[str, str]]:
    """Start a head that adds nodes of the types of cluster.yaml, each a raylet on this machine.

    Args:
        folder: Folder for the cluster's files.
        most: Largest number of nodes of each type; other types are not offered.

    Yields:
        Environment variables with which users of the cluster start their commands.
    """
    gcs = free_port()
    types = yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())["available_node_types"]
    nodes: dict[str, dict[str, Any]] = {
        name: {
            "resources": types[name]["resources"] | {"object_store_memory": _NODE_BYTES},
            # elsewhere Ray gets this label from what starts a node
            "labels": {"ray.io/node-group": name},
            "node_config": {},
            "min_workers": 0,
            "max_workers": count,
        }
        for name, count in most.items()
    }
    head = {"resources": types["head"]["resources"], "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "here",
        "max_workers": sum(most.values()),
        "idle_timeout_minutes": 0.15,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"127.0.0.1:{gcs}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": nodes | {"ray.head.default": head},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        **{f"{part}setup_commands": [] for part in ("", "head_", "worker_")},
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
    file = folder / "autoscaling.yaml"
    file.write_text(json.dumps(config))
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_worker_prestart": "0",  # a node would start a process per logical CPU
        "RAY_idle_worker_killing_time_threshold_ms": "120000",  # as in cluster.yaml
        "PYTHONPATH": str(REPOSITORY),
    }
    flags = ["--num-cpus=0", f"--autoscaling-config={file}", f"--object-store-memory={_NODE_BYTES}"]
    with started_cluster(folder, gcs, *flags, **environment) as users:
        yield users | {"RAY_ADDRESS": f"127.0.0.1:{gcs}"}
