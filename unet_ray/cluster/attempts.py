"""Attempts of tasks: how many processes died while they worked on a block."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from unet_ray.cluster.ray_internals import attempt_number

_PING_S = 30.0
"""Time within which a node that lives answers."""


@ray.remote(num_cpus=0)
class _Begun:
    """Holds the nodes on which each block was begun and not ended."""

    def __init__(self) -> None:
        self._nodes: defaultdict[str, list[str]] = defaultdict(list)

    def begin(self, key: str, node: str, is_retry: bool) -> int:
        """Note a begin, and return how many earlier ones died on nodes that live."""
        before = self._nodes[key]
        living = {n["NodeID"] for n in ray.nodes() if n["Alive"]} if is_retry else set()
        deaths = sum(node in living for node in before)
        before.append(node)
        return deaths

    def end(self, key: str) -> None:
        self._nodes.pop(key, None)


class Attempts:
    """Tells a retried task how many of its earlier processes died.

    Ray retries a task whose process or node died, without end and without telling it why. The
    object travels to the tasks, and lasts as long as the `with` block. A first attempt waits for
    nothing.
    """

    def __init__(self) -> None:
        # the actor stays on the driver's node, so that it lives as long as the driver
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._begun: Any = _Begun.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]

    def begin(self, key: str) -> int:
        """Note that the current task begins work on a block.

        Args:
            key: Name of the work, the same for each attempt.

        Returns:
            Number of processes that began the same work and died, while their nodes live on.
        """
        attempt = attempt_number()
        begun = self._begun.begin.remote(key, ray.get_runtime_context().get_node_id(), attempt > 0)
        return int(ray.get(begun)) if attempt else 0

    def end(self, key: str) -> None:
        """Note that the work ended: when its result is lost with a node, no process has died."""
        self._begun.end.remote(key)

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._begun)


def _answer() -> None:
    """Do nothing."""


def is_node_alive(node: str) -> bool:
    """Tell whether a node still runs tasks."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        answer = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_answer)
        ray.get(answer.remote(), timeout=_PING_S)
    except ray.exceptions.RayError:
        return False
    return True
