"""Attempts of tasks, and how many processes died while they worked on the same block."""

from __future__ import annotations

from collections import defaultdict

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from unet_ray.cluster.ray_internals import attempt_number

_PING_S = 30.0
"""Time within which a live node answers (s)."""


@ray.remote(num_cpus=0)
class _Begun:
    """Holds, for each block, the nodes on which work began and has not ended."""

    def __init__(self) -> None:
        self._nodes: defaultdict[str, list[str]] = defaultdict(list)

    def begin(self, key: str, node: str, is_retry: bool) -> int:
        """Note a start, and return how many earlier processes died on nodes that are alive."""
        before = self._nodes[key]
        num_deaths = 0
        if is_retry:
            living = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
            num_deaths = sum(each in living for each in before)
        before.append(node)
        return num_deaths

    def end(self, key: str) -> None:
        self._nodes.pop(key, None)


class Attempts:
    """Tells a retried task how many of its earlier processes died.

    Ray retries a task whose process or node died without limit, and does not tell the task why.
    This object travels to the tasks, and works as long as the `with` block runs. A first attempt
    does not wait for an answer.
    """

    def __init__(self) -> None:
        # the actor stays on the driver's node, so that it lives as long as the driver
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        self._begun: ray.actor.ActorHandle
        self._begun = _Begun.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]

    def begin(self, key: str) -> int:
        """Note that the current task begins work on a block.

        Args:
            key: Name of the work, the same for each attempt.

        Returns:
            Number of processes that began the same work and died, on nodes that are still alive.
        """
        is_retry = attempt_number() > 0
        node = ray.get_runtime_context().get_node_id()
        num_deaths = self._begun.begin.remote(key, node, is_retry)
        return int(ray.get(num_deaths)) if is_retry else 0

    def end(self, key: str) -> None:
        """Note that the work ended, so that a later loss of its result counts as no death."""
        self._begun.end.remote(key)

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._begun)


def _answer() -> None:
    """Do nothing: a task that ends shows that its node is alive."""


def is_node_alive(node: str) -> bool:
    """Tell whether a node still runs tasks."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        answer = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_answer)
        ray.get(answer.remote(), timeout=_PING_S)
    except ray.exceptions.RayError:
        return False
    return True
