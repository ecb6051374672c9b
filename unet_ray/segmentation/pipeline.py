"""The Ray Data chain of a run, and the writing of its rows.

plan (driver) ─▶ Decode (CPU tasks) ─▶ Predict (actor pool) ─▶ Measure (CPU tasks)
              ─▶ ShardWriter (the driver, which submits write tasks)

`build_chain` builds it, `Pipeline` runs it. The chain leaves out images whose processes died;
`isolation` segments them afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray import ObjectRef
from ray.data import Dataset

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.cluster.attempts import Attempts
from unet_ray.cluster.ray_data import TASK_CPUS, BlockStream, bytes_between
from unet_ray.cluster.ray_internals import map_blocks
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.chain_tasks import decode_block, measure_block
from unet_ray.segmentation.guard import Guard
from unet_ray.segmentation.isolation import Isolation
from unet_ray.segmentation.monitoring import Progress
from unet_ray.segmentation.plan import Plan
from unet_ray.segmentation.predict_actor import PredictActor
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.shard_writer import Shards, ShardWriter
from unet_ray.segmentation.stages.stages import Stages
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.tables.ledger import summarize_run

_logger = logging.getLogger("unet_ray")

_CALLS_PER_ACTOR = 4
"""Concurrent calls per actor. Two can be large images; the others keep small images moving."""
_POLL_S = 0.5
"""Longest wait for a measured block between two checks of the run (s)."""
_AS_TABLES = {"batch_format": "pyarrow", "zero_copy_batch": True}
"""Form in which blocks reach the stages."""


def build_chain(
    blocks: Sequence[pa.Table],
    stages: Stages,
    model: ObjectRef[Model],
    pool: PoolPlan,
    guard: Guard,
    run_id: str,
) -> Dataset:
    """Return the chain of a run; nothing runs yet.

    Args:
        blocks: Tables of PLAN.
        stages: The stages of the run.
        model: Reference of the model in the object store.
        pool: Number and resources of predictors.
        guard: Guard of the stages.
        run_id: Id of the run.

    Returns:
        Dataset of tables of ROWS.
    """
    planned = ray.data.from_blocks(blocks)
    decoded = planned.map_batches(
        decode_block,
        fn_args=(stages.decode, guard, run_id),
        batch_size=None,
        num_cpus=TASK_CPUS,
        **_AS_TABLES,
    )
    predicted = map_blocks(
        decoded,
        PredictActor,
        fn_constructor_args=(model, stages, guard),
        compute=pool.strategy(_CALLS_PER_ACTOR),
        **pool.remote_args,
        **_AS_TABLES,
    )
    return predicted.map_batches(
        measure_block,
        fn_args=(stages.measure, guard),
        batch_size=None,
        num_cpus=TASK_CPUS,
        **_AS_TABLES,
    )


@dataclass(frozen=True)
class Pipeline:
    """Segments the images of a plan and writes their shards.

    Args:
        model: The model.
        stages: The stages of the run.
        pool: Number and resources of predictors.
        shards: Output, date and run of the shards.
        writer: Writer of the chain's shards.
        result: Result of the run, which receives the sums.
        progress: Progress that workers reported.
        post: Function that workers call to report.
        show_progress: Function that shows the reported progress at once.
        hang_s: Longest time that a worker may take without progress (s).
        save: Function that writes the current record of the run.
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

    def run(self, blocks: Sequence[pa.Table], plan: Plan) -> None:
        """Segment all images of a plan. Measured images are committed however the run ends.

        Args:
            blocks: Tables of PLAN for the chain.
            plan: The plan. It may have more images: those that an earlier run set aside.
        """
        model = ray.put(self.model)
        try:
            if blocks:
                self._run_chain(blocks, model)
            while not self.writer.close(_POLL_S):
                self._look_after()
            self.show_progress()
            self.progress.check_credentials()  # before counting missing images
            self._isolate_rest(plan, model)
        except BaseException:
            self.writer.salvage()
            raise

    def _run_chain(self, blocks: Sequence[pa.Table], model: ObjectRef[Model]) -> None:
        """Run the chain, and pass its rows to the writer."""
        with Attempts() as attempts:
            guard = Guard(attempts, self.post, self.hang_s)
            chain = build_chain(
                blocks, self.stages, model, self.pool, guard=guard, run_id=self.shards.run_id
            )
            with BlockStream(chain) as stream:
                try:
                    while not stream.is_done:
                        if self.writer.poll(_POLL_S) and (block := stream.take(_POLL_S)):
                            self.writer.add(*block)
                        self._look_after()
                except BaseException:
                    for block in stream.drain():
                        self.writer.add(*block)
                    self.writer.salvage()  # before ending the chain, which takes seconds
                    raise
            self.result.object_store_bytes = bytes_between(stream.stats)
            self.result.spilled_bytes = stream.stats.global_bytes_spilled

    def _isolate_rest(self, plan: Plan, model: ObjectRef[Model]) -> None:
        """Segment what the chain left, in groups that are halved until the fatal image is alone."""
        if self.result.images_done + self.result.images_failed == plan.todo:
            self.result.set_aside = []
            return
        rest = plan.unwritten_rows(self.shards.output, self.shards.run_id)
        _logger.warning(
            f"{len(rest)} images are left because processes died; they are segmented separately, "
            "in ever smaller groups"
        )
        isolation = Isolation(
            stages=self.stages,
            model_ref=model,
            shards=self.shards,
            pool=self.pool,
            hang_s=self.hang_s,
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
        """End a run that is stuck; add groups that were set aside to the record."""
        self.progress.check()
        if self.progress.set_aside:
            self._keep([*self.result.set_aside, *self.progress.set_aside])
            self.progress.set_aside.clear()

    def _keep(self, groups: list[list[str]]) -> None:
        if groups != self.result.set_aside:
            self.result.set_aside = groups
            self.save()
