"""Segment an image archive: list → leave out what is done → decode → predict → measure → write shards.

plan (driver) ─▶ Decode (CPU tasks) ─▶ Predict (actor pool) ─▶ Measure (CPU tasks) ─▶ ShardSink (write tasks)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.data import Dataset

from unet_ray.archive.inventory import Inventory, finish_prunes, remove_leftovers, take_inventory
from unet_ray.archive.ledger import sums_of_run
from unet_ray.archive.listing import scan_files
from unet_ray.archive.lock import OutputLock
from unet_ray.archive.runs import close_lost_runs, new_run_id
from unet_ray.archive.scratch import scratch
from unet_ray.archive.storage import Storage
from unet_ray.capacity import PoolPlan, plan_pool
from unet_ray.cluster import (
    TASK_CPUS,
    WRITE_CPUS,
    ProgressBoard,
    blocks_of,
    bytes_between,
    call_back,
    calm_ray_data,
    connect,
)
from unet_ray.costs import NodeHours
from unet_ray.errors import InputError, TooManyFailuresError, UnetRayError, one_line
from unet_ray.imaging.images import IMAGE_SUFFIXES
from unet_ray.network.model_folder import Model, load_model
from unet_ray.network.predictor_config import PredictorConfig, effective_context
from unet_ray.plan import Plan, make_plan
from unet_ray.run_metrics import RunMetrics
from unet_ray.run_record import write_record
from unet_ray.segment_config import SegmentConfig, config_digest, is_exact, rule_of
from unet_ray.segment_result import SegmentResult
from unet_ray.shard_sink import ShardBundles, ShardSink
from unet_ray.stages.decode import Decode
from unet_ray.stages.measure import Measure, work_of
from unet_ray.stages.work_done import WorkDone
from unet_ray.watchdog import Watchdog

_CALLS_PER_ACTOR = 4
"""Of a predictor at a time: two large images work, so that small ones are not held up by the last three of these."""
_IMAGES_PER_TASK, _FILE_BYTES_PER_TASK = 16, 2 * 2**20
"""What one decode task reads, at least: Ray's own work for a block takes as long as some five images of 256² px."""
_BLOCK_BYTES = 32 * 2**20
"""Of pixels that go on together."""
_GPU_TASKS = 4
"""How many times that for GPUs, which take more images in a second than Ray Data could hand over tasks of so few."""
_BLOCKS_AHEAD = 16
"""Blocks in the object store for each predictor on CPUs: ten times the images take no more. GPUs are fed by all that
Ray Data's own limit, half of the store, lets it decode."""


def segment(config: SegmentConfig, ray_address: str = "local") -> SegmentResult:
    """Segment every image that the output's ledger does not have yet.

    Raises:
        InputError — anything that cannot work, before anything expensive starts.
        OutputHeldError — another run writes to the output.
        TooManyFailuresError — finished, but with more failed images than allowed.
    """
    model = load_model(Storage.of(config.model))
    output = Storage.of(config.output)
    digest = config_digest(config, model)
    scan = scan_files(config.images, IMAGE_SUFFIXES, "--images")
    with scratch() as database:

        def make(inventory: Inventory) -> Plan:
            digests, wanted = (model.digest, digest), (config.retry_failed, config.limit, config.allow_empty)
            plan = make_plan(database, scan, inventory, digests, *wanted)
            print(plan)
            return plan

        if config.dry_run:
            inventory = _look_at(output)
            model.build()
            plan = make(inventory)
            print(_expected(inventory, plan.todo))
            return SegmentResult(
                "dry-run", status="dry run", exit_code=0, images_listed=plan.listed, images_skipped=plan.done
            )
        output.check_writable()
        result = SegmentResult(new_run_id())
        result.date = config.date or f"{result.started_at:%Y-%m-%d}"
        with OutputLock(output, result.run_id):
            inventory = _look_at(output)
            plan = make(inventory)
            _tidy(inventory, result.run_id)  # nothing is removed before all that may be wrong was looked for
            return _recorded(_Run(config, model, output, digest, plan, result), ray_address)


def _look_at(output: Storage) -> Inventory:
    """Return what lies in an output; raise InputError where that is not what its records say."""
    inventory = take_inventory(output)
    inventory.check_shards()
    for path in inventory.unreadable:
        print(f"{path} is no record of a run: what its run left is not touched")
    if inventory.is_new:
        print(f"{output.uri}: nothing here yet, a new output starts")
    return inventory


def _tidy(inventory: Inventory, run_id: str) -> None:
    """Remove what runs and prunes that did not finish left, and close their records."""
    for pruned in finish_prunes(inventory):
        print(f"run {pruned}: its rows are removed, as a prune that did not finish had begun")
    removed, kept = remove_leftovers(inventory.output)
    if removed:
        print(f"{len(removed)} files of runs that did not finish are removed")
    if kept:
        print(
            f"{len(kept)} files of masks and regions have no images file, and no record says that their run did not "
            f"finish: kept, the first is {kept[0]} (jobs/verify.py lists them, jobs/prune.py --leftovers removes them)"
        )
    close_lost_runs(inventory.output, inventory.records, run_id)


def _expected(inventory: Inventory, images: int) -> str:
    """Return how long so many images will take at the rate of the last run that did any."""
    for run_id, record in inventory.records.items():
        rate = record.get("images_per_s", 0.0)
        if rate > 0:
            return f"{images} images at the {rate:.1f} images/s of run {run_id}: {images / rate / 60:.0f} min"
    return "no run has done any image here yet: nothing tells how long it will take"


class _Progress:
    """What the driver hears of a chain: counted, shown, and passed on to all who wait for it."""

    def __init__(self, result: SegmentResult, todo: int, watchdog: Watchdog, metrics: RunMetrics) -> None:
        self._result, self._todo, self._watchdog, self._metrics = result, todo, watchdog, metrics
        self._started = time.perf_counter()
        self.measured = 0
        """Images so far."""
        self._tiles = self._of_tiles = 0
        """Of large images, done and to do."""

    @property
    def elapsed_s(self) -> float:
        """Since the chain began."""
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
        print(f"{self.measured}/{self._todo} images, {self.measured / self.elapsed_s:.1f}/s{large}", flush=True)


@dataclass
class _Run:
    """One run: everything that its chain is made of."""

    config: SegmentConfig
    model: Model
    output: Storage
    config_digest: str
    plan: Plan
    result: SegmentResult

    def execute(self, ray_address: str) -> None:
        """Run the chain and check that each planned image was written once."""
        with ThreadPoolExecutor(1) as beside:  # torch loads while Ray starts, each takes seconds
            built = beside.submit(self.model.build)
            connect(ray_address)
            built.result()  # a model that does not load fails here, once, and not in every actor
        calm_ray_data()
        call_back(ShardBundles)
        blocks = self._blocks(1)
        pool = plan_pool(self.config.actors, self.config.device, len(blocks))
        blocks = self._blocks(_GPU_TASKS) if pool.uses_gpu else blocks
        print(f"run {self.result.run_id}: {self.plan.todo} images, {pool}")
        print(self._tiling())
        self._warn_of_slow_precision(pool)
        minutes, todo = self.config.stall_minutes, self.plan.todo
        watchdog, hours = Watchdog(60 * minutes), NodeHours()
        block_bytes = _BLOCK_BYTES * (_GPU_TASKS if pool.uses_gpu else 1)
        ahead = blocks_of(block_bytes, None if pool.uses_gpu else _BLOCKS_AHEAD * block_bytes * pool.most)
        progress = _Progress(self.result, todo, watchdog, RunMetrics(self.result.run_id, todo, pool.most))
        try:
            with watchdog, hours, ahead, ProgressBoard(progress, interval_s=5.0) as board:
                chain = self._chain(blocks, block_bytes, pool, board.post)
                chain.write_datasink(self._sink(), ray_remote_args={"num_cpus": WRITE_CPUS})
        except KeyboardInterrupt:
            if not watchdog.has_barked:
                raise
            raise UnetRayError(
                f"no image was measured for {minutes:g} min (--stall-minutes), {progress.measured} of {todo} were "
                "before; whole shards are kept: run again with the same flags to go on"
            ) from None
        finally:
            self.result.elapsed_s = progress.elapsed_s
            self.result.node_hours = hours.by_type
        self._describe(chain, pool)
        self._check_complete()

    def _describe(self, chain: Dataset, pool: PoolPlan) -> None:
        """Add what only the whole chain tells to the result."""
        result, stats = self.result, chain.get_stats_summary()
        if result.first_images_at:
            steady_s = (datetime.now(UTC) - result.first_images_at).total_seconds()
            result.steady_images_per_s = (self.plan.todo - result.first_images) / max(1e-9, steady_s)
        result.predictor_busy_share = result.stage_s["predict"] / (result.elapsed_s * pool.most)
        result.object_store_bytes, result.spilled_bytes = bytes_between(stats), stats.global_bytes_spilled

    def _tiling(self) -> str:
        """Say how images are cut, and what the context of tiles costs."""
        network, config = self.model.network, PredictorConfig(self.config.tile, self.config.context)
        context = effective_context(network, config)
        around = (network.margin or context) + (self.model.parting.steps if self.model.parting else 0)
        exact = "" if self.result.is_exact else f" (exact: {network.exact_context} px)"
        read = (1 + 2 * around / config.tile) ** 2
        return f"tiles of {config.tile} px, {around} px read around them{exact}: {read:.2f} px read per px kept"

    def _warn_of_slow_precision(self, pool: PoolPlan) -> None:
        from unet_ray.network.predictor import cpu_has_bfloat16  # which loads torch

        if self.config.precision == "bfloat16" and not pool.uses_gpu and not cpu_has_bfloat16():
            print("--precision bfloat16: this CPU has no instructions for it, float32 is 4 to 8 times as fast here")

    def _blocks(self, times: int) -> list[Any]:
        return self.plan.blocks(times * _IMAGES_PER_TASK, times * _FILE_BYTES_PER_TASK, self.config.shard_images)

    def _chain(self, blocks: list[Any], block_bytes: int, pool: PoolPlan, post: Callable[[WorkDone], None]) -> Dataset:
        from unet_ray.predict_actor import PredictActor  # which loads torch

        config, model, access, check_etags = self.config, self.model, self.plan.access, self.plan.etags_of_store
        predictor = PredictorConfig(
            tile=config.tile,
            context=config.context,
            device="cuda" if pool.uses_gpu else "cpu",
            precision=config.precision,
            threads=pool.threads,
            around=model.parting.steps if model.parting else 0,
        )
        as_rows = self._measure()

        def measure(probabilities: Any) -> Any:
            rows = as_rows(probabilities)
            post(work_of(rows))
            return rows

        def tell(tiles: int, of_tiles: int) -> None:
            post(WorkDone(tiles=tiles, of_tiles=of_tiles))

        as_tables = {"batch_format": "pyarrow", "batch_size": None, "zero_copy_batch": True}
        return (
            ray.data.from_blocks(blocks)
            .map_batches(
                Decode(access, model.preprocessing, check_etags, block_bytes),
                num_cpus=TASK_CPUS,
                **as_tables,
            )
            .map_batches_internal(  # `map_batches` takes no whole blocks where GPUs are asked for
                PredictActor,
                fn_constructor_args=(ray.put(model), predictor, access, check_etags, as_rows, tell),
                compute=pool.strategy(_CALLS_PER_ACTOR),
                **pool.remote_args,
                **as_tables,
            )
            .map_batches(measure, num_cpus=TASK_CPUS, **as_tables)
        )

    def _measure(self) -> Measure:
        model, rule = self.model, rule_of(self.config, self.model)
        run = self.result.run_id, model.digest, self.config_digest
        return Measure(*run, model.classes, rule, self.config.max_regions)

    def _sink(self) -> ShardSink:
        return ShardSink(self.output, self.result, self.config.shard_images)

    def _check_complete(self) -> None:
        missing, extra = self.plan.unwritten(self.output, self.result.run_id)
        if missing or extra:
            raise UnetRayError(
                f"of {self.plan.todo} planned images {missing} were not written and {extra} more than once; "
                "run again with the same flags: what is there is kept"
            )


def _recorded(run: _Run, ray_address: str) -> SegmentResult:
    """Execute a run with its record: written when it starts, and with its outcome whatever that is."""
    result, plan = run.result, run.plan
    result.is_exact = is_exact(run.config, run.model.network)
    result.images_listed, result.images_skipped = plan.listed, plan.done + plan.failed_before
    write_record(run.output, result, run.config, run.model, run.config_digest)
    result.status, result.exit_code = "failed", 1
    try:
        if plan.todo:
            run.execute(ray_address)
        failed, limit = result.images_failed, run.config.max_error_rate
        if failed > limit * plan.todo:
            raise TooManyFailuresError(
                f"{failed} of {plan.todo} images failed, more than --max-error-rate {limit} allows; see error in "
                f"{run.output.uri}/images"
            )
        result.status, result.exit_code = "done", 0
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Ctrl-C; SIGTERM, as of `ray job stop`
            result.status = "stopped"
        result.message = one_line(error)
        result.exit_code = error.exit_code if isinstance(error, UnetRayError) else 1
        raise
    finally:
        result.ended_at = datetime.now(UTC)
        if result.status != "done":  # the chain adds sums up at its end, and what is committed before stays
            with suppress(OSError, InputError):  # where the store is gone, the record says what it can
                for name, value in sums_of_run(run.output, result.run_id).items():
                    setattr(result, name, value)
        write_record(run.output, result, run.config, run.model, run.config_digest)
    return result
