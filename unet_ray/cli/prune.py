"""Remove the rows of one model, or of a range of dates, from an output of segmentation.

unet-ray prune --tables tables --model-digest 3f2a9c01
unet-ray prune --tables s3://b/tables --last-date 2026-06-30 --dry-run
unet-ray prune --tables tables --leftovers
"""

from __future__ import annotations

from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.output.config import PruneConfig

_SHOWN = 3
"""Leftovers that are named."""


def main(config: PruneConfig, _: str) -> None:
    """Remove, and print what was removed."""
    from unet_ray.output.prune import prune

    result = prune(config)
    done = "would be removed" if config.dry_run else "removed"
    runs = f": {', '.join(result.runs)}" if result.runs else ""
    print(f"{len(result.runs)} runs, {result.shards} shards {done}{runs}")
    if result.leftovers:
        shown = ", ".join(result.leftovers[:_SHOWN])
        print(f"{len(result.leftovers)} leftovers {done}: {shown}")


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(PruneConfig, main, __doc__)
