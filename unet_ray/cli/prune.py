"""Remove the rows of one model, of a range of dates, or of single images from an output.

unet-ray prune --tables tables --model-digest 3f2a9c01
unet-ray prune --tables s3://b/tables --last-date 2026-06-30 --dry-run
unet-ray prune --tables tables --image s3://b/images/patient-7.tif
unet-ray prune --tables tables --leftovers
unet-ray prune --tables tables --damaged --dry-run
"""

from __future__ import annotations

from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.output.config import PruneConfig

_SHOWN = 3
"""Largest number of leftovers, and of damaged shards, that are named."""


def main(config: PruneConfig, _: str) -> None:
    """Remove, and print what was removed."""
    from unet_ray.output.prune import prune

    result = prune(config)
    done = "would be removed" if config.dry_run else "removed"
    if config.names_runs or not (result.images or config.damaged):
        runs = f": {', '.join(result.runs)}" if result.runs else ""
        show(f"{len(result.runs)} runs, {result.shards} shards {done}{runs}")
    for rows in result.images:
        show(
            f"run {rows.run_id}: {rows.images} images, {rows.masks} masks and {rows.regions} "
            f"regions rows {done} (sha256 of the URI {rows.uri_sha256})"
        )
    if result.images:
        show("the next run of segment does these images again if they are still in the archive")
    if config.damaged:
        shown = f": {', '.join(result.damaged[:_SHOWN])}" if result.damaged else ""
        show(f"{len(result.damaged)} damaged shards {done}{shown}")
    if result.damaged:
        show("the next run of segment does their images again if they are still in the archive")
    if result.leftovers:
        shown = ", ".join(result.leftovers[:_SHOWN])
        show(f"{len(result.leftovers)} leftovers {done}: {shown}")


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(PruneConfig, main, __doc__)
