"""Segment an image archive into tables of masks and regions; run it again to do what is new.

unet-ray segment --model model --images data/images --output tables
ray job submit --working-dir . -- python jobs/segment.py --model s3://b/m --images s3://b/images --output s3://b/t
"""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.segmentation.config import SegmentConfig

if TYPE_CHECKING:
    from unet_ray.segmentation.result import SegmentResult

_NAMED = 3
"""Largest number of error messages that are printed."""


def main(config: SegmentConfig, ray_address: str) -> None:
    """Segment, and print what was done even if the run ends with an error."""
    from unet_ray.segmentation.segment import segment

    segment(config, ray_address, lambda result: show(*summary(config, result)))


def summary(config: SegmentConfig, result: SegmentResult) -> list[str]:
    """Summarise a run in a few lines."""
    from unet_ray.segmentation.result import describe_archived, describe_other_sizes

    notes = []
    if result.error_types:
        kinds = [f"{count} {kind}" for kind, count in sorted(result.error_types.items())]
        notes.append(f"failed: {', '.join(kinds)}")
    messages = list(result.error_messages.items())[:_NAMED]
    notes += [f"  {count} × {message}" for message, count in messages]
    notes += [f"{count} images: {note}" for note, count in result.notes.items()]
    if result.images_taken_over:
        notes.append(
            f"{result.images_taken_over} of them have unchanged content: their rows were taken over"
        )
    if result.images_archived:
        notes.append(describe_archived(result.images_archived))
    if result.batch_divisor > 1:
        notes.append(
            "memory ran out in a predictor: from then on its batches were "
            f"1/{result.batch_divisor} as large"
        )
    sizes = describe_other_sizes(result.other_pixel_sizes, result.model_pixel_size_um)
    if sizes:
        notes.append(f"pixel sizes: {sizes}")
    if result.cost:
        cost = f"cost: {result.cost['total']:.4g}"
        per_thousand = result.cost["per_1000_images"]
        if per_thousand:
            cost += f", {per_thousand:.4g} per thousand images"
        notes.append(cost)
        if result.cost["types_without_price"]:
            types = ", ".join(result.cost["types_without_price"])
            notes.append(f"  not included, because they have no price: nodes of {types}")
    regions = [f"{count} {name}" for name, count in sorted(result.regions.items())]
    return [
        f"{result.images_done} images done, {result.images_failed} failed, "
        f"{result.images_skipped} left out as done; {result.images_per_s:.1f} images/s",
        *notes,
        f"regions: {', '.join(regions) or 'none'}",
        f"tables: {config.output}/{{images,masks,regions}} (run {result.run_id})",
    ]


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(SegmentConfig, main, __doc__)
