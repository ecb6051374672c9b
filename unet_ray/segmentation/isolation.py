"""Segment images whose processes died, in ever smaller groups until the fatal image is alone.

    groups of at most 16 images (workers side by side)
      ─▶ done, or the process died: halves
      ─▶ one image whose process died: alone on the cluster
      ─▶ done, or the process died again while its node lives: a row with the error `kills_worker`

The death of a node counts against no image: its group starts again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.cluster.attempts import is_node_alive
from unet_ray.errors import ImageError
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.deadline import Deadline
from unet_ray.segmentation.predict_actor import tell_tiles
from unet_ray.segmentation.result import ShardSums
from unet_ray.segmentation.shard_writer import Shards
from unet_ray.segmentation.stages.columns import probability_table, read_records
from unet_ray.segmentation.stages.measure import summarize_work
from unet_ray.segmentation.stages.stages import Stages
from unet_ray.segmentation.stages.work_done import WorkDone

_logger = logging.getLogger("unet_ray")

_GROUP = 16
"""Largest number of images of a group."""
_STEPS = ("decode", "predict", "measure", "write")
_MEMORY = "running low on memory"
"""Ray's words in the reason of a death that its memory monitor caused."""
_WAIT_S = 0.2


class _Worker:
    """Segments groups of images in a process of its own, step by step."""

    def __init__(
        self,
        model: Model,
        stages: Stages,
        shards: Shards,
        post: Callable[[WorkDone], None],
        hang_s: float,
    ) -> None:
        self._stages, self._shards, self._post = stages, shards, post
        self._deadline = Deadline(hang_s)
        tell = tell_tiles(post, self._deadline)
        self._predict_stage = stages.build_predict(model, tell)
        self._tables: list[pa.Table] = []

    def node(self) -> str:
        """Return the id of this process's node."""
        return str(ray.get_runtime_context().get_node_id())

    def decode(self, plan: pa.Table) -> None:
        self._tables = self._expand([plan], self._stages.decode)

    def predict(self) -> None:
        self._tables = self._expand(self._tables, self._predict_stage)

    def measure(self) -> None:
        self._tables = self._expand(self._tables, self._stages.measure)

    def write(self, number: int) -> ShardSums:
        """Write the measured images as one shard."""
        with self._deadline.working():
            sums = self._shards.write(number, *self._tables)
        for rows in self._tables:
            self._post(summarize_work(rows))
        self._tables = []
        return sums

    def _expand(
        self, tables: list[pa.Table], stage: Callable[[pa.Table], Iterable[pa.Table]]
    ) -> list[pa.Table]:
        made = []
        with self._deadline.working():
            for table in tables:
                for found in stage(table):
                    made.append(found)
                    self._deadline.postpone()
        return made


@dataclass
class _Group:
    """Images that are segmented by one process."""

    plan: pa.Table
    """Table of PLAN."""
    number: int
    """Number of the shard that they become."""
    died_before: bool = False
    """True for a single image whose process died while its node lived."""

    @property
    def uris(self) -> list[str]:
        return list(self.plan["image_uri"].to_pylist())


@dataclass
class _Work:
    """A group in progress."""

    group: _Group
    worker: ActorHandle
    node: ray.ObjectRef
    """Reference to the id of the worker's node."""
    step: int = 0
    """Index of the current step. The next one is submitted only when it has ended, so that the step
    in which a process dies is known."""


@dataclass
class Isolation:
    """Segments images in processes of their own, apart from the chain.

    Args:
        stages: The stages of the run.
        model_ref: Reference of the Model in the object store.
        shards: Output, date and run of the shards.
        pool: Resources of a worker, and the largest number of workers.
        hang_s: Longest time that a worker may take without progress (s).
        next_number: Function that returns an unused shard number.
        add: Function that is called with the sums of each committed shard.
        post: Function that workers call to report progress.
        keep: Function that is called with the unfinished groups whenever they change.
    """

    stages: Stages
    model_ref: ray.ObjectRef
    shards: Shards
    pool: PoolPlan
    hang_s: float
    next_number: Callable[[], int]
    add: Callable[[ShardSums], None]
    post: Callable[[WorkDone], None]
    keep: Callable[[list[list[str]]], None]
    recounted: bool = False
    """True if a process committed a shard but died before it returned the sums."""
    _todo: deque[_Group] = field(default_factory=deque)
    _alone: deque[_Group] = field(default_factory=deque)
    _under_way: dict[ray.ObjectRef, _Work] = field(default_factory=dict)
    _idle: list[tuple[ActorHandle, ray.ObjectRef]] = field(default_factory=list)

    def take(self, plan: pa.Table, known: list[list[str]]) -> None:
        """Add images to segment.

        Args:
            plan: Their rows, a table of PLAN.
            known: Groups of an earlier run, as URIs; they are kept as groups.
        """
        rows = {uri: index for index, uri in enumerate(plan["image_uri"].to_pylist())}
        for group in known:
            if found := [rows.pop(uri) for uri in group if uri in rows]:
                self._add(plan.take(found))
        rest = plan.take(pa.array(list(rows.values()), pa.int64()))
        for start in range(0, len(rest), _GROUP):
            self._add(rest.slice(start, _GROUP))
        self._keep()

    def _add(self, plan: pa.Table) -> None:
        self._todo.append(_Group(plan, self.next_number()))

    def step(self) -> bool:
        """Start waiting groups, handle steps that ended, and return whether all groups are done."""
        self._start()
        if not self._under_way:
            return True
        ready, _ = ray.wait(list(self._under_way), timeout=_WAIT_S)
        for ref in ready:
            self._end(ref, self._under_way.pop(ref))
        return False

    def stop(self) -> None:
        """End all workers."""
        for worker in [work.worker for work in self._under_way.values()]:
            ray.kill(worker)
        self._end_idle()

    def _start(self) -> None:
        while self._todo and len(self._under_way) < self.pool.most:
            worker, node = self._idle.pop() if self._idle else self._new_worker()
            self._submit(self._todo.popleft(), worker, node)
        if self._alone and not self._under_way:
            self._end_idle()  # the image has the memory of its node to itself
            self._submit(self._alone.popleft(), *self._new_worker())

    def _new_worker(self) -> tuple[ActorHandle, ray.ObjectRef]:
        options = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "DEFAULT"}
        kind = ray.remote(**options, **self.pool.remote_args)(_Worker)
        worker = kind.remote(self.model_ref, self.stages, self.shards, self.post, self.hang_s)
        return worker, worker.node.remote()

    def _submit(self, group: _Group, worker: ActorHandle, node: ray.ObjectRef) -> None:
        self._submit_step(_Work(group, worker, node))

    def _submit_step(self, work: _Work) -> None:
        method = getattr(work.worker, _STEPS[work.step])
        given = {"decode": [work.group.plan], "write": [work.group.number]}
        self._under_way[method.remote(*given.get(_STEPS[work.step], []))] = work

    def _end_idle(self) -> None:
        for worker, _ in self._idle:
            ray.kill(worker)
        self._idle = []

    def _end(self, ref: ray.ObjectRef, work: _Work) -> None:
        """Handle the end of a step: submit the next one, finish the group, or judge a death."""
        try:
            sums = ray.get(ref)
        except (RayActorError, OutOfMemoryError) as error:
            if getattr(error, "actor_init_failed", False):
                raise  # it could not even build the network
            ray.kill(work.worker)
            self._judge(work, error)
        else:
            work.step += 1
            if work.step < len(_STEPS):
                self._submit_step(work)
                return
            self.add(sums)
            self._idle.append((work.worker, work.node))
        self._keep()

    def _judge(self, work: _Work, error: Exception) -> None:
        """Decide what to do with a group whose process died."""
        group = work.group
        if self.shards.is_committed(group.number):
            self.recounted = True
            return
        if isinstance(error, ActorUnavailableError) or not _is_alive(work.node):
            self._todo.append(group)
            return
        self.post(WorkDone())  # this counts as progress: no group is tried twice
        if len(group.plan) > 1:
            self.shards.remove(group.number)
            middle = len(group.plan) // 2
            for half in (group.plan.slice(0, middle), group.plan.slice(middle)):
                self._add(half)
        elif not group.died_before:
            group.died_before = True
            self._alone.append(group)
        else:
            for_memory = " for lack of memory" if _MEMORY in str(error) else ""
            text = (
                f"the process that worked on this image alone died{for_memory}; "
                "earlier processes that worked on it had died too"
            )
            (record,) = read_records(group.plan)
            record = record.fail(ImageError("kills_worker", text), _STEPS[work.step])
            (rows,) = self.stages.measure(probability_table([(record, None)]))
            _logger.warning(f"{group.uris[0]}: kills_worker: {text}")
            self.add(self.shards.write(group.number, rows))
            self.post(summarize_work(rows))

    def _keep(self) -> None:
        under_way = [work.group for work in self._under_way.values()]
        self.keep([group.uris for group in [*under_way, *self._todo, *self._alone]])


def _is_alive(node: ray.ObjectRef) -> bool:
    """Tell whether a worker's node lives; false if the worker died before it reported its node."""
    with suppress(ray.exceptions.RayError):
        return is_node_alive(ray.get(node, timeout=0))
    return False
