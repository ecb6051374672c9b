"""The Ray Data chain of a run on one screen, and what becomes of its rows.

plan (driver) ─▶ Decode (CPU tasks) ─▶ Predict (actor pool) ─▶ Measure (CPU tasks)
              ─▶ ShardWriter (the driver, which has tasks write)

Images whose processes died are left by the chain, and done apart (`isolation`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import Dataset

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.cluster.attempts import Attempts
from unet_ray.cluster.ray_data import TASK_CPUS, BlockStream, bytes_between
from unet_ray.cluster.ray_internals import map_blocks
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.guard import Guard
from unet_ray.segmentation.isolation import Isolation
from unet_ray.segmentation.monitoring import Progress
from unet_ray.segmentation.plan import Plan
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.shard_writer import Shards, ShardWriter
from unet_ray.segmentation.stages.decode import describe_new_decoder
from unet_ray.segmentation.stages.measure import summarize_work
from unet_ray.segmentation.stages.stages import Stages
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.tables.ledger import summarize_run

_logger = logging.getLogger("unet_ray")

_CALLS_PER_ACTOR = 4
"""Concurrent calls per actor. Two can be large images; the others keep small images moving."""
_POLL_S = 0.5
"""Longest wait for the next measured block before other things are looked after."""


@dataclass(frozen=True)
class Pipeline:
    """Segments the images of a plan and writes their shards.

    Args:
        stages: The stages of the run.
        pool: Number and resources of predictors.
        shards: What the shards of the run share.
        writer: Writer of the chain's shards.
        result: Result of the run, which receives the sums.
        progress: What workers reported.
        post: Function with which workers report.
        show_progress: Function that shows at once what workers reported so far.
        hang_s: Longest time without progress of a worker.
        save: Function that writes the record of the run in its present state.
    """

    model: Model
    stages: Stages
    pool: PoolPlan
    shards: Shards
    writer: ShardWriter
    result: SegmentResult
    progress: Progress
    post: Callable[[WorkDone], None]
    show_progress: Callable[[], None]
    hang_s: float
    save: Callable[[], None]

    def run(self, blocks: list[Any], plan: Plan) -> None:
        """Segment all images of a plan; whatever ends it, what was measured is committed.

        Args:
            blocks: Tables of PLAN for the chain.
            plan: The plan, which may have more images: those that are known to need care.
        """
        model = ray.put(self.model)
        try:
            if blocks:
                self._run_chain(blocks, model)
            while not self.writer.close(_POLL_S):
                self._look_after()
            self.show_progress()
            self.progress.check_credentials()  # before images are missed for them
            self._isolate_rest(plan, model)
        except BaseException:
            self.writer.salvage()
            raise

    def _run_chain(self, blocks: list[Any], model: Any) -> None:
        with Attempts() as attempts:
            guard = Guard(attempts, self.post, self.hang_s)
            with BlockStream(self._chain(blocks, model, guard)) as stream:
                try:
                    while not stream.is_done:
                        if self.writer.poll(_POLL_S) and (block := stream.take(_POLL_S)):
                            self.writer.add(*block)
                        self._look_after()
                except BaseException:
                    for block in stream.drain():
                        self.writer.add(*block)
                    self.writer.salvage()  # before the chain is ended, which takes seconds
                    raise
            self.result.object_store_bytes = bytes_between(stream.stats)
            self.result.spilled_bytes = stream.stats.global_bytes_spilled

    def _chain(self, blocks: list[Any], model: Any, guard: Guard) -> Dataset:
        from unet_ray.segmentation.predict_actor import PredictActor  # which loads torch

        stages, post = self.stages, self.post

        run_id = self.shards.run_id

        def decode(plan: Any) -> Iterator[Any]:
            if active := describe_new_decoder(run_id):
                post(WorkDone(confinement=active))
            yield from guard.run("decode", stages.decode, plan)

        def measure(probabilities: Any) -> Iterator[Any]:
            deadline = guard.make_deadline()
            for rows in guard.run("measure", stages.measure.tables, probabilities, deadline):
                post(summarize_work(rows))
                yield rows

        as_tables = {"batch_format": "pyarrow", "zero_copy_batch": True}
        decoded = ray.data.from_blocks(blocks).map_batches(
            decode, batch_size=None, num_cpus=TASK_CPUS, **as_tables
        )
        predicted = map_blocks(
            decoded,
            PredictActor,
            fn_constructor_args=(model, stages, guard),
            compute=self.pool.strategy(_CALLS_PER_ACTOR),
            **self.pool.remote_args,
            **as_tables,
        )
        return predicted.map_batches(measure, batch_size=None, num_cpus=TASK_CPUS, **as_tables)

    def _isolate_rest(self, plan: Plan, model: Any) -> None:
        """Segment what the chain left, in groups that are halved until what kills is alone."""
        if self.result.images_done + self.result.images_failed == plan.todo:
            self.result.set_aside = []
            return
        rest = plan.unwritten_rows(self.shards.output, self.shards.run_id)
        _logger.warning(
            f"{len(rest)} images are left, of which processes died; they are done apart, in groups "
            "that become smaller"
        )
        isolation = Isolation(
            self.stages,
            model,
            self.shards,
            self.pool,
            self.hang_s,
            next_number=self.writer.next_number,
            add=self.result.add,
            post=self.post,
            keep=self._keep,
        )
        isolation.take(rest, self.result.set_aside)
        try:
            while not isolation.step():
                self._look_after()
        finally:
            isolation.stop()
        if isolation.recounted:
            for name, value in summarize_run(self.shards.output, self.shards.run_id).items():
                setattr(self.result, name, value)

    def _look_after(self) -> None:
        """End a run that is stuck; keep in the record what is set aside."""
        self.progress.check()
        if self.progress.set_aside:
            self._keep([*self.result.set_aside, *self.progress.set_aside])
            self.progress.set_aside.clear()

    def _keep(self, groups: list[list[str]]) -> None:
        if groups != self.result.set_aside:
            self.result.set_aside = groups
            self.save()
