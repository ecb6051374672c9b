"""Train a U-Net on labelled images and write a model folder.

unet-ray train --images data/images --masks data/masks --output model --classes leaf,symptom
ray job submit --working-dir . -- python jobs/train.py --images s3://b/images --masks s3://b/masks --output s3://b/m
"""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import align, show
from unet_ray.training.config import TrainConfig

if TYPE_CHECKING:
    from unet_ray.training.dry_run import DryRunResult

_SHOWN = 3
"""Largest number of validation images, or groups, whose names are printed."""


def main(config: TrainConfig, ray_address: str) -> None:
    """Train, and print where the model is; with --dry-run, only print how the labels are read."""
    if config.dry_run:
        from unet_ray.training.dry_run import look_at_labels

        show(*describe(look_at_labels(config, ray_address)))
        return
    from unet_ray.training.train import train

    result = train(config, ray_address)
    epoch = result.progress.best_epoch
    show(
        f"model: {result.output} (digest {result.model.digest[:12]}), from epoch {epoch}",
        f"labels, curves, worst images, TensorBoard, checkpoints: {result.run_folder}",
    )


def describe(result: DryRunResult) -> list[str]:
    """Return, line by line, how a labelled set is read."""
    rows = [["class", "id", "images", "pixels", "share", "objects"]]
    for spec, each in zip(result.labelling.classes, result.classes, strict=True):
        objects = "–" if each.objects is None else str(each.objects)
        share = f"{100 * each.share:.3g} %"
        rows.append([each.name, str(spec.id), str(each.images), str(each.pixels), share, objects])
    held = [name.rpartition("/")[2] for name in result.validation]
    split = f"split: {result.learnt} images to learn from, {len(held)} to validate on"
    if held:
        more = ", …" if len(held) > _SHOWN else ""
        split += f" ({', '.join(held[:_SHOWN])}{more})"
    return [
        f"{result.images} labelled images can be used, {result.unusable} cannot",
        f"masks: kind {result.labelling.kind}, {result.how}",
        *align(rows),
        split,
        *_describe_groups(result),
        f"look at {result.picture}; run without --dry-run to train",
    ]


def _describe_groups(result: DryRunResult) -> list[str]:
    """Return a line about the groups of the split, unless each image is its own."""
    sides = result.sides
    if sides is None or sides["by"] == "image":
        return []
    learnt, held = sides["training"], sides["validation"]
    names = list(held["images_of"])
    more = ", …" if held["groups"] > _SHOWN else ""
    return [
        f"by {sides['by']}: {learnt['groups']} groups to learn from, {held['groups']} to validate "
        f"on ({', '.join(names[:_SHOWN])}{more})"
    ]


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(TrainConfig, main, __doc__)
