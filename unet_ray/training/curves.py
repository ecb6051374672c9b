"""Learning curves of a training as a picture."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unet_ray.imaging.drawing.overlay import class_colour
from unet_ray.training.console import mean_value, shorten
from unet_ray.training.progress import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_MARKED_EPOCHS = 30
"""Largest number of epochs that are marked by dots."""
_NAMED_CLASSES = 20
"""Largest number of classes in the legend."""


def draw_curves(history: Sequence[EpochRecord], best_epoch: int | None = None) -> bytes:
    """Draw the learning curves of a training.

    There is a panel each for loss, Dice, IoU, speed, data wait and learning rate.

    Args:
        history: One or more epochs, ascending.
        best_epoch: Number of the epoch to mark. None: no epoch is marked.

    Returns:
        A PNG of 1300×750 px.
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
        if "%" in title:  # else a wait of 1 % would fill the panel
            top = max(10, top)
        _finish_panel(axes, title, epochs, top)
    lines = _draw_classes(
        axes=grid[0, 1],
        title="Dice on validation images",
        epochs=epochs,
        values=[record.dice for record in history],
        best_epoch=best_epoch,
    )
    _draw_classes(
        axes=grid[0, 2],
        title="IoU on validation images",
        epochs=epochs,
        values=[record.iou for record in history],
        best_epoch=best_epoch,
    )
    if lines:
        names = [shorten(name, 18) for name in lines]
        legend = figure.legend(
            list(lines.values()), names, loc="outside upper right", ncols=6, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called $
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # or have letters that the font lacks
        figure.savefig(png, format="png")
    return png.getvalue()


def _draw_classes(
    axes: Axes,
    title: str,
    epochs: list[int],
    values: list[dict[str, float | None]],
    best_epoch: int | None,
) -> dict[str, Line2D]:
    """Draw a metric of each class, and the mean if there are several classes.

    Returns:
        The lines that the legend names, by name.
    """
    names = list(dict.fromkeys(name for of_class in values for name in of_class))
    if not names:
        axes.text(0.5, 0.5, "no validation", ha="center", color="grey", transform=axes.transAxes)
    lines = {}
    if len(names) > 1:  # first, so that it hides no class
        means = [mean_value(of_class) for of_class in values]
        lines["mean of classes"] = _draw_line(axes, epochs, means, (0, 0, 0))
    for index, name in enumerate(names):
        of_name = [of_class.get(name) for of_class in values]
        line = _draw_line(axes, epochs, of_name, class_colour(index))
        if index < _NAMED_CLASSES:
            lines[name] = line
    if names and best_epoch is not None:
        lines[f"best epoch: {best_epoch}"] = axes.axvline(best_epoch, color="grey", linestyle=":")
    _finish_panel(axes, title, epochs, 1.03)
    return lines


def _draw_line(
    axes: Axes, epochs: list[int], values: Sequence[float | None], rgb: tuple[int, int, int]
) -> Line2D:
    numbers = [math.nan if value is None else value for value in values]
    style = "o-" if len(epochs) <= _MARKED_EPOCHS else "-"
    colour = [part / 255 for part in rgb]
    (line,) = axes.plot(epochs, numbers, style, color=colour, markersize=4)
    return line


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
