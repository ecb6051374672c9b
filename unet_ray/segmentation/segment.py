"""Segment an image archive: lock the output, plan, run the pipeline, record."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from unet_ray.errors import InputError, TooManyFailuresError, UnetRayError, one_line
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.network.model_folder import load_model
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import config_digest, is_exact
from unet_ray.segmentation.pipeline import SegmentationRun
from unet_ray.segmentation.plan import Plan, make_plan
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.run_record import write_record
from unet_ray.storage.listing import scan_files
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import Inventory, finish_prunes, remove_leftovers, take_inventory
from unet_ray.tables.runs import close_lost_runs, new_run_id


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
    with open_workspace() as database:

        def make(inventory: Inventory) -> Plan:
            digests, wanted = (
                (model.digest, digest),
                (config.retry_failed, config.limit, config.allow_empty),
            )
            plan = make_plan(database, scan, inventory, digests, *wanted)
            print(plan)
            return plan

        if config.dry_run:
            inventory = _look_at(output)
            model.build()
            plan = make(inventory)
            print(_expected(inventory, plan.todo))
            return SegmentResult(
                "dry-run",
                status="dry run",
                exit_code=0,
                images_listed=plan.listed,
                images_skipped=plan.done,
            )
        output.check_writable()
        result = SegmentResult(new_run_id())
        result.date = config.date or f"{result.started_at:%Y-%m-%d}"
        with OutputLock(output, result.run_id):
            inventory = _look_at(output)
            plan = make(inventory)
            _tidy(
                inventory, result.run_id
            )  # nothing is removed before all that may be wrong was looked for
            return _recorded(
                SegmentationRun(config, model, output, digest, plan, result), ray_address
            )


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


def _recorded(run: SegmentationRun, ray_address: str) -> SegmentResult:
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
        if isinstance(
            error, (KeyboardInterrupt, SystemExit)
        ):  # Ctrl-C; SIGTERM, as of `ray job stop`
            result.status = "stopped"
        result.message = one_line(error)
        result.exit_code = error.exit_code if isinstance(error, UnetRayError) else 1
        raise
    finally:
        result.ended_at = datetime.now(UTC)
        if (
            result.status != "done"
        ):  # the chain adds sums up at its end, and what is committed before stays
            with suppress(
                OSError, InputError
            ):  # where the store is gone, the record says what it can
                for name, value in summarize_run(run.output, result.run_id).items():
                    setattr(result, name, value)
        write_record(run.output, result, run.config, run.model, run.config_digest)
    return result
