"""How Ray Data leaves the machine to the work: block sizes, a calm scheduling loop, CPUs of tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext, read_datasource
from ray.data._internal.datasource.range_datasource import RangeDatasource
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import ExecutionResources

_LOOP_SHARE = 0.015
"""Of this machine's CPUs that Ray Data's scheduling loop may take."""
_PAUSE_S = (0.03, 0.15)
"""Shortest and longest rest of the loop."""
TASK_CPUS = 0.5
"""Logical CPUs of a Ray Data task; other than an actor's, or Ray would run the tasks inside the actor."""
WRITE_CPUS = 0
"""Of a task that writes. Ray Data keeps CPUs for its stages from the first to the last: with predictors on CPUs nothing
is left for the last one, which would write its first shard when all images are decoded."""


def calm_ray_data() -> None:
    """Keep the scheduling loops of this process's datasets from spinning, where a slow consumer holds outputs back."""
    call_back(_PauseBetweenSteps)


def call_back(kind: type[ExecutionCallback]) -> None:
    """Have each dataset that this process makes from now on call one of these back."""
    kinds = DataContext.get_current().custom_execution_callback_classes
    if kind not in kinds:
        kinds.append(kind)


@contextmanager
def limited_blocks(block_bytes: int, limit_bytes: int | None = None) -> Iterator[None]:
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
        time.sleep(
            min(max(used_s / (_LOOP_SHARE * (os.cpu_count() or 1)), _PAUSE_S[0]), _PAUSE_S[1])
        )
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
