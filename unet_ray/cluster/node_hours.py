"""Node hours of a run by type of node, and their cost."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from unet_ray.flags import ANY_NODE
from unet_ray.periodic import every

_INTERVAL_S = 5.0
_TYPE_LABEL = "ray.io/node-group"


class NodeHours:
    """Time that each node of the cluster was up while it was watched."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counted_at = 0.0

    @property
    def by_type(self) -> dict[str, float]:
        """Hours by type of node: its name in the cluster's configuration, or `node` without one."""
        return {kind: seconds / 3600 for kind, seconds in sorted(self._seconds.items())}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the time of the `with` block for each node that is up meanwhile."""
        self._counted_at = time.monotonic()
        with every(_INTERVAL_S, self._count, "node hours", at_end=True):
            yield

    def _count(self) -> None:
        """Count the time since the last call for each node that is up."""
        now = time.monotonic()
        since_s, self._counted_at = now - self._counted_at, now
        with suppress(Exception):  # if the cluster is lost, the hours so far stay
            for node in ray.nodes():
                if node["Alive"]:
                    kind = node.get("Labels", {}).get(_TYPE_LABEL, ANY_NODE)
                    self._seconds[kind] += since_s


def compute_cost(
    hours: dict[str, float], prices: dict[str, float], images: int, megapixels: float
) -> dict[str, Any]:
    """Return the cost of a run: in total, per thousand images and per gigapixel.

    The entry `types_without_price` names the types of node whose price is not given.

    Args:
        hours: Hours by type of node.
        prices: Price of an hour by type of node, as `parse_prices` returns them.
        images: Number of images done.
        megapixels: Megapixels of these images.
    """
    default = prices.get(ANY_NODE)
    priced = {kind: prices.get(kind, default) for kind in hours}
    total = sum(hours[kind] * price for kind, price in priced.items() if price is not None)
    return {
        "total": total,
        "per_1000_images": 1000 * total / images if images else None,
        "per_gigapixel": 1000 * total / megapixels if megapixels else None,
        "types_without_price": [kind for kind, price in priced.items() if price is None],
    }
