"""What a cluster has and may add, before anything expensive starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.util.placement_group import placement_group, remove_placement_group

from unet_ray.errors import InputError

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
        return cls(
            tuple(node["Resources"] for node in ray.nodes() if node["Alive"]), is_autoscaler_v2()
        )

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
            raise InputError(
                f"{has}too few, of {cpus:g} CPUs each; {remedy}, or more max_workers of a node type"
            )


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
        requests = [
            *gang.requests,
            *(r for selector in gang.bundle_selectors for r in selector.resource_requests),
        ]
        if len(requests) >= bundles and all(
            request.resources_bundle.get("GPU", 0) > 0 for request in requests
        ):
            return True
    return False


def gpu_worker_cpus(have: Capacity) -> float:
    """Return the logical CPUs of a GPU worker: with a worker on every GPU, a quarter is left to Ray Data's tasks.

    Of nodes that are still to come nothing is known: one CPU is on all of them.
    """
    return min(
        [
            1.0 if have.grows else 4.0,
            *(0.75 * node["CPU"] / node["GPU"] for node in have.nodes if node.get("GPU")),
        ]
    )


def worker_cpus(have: Capacity, least: int) -> float:
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
    return next(
        (int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == mine), 1
    )
