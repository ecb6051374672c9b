"""Private names of Ray, which no other file of the package touches.

Ray may change them in any release. `PROVEN_WITH` is the version that they were checked with;
`tests/cluster/test_ray_internals.py` fails on another one and says what to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray._private import ray_constants
from ray._private.services import JEMALLOC_SO
from ray._raylet import ActorID, PlacementGroupID
from ray.data import Dataset, read_datasource
from ray.data._internal.datasource.range_datasource import RangeDatasource
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

if TYPE_CHECKING:
    from ray.data._internal.stats import DatasetStatsSummary as DatasetStatsSummary
    from ray.train.torch import TorchTrainer

__all__ = [
    "JEMALLOC_PATH",
    "PROVEN_WITH",
    "Block",
    "BlockIterator",
    "ExecutionCallback",
    "attempt_number",
    "disable_cleaner_without_dashboard",
    "has_autoscaler",
    "list_infeasible_requests",
    "listening_on_loopback",
    "map_blocks",
    "read_range",
    "remove_orphaned_placement_groups",
]

PROVEN_WITH = "2.60.0"
"""Version of Ray that these names were checked with."""

JEMALLOC_PATH: str = JEMALLOC_SO
"""Path of the jemalloc library that comes with Ray, for LD_PRELOAD.

Ray has no public name for it. On a version that moves the constant, the import fails; on one that
does not ship the library, the linker prints a line and processes start without it.
"""

Block = tuple[ray.ObjectRef, int, int]
"""A block of a dataset: its reference, its number of rows, and its size in memory (bytes)."""


@contextmanager
def listening_on_loopback() -> Iterator[None]:
    """Make a Ray that starts in the `with` block listen only on the loopback interface.

    By default its servers listen on all interfaces, for nodes that may join it. The public argument
    for a node's address does not accept that of the loopback interface. On a version without the
    constant, Ray listens as it does by default.
    """
    joinable = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = joinable


class BlockIterator:
    """Runs a dataset and iterates over its blocks as references.

    The public `iter_internal_ref_bundles` does the same, but what it runs ends only when its
    iterator is collected as garbage. On a version without `_create_executor` or
    `_build_bundle_iterator`, the constructor raises AttributeError before anything runs.

    Args:
        dataset: Dataset to run.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._executor = dataset._create_executor()
        self._bundles = dataset._build_bundle_iterator(self._executor)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks that have rows."""
        for bundle in self._bundles:
            for block in bundle.blocks:
                if block.metadata.num_rows:
                    yield block.ref, block.metadata.num_rows, block.metadata.size_bytes or 0

    def stop(self) -> None:
        """End the tasks and actors of the dataset; its iterator then ends too."""
        self._executor.shutdown(force=True)

    @property
    def stats(self) -> DatasetStatsSummary:
        """Summary of what the operators of the dataset did so far."""
        return self._executor.get_stats().to_summary()


def attempt_number() -> int:
    """Return how often the task of this thread has been attempted before; 0 in its first attempt.

    Ray has no public name for it. On a version without it the first task raises AttributeError.
    """
    return int(ray._private.worker.global_worker.core_worker.get_current_task_attempt_number())


def map_blocks(dataset: Dataset, function: Callable[..., object], **options: object) -> Dataset:
    """Apply a function to whole blocks, like `map_batches` with `batch_size=None`.

    The public `map_batches` refuses `batch_size=None` if GPUs are requested. On a version without
    `map_batches_internal` it raises AttributeError when the chain is built, before anything runs.

    Args:
        dataset: Dataset whose blocks are mapped.
        function: Function or class, as for `map_batches`.
        **options: Options of `map_batches`, except `batch_size`.

    Returns:
        The dataset of the results.
    """
    return dataset.map_batches_internal(function, batch_size=None, **options)


def read_range(count: int, *, tasks: int, num_cpus: float) -> Dataset:
    """Return the dataset of the numbers 0 to count − 1, as `id`.

    The public `ray.data.range` requests a whole CPU per task, and waits for ever if workers leave
    only half of one. On a version that moves the data source, the import of this module fails.

    Args:
        count: Number of rows.
        tasks: Number of tasks that make the rows.
        num_cpus: Logical CPUs of each task.
    """
    source = RangeDatasource(n=count, block_format="arrow", column_name="id")
    return read_datasource(source, override_num_blocks=max(1, tasks), num_cpus=num_cpus)


def has_autoscaler() -> bool:
    """Tell whether an autoscaler (version 2) manages the cluster that this process has joined.

    Ray has no public function for it. On a version that moves the function, the import raises
    ImportError before anything expensive starts.
    """
    from ray.autoscaler.v2.utils import is_autoscaler_v2  # only the driver needs to load it

    return bool(is_autoscaler_v2())


def disable_cleaner_without_dashboard(trainer: TorchTrainer) -> None:
    """Keep a trainer from starting a cleaner of placement groups if Ray has no dashboard.

    The cleaner is an actor that asks the dashboard whether the controller of the training is alive.
    A Ray that this process started has no dashboard. The question stays unanswered there, and every
    training would wait 12 seconds at its end until the cleaner gives up.
    `remove_orphaned_placement_groups` does its work instead. On a version that renames these
    callbacks, this raises ImportError or AttributeError before the training starts.

    Args:
        trainer: Trainer of Ray Train that has not started yet.
    """
    from ray.train.v2._internal.callbacks.placement_group_callback import (  # only for the driver
        PlacementGroupCleanerCallback,
    )

    if ray._private.worker._global_node.webui_url:
        return
    create_callbacks = trainer._create_default_callbacks
    trainer._create_default_callbacks = lambda: [
        callback
        for callback in create_callbacks()
        if not isinstance(callback, PlacementGroupCleanerCallback)
    ]


def remove_orphaned_placement_groups(actor_id: str | None) -> None:
    """Remove the placement groups that dead actors of this job made.

    Otherwise Ray keeps them, and their resources, until the job ends. Ray Train's own cleaner needs
    the dashboard, which a Ray that this process started does not have. The public table does not
    say who made a group. On a version that renames its fields, this raises AttributeError.

    Args:
        actor_id: Actor that has just died, in case the table does not know of its death yet.
    """
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # only for the driver

    table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    job = ray.get_runtime_context().get_job_id()
    for row in table:
        group = PlacementGroupTableData.FromString(row)
        maker = ActorID(group.creator_actor_id)
        is_orphan = not maker.is_nil() and (group.creator_actor_dead or maker.hex() == actor_id)
        if is_orphan and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def list_infeasible_requests() -> list[list[dict[str, float]]]:
    """Return the placement groups that the autoscaler calls infeasible, as resources per bundle.

    In the public API, a placement group that can never start looks like one that is waiting. On a
    version that moves the status or renames its fields, this raises ImportError or AttributeError
    while the pool is planned, before anything expensive starts.
    """
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # only for the driver

    reply = ray._private.worker.global_worker.gcs_client.get_cluster_status()
    state = GetClusterStatusReply.FromString(reply).autoscaling_state
    found = []
    for gang in state.infeasible_gang_resource_requests:
        requests = list(gang.requests)
        for selector in gang.bundle_selectors:
            requests += selector.resource_requests
        found.append([dict(request.resources_bundle) for request in requests])
    return found
