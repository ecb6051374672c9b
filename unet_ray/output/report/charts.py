"""Small bar charts as SVG, in the colours of the page."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup, escape

from unet_ray.output.report.facts import Histogram

_WIDTH, _HEIGHT, _FOOT = 360, 120, 18
"""Width of a chart, height of its bars and height of its labels (SVG units)."""


def draw_histogram(
    histogram: Histogram, bins: range, label: Callable[[int], str], title: str
) -> Markup:
    """Draw the share of each bin as a bar, with a mark at the share on the earlier dates.

    Args:
        histogram: Counts by bin.
        bins: Bins from the first to the last, empty ones included.
        label: Function that returns the label of a bin's lower edge.
        title: Description for screen readers.

    Returns:
        The chart as an SVG element.
    """
    shares_now = _find_shares(histogram.now, bins)
    shares_before = _find_shares(histogram.before, bins)
    top = max([*shares_now, *shares_before, 1e-9])
    step = _WIDTH / max(1, len(bins))
    bars = []
    for place, (now, before) in enumerate(zip(shares_now, shares_before, strict=True)):
        high = _HEIGHT * now / top
        mark = _HEIGHT * (1 - before / top)
        left = place * step
        bars.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{_HEIGHT - high:.1f}" '
            f'width="{max(1, step - 2):.1f}" height="{high:.1f}"/>'
        )
        if histogram.before:
            bars.append(f'<path class="mark" d="M{left:.1f} {mark:.1f}h{step:.1f}"/>')
    end = len(bins) - len(bins) // 10  # a label at the last bins would leave the chart
    baseline = _HEIGHT + _FOOT - 4
    ticks = [
        f'<text x="{place * step:.1f}" y="{baseline}">{escape(label(bins[place]))}</text>'
        for place in range(0, end, max(1, len(bins) // 5))
    ]
    return Markup(  # noqa: S704 (our own numbers, and escaped labels)
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(bars)}{''.join(ticks)}</svg>"
    )


def _find_shares(counts: dict[int, int], bins: range) -> list[float]:
    total = sum(counts.values())
    return [counts.get(number, 0) / total if total else 0.0 for number in bins]
