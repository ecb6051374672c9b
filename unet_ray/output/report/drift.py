"""Comparison of the figures of a date with those of the dates before it, to show drift."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from unet_ray.output.report.facts import Estimate, Facts

_SPREAD_FACTOR = 2.0
"""A figure differs if it is this many times as far from the median as any earlier date."""
_ERRORS = 3.0
"""Minimum distance of a figure that differs (standard errors), rarely reached by chance alone."""
MIN_EARLIER_DATES = 2
"""Minimum number of earlier dates for a comparison."""


@dataclass(frozen=True)
class Comparison:
    """A figure of a date beside the same figure of earlier dates."""

    name: str
    """Name of the figure."""
    now: float | None
    """Value on the date; None if it cannot be computed."""
    middle: float | None
    """Median of the earlier dates; None where there are too few of them."""
    least: float | None
    """Smallest value of the earlier dates."""
    most: float | None
    """Largest value of the earlier dates."""
    differs: bool
    """True where the value differs by more than the earlier dates and chance explain."""


def compare(facts: Facts, class_id: int) -> list[Comparison]:
    """Compare each figure of a class with its values on the earlier dates."""
    comparisons = []
    for name, figure in facts.by_date[facts.date][class_id].figures.items():
        earlier = [facts.by_date[date][class_id].figures[name] for date in facts.earlier]
        comparisons.append(_compare_figure(name, figure, earlier))
    return comparisons


def _compare_figure(name: str, now: Estimate | None, earlier: list[Estimate | None]) -> Comparison:
    """Compare a figure with its values on the earlier dates.

    The figure differs if its distance from their median is more than twice that of the farthest
    earlier date, and more than three standard errors. The standard error of an earlier date is
    subtracted from its distance, because a date with few images is off by chance.

    Example:
        Earlier values of 10, 11 and 12, each ± 0.1, have a largest distance of 1 − 0.1 = 0.9 from
        11. A value of 12.9 lies more than 2 × 0.9 from 11 and differs; 12.7 does not.
    """
    before = [figure for figure in earlier if figure]
    if now is None or len(before) < MIN_EARLIER_DATES:
        value = now.value if now else None
        return Comparison(name, value, middle=None, least=None, most=None, differs=False)
    values = [figure.value for figure in before]
    middle = statistics.median(values)
    variance_before = statistics.fmean(figure.error**2 for figure in before) / len(before)
    standard_error = (now.error**2 + variance_before) ** 0.5
    spread = max(abs(figure.value - middle) - figure.error for figure in before)
    limit = max(_SPREAD_FACTOR * spread, _ERRORS * standard_error)
    return Comparison(
        name,
        now.value,
        middle=middle,
        least=min(values),
        most=max(values),
        differs=abs(now.value - middle) > limit,
    )
