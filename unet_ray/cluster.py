"""The Ray that a verb runs on: joining or starting it, and how it leaves the machine to the work."""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import ray
from ray._private.services import JEMALLOC_SO
from ray.data import DataContext, read_datasource
from ray.data._internal.datasource.range_datasource import RangeDatasource
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_LOOP_SHARE = 0.015
"""Of this machine's CPUs that Ray Data's scheduling loop may take."""
_PAUSE_S = (0.03, 0.15)
"""Shortest and longest rest of the loop."""
REUSED_MEMORY = {
    "env_vars": {
        "LD_PRELOAD": JEMALLOC_SO,
        "MALLOC_CONF": "narenas:2,dirty_decay_ms:-1,oversize_threshold:0",
    }
}
"""Runtime environment of a process that computes on CPUs: freed memory stays with it.

By default the C library gives every large tensor back to the kernel and takes it anew, page by page, at each step:
60,000 page faults a second, a tenth of two CPUs. In a Ray worker jemalloc does so too where it may give anything back,
after however many seconds (seen: a quarter of the rate on large photographs). Few arenas keep small what stays.
jemalloc comes with Ray; where it does not, the linker goes on without.
"""
_KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 120_000}
"""Ray ends a process that had no task for a second wherever more processes than CPUs are alive, actors included: with
ten small actors each of Ray Data's tasks would start Python and load everything anew (seen: an eighth of two CPUs)."""
_ARENAS = "MALLOC_ARENA_MAX"
"""By default each thread of a process gets an arena of the C library's, up to eight for each CPU, and what is freed
stays there: processes that decode grow for many minutes. One for each CPU is as fast (seen: half the memory)."""
TASK_CPUS = 0.5
"""Logical CPUs of a Ray Data task; other than an actor's, or Ray would run the tasks inside the actor."""
WRITE_CPUS = 0
"""Of a task that writes. Ray Data keeps CPUs for its stages from the first to the last: with predictors on CPUs nothing
is left for the last one, which would write its first shard when all images are decoded."""


def connect(address: str) -> None:
    """Join the Ray at an address, or start one for this process with `local`; do nothing where one is joined already.

    Args:
        address — `local`, `auto`, or what RAY_ADDRESS holds inside `ray job submit`.
    """
    if not ray.is_initialized():
        # Workers' prints stay in Ray's log files: what people should see goes over the progress board.
        # A Ray of this process's own has no dashboard: its ten processes would take a fifth of two CPUs.
        own = {"include_dashboard": False, "_system_config": _KEEP_WORKERS} if address == "local" else {}
        if own:
            os.environ.setdefault(_ARENAS, str(os.cpu_count()))  # of what is started from here
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def calm_ray_data() -> None:
    """Keep the scheduling loops of this process's datasets from spinning, where a slow consumer holds outputs back."""
    call_back(_PauseBetweenSteps)


def call_back(kind: type[ExecutionCallback]) -> None:
    """Have each dataset that this process makes from now on call one of these back."""
    kinds = DataContext.get_current().custom_execution_callback_classes
    if kind not in kinds:
        kinds.append(kind)


@contextmanager
def blocks_of(block_bytes: int, limit_bytes: int | None = None) -> Iterator[None]:
    """Keep the blocks of the datasets of a `with` block small, and what is worked ahead within a limit.

    By default Ray Data joins what a task yields until it has 128 MiB, and a fast stage runs ahead of a slow one until
    the object store is half full, whatever that is good for. Blocks that are a good part of the limit starve the slow
    one: no task starts while the limit has no room for what it may yield.

    Args:
        block_bytes — up to which what a task yields is joined.
        limit_bytes — in the object store; None leaves it to Ray Data.
    """
    context = DataContext.get_current()
    options = context.execution_options
    before = context.target_max_block_size, options.resource_limits
    context.target_max_block_size = block_bytes
    if limit_bytes is not None:
        options.resource_limits = ExecutionResources.for_limits(object_store_memory=limit_bytes)
    try:
        yield
    finally:
        context.target_max_block_size, options.resource_limits = before


class _PauseBetweenSteps(ExecutionCallback):
    """Lets Ray Data's scheduling loop rest, for longer where its steps take longer.

    The loop waits for tasks whose output is ready; where the consumer is the slow one (training always is), ready
    outputs are held back, the wait returns at once, and the loop takes a whole CPU for nothing (seen with Ray 2.60: a
    quarter of two CPUs).
    """

    def __init__(self) -> None:
        self._used_s = time.thread_time()

    def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002
        """Sleep for longer than a step takes, and for less than a task does."""
        used_s = time.thread_time() - self._used_s
        time.sleep(min(max(used_s / (_LOOP_SHARE * (os.cpu_count() or 1)), _PAUSE_S[0]), _PAUSE_S[1]))
        self._used_s = time.thread_time()


def bytes_between(stats: Any) -> int:
    """Return the bytes that the operators of a dataset gave each other, from its `get_stats_summary()`."""
    sizes = [operator.output_size_bytes for operator in stats.operators_stats]
    return int(sum(size.sum for size in sizes if size)) + sum(map(bytes_between, stats.parents))


def ordinals(count: int, tasks: int) -> Any:
    """Return the dataset of the numbers 0 to count − 1, as `id`, in so many tasks.

    `ray.data.range` asks for a whole CPU per task, and waits for ever where workers leave half a one.
    """
    source = RangeDatasource(n=count, block_format="arrow", column_name="id")
    return read_datasource(source, override_num_blocks=max(1, tasks), num_cpus=TASK_CPUS)


def software_versions() -> dict[str, str]:
    """Return the versions of what results can depend on."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("unet_ray", "torch", "ray", "pyarrow")
    }


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
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # it lives as we do
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
            with suppress(Exception):  # progress is never worth a run, nor is a terminal that went away
                taken = ray.get(self._messages.take.remote(), timeout=30)
                if taken:
                    self._show(taken)
