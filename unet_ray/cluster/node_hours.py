"""Node hours of a run by type of node, and their cost."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import ray

from unet_ray.flags import ANY_NODE

_INTERVAL_S = 5.0
_TYPE_LABEL = "ray.io/node-group"


class NodeHours:
    """Measures the time that each node of the cluster is up while the `with` block runs."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def by_type(self) -> dict[str, float]:
        """Hours by type of node, as the cluster's configuration names it, else `node`."""
        return {kind: seconds / 3600 for kind, seconds in sorted(self._seconds.items())}

    def __enter__(self) -> NodeHours:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        seen_at, stopping = time.monotonic(), False
        while not stopping:
            stopping = self._stop.wait(_INTERVAL_S)
            now = time.monotonic()
            with suppress(Exception):  # if the cluster is lost, what was counted stays
                for node in ray.nodes():
                    if node["Alive"]:
                        self._seconds[node.get("Labels", {}).get(_TYPE_LABEL, ANY_NODE)] += (
                            now - seen_at
                        )
            seen_at = now


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
    every = prices.get(ANY_NODE)
    priced = {kind: prices.get(kind, every) for kind in hours}
    total = sum(hours[kind] * price for kind, price in priced.items() if price is not None)
    return {
        "total": total,
        "per_1000_images": 1000 * total / images if images else None,
        "per_gigapixel": 1000 * total / megapixels if megapixels else None,
        "types_without_price": [kind for kind, price in priced.items() if price is None],
    }
