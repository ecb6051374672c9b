"""Whether a night is like the nights before it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from unet_ray.output.report.facts import Estimate, Facts

_BEYOND = 2.0
"""How many times farther from the middle of the earlier nights than any of them."""
_ERRORS = 3.0
"""How many standard errors at least: what chance alone hardly does."""
LEAST_NIGHTS = 2
"""Earlier nights without which nothing can be said."""


@dataclass(frozen=True)
class Comparison:
    """A figure of a night beside those of earlier nights."""

    name: str
    now: float | None
    middle: float | None
    """Median of the earlier nights; None: there are too few."""
    least: float | None
    most: float | None
    differs: bool


def compare(facts: Facts, class_id: int) -> list[Comparison]:
    """Hold each figure of a class against the earlier nights."""
    night = facts.nights[facts.date][class_id]
    return [
        _compared(
            name, figure, [facts.nights[date][class_id].figures[name] for date in facts.earlier]
        )
        for name, figure in night.figures.items()
    ]


def _compared(name: str, now: Estimate | None, nights: list[Estimate | None]) -> Comparison:
    """Call a figure different where it lies beyond what earlier nights did among themselves, and beyond chance.

    What an earlier night was off by counts less its standard error: a small night is off by chance.

    Example: nights of 10, 11, 12, each ± 0.1: 13 lies twice as far from 11 as any of them, 12.5 does not.
    """
    before = [figure for figure in nights if figure]
    if now is None or len(before) < LEAST_NIGHTS:
        return Comparison(name, now.value if now else None, None, None, None, False)
    values = [figure.value for figure in before]
    middle = statistics.median(values)
    chance = (now.error**2 + statistics.fmean(f.error**2 for f in before) / len(before)) ** 0.5
    spread = max(abs(figure.value - middle) - figure.error for figure in before)
    limit = max(_BEYOND * spread, _ERRORS * chance)
    differs = abs(now.value - middle) > limit
    return Comparison(name, now.value, middle, min(values), max(values), differs)
