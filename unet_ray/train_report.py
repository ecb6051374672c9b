"""What the user of training sees: a line per epoch, TensorBoard events, curves, the worst images, a summary; no Ray."""

from __future__ import annotations

import io
import math
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unet_ray.archive.storage import Storage
from unet_ray.imaging.pictures import class_colour
from unet_ray.progress import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_LINE_CHARS = 159
_GIB = 2**30
_MARKED_EPOCHS = 30
_NAMED_CLASSES = 20


def epoch_line(record: EpochRecord, epochs: int, eta_s: float, is_best: bool) -> str:
    """Return an epoch as one line that aligns with the others of its run, shorter than 160 characters.

    Args:
        epochs — of the whole run.
        eta_s — seconds until the run ends.
        is_best — whether no epoch before was better.

    Example: epoch  7/40  loss  0.2143  Dice 0.832  IoU 0.712  212.0 crops/s  data wait  3%  ETA 23m10s  best
    """
    head = f"epoch {record.epoch:{len(str(epochs))}d}/{epochs}  loss {record.loss:7.4f}"
    tail = f"{record.crops_per_s:6.1f} crops/s  data wait {record.data_wait:4.0%}"
    if record.gpu_memory_bytes is not None:
        tail += f"  GPU {record.gpu_memory_bytes / _GIB:5.1f} GiB"
    tail += f"  ETA {duration_text(eta_s):>6}"
    room = _LINE_CHARS - len(head) - len(tail) - len("    " + "  best")
    return "  ".join((head, _metrics_text(record, room), tail)) + ("  best" if is_best else "")


def _metrics_text(record: EpochRecord, room: int) -> str:
    """Return Dice and IoU in at most `room` characters: class names are cut, then IoU, then all but the worst class."""
    if not record.dice:
        return "no validation"
    overall = f"Dice {_metric(mean_of(record.dice))}  IoU {_metric(mean_of(record.iou))}"
    if len(record.dice) == 1:
        return overall
    for with_iou, width in ((True, 24), (True, 12), (True, 8), (True, 5), (False, 8), (False, 5)):
        classes = (
            f"{_cut(name, width)} {_metric(dice)}{'/' + _metric(record.iou[name]) if with_iou else ''}"
            for name, dice in record.dice.items()
        )
        text = f"mean {overall}  ({', '.join(classes)})"
        if len(text) <= room:
            return text
    defined = {name: dice for name, dice in record.dice.items() if dice is not None}
    lowest = min(defined, key=lambda name: defined[name], default=next(iter(record.dice)))
    return f"mean {overall}  (lowest: {_cut(lowest, 12):12} {_metric(record.dice[lowest])})"


def summary_lines(history: Sequence[EpochRecord], best_epoch: int, metric: str) -> list[str]:
    """Return what a whole run came to.

    Args:
        history — all epochs.
        best_epoch — the one whose weights are kept, among them.
        metric — name of what it was chosen by.
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
            lines.append(f"  {'mean':{width}}  {_metric(mean_of(best.dice))}  {_metric(mean_of(best.iou))}")
    return [*lines, _cost_line(history)]


def _cost_line(history: Sequence[EpochRecord]) -> str:
    training_s = sum(record.training_s for record in history)
    validation_s = sum(record.validation_s for record in history)
    crops_per_s, data_wait = (
        sum(getattr(record, name) * record.training_s for record in history) / max(training_s, 1e-9)
        for name in ("crops_per_s", "data_wait")
    )
    least, most = min(record.workers for record in history), max(record.workers for record in history)
    by = f"{least} to {most} workers" if least < most else f"{most} worker{'s' if most > 1 else ''}"
    memory = max(record.gpu_memory_bytes or 0 for record in history)
    return (
        f"{len(history)} epoch{'s' if len(history) > 1 else ''} in {duration_text(training_s + validation_s)} "
        f"(validation {duration_text(validation_s)}), {history[-1].crops_seen:,} crops, {crops_per_s:.1f} crops/s by "
        f"{by}, data wait {data_wait:.0%}" + (f", GPU memory up to {memory / _GIB:.1f} GiB" if memory else "")
    )


def mean_of(values: Mapping[str, float | None]) -> float | None:
    """Return the mean of the classes where a metric is defined; None where that is nowhere."""
    defined = [value for value in values.values() if value is not None]
    return sum(defined) / len(defined) if defined else None


def duration_text(duration_s: float) -> str:
    """Return a duration in at most 6 characters up to 99 days: 42s, 3m05s, 2h07m, 3d04h."""
    if not math.isfinite(duration_s):
        return "?"
    whole_s = round(max(0.0, duration_s))
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole_s >= unit_s:
            return f"{whole_s // unit_s}{unit}{whole_s % unit_s // part_s:02d}{part}"
    return f"{whole_s}s"


def _metric(value: float | None) -> str:
    return " n/a " if value is None else f"{value:5.3f}"


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


class EventLog:
    """A TensorBoard event file of a run, whole in the run folder after every epoch; close it.

    Object stores cannot append, so the file grows in a temporary folder here and is stored anew each time (about
    half a kilobyte per epoch). A restarted run writes a file of its own, and TensorBoard drops the epochs of older
    files that it repeats.
    """

    def __init__(self, run_folder: Storage) -> None:
        # not its SummaryWriter: that one writes from a thread of its own, after flush() has returned
        from tensorboardX.event_file_writer import EventsWriter

        self._run_folder = run_folder
        self._folder = tempfile.TemporaryDirectory(prefix="unet_ray_events_")
        self._writer = EventsWriter(f"{self._folder.name}/events", f".{uuid.uuid4().hex[:8]}")
        (self._file,) = Path(self._folder.name).iterdir()
        self._started = False

    def write(self, record: EpochRecord) -> None:
        """Add an epoch and store the file.

        Raises: OSError — it cannot be stored; the next epoch's file holds this one too.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if not self._started:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=record.epoch, session_log=start))
            self._started = True
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record).items()]
        self._writer.write_event(Event(wall_time=time.time(), step=record.epoch, summary=Summary(value=values)))
        self._writer.flush()
        self._run_folder.write(f"tensorboard/{self._file.name}", self._file.read_bytes())

    def close(self) -> None:
        """Remove the temporary folder; may be called again."""
        if self._file.exists():
            self._writer.close()
            self._folder.cleanup()


def _scalars(record: EpochRecord) -> dict[str, float]:
    """Return the TensorBoard tags of an epoch and their values; undefined ones left out."""
    tags = {name: getattr(record, name) for name in ("loss", "learning_rate", "crops_per_s", "data_wait")}
    tags |= {f"dice/{name}": value for name, value in record.dice.items()}
    tags |= {f"iou/{name}": value for name, value in record.iou.items()}
    if record.gpu_memory_bytes is not None:
        tags["gpu_memory_gib"] = record.gpu_memory_bytes / _GIB
    return {tag: value for tag, value in tags.items() if value is not None}


def draw_curves(history: Sequence[EpochRecord], best_epoch: int | None = None) -> bytes:
    """Return a PNG (1300 × 750) of how training went, a panel each: loss, Dice, IoU, speed, data wait, learning rate.

    Args:
        history — one epoch or more, ascending.
        best_epoch — marked where given.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), dpi=100, layout="constrained")
    grid = figure.subplots(2, 3, gridspec_kw={"hspace": 0.08, "wspace": 0.06})
    epochs = [record.epoch for record in history]
    rows = {
        "Training loss": [r.loss for r in history],
        "Crops per second, all workers": [r.crops_per_s for r in history],
        "Waiting for data, % of training time": [100 * r.data_wait for r in history],
        "Learning rate": [r.learning_rate for r in history],
    }
    for (title, values), axes in zip(rows.items(), (grid[0, 0], *grid[1]), strict=True):
        _draw_line(axes, epochs, values, class_colour(5))
        top = 1.1 * max(filter(math.isfinite, values), default=0) or 1
        _finish_panel(axes, title, epochs, max(10, top) if "%" in title else top)  # a wait of 1 % is no mountain
    lines = _draw_classes(grid[0, 1], "Dice on validation images", epochs, [r.dice for r in history], best_epoch)
    _draw_classes(grid[0, 2], "IoU on validation images", epochs, [r.iou for r in history], best_epoch)
    if lines:
        names = [_cut(name, 18) for name in lines]
        legend = figure.legend(list(lines.values()), names, loc="outside upper right", ncols=6, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be named $
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # or in letters that the font lacks
        figure.savefig(png, format="png")
    return png.getvalue()


def _draw_classes(
    axes: Axes, title: str, epochs: list[int], values: list[dict[str, float | None]], best_epoch: int | None
) -> dict[str, Line2D]:
    """Draw a metric of each class, and its mean where there are several; return the lines to be named."""
    names = list(dict.fromkeys(name for of_class in values for name in of_class))
    if not names:
        axes.text(0.5, 0.5, "no validation", ha="center", color="grey", transform=axes.transAxes)
    lines = {}
    if len(names) > 1:  # first, so that it hides no class
        lines["mean of classes"] = _draw_line(axes, epochs, [mean_of(of_class) for of_class in values], (0, 0, 0))
    for index, name in enumerate(names):
        line = _draw_line(axes, epochs, [of_class.get(name) for of_class in values], class_colour(index))
        lines |= {name: line} if index < _NAMED_CLASSES else {}
    if names and best_epoch is not None:
        lines[f"best epoch: {best_epoch}"] = axes.axvline(best_epoch, color="grey", linestyle=":")
    _finish_panel(axes, title, epochs, 1.03)
    return lines


def _draw_line(axes: Axes, epochs: list[int], values: Sequence[float | None], rgb: tuple[int, int, int]) -> Line2D:
    numbers = [math.nan if value is None else value for value in values]
    style = "o-" if len(epochs) <= _MARKED_EPOCHS else "-"
    return axes.plot(epochs, numbers, style, color=[part / 255 for part in rgb], markersize=4)[0]


def _finish_panel(axes: Axes, title: str, epochs: list[int], top: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.set_ylim(0, top)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
