"""Small bar charts as SVG, drawn by the page's own colours."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup, escape

from unet_ray.output.report.facts import Histogram

_WIDTH, _HEIGHT, _FOOT = 360, 120, 18


def histogram_svg(
    histogram: Histogram, bins: range, label: Callable[[int], str], title: str
) -> Markup:
    """Return bars of a night's shares by bin, with marks at those of the earlier nights.

    Args:
        histogram — counts by bin.
        bins — from the first to the last, empty ones included.
        label — of a bin's lower edge.
        title — for those who hear the page.
    """
    shares = [_shares(counts, bins) for counts in (histogram.night, histogram.before)]
    top = max([*shares[0], *shares[1], 1e-9])
    step = _WIDTH / max(1, len(bins))
    bars = []
    for place, (now, before) in enumerate(zip(*shares, strict=True)):
        high, mark = _HEIGHT * now / top, _HEIGHT * (1 - before / top)
        left = place * step
        bars.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{_HEIGHT - high:.1f}" width="{max(1, step - 2):.1f}" '
            f'height="{high:.1f}"/>'
        )
        if histogram.before:
            bars.append(f'<path class="mark" d="M{left:.1f} {mark:.1f}h{step:.1f}"/>')
    ticks = [
        f'<text x="{place * step:.1f}" y="{_HEIGHT + _FOOT - 4}">{escape(label(bins[place]))}</text>'
        for place in range(
            0, len(bins) - len(bins) // 10, max(1, len(bins) // 5)
        )  # the last would leave the chart
    ]
    return Markup(  # noqa: S704 (numbers of ours, and labels that are escaped)
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(bars)}{''.join(ticks)}</svg>"
    )


def _shares(counts: dict[int, int], bins: range) -> list[float]:
    total = sum(counts.values())
    return [counts.get(number, 0) / total if total else 0.0 for number in bins]
