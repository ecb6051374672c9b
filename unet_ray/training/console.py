"""Lines that a training logs: one per epoch, and a summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from unet_ray.training.progress import EpochRecord

_LINE_CHARS = 159
"""Largest length of a line."""
GIB = 2**30
"""Bytes of a GiB."""


def epoch_line(record: EpochRecord, epochs: int, eta_s: float, is_best: bool) -> str:
    """Describe an epoch in one line of fewer than 160 characters.

    The lines of a run align, as in `epoch  7/40  loss  0.2143  Dice 0.832  IoU 0.712
    212.0 crops/s  data wait  3%  ETA 23m10s  best`.

    Args:
        record: The epoch.
        epochs: Number of epochs of the whole run.
        eta_s: Expected time until the run ends (s).
        is_best: No earlier epoch was better.
    """
    num_digits = len(str(epochs))
    head = f"epoch {record.epoch:{num_digits}d}/{epochs}  loss {record.loss:7.4f}"
    tail = f"{record.crops_per_s:6.1f} crops/s  data wait {record.data_wait:4.0%}"
    if record.gpu_memory_bytes is not None:
        tail += f"  GPU {record.gpu_memory_bytes / GIB:5.1f} GiB"
    tail += f"  ETA {duration_text(eta_s):>6}"
    max_chars = _LINE_CHARS - len(head) - len(tail) - len("    " + "  best")
    metrics = _metrics_text(record, max_chars)
    best = "  best" if is_best else ""
    return f"{head}  {metrics}  {tail}{best}"


def _metrics_text(record: EpochRecord, max_chars: int) -> str:
    """Return Dice and IoU in at most `max_chars` characters.

    If they do not fit, class names are cut, then IoU is left out, then all but the worst class.
    """
    if not record.dice:
        return "no validation"
    overall = f"Dice {_metric(mean_value(record.dice))}  IoU {_metric(mean_value(record.iou))}"
    if len(record.dice) == 1:
        return overall
    for with_iou, width in ((True, 24), (True, 12), (True, 8), (True, 5), (False, 8), (False, 5)):
        classes = []
        for name, dice in record.dice.items():
            iou = f"/{_metric(record.iou[name])}" if with_iou else ""
            classes.append(f"{shorten(name, width)} {_metric(dice)}{iou}")
        text = f"mean {overall}  ({', '.join(classes)})"
        if len(text) <= max_chars:
            return text
    defined = {name: dice for name, dice in record.dice.items() if dice is not None}
    lowest = min(defined, key=lambda name: defined[name], default=next(iter(record.dice)))
    return f"mean {overall}  (lowest: {shorten(lowest, 12):12} {_metric(record.dice[lowest])})"


def summary_lines(history: Sequence[EpochRecord], best_epoch: int, metric: str) -> list[str]:
    """Summarise a whole run: its best epoch, the metrics of each class, and the time it took.

    Args:
        history: All epochs.
        best_epoch: Number of the epoch whose weights are kept.
        metric: Name of the metric that it was chosen by.
    """
    best = next(record for record in history if record.epoch == best_epoch)
    score = "" if best.score is None else f", {metric} {best.score:.4f}"
    lines = [f"best epoch: {best_epoch} of {history[-1].epoch}{score}"]
    if best.dice:
        width = max(len("class"), len("mean"), *map(len, best.dice))
        lines.append(f"  {'class':{width}}   Dice    IoU  threshold")
        for name, dice in best.dice.items():
            metrics = f"{_metric(dice)}  {_metric(best.iou[name])}"
            lines.append(f"  {name:{width}}  {metrics}  {best.thresholds[name]:9.2f}")
        if len(best.dice) > 1:
            dice = mean_value(best.dice)
            iou = mean_value(best.iou)
            lines.append(f"  {'mean':{width}}  {_metric(dice)}  {_metric(iou)}")
    return [*lines, _cost_line(history)]


def _cost_line(history: Sequence[EpochRecord]) -> str:
    """Return a line on the time of a run, its speed, and its memory."""
    training_s = sum(record.training_s for record in history)
    validation_s = sum(record.validation_s for record in history)
    num_crops = sum(record.crops_per_s * record.training_s for record in history)
    waited_s = sum(record.data_wait * record.training_s for record in history)
    crops_per_s = num_crops / max(training_s, 1e-9)
    data_wait = waited_s / max(training_s, 1e-9)
    least = min(record.workers for record in history)
    most = max(record.workers for record in history)
    workers = f"{most} workers" if most > 1 else "1 worker"
    if least < most:
        workers = f"{least} to {most} workers"
    epochs = f"{len(history)} epochs" if len(history) > 1 else "1 epoch"
    memory_bytes = max(record.gpu_memory_bytes or 0 for record in history)
    memory = f", GPU memory up to {memory_bytes / GIB:.1f} GiB" if memory_bytes else ""
    return (
        f"{epochs} in {duration_text(training_s + validation_s)} "
        f"(validation {duration_text(validation_s)}), {history[-1].crops_seen:,} crops, "
        f"{crops_per_s:.1f} crops/s by {workers}, data wait {data_wait:.0%}{memory}"
    )


def mean_value(values: Mapping[str, float | None]) -> float | None:
    """Return the mean over the classes that have a value; None if there are none."""
    defined = [value for value in values.values() if value is not None]
    return sum(defined) / len(defined) if defined else None


def duration_text(duration_s: float) -> str:
    """Format a duration in at most 6 characters, up to 99 days: 42s, 3m05s, 2h07m, 3d04h."""
    if not math.isfinite(duration_s):
        return "?"
    whole_s = round(max(0.0, duration_s))
    minutes, seconds = divmod(whole_s, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days}d{hours_left:02d}h"
    if hours:
        return f"{hours}h{minutes_left:02d}m"
    if minutes:
        return f"{minutes}m{seconds:02d}s"
    return f"{whole_s}s"


def _metric(value: float | None) -> str:
    return " n/a " if value is None else f"{value:5.3f}"


def shorten(name: str, width: int) -> str:
    """Cut a name to `width` characters; a cut name ends with an ellipsis."""
    return name if len(name) <= width else f"{name[: width - 1]}…"
