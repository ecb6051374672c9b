"""Settings that make Ray Data cheap: block sizes, a slower scheduling loop, CPUs of tasks."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ray.data import DataContext, Dataset, ExecutionResources

from unet_ray.cluster.ray_internals import Block, BlockIterator, ExecutionCallback, read_range

if TYPE_CHECKING:
    from unet_ray.cluster.ray_internals import DatasetStatsSummary

_LOOP_SHARE = 0.015
"""Share of this machine's CPUs that Ray Data's scheduling loop may take."""
_PAUSE_S = (0.03, 0.15)
"""Shortest and longest pause of the loop (s)."""
_QUEUED = 16
"""Largest number of blocks that wait to be taken."""
TASK_CPUS = 0.5
"""Logical CPUs of a Ray Data task. The number differs from that of an actor; otherwise Ray would
run the tasks inside the actor."""
WRITE_CPUS = 0
"""Logical CPUs of a task that writes. Ray Data's other tasks and actors take all CPUs, and a write
would have to wait until they end."""


def calm_ray_data() -> None:
    """Keep Ray Data's scheduling loops from spinning while a slow consumer holds outputs back.

    It affects the datasets that this process makes from now on; `quiet_ray` undoes it.
    """
    call_back(_PauseBetweenSteps)


def call_back(kind: type[ExecutionCallback]) -> None:
    """Attach an instance of a callback class to each dataset that this process makes from now on.

    `quiet_ray` undoes it.
    """
    kinds = DataContext.get_current().custom_execution_callback_classes
    if kind not in kinds:
        kinds.append(kind)


@contextmanager
def limited_blocks(block_bytes: int, limit_bytes: int | None = None) -> Iterator[None]:
    """Keep the blocks of datasets small in the `with` block, and limit how far stages run ahead.

    By default Ray Data joins the output of a task up to 128 MiB, and a fast stage runs ahead of a
    slow one until the object store is half full, even if nothing is gained. Blocks must be small
    compared with the limit, or the slow stage starves: no task starts while its possible output
    exceeds the rest of the limit.

    Args:
        block_bytes: Size up to which the output of a task is joined.
        limit_bytes: Most memory of the object store to use; None leaves it to Ray Data.
    """
    context = DataContext.get_current()
    options = context.execution_options
    block_bytes_before = context.target_max_block_size
    limits_before = options.resource_limits
    context.target_max_block_size = block_bytes
    if limit_bytes is not None:
        options.resource_limits = ExecutionResources.for_limits(object_store_memory=limit_bytes)
    try:
        yield
    finally:
        context.target_max_block_size = block_bytes_before
        options.resource_limits = limits_before


class BlockStream:
    """Runs a dataset in a thread of its own, and hands out its blocks as references.

    The thread that takes them never waits inside Ray: a signal or a time limit can end its wait,
    and nothing that it holds is lost. At the end of the block all tasks of the dataset are ended.
    This is one long wait, not a repeated call (`periodic.every`).

    Args:
        dataset: Dataset to run.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._blocks = BlockIterator(dataset)
        self._queue: queue.Queue[Block | BaseException | None] = queue.Queue(maxsize=_QUEUED)
        """Blocks that wait to be taken; at the end the error of the dataset, or None."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.is_done = False
        """True once the dataset has ended and all its blocks were taken."""

    def __enter__(self) -> BlockStream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # a dataset that is about to start cannot be stopped yet
            if not self.is_done:
                self._blocks.stop()
            self._thread.join(1)

    def take(self, timeout_s: float) -> Block | None:
        """Return the next block; None if none is ready within the timeout, or none is left.

        Args:
            timeout_s: Longest time to wait (s).

        Raises:
            Exception: The error that ended the dataset.
        """
        try:
            found = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        self.is_done = found is None
        return found

    def drain(self) -> list[Block]:
        """Return the blocks that wait to be taken."""
        blocks = []
        with suppress(queue.Empty):
            while True:
                found = self._queue.get_nowait()
                if isinstance(found, tuple):
                    blocks.append(found)
        return blocks

    @property
    def stats(self) -> DatasetStatsSummary:
        """Summary of what the operators of the dataset did."""
        return self._blocks.stats

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            for block in self._blocks:
                self._put(block)
        except BaseException as error:
            last = error
        self._put(last)

    def _put(self, found: Block | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(found, timeout=_PAUSE_S[1])
            except queue.Full:
                continue
            return


class _PauseBetweenSteps(ExecutionCallback):
    """Pauses Ray Data's scheduling loop after each step, for longer if its steps take longer.

    The loop waits for tasks whose output is ready. If the consumer is slow, as in every training,
    ready outputs are held back, the wait returns at once, and the loop keeps a CPU busy for nothing
    (seen with Ray 2.60: a quarter of two CPUs).
    """

    def __init__(self) -> None:
        self._used_s = time.thread_time()

    def on_execution_step(self, executor: object) -> None:  # noqa: ARG002
        """Sleep for longer than a step takes and for less than a task takes."""
        used_s = time.thread_time() - self._used_s
        loop_cpus = _LOOP_SHARE * (os.cpu_count() or 1)
        shortest_s, longest_s = _PAUSE_S
        time.sleep(min(max(used_s / loop_cpus, shortest_s), longest_s))
        self._used_s = time.thread_time()


def bytes_between(stats: DatasetStatsSummary) -> int:
    """Return the number of bytes passed between the operators of a dataset.

    Args:
        stats: Summary that `get_stats_summary()` of the dataset returns.
    """
    num_bytes = sum(bytes_between(parent) for parent in stats.parents)
    for operator in stats.operators_stats:
        if operator.output_size_bytes:
            num_bytes += int(operator.output_size_bytes.sum)
    return num_bytes


def ordinals(count: int, tasks: int) -> Dataset:
    """Return the dataset of the numbers 0 to count − 1, as `id`, made by `tasks` tasks.

    Each task takes `TASK_CPUS`, so that tasks can start where workers leave less than a whole CPU.
    """
    return read_range(count, tasks=tasks, num_cpus=TASK_CPUS)
