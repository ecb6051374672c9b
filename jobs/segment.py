"""Segment an image archive into tables of masks and regions; run it again to do what is new.

python jobs/segment.py --model model --images data/images --output tables
ray job submit --working-dir . -- python jobs/segment.py --model s3://b/m --images s3://b/images --output s3://b/t
"""

from _command import run

from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.segment import segment

_NAMED = 3
"""Error messages that are printed."""


def main(config: SegmentConfig, ray_address: str) -> None:
    """Segment and say what was found."""
    result = segment(config, ray_address)
    if not config.dry_run:
        print(summary(config, result))


def summary(config: SegmentConfig, result: SegmentResult) -> str:
    """Return what a run did, in a few lines."""
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(result.error_types.items()))
    notes = [f"failed: {failed}"] if failed else []
    notes += [
        f"  {count} × {message}" for message, count in list(result.error_messages.items())[:_NAMED]
    ]
    if result.batch_divisor > 1:
        notes.append(
            f"memory ran out in a predictor: it took batches of a {result.batch_divisor}th from then on"
        )
    if result.cost:
        total, each = result.cost["total"], result.cost["per_1000_images"]
        notes.append(
            f"cost: {total:.4g}, {each:.4g} per thousand images" if each else f"cost: {total:.4g}"
        )
        if result.cost["types_without_price"]:
            notes.append(
                f"  without a price, and not in it: nodes of {', '.join(result.cost['types_without_price'])}"
            )
    said = "".join(f"{note}\n" for note in notes)
    regions = (
        ", ".join(f"{count} {name}" for name, count in sorted(result.regions.items())) or "none"
    )
    return (
        f"{result.images_done} images done, {result.images_failed} failed, {result.images_skipped} left out as done; "
        f"{result.images_per_s:.1f} images/s\n{said}regions: {regions}\n"
        f"tables: {config.output}/{{images,masks,regions}} (run {result.run_id})"
    )


if __name__ == "__main__":
    run(SegmentConfig, main, __doc__)
