"""Segment an image archive: lock the output, plan, run the pipeline, write the record."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from unet_ray.cluster.session import quiet_ray
from unet_ray.errors import (
    CredentialsError,
    InputError,
    TooManyFailuresError,
    UnetRayError,
    one_line,
)
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.network.model_folder import load_model
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import config_digest, is_exact
from unet_ray.segmentation.plan import Plan, make_plan
from unet_ray.segmentation.result import SegmentResult, describe_archived
from unet_ray.segmentation.run import SegmentationRun
from unet_ray.storage.listing import Selection, scan_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.store_options import read_store_options
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import Inventory, finish_prunes, remove_leftovers, take_inventory
from unet_ray.tables.removal import finish_removals
from unet_ray.tables.runs import close_lost_runs, groups_set_aside, new_run_id

_logger = logging.getLogger("unet_ray")


def segment(
    config: SegmentConfig,
    ray_address: str = "local",
    tell: Callable[[SegmentResult], None] = lambda _: None,
) -> SegmentResult:
    """Segment every image that the output's ledger does not have yet.

    Args:
        config: Settings of the run.
        ray_address: Ray to run on: `local` starts one, else `auto` or the address of a cluster.
        tell: Function that is called with the outcome of a run that began, even if it fails.

    Returns:
        The outcome of the run, as its record holds it.

    Raises:
        InputError: Flags or input that cannot work; raised before the pipeline starts.
        OutputHeldError: Another run writes to the output.
        TooManyFailuresError: The run finished, but with more failed images than allowed.
        UnetRayError: No image was measured for `stall_minutes`, or images were not written or
            written twice.
    """
    model = load_model(Storage.of(config.model, read_store_options(config, "model")))
    model.select_channels(config.channels)
    output = Storage.of(config.output, read_store_options(config, "output"))
    digest = config_digest(config, model)
    selection = Selection.parse(config.include, config.exclude, config.min_age)
    options = read_store_options(config, "images")
    roots = Roots.parse(config.image_roots, config.follow_links, options)
    scan = scan_files(config.images, IMAGE_SUFFIXES, "--images", selection, roots)
    with open_workspace() as database:

        def plan_against(inventory: Inventory) -> Plan:
            """Plan the run against what the output holds, and log the plan."""
            plan = make_plan(
                database,
                scan,
                inventory,
                (model.digest, digest),
                retry_failed=config.retry_failed,
                limit=config.limit,
                allow_empty=config.allow_empty,
                reread=config.reread,
                etag_by=config.etag_by,
            )
            _log_plan(plan)
            return plan

        if config.dry_run:
            inventory = _look_at(output)
            model.build()
            plan = plan_against(inventory)
            _logger.info(_estimate_duration(inventory, plan.todo))
            return SegmentResult(
                "dry-run",
                status="dry run",
                exit_code=0,
                images_listed=plan.listed,
                images_skipped=plan.done,
                images_archived=plan.archived,
            )
        output.check_writable()
        if config.channels:
            _logger.info(f"--channels {config.channels}, instead of the model's: {model.inputs}")
        result = SegmentResult(new_run_id())
        result.date = config.date or f"{result.started_at:%Y-%m-%d}"
        result.image_roots = list(scan.roots.uris or ())
        result.model_pixel_size_um = model.pixel_size_um
        with OutputLock(output, result.run_id):
            inventory = _look_at(output)
            plan = plan_against(inventory)
            # only after every check, so that nothing is removed if one fails
            inventory = _remove_unfinished(inventory, result.run_id)
            result.set_aside = groups_set_aside(inventory.records)
            run = SegmentationRun(config, model, output, digest, plan, result)
            return _execute_and_record(run, ray_address, tell)


def _log_plan(plan: Plan) -> None:
    _logger.info(plan)
    if plan.changed_etags:
        _logger.info(plan.changed_etags)
    if plan.earlier:
        _logger.info(plan.earlier)
    if plan.archived:
        _logger.warning(describe_archived(plan.archived))


def _look_at(output: Storage) -> Inventory:
    """Return the inventory of an output; raise InputError if its records contradict it."""
    inventory = take_inventory(output)
    inventory.check_shards()
    if inventory.unreadable:
        _logger.warning(
            f"{len(inventory.unreadable)} files in runs/ are not readable run records, the first "
            f"is {inventory.unreadable[0]}: these files and those of their runs are not touched"
        )
    if inventory.is_new:
        _logger.info(f"{output.uri}: nothing here yet, a new output starts")
    return inventory


def _remove_unfinished(inventory: Inventory, run_id: str) -> Inventory:
    """Remove the files of unfinished runs and prunes, and close their records.

    Returns:
        The inventory, taken again if records changed.
    """
    if finish_removals(inventory):
        _logger.info("removed the remaining rows of images whose prune had not finished")
        inventory = take_inventory(inventory.output)
    for pruned in finish_prunes(inventory):
        _logger.info(f"run {pruned}: removed its remaining rows, as its prune had not finished")
    is_untidy = inventory.leftovers or inventory.half_written
    removed, kept = remove_leftovers(inventory.output) if is_untidy else ([], [])
    if removed:
        _logger.info(f"{len(removed)} files of unfinished runs are removed")
    if kept:
        _logger.warning(
            f"{len(kept)} files of masks and regions have no images file, and no record says that "
            f"their run is unfinished: they are kept, the first is {kept[0]} (jobs/verify.py lists "
            "them, jobs/prune.py --leftovers removes them)"
        )
    close_lost_runs(inventory.output, inventory.records, run_id)
    return inventory


def _estimate_duration(inventory: Inventory, images: int) -> str:
    """Say how long `images` images will take at the rate of the last run that segmented any."""
    for run_id, record in inventory.records.items():
        rate = record.get("images_per_s", 0.0)
        if rate > 0:
            minutes = images / rate / 60
            return f"{images} images at the {rate:.1f} images/s of run {run_id}: {minutes:.0f} min"
    return "no run has segmented any image here yet, so the duration cannot be estimated"


def _execute_and_record(
    run: SegmentationRun, ray_address: str, tell: Callable[[SegmentResult], None]
) -> SegmentResult:
    """Execute a run; write its record when it starts, and with the outcome however it ends."""
    result, plan = run.result, run.plan
    result.is_exact = is_exact(run.config, run.model.network)
    result.images_listed, result.images_skipped = plan.listed, plan.done + plan.failed_before
    result.images_archived = plan.archived
    run.save()
    result.status, result.exit_code = "failed", 1
    try:
        if plan.todo:
            with quiet_ray():
                run.execute(ray_address)
        # images that were archived after they were listed do not count as failures
        failed = result.images_failed - result.error_types.get("archived", 0)
        limit = run.config.max_error_rate
        if failed > limit * plan.todo:
            raise TooManyFailuresError(
                f"{failed} of {plan.todo} images failed, more than --max-error-rate {limit} "
                f"allows; see the column error in {run.output.uri}/images"
            )
        result.status, result.exit_code = "done", 0
    except BaseException as error:
        # Ctrl-C; SIGTERM, which `ray job stop` sends
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            result.status = "stopped"
        result.message = one_line(error)
        result.exit_code = error.exit_code if isinstance(error, UnetRayError) else 1
        if lost := CredentialsError.find(error):
            _count_committed(run)
            lost = lost.after(result.images_done)
            result.message, result.exit_code = str(lost), lost.exit_code
            raise lost from error
        raise
    finally:
        result.ended_at = datetime.now(UTC)
        if result.status != "done":
            _count_committed(run)
        _save(run)
        tell(result)
    return result


def _count_committed(run: SegmentationRun) -> None:
    """Count what a run committed before it ended early: the chain adds up counts only at the end.

    If the store cannot be reached, the result keeps what the driver knows.
    """
    with suppress(OSError, InputError, CredentialsError):
        for name, value in summarize_run(run.output, run.result.run_id).items():
            setattr(run.result, name, value)


def _save(run: SegmentationRun) -> None:
    """Write the record of a run that has ended, unless its credentials ended too."""
    try:
        run.save()
    except CredentialsError as error:
        _logger.warning(
            f"run {run.result.run_id}: its record still says running, as {error}; the next run "
            "closes it"
        )
