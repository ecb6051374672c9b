"""Evaluate a trained model on labelled images.

unet-ray evaluate --model model --images data/images --masks data/masks --output metrics.json
unet-ray evaluate --model model --images data/images --masks data/masks --per-image images.parquet
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import align, show
from unet_ray.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from unet_ray.evaluation.evaluate import EvaluateResult

COLUMNS = {
    "iou": "IoU",
    "dice": "Dice",
    "ap50": "AP@0.5",
    "map": "mAP",
    "f1": "F1",
    "pq": "PQ",
    "boundary_f1": "boundary F1",
    "adapted_rand_error": "Rand error",
    "split_objects": "split",
    "merged_objects": "merged",
}
"""Metric → its heading."""


def main(config: EvaluateConfig, ray_address: str) -> None:
    """Evaluate; print the metrics, the worst images, and the files that were written."""
    from unet_ray.evaluation.evaluate import evaluate

    result = evaluate(config, ray_address)
    show(*table(result))
    if result.worst:
        show("", *worst(result))
    for name, uri in (("metrics", config.output), ("every image", config.per_image)):
        if uri:
            show(f"{name}: {uri}")


def table(result: EvaluateResult) -> list[str]:
    """Return the metrics as a table, a line per class, with 95 % intervals of Dice and AP@0.5."""
    metrics = result.metrics()
    with_intervals = [key for key in ("dice", "ap50") if key in result.intervals]
    heading = ["class", *COLUMNS.values()]
    heading += [f"{COLUMNS[key]} 95 %" for key in with_intervals]
    rows = [heading]
    for name, values in metrics["classes"].items():
        row = [name]
        row += [_format_number(values[key]) for key in COLUMNS]
        row += [_format_interval(metrics["intervals"][name][key]) for key in with_intervals]
        rows.append(row)
    first, *others = align(rows)
    about = f"{result.images} images"
    groups = metrics["groups"]
    if groups["by"] != "image":
        about += f" in {groups['count']} groups by {groups['by']}"
    return [f"{first}  ({about})", *others]


def worst(result: EvaluateResult) -> list[str]:
    """Return a line per worst image: its mean Dice and, for several classes, that of each."""
    lines = [f"worst {len(result.worst)} of {result.images} images, by Dice"]
    for image in result.worst:
        line = f"{image['dice']:.4f}  {image['image_uri']}"
        scores = [f"{name} {_format_number(dice)}" for name, dice in image["classes"].items()]
        if len(scores) > 1:
            line += f"  ({', '.join(scores)})"
        lines.append(line)
    return lines


def _format_number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _format_interval(interval: Sequence[float] | None) -> str:
    if interval is None:
        return "–"
    low, high = interval
    return f"{low:.3f}–{high:.3f}"


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(EvaluateConfig, main, __doc__)
