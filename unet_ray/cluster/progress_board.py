"""The progress board, which carries messages from workers to the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from unet_ray.periodic import every


@ray.remote(num_cpus=0)
class _Messages:
    """Holds the messages of workers until the driver takes them."""

    def __init__(self) -> None:
        self._posted: list[object] = []

    def post(self, message: object) -> None:
        self._posted.append(message)

    def take(self) -> list[object]:
        taken = self._posted
        self._posted = []
        return taken


class ProgressBoard:
    """Carries progress from workers to the driver while the `with` block runs.

    Args:
        show: Function that a thread of the driver calls with all messages since the last call.
        interval_s: Time between two calls.
    """

    def __init__(self, show: Callable[[list[Any]], None], interval_s: float = 1.0) -> None:
        self._show, self._interval_s = show, interval_s
        # the actor stays on the driver's node, so that it lives as long as the driver
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._messages = _Messages.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._watch, self._showing = ExitStack(), threading.Lock()

    @property
    def post(self) -> Callable[[Any], None]:
        """Function that workers call with a message; it does not wait."""
        messages = self._messages

        def post(message: object) -> None:
            messages.post.remote(message)

        return post

    def __enter__(self) -> ProgressBoard:
        self._watch.enter_context(every(self._interval_s, self.show_now, "progress", at_end=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()
        ray.kill(self._messages)

    def show_now(self) -> None:
        """Show the messages since the last call without waiting for the interval to end."""
        # a run must not fail because progress is lost or the terminal is gone
        with self._showing, suppress(Exception):
            taken = ray.get(self._messages.take.remote(), timeout=30)
            if taken:
                self._show(taken)
