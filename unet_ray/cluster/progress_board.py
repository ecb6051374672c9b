"""Progress from workers to the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote(num_cpus=0)
class _Messages:
    """Holds what workers post until the driver takes it."""

    def __init__(self) -> None:
        self._posted: list[Any] = []

    def post(self, message: Any) -> None:
        self._posted.append(message)

    def take(self) -> list[Any]:
        taken, self._posted = self._posted, []
        return taken


class ProgressBoard:
    """Carries progress from workers to the driver, where a thread shows it, while the `with` block runs.

    Args:
        show — called on the driver with all messages since the last call.
        interval_s — between two calls.
    """

    def __init__(self, show: Callable[[list[Any]], None], interval_s: float = 1.0) -> None:
        self._show, self._interval_s = show, interval_s
        here = NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )  # it lives as we do
        self._messages = _Messages.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def post(self) -> Callable[[Any], None]:
        """A function that workers call; it does not wait."""
        messages = self._messages

        def post(message: Any) -> None:
            messages.post.remote(message)

        return post

    def __enter__(self) -> ProgressBoard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        ray.kill(self._messages)

    def _watch(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop.wait(self._interval_s)
            with suppress(
                Exception
            ):  # progress is never worth a run, nor is a terminal that went away
                taken = ray.get(self._messages.take.remote(), timeout=30)
                if taken:
                    self._show(taken)
