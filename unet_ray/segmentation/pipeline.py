"""The Ray Data chain of a run.

plan (driver) ─▶ Decode (CPU tasks) ─▶ Predict (actor pool) ─▶ Measure (CPU tasks)
              ─▶ ShardSink (write tasks)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.data import Dataset

from unet_ray.cluster.actor_pool import PoolPlan, plan_pool
from unet_ray.cluster.node_hours import NodeHours
from unet_ray.cluster.progress_board import ProgressBoard
from unet_ray.cluster.ray_data import (
    TASK_CPUS,
    WRITE_CPUS,
    bytes_between,
    call_back,
    calm_ray_data,
    limited_blocks,
)
from unet_ray.cluster.ray_internals import map_blocks
from unet_ray.cluster.session import connect
from unet_ray.errors import UnetRayError
from unet_ray.network.config import PredictorConfig, effective_context
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import choose_postprocessing
from unet_ray.segmentation.monitoring import RunMetrics
from unet_ray.segmentation.plan import Plan
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.shard_sink import ShardBundles, ShardSink
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.measure import Measure, summarize_work
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.segmentation.watchdog import Watchdog
from unet_ray.storage.storage import Storage

_logger = logging.getLogger("unet_ray")

_CALLS_PER_ACTOR = 4
"""Concurrent calls per actor. Two can be large images; the others keep small images moving."""
_IMAGES_PER_TASK, _FILE_BYTES_PER_TASK = 16, 2 * 2**20
"""Fewest images and bytes of one decode task: Ray's own work for a block takes as long as some five
images of 256² px."""
_BLOCK_BYTES = 32 * 2**20
"""Decoded pixels that are handed on together."""
_GPU_TASKS = 4
"""Multiplier of the sizes above on GPUs, which take images faster than Ray Data can hand over tasks
of the plain size."""
_BLOCKS_AHEAD = 16
"""Limit on blocks in the object store per CPU predictor, so that memory does not grow with the
number of images. For GPUs, decoding runs ahead up to Ray Data's own limit, half of the store."""


class _Progress:
    """Counts and logs the messages of a chain, and feeds watchdog, result and metrics with them."""

    def __init__(
        self, result: SegmentResult, todo: int, watchdog: Watchdog, metrics: RunMetrics
    ) -> None:
        self._result, self._todo, self._watchdog, self._metrics = result, todo, watchdog, metrics
        self._started = time.perf_counter()
        self.measured = 0
        """Images measured so far."""
        self._tiles = self._of_tiles = 0
        """Tiles of large images, done and to do."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the chain began."""
        return time.perf_counter() - self._started

    def __call__(self, messages: list[WorkDone]) -> None:
        self._watchdog.hear()
        for message in messages:
            self._metrics.add(message)
        blocks = [message for message in messages if message.images]
        if blocks and not self.measured:
            first = min(blocks, key=lambda block: block.at)
            self._result.first_images = first.images
            self._result.first_images_at = datetime.fromtimestamp(first.at, UTC)
        self.measured += sum(block.images for block in blocks)
        self._tiles += sum(message.tiles for message in messages)
        self._of_tiles += sum(message.of_tiles for message in messages)
        large = f"; large images: {self._tiles}/{self._of_tiles} tiles" if self._of_tiles else ""
        rate = self.measured / self.elapsed_s
        _logger.info(f"{self.measured}/{self._todo} images, {rate:.1f}/s{large}")


@dataclass
class SegmentationRun:
    """One run, with everything that its chain needs."""

    config: SegmentConfig
    model: Model
    output: Storage
    config_digest: str
    plan: Plan
    result: SegmentResult

    def execute(self, ray_address: str) -> None:
        """Run the chain, then check that each planned image is written once."""
        with ThreadPoolExecutor(1) as beside:  # torch loads while Ray starts: each takes seconds
            built = beside.submit(self.model.build)
            connect(ray_address)
            built.result()  # a model that does not load fails here, once, and not in every actor
        calm_ray_data()
        call_back(ShardBundles)
        blocks = self._blocks(1)
        pool = plan_pool(self.config.actors, self.config.device, len(blocks))
        blocks = self._blocks(_GPU_TASKS) if pool.uses_gpu else blocks
        _logger.info(f"run {self.result.run_id}: {self.plan.todo} images, {pool}")
        _logger.info(self._describe_tiling())
        self._warn_of_slow_precision(pool)
        minutes, todo = self.config.stall_minutes, self.plan.todo
        watchdog, hours = Watchdog(60 * minutes), NodeHours()
        block_bytes = _BLOCK_BYTES * (_GPU_TASKS if pool.uses_gpu else 1)
        ahead = limited_blocks(
            block_bytes, None if pool.uses_gpu else _BLOCKS_AHEAD * block_bytes * pool.most
        )
        progress = _Progress(
            self.result, todo, watchdog, RunMetrics(self.result.run_id, todo, pool.most)
        )
        try:
            with watchdog, hours, ahead, ProgressBoard(progress, interval_s=5.0) as board:
                chain = self._chain(blocks, block_bytes, pool, board.post)
                chain.write_datasink(self._sink(), ray_remote_args={"num_cpus": WRITE_CPUS})
        except KeyboardInterrupt:
            if not watchdog.has_barked:
                raise
            raise UnetRayError(
                f"no image was measured for {minutes:g} min (--stall-minutes), after "
                f"{progress.measured} of {todo}; complete shards are kept: run again with the same "
                "flags to go on"
            ) from None
        finally:
            self.result.elapsed_s = progress.elapsed_s
            self.result.node_hours = hours.by_type
        self._describe(chain, pool)
        self._check_complete()

    def _describe(self, chain: Dataset, pool: PoolPlan) -> None:
        """Add to the result what is known only at the end of the chain."""
        result, stats = self.result, chain.get_stats_summary()
        if result.first_images_at:
            steady_s = (datetime.now(UTC) - result.first_images_at).total_seconds()
            result.steady_images_per_s = (self.plan.todo - result.first_images) / max(
                1e-9, steady_s
            )
        result.predictor_busy_share = result.stage_s["predict"] / (result.elapsed_s * pool.most)
        result.object_store_bytes, result.spilled_bytes = (
            bytes_between(stats),
            stats.global_bytes_spilled,
        )

    def _describe_tiling(self) -> str:
        """Say how images are cut into tiles, and what their halo costs."""
        network, config = self.model.network, PredictorConfig(self.config.tile, self.config.context)
        context = effective_context(network, config)
        halo = (network.margin or context) + (
            self.model.separation.steps if self.model.separation else 0
        )
        exact = "" if self.result.is_exact else f" (exact: {network.exact_context} px)"
        read = (1 + 2 * halo / config.tile) ** 2
        return (
            f"tiles of {config.tile} px, a halo of {halo} px{exact}: {read:.2f} px read per px kept"
        )

    def _warn_of_slow_precision(self, pool: PoolPlan) -> None:
        from unet_ray.network.predictor import cpu_has_bfloat16  # which loads torch

        if self.config.precision == "bfloat16" and not pool.uses_gpu and not cpu_has_bfloat16():
            _logger.warning(
                "--precision bfloat16: this CPU has no instructions for it, "
                "float32 is 4 to 8 times as fast here"
            )

    def _blocks(self, times: int) -> list[Any]:
        return self.plan.blocks(
            times * _IMAGES_PER_TASK, times * _FILE_BYTES_PER_TASK, self.config.shard_images
        )

    def _chain(
        self, blocks: list[Any], block_bytes: int, pool: PoolPlan, post: Callable[[WorkDone], None]
    ) -> Dataset:
        from unet_ray.segmentation.predict_actor import PredictActor  # which loads torch

        config, model, access, check_etags = (
            self.config,
            self.model,
            self.plan.access,
            self.plan.etags_of_store,
        )
        predictor = PredictorConfig(
            tile=config.tile,
            context=config.context,
            device="cuda" if pool.uses_gpu else "cpu",
            precision=config.precision,
            threads=pool.threads,
            halo=model.separation.steps if model.separation else 0,
        )
        as_rows = self._measure()

        def measure(probabilities: Any) -> Any:
            rows = as_rows(probabilities)
            post(summarize_work(rows))
            return rows

        def tell(tiles: int, of_tiles: int) -> None:
            post(WorkDone(tiles=tiles, of_tiles=of_tiles))

        decode = Decode(access, model.preprocessing, check_etags, block_bytes)
        as_tables = {"batch_format": "pyarrow", "zero_copy_batch": True}
        decoded = ray.data.from_blocks(blocks).map_batches(
            decode, batch_size=None, num_cpus=TASK_CPUS, **as_tables
        )
        predicted = map_blocks(
            decoded,
            PredictActor,
            fn_constructor_args=(ray.put(model), predictor, access, check_etags, as_rows, tell),
            compute=pool.strategy(_CALLS_PER_ACTOR),
            **pool.remote_args,
            **as_tables,
        )
        return predicted.map_batches(measure, batch_size=None, num_cpus=TASK_CPUS, **as_tables)

    def _measure(self) -> Measure:
        model, postprocessing = self.model, choose_postprocessing(self.config, self.model)
        run = self.result.run_id, model.digest, self.config_digest
        return Measure(*run, model.classes, postprocessing, self.config.max_regions)

    def _sink(self) -> ShardSink:
        return ShardSink(self.output, self.result, self.config.shard_images)

    def _check_complete(self) -> None:
        missing, extra = self.plan.unwritten(self.output, self.result.run_id)
        if missing or extra:
            raise UnetRayError(
                f"{missing} of {self.plan.todo} planned images were not written, and {extra} rows "
                "were written twice; run again with the same flags: what is written is kept"
            )
