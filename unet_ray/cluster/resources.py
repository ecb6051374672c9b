"""Resources that a cluster has and may add, checked before anything expensive starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from unet_ray.cluster.ray_internals import has_autoscaler, list_infeasible_requests
from unet_ray.errors import InputError

_ANSWER_S = 20.0
"""Time within which an autoscaler reports a request that no node could hold (s). It looks every
five seconds."""


@dataclass(frozen=True)
class Capacity:
    """Resources of the nodes of a cluster."""

    nodes: tuple[dict[str, float], ...]
    """Resources of each node that is up."""
    grows: bool
    """True if an autoscaler may add nodes."""

    @classmethod
    def of_cluster(cls) -> Capacity:
        """Return the capacity of the cluster that this process has joined."""
        nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
        return cls(nodes, has_autoscaler())

    @cached_property
    def cpus(self) -> int:
        """CPUs of all nodes."""
        return int(sum(node.get("CPU", 0) for node in self.nodes))

    @cached_property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return int(sum(node.get("GPU", 0) for node in self.nodes))

    @cached_property
    def largest_cpus(self) -> int:
        """CPUs of the largest node, the most that an actor can get."""
        return int(max(node.get("CPU", 0) for node in self.nodes))

    def require_gpus(self, count: int, cpus: float, flag: str, remedy: str) -> None:
        """Refuse GPUs that the cluster does not have and its autoscaler cannot add.

        If it returns, the GPUs are up or their nodes are on their way.

        Args:
            count: Number of GPUs.
            cpus: Number of CPUs that each GPU needs on its node.
            flag: Flag that the message names.
            remedy: Remedy that the message gives.

        Raises:
            InputError: The GPUs cannot come. Without an autoscaler this is known at once; with one,
                as soon as it reports so.
        """
        if self.gpus >= count:
            return
        gpus = "GPUs" if count > 1 else "GPU"
        has = f"{flag}: needs {count} {gpus}; this cluster has {self.gpus or 'none'} and can add "
        if not self.grows:
            raise InputError(f"{has}none; {remedy}")
        if not _may_come([{"CPU": cpus, "GPU": 1.0}] * count):
            raise InputError(
                f"{has}too few, with {cpus:g} CPUs each; {remedy}, or raise max_workers of a node "
                "type"
            )


def _may_come(bundles: list[dict[str, float]]) -> bool:
    """Request bundles from an autoscaler; return False if it says that they can never come."""
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


def _is_refused(num_bundles: int) -> bool:
    """Tell whether the autoscaler calls a request for `num_bundles` GPU bundles infeasible."""
    for requested in list_infeasible_requests():
        is_for_gpus = all(bundle.get("GPU", 0) > 0 for bundle in requested)
        if is_for_gpus and len(requested) >= num_bundles:
            return True
    return False


def gpu_worker_cpus(have: Capacity) -> float:
    """Return the logical CPUs of a GPU worker.

    With a worker on every GPU, a quarter of the CPUs is left to Ray Data's tasks. Nodes that are
    still to come are assumed to have one CPU each.
    """
    limit = 1.0 if have.grows else 4.0
    shares = [0.75 * node["CPU"] / node["GPU"] for node in have.nodes if node.get("GPU")]
    return min([limit, *shares])


def worker_cpus(have: Capacity, least: int) -> float:
    """Return the logical CPUs of a CPU worker.

    The share lets `least` workers start and leaves CPUs to Ray Data's tasks. Elastic training fills
    each node with as many workers as its CPUs hold, so the largest node must have half a CPU left
    when it is full. If no node with CPUs is up, future nodes are unknown, and the share is 1.

    On one node of 2 CPUs: 1.5 for one worker, 0.75 for two; on 8 CPUs: 6, 3, 2.07, …

    Args:
        have: Capacity of the cluster.
        least: Fewest workers of the training.
    """
    if have.largest_cpus < 1:
        return 1.0
    for on_largest in range(1, least + 1):
        rest = min(have.largest_cpus / 4, 0.9 * have.largest_cpus / (on_largest + 1))
        share = (have.largest_cpus - max(0.5, rest)) / on_largest
        num_workers = sum(node.get("CPU", 0) // share for node in have.nodes)
        if num_workers >= least:
            break
    return share


def node_cpus() -> int:
    """Return the number of CPUs of the node that this process runs on."""
    mine = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == mine:
            return int(node["Resources"].get("CPU", 1))
    return 1
