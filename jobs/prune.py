"""Remove the rows of one model, or of a range of dates, from an output of segmentation.

python jobs/prune.py --tables tables --model-digest 3f2a9c01
python jobs/prune.py --tables s3://b/tables --last-date 2026-06-30 --dry-run
python jobs/prune.py --tables tables --leftovers
"""

from _command import run

from unet_ray.output.config import PruneConfig
from unet_ray.output.prune import prune

_SHOWN = 3


def main(config: PruneConfig, _: str) -> None:
    """Remove and say what."""
    result = prune(config)
    verb = "would be removed" if config.dry_run else "removed"
    print(
        f"{len(result.runs)} runs, {result.shards} shards {verb}{': ' if result.runs else ''}{', '.join(result.runs)}"
    )
    if result.leftovers:
        print(f"{len(result.leftovers)} leftovers {verb}: {', '.join(result.leftovers[:_SHOWN])}")


if __name__ == "__main__":
    run(PruneConfig, main, __doc__)
