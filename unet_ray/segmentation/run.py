"""The preparation and execution of a segmentation run: Ray, the predictor pool, the result."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from unet_ray.cluster.actor_pool import PoolPlan, plan_pool
from unet_ray.cluster.cpu_features import cpu_has_bfloat16
from unet_ray.cluster.node_hours import NodeHours
from unet_ray.cluster.progress_board import ProgressBoard
from unet_ray.cluster.ray_data import calm_ray_data, limited_blocks
from unet_ray.cluster.session import connect
from unet_ray.errors import UnetRayError
from unet_ray.imaging.codecs.pixel_size import differs, format_pixel_size
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.network.config import PredictorConfig, effective_context
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.monitoring import Progress, RunMetrics
from unet_ray.segmentation.pipeline import Pipeline
from unet_ray.segmentation.plan import Plan
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.run_record import write_record
from unet_ray.segmentation.shard_writer import Shards, ShardWriter
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp
from unet_ray.segmentation.stages.stages import Stages
from unet_ray.segmentation.unchanged import TakeOver, take_over_unchanged
from unet_ray.storage.storage import Storage

_logger = logging.getLogger("unet_ray")

_IMAGES_PER_TASK, _FILE_BYTES_PER_TASK = 16, 2 * 2**20
"""Smallest number of images and of bytes per decode task: Ray's own work for a block takes as long
as about five images of 256² px."""
_BLOCK_BYTES = 32 * 2**20
"""Bytes of decoded pixels per block."""
_GPU_TASKS = 4
"""Multiplier of the sizes above on GPUs, which take images faster than Ray Data can deliver blocks
of the usual size."""
_BLOCKS_AHEAD = 16
"""Limit on blocks in the object store per CPU predictor, so that memory does not grow with the
number of images. For GPUs, decoding runs ahead up to Ray Data's own limit, half of the store."""
_HANGS_PER_STALL = 3
"""Number of times that a hanging process ends itself before the run counts as stuck. Its block is
set aside after two deaths, and the run continues."""


@dataclass
class SegmentationRun:
    """One run, with everything that it needs."""

    config: SegmentConfig
    model: Model
    output: Storage
    config_digest: str
    plan: Plan
    result: SegmentResult

    @property
    def postprocessing(self) -> Postprocessing:
        """The model's postprocessing, with the values that flags override."""
        config = self.config
        return self.model.postprocessing.override(
            config.threshold, config.min_area, config.min_score
        )

    @property
    def reading(self) -> ImageReading:
        """Settings by which images are read."""
        config = self.config
        return ImageReading(
            access=self.plan.access,
            check_etags=self.plan.etags_of_store,
            channels=self.model.select_channels(config.channels),
            pixel_size_um=self.model.choose_pixel_size(config.pixel_size),
            lossy_samples=config.lossy_samples,
            keep_hash=config.etag_by == "content",
        )

    def save(self) -> None:
        """Write the current record of the run."""
        write_record(
            output=self.output,
            result=self.result,
            config=self.config,
            config_digest=self.config_digest,
            model=self.model,
            postprocessing=self.postprocessing,
        )

    def execute(self, ray_address: str) -> None:
        """Segment the planned images, then check that each of them is written once."""
        with ThreadPoolExecutor(1) as beside:  # torch loads while Ray starts: each takes seconds
            built = beside.submit(self.model.build)
            connect(ray_address)
            built.result()  # a model that does not load fails here, once, and not in every actor
        calm_ray_data()
        result = self.result
        # resampled images reach the network at the pixel size that was asked for
        expected_um = None if self.config.pixel_size else result.model_pixel_size_um
        stamp = RunStamp(result.run_id, self.model.digest, self.config_digest)
        shards = Shards(self.output, result.date, stamp, expected_um)
        first_number = self._take_over_unchanged(shards)
        if result.images_done < self.plan.todo:
            self._run_pipeline(shards, first_number)
        missing, extra = self.plan.unwritten(self.output, result.run_id)
        if missing or extra:
            raise UnetRayError(
                f"{missing} of {self.plan.todo} planned images were not written, and {extra} rows "
                "were written twice; run again with the same flags: written images are kept"
            )

    @property
    def _hang_s(self) -> float:
        """Longest time without progress of a worker (s)."""
        return 60 * self.config.stall_minutes / _HANGS_PER_STALL

    def _take_over_unchanged(self, shards: Shards) -> int:
        """Take over rows of images that are unchanged; return the number of the next shard."""
        plan, result = self.plan, self.result
        take = TakeOver(self.reading, shards, at=datetime.now(UTC), read_s=self._hang_s)
        tasks, minutes = 0, self.config.stall_minutes
        for sums in take_over_unchanged(take, plan.shards_of_known(), minutes):
            tasks += 1
            if sums:
                result.add(sums)
        if tasks:
            plan.leave_out_written(self.output, result.run_id)
            _logger.info(
                f"{result.images_taken_over} images are unchanged by content: their rows are taken "
                "over"
            )
        return tasks

    def _run_pipeline(self, shards: Shards, first_number: int) -> None:
        """Run the pipeline for the images that remain."""
        todo = self.plan.todo - self.result.images_taken_over
        blocks = self._cut_blocks(1)
        most_actors = len(blocks) + len(self.result.set_aside)
        pool = plan_pool(self.config.actors, self.config.device, most_actors)
        block_bytes = _BLOCK_BYTES
        if pool.uses_gpu:
            blocks = self._cut_blocks(_GPU_TASKS)
            block_bytes *= _GPU_TASKS
        _logger.info(f"run {self.result.run_id}: {todo} images, {pool}")
        _logger.info(self._describe_tiling())
        self._warn_of_settings(pool)
        ahead = limited_blocks(
            block_bytes, None if pool.uses_gpu else _BLOCKS_AHEAD * block_bytes * pool.most
        )
        metrics = RunMetrics(self.result.run_id, todo, pool.most)
        progress = Progress(self.result, todo, self.config.stall_minutes, metrics)
        hours = NodeHours()
        writer = ShardWriter(shards, self.config.shard_images, self.result.add, first_number)
        try:
            with hours.watching(), ahead, ProgressBoard(progress, interval_s=5.0) as board:
                Pipeline(
                    model=self.model,
                    stages=self._stages(pool, block_bytes),
                    pool=pool,
                    shards=shards,
                    writer=writer,
                    result=self.result,
                    progress=progress,
                    post=board.post,
                    show_progress=board.show_now,
                    hang_s=self._hang_s,
                    save=self.save,
                ).run(blocks, self.plan)
        finally:
            self.result.elapsed_s = progress.elapsed_s
            self.result.node_hours = hours.by_type
        self._describe(pool)

    def _describe(self, pool: PoolPlan) -> None:
        """Add the values to the result that are known only at the end."""
        result = self.result
        if result.first_images_at:
            steady_s = (datetime.now(UTC) - result.first_images_at).total_seconds()
            steady = self.plan.todo - result.images_taken_over - result.first_images
            result.steady_images_per_s = steady / max(1e-9, steady_s)
        busy_s = result.stage_s.get("predict", 0.0)
        result.predictor_busy_share = busy_s / (result.elapsed_s * pool.most)

    def _describe_tiling(self) -> str:
        """Say how images are cut into tiles, and what their halo costs."""
        network, config = self.model.network, PredictorConfig(self.config.tile, self.config.context)
        context = effective_context(network, config)
        halo = (network.margin or context) + self.model.postprocessing.halo
        exact = "" if self.result.is_exact else f" (exact: {network.exact_context} px)"
        read = (1 + 2 * halo / config.tile) ** 2
        size_um = self.model.choose_pixel_size(self.config.pixel_size)
        resampled = f" of images resampled to {format_pixel_size(size_um)}" if size_um else ""
        return (
            f"tiles of {config.tile} px{resampled}, a halo of {halo} px{exact}: {read:.2f} px read "
            "per px kept"
        )

    def _warn_of_settings(self, pool: PoolPlan) -> None:
        """Warn of settings that cost speed or quality here."""
        config = self.config
        if config.precision == "bfloat16" and not pool.uses_gpu and not cpu_has_bfloat16():
            _logger.warning(
                "--precision bfloat16: this CPU has no instructions for it, "
                "float32 is 4 to 8 times as fast here"
            )
        chosen_um = self.model.choose_pixel_size(config.pixel_size)
        trained_um = self.model.pixel_size_um
        if chosen_um and trained_um and differs(chosen_um, trained_um):
            _logger.warning(
                f"--pixel-size {config.pixel_size}: the model was trained on pixels of "
                f"{format_pixel_size(trained_um)}; --pixel-size model resamples to that size"
            )

    def _cut_blocks(self, times: int) -> list[pa.Table]:
        """Return the blocks of the chain, `times` the usual size, without images set aside."""
        apart = {uri for group in self.result.set_aside for uri in group}
        return self.plan.blocks(
            rows=times * _IMAGES_PER_TASK,
            stored_bytes=times * _FILE_BYTES_PER_TASK,
            most=self.config.shard_images,
            without=apart,
        )

    def _stages(self, pool: PoolPlan, block_bytes: int) -> Stages:
        config, model = self.config, self.model
        predictor = PredictorConfig(
            tile=config.tile,
            context=config.context,
            device="cuda" if pool.uses_gpu else "cpu",
            precision=config.precision,
            threads=pool.threads,
            halo=self.postprocessing.halo,
        )
        return Stages(
            reading=self.reading,
            preprocessing=model.preprocessing,
            block_bytes=block_bytes,
            predictor=predictor,
            measure=Measure(model.classes, self.postprocessing, config.max_regions),
        )
