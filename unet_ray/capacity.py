"""What a cluster has and may add, and what of it each actor or worker is given, before anything expensive starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.data import ActorPoolStrategy
from ray.util.placement_group import placement_group, remove_placement_group

from unet_ray.cluster import REUSED_MEMORY
from unet_ray.errors import InputError

Device = Literal["auto", "cpu", "gpu"]

_ANSWER_S = 20.0
"""Within which an autoscaler says that none of its nodes could hold a request; it looks every five seconds."""


@dataclass(frozen=True)
class Capacity:
    """The nodes of a cluster."""

    nodes: tuple[dict[str, float], ...]
    """Resources of each node that is up."""
    grows: bool
    """Whether an autoscaler may add nodes."""

    @classmethod
    def of_cluster(cls) -> Capacity:
        """Look at the cluster that this process has joined."""
        return cls(tuple(node["Resources"] for node in ray.nodes() if node["Alive"]), is_autoscaler_v2())

    @cached_property
    def cpus(self) -> int:
        """Of all nodes."""
        return int(sum(node.get("CPU", 0) for node in self.nodes))

    @cached_property
    def gpus(self) -> int:
        """Of all nodes."""
        return int(sum(node.get("GPU", 0) for node in self.nodes))

    @cached_property
    def largest_cpus(self) -> int:
        """Of the largest node: no actor can be given more."""
        return int(max(node.get("CPU", 0) for node in self.nodes))

    def require_gpus(self, count: int, cpus: float, flag: str, remedy: str) -> None:
        """Refuse what the cluster has not and its autoscaler cannot add; else nodes are on their way.

        Args:
            count — GPUs, each with so many CPUs on its node.
            flag, remedy — for the message.

        Raises: InputError — at once without an autoscaler, else as soon as it says no.
        """
        if self.gpus >= count:
            return
        has = f"{flag}: needs {count} GPU{'s' * (count > 1)}; this cluster has {self.gpus or 'none'} and may add "
        if not self.grows:
            raise InputError(f"{has}none; {remedy}")
        if not _may_come([{"CPU": cpus, "GPU": 1.0}] * count):
            raise InputError(f"{has}too few, of {cpus:g} CPUs each; {remedy}, or more max_workers of a node type")


def _may_come(bundles: list[dict[str, float]]) -> bool:
    """Ask an autoscaler for room; return False where it says that it can never give that."""
    asked = placement_group(bundles)
    try:
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until:
            if asked.wait(1):
                return True
            if _is_refused(len(bundles)):
                return False
        return True  # nodes take minutes to come
    finally:
        remove_placement_group(asked)


def _is_refused(bundles: int) -> bool:
    """Tell whether the autoscaler calls a request of so many GPU bundles impossible."""
    reply = ray._private.worker.global_worker.gcs_client.get_cluster_status()
    state = GetClusterStatusReply.FromString(reply).autoscaling_state
    for gang in state.infeasible_gang_resource_requests:
        requests = [*gang.requests, *(r for selector in gang.bundle_selectors for r in selector.resource_requests)]
        if len(requests) >= bundles and all(request.resources_bundle.get("GPU", 0) > 0 for request in requests):
            return True
    return False


@dataclass(frozen=True)
class PoolPlan:
    """A pool of predictor actors and what each of them is given."""

    least: int
    """Actors that must be possible."""
    most: int
    """Actors that are asked for, all at once: nodes that have to come for them come together."""
    cpus: float
    """Logical CPUs of each."""
    gpus: float
    """GPUs of each."""
    threads: int
    """Torch's CPU threads in each."""
    grows: bool = False
    """Whether nodes may come for them."""

    def __str__(self) -> str:
        size = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        plurals = "s" * (self.most > 1), "s" * (self.threads > 1)
        return f"{size} predictor{plurals[0]} ({'GPU' if self.uses_gpu else 'CPU'}, {self.threads} thread{plurals[1]})"

    @property
    def uses_gpu(self) -> bool:
        """Whether the actors run on GPUs."""
        return self.gpus > 0

    @property
    def remote_args(self) -> dict[str, Any]:
        """What Ray is to give each actor."""
        if self.uses_gpu:
            return {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return {"num_cpus": self.cpus, "runtime_env": REUSED_MEMORY}

    def strategy(self, calls: int = 1) -> ActorPoolStrategy:
        """Return the pool as Ray Data wants it.

        Ray Data takes back actors above the smallest size for which the cluster has no room yet, so that no node would
        ever come for them: where nodes may come, the smallest size is the largest. At the end of the input it gives
        actors back one by one, in any case.

        Args:
            calls — of an actor at a time, each in a thread.
        """
        return ActorPoolStrategy(
            min_size=self.most if self.grows else self.least,
            max_size=self.most,
            initial_size=self.most,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        )


def plan_pool(actors: str | None, device: Device, work: int | None = None) -> PoolPlan:
    """Decide size and resources of the predictor pool from the cluster, leaving CPUs for reading and writing.

    Args:
        actors — `N`, `MIN,MAX`, or None: one per GPU, or on CPUs one per four of them.
        device — `gpu` may bring up nodes; `auto` takes GPUs that are up.
        work — pieces of work there are; more actors than that would only wait.

    Raises: InputError — a pool that the cluster cannot hold.
    """
    have = Capacity.of_cluster()
    asked = parse_range(actors, "--actors") if actors else None
    if device == "gpu" or (device == "auto" and have.gpus):
        return _gpu_pool(have, asked, work)
    if have.cpus < 1:
        raise InputError(
            "no node of the cluster has a CPU for work; keep one up (min_workers), or give --device gpu and --actors"
        )
    return _cpu_pool(have, asked, work)


def _gpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    least, most = _useful(asked or (max(1, have.gpus),) * 2, work)
    most = most if have.grows else max(least, min(most, have.gpus))
    cpus = 1.0 if have.grows else min(1.0, have.cpus / (2 * most))
    flag = f"--actors {least} on GPUs" if asked else "--device gpu"
    have.require_gpus(least, cpus, flag, "give --device cpu" if least == 1 else "give fewer --actors, or --device cpu")
    if have.cpus < 1 and not have.grows:
        raise InputError("the cluster has no CPU; add one for reading and writing")
    return PoolPlan(least, most, cpus=cpus, gpus=1.0, threads=1, grows=have.grows)


def _cpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    cpus, room = have.cpus, max(1, have.cpus - 1)
    least, most = asked or (max(1, cpus // 4),) * 2
    if least > room:
        raise InputError(f"--actors {least}: {cpus} CPUs, one of them for reading; give at most {room}")
    least, most = _useful((least, min(most, room)), work)
    share = max(1, min((cpus - max(1, cpus // 4)) // most, have.largest_cpus - 1)) if cpus > 1 else 0.5
    return PoolPlan(least, most, cpus=share, gpus=0.0, threads=max(1, min(cpus // most, have.largest_cpus)))


def _useful(actors: tuple[int, int], work: int | None) -> tuple[int, int]:
    """Return least and most, none above the work that there is."""
    limit = actors[1] if work is None else max(1, work)
    return min(actors[0], limit), min(actors[1], limit)


def cpus_of_gpu_worker(have: Capacity) -> float:
    """Return the logical CPUs of a GPU worker: with a worker on every GPU, a quarter is left to Ray Data's tasks.

    Of nodes that are still to come nothing is known: one CPU is on all of them.
    """
    return min(
        [1.0 if have.grows else 4.0, *(0.75 * node["CPU"] / node["GPU"] for node in have.nodes if node.get("GPU"))]
    )


def cpus_of_worker(have: Capacity, least: int) -> float:
    """Return the logical CPUs of a CPU worker: as many as let `least` workers start and leave some to Ray Data's tasks.

    Elastic training fills each node with as many workers as its CPUs hold, so that the largest node must have half a
    CPU over when it is full. Where no node with CPUs is up, nothing is known of those that will come: one.

    Example: one node of 2 CPUs: 1.5 for one worker, 0.75 for two; 8 CPUs: 6, 3, 2.07, …
    """
    if have.largest_cpus < 1:
        return 1.0
    for on_largest in range(1, least + 1):
        rest = max(0.5, min(have.largest_cpus / 4, 0.9 * have.largest_cpus / (on_largest + 1)))
        share = (have.largest_cpus - rest) / on_largest
        if sum(node.get("CPU", 0) // share for node in have.nodes) >= least:
            break
    return share


def node_cpus() -> int:
    """Return the CPUs of the node that this process runs on."""
    mine = ray.get_runtime_context().get_node_id()
    return next((int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == mine), 1)


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Return `N` or `MIN,MAX` as a pair; raise InputError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    least, most = (numbers * 2)[:2] if len(numbers) in (1, 2) else (0, 0)
    if not 1 <= least <= most:
        raise InputError(f"{flag} {text}: give a number from 1, or MIN,MAX with MIN ≤ MAX")
    return least, most
