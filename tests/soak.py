"""Kill soak: runs that are killed at random moments, compared with one that was never disturbed.

    python tests/soak.py --place local --kills 20
    python tests/soak.py --place s3 --kills 20 --images 300
    python tests/soak.py --place local --nodes 2 --kills 10

Each run is `jobs/segment.py` as a user starts it. At a random moment one of its processes gets a
SIGKILL: the driver, a predictor actor, a worker of other tasks, a raylet, or the S3 server (which
is started again after a second). With `--nodes N` the runs join one cluster of a head and N nodes,
each with a raylet of its own, and the raylet of a node is killed: such a run goes on with the
nodes that are left. Otherwise each run has a Ray of its own, and ends with its raylet. After the
last kill the same command runs to its end; then `verify` has to pass, every image of the archive
has exactly one row, and all rows equal those of the undisturbed run except for run ids and times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ray.cluster_utils import Cluster

from unet_ray.output.reader import read_tables
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode

REPOSITORY = Path(__file__).parent.parent
PARTS = {
    "driver": "jobs/segment.py",
    "actor": "ray::MapWorker",
    "task": "ray::",
    "raylet": "core/src/ray/raylet/raylet",
}
NOT_TASKS = ("MapWorker", "_Messages", "_StatsActor", "Autoscaling", "IDLE", "Dashboard")
_MOMENTS_S = (3.0, 25.0)
"""Earliest and latest moment of a kill: between them Ray starts and a run ends."""
_GOES_ON_S = 240.0
"""Time that a run may take to end after a process other than its driver was killed."""


class SoakCluster:
    """A Ray cluster on this machine: a head that does little, and nodes that may be killed."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._head = Cluster(initialize_head=True, head_node_args=self._node_args(1))
        self._raylets: list[psutil.Process] = []
        self.add_missing_nodes()

    @property
    def address(self) -> str:
        return str(self._head.address)

    def add_missing_nodes(self) -> None:
        """Add a node for each that died."""
        self._raylets = [raylet for raylet in self._raylets if title(raylet)]
        while len(self._raylets) < self._nodes:
            node = self._head.add_node(**self._node_args(2))
            self._raylets.append(psutil.Process(node.all_processes["raylet"][0].process.pid))

    def processes(self) -> list[psutil.Process]:
        """Return the processes that a run may lose: the raylets of the nodes and all workers."""
        workers = [
            p for p in psutil.Process().children(recursive=True) if title(p).startswith("ray::")
        ]
        return [*(raylet for raylet in self._raylets if title(raylet)), *workers]

    def stop(self) -> None:
        self._head.shutdown()

    @staticmethod
    def _node_args(cpus: int) -> dict[str, int]:
        return {"num_cpus": cpus, "object_store_memory": 300 * 2**20}


@dataclass
class Soak:
    """One output that is written by runs which are killed.

    Args:
        root: URI of an empty place.
        model: Model folder.
        images: Number of images of the archive.
        seed: Seed of the moments and of the choice of processes.
        server: Kills the S3 server and starts it again; None: there is no server.
        cluster: Cluster that the runs join; None: each starts a Ray of its own.
        killed: Number of kills of each part.
        exit_codes: Number of disturbed runs that ended with each code; 99: it did not end.
        hung: Number of disturbed runs that did not end in time.
    """

    root: str
    model: str
    images: int
    seed: int
    server: Callable[[], None] | None = None
    cluster: SoakCluster | None = None
    killed: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[int] = field(default_factory=Counter)
    hung: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        archive, rng = Storage.of(f"{self.root}/archive"), np.random.default_rng(self.seed)
        for index in range(self.images):
            scene = draw_scene(int(rng.integers(40, 90)), int(rng.integers(40, 90)), rng)[0]
            archive.write(f"{index % 7}/{index:04d}.png", encode(scene, "png"))
        archive.write("broken.png", b"no image")

    def run(self, kills: int) -> None:
        """Start runs until `kills` of them were killed, let one end, and check the output.

        Raises:
            AssertionError: Something is lost, double or different.
        """
        while self.killed.total() < kills:
            if self._is_complete():
                self._add_images()
            self._disturb(self._start("disturbed"))
        self._finish("disturbed")
        self._finish("undisturbed")
        self.check()

    def check(self) -> None:
        """Compare the disturbed output with the undisturbed one."""
        images = [f"--images={self.root}/archive"]
        verified = self._job("verify", f"--tables={self.root}/disturbed", *images)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        rows = [_rows(f"{self.root}/{name}") for name in ("undisturbed", "disturbed")]
        for table in rows[0]:
            assert rows[0][table] == rows[1][table], f"{table}: the rows differ"

    def _start(self, output: str) -> subprocess.Popen[str]:
        flags = ["--model", self.model, "--images", f"{self.root}/archive"]
        flags += ["--output", f"{self.root}/{output}", "--date", "2026-01-01"]
        flags += ["--shard-images", "20", "--max-error-rate", "1", "--stall-minutes", "2"]
        clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        if self.cluster:
            self.cluster.add_missing_nodes()
            clean["RAY_ADDRESS"] = self.cluster.address
            flags += ["--actors", "2"]
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "jobs/segment.py"), *flags],
            env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _job(self, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        command = [sys.executable, str(REPOSITORY / f"jobs/{name}.py"), *flags]
        return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=600)

    def _finish(self, output: str) -> None:
        process = self._start(output)
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said

    def _disturb(self, process: subprocess.Popen[str]) -> None:
        """Kill a process of a run at a random moment, and wait for the run to end."""
        started, moment = time.monotonic(), self._random.uniform(*_MOMENTS_S)
        part = self._random.choice([*PARTS, *(["server"] if self.server else [])])
        while process.poll() is None and time.monotonic() - started < moment:
            time.sleep(0.05)
        family = _family(process)
        others = self.cluster.processes() if self.cluster else family
        if process.poll() is None:
            self.killed[self._kill(part, process, others)] += 1
        try:
            process.communicate(timeout=_GOES_ON_S)
        except subprocess.TimeoutExpired:
            self.hung += 1
        self.exit_codes[process.returncode if process.poll() is not None else 99] += 1
        for one in {*family, *_family(process)}:  # a dead driver's Ray takes a while to notice
            _kill_quietly(one)
        process.wait()

    def _kill(self, part: str, process: subprocess.Popen[str], family: list[psutil.Process]) -> str:
        """Kill a process of the part, or the driver if the part has none; return which it was."""
        if part == "server":
            assert self.server
            self.server()
            return part
        found = [p for p in family if PARTS[part] in title(p)] if part != "driver" else []
        if part == "task":
            found = [p for p in found if not any(name in title(p) for name in NOT_TASKS)]
        if not found:
            process.kill()
            return "driver"
        _kill_quietly(self._random.choice(found))
        return part

    def _is_complete(self) -> bool:
        tables = Storage.of(f"{self.root}/disturbed")
        return tables.exists("images") and len(read_tables(tables.uri).images) >= self.images

    def _add_images(self) -> None:
        archive, rng = Storage.of(f"{self.root}/archive"), np.random.default_rng(self.images)
        for index in range(self.images, self.images + 60):
            archive.write(f"more/{index:05d}.png", encode(draw_scene(50, 60, rng)[0], "png"))
        self.images += 60


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    """Return the command line of a process, or nothing if it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill_quietly(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _rows(uri: str) -> dict[str, list[Any]]:
    """Return all rows of an output, sorted, without the columns that differ between runs."""
    tables = read_tables(uri, current=False)
    rows = {}
    for name in ("images", "masks", "regions"):
        table = getattr(tables, name)
        kept = table.drop_columns(
            [c for c in ("run_id", "segmented_at") if c in table.column_names]
        )
        rows[name] = sorted(
            json.dumps(row, default=repr, sort_keys=True) for row in kept.to_pylist()
        )
    return rows


def main() -> None:
    from tests.builders import make_tiny_model
    from tests.conftest import s3_server_in

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--place", choices=("local", "s3"), default="local")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model, root, server = make_tiny_model(Path(folder)), f"{folder}/soak", None
        if flags.place == "s3":
            store = s3_server_in(Path(folder))
            root, server = "s3://soak", store.restart
            Storage.of(root).filesystem.mkdir(root)
        cluster = SoakCluster(flags.nodes) if flags.nodes else None
        soak = Soak(root, model, flags.images, flags.seed, server, cluster)
        started = time.monotonic()
        try:
            soak.run(flags.kills)
        finally:
            print(
                f"killed: {dict(soak.killed)} of {soak.exit_codes.total()} runs; "
                f"hung: {soak.hung}; exit codes: {dict(soak.exit_codes)}; "
                f"{time.monotonic() - started:.0f} s"
            )
            if cluster:
                cluster.stop()
            if flags.place == "s3":
                store.stop()
        assert soak.hung == 0
        print(f"{soak.images} images: nothing lost, nothing double, all rows as undisturbed")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
