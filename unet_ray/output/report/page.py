"""Facts and pictures as one HTML file that needs nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unet_ray.imaging.drawing.overlay import class_colour
from unet_ray.output.report.charts import histogram_svg
from unet_ray.output.report.drift import LEAST_NIGHTS, compare
from unet_ray.output.report.facts import AREA_BINS_PER_DOUBLING, SCORE_BINS, Facts, Histogram
from unet_ray.output.report.gallery import KINDS, Card


def draw_page(facts: Facts, cards: list[Card], problems: list[str], tables: str) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("unet_ray.reporting", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = figure
    return environment.get_template("page.html.j2").render(
        facts=facts,
        tables=tables,
        tiles=_tiles(facts),
        messages=[
            f"{r['run_id']}: {r['status']}, {r['message']}"
            for r in facts.records
            if r.get("message")
        ],
        classes=[_class(facts, number, index) for index, number in enumerate(facts.classes)],
        mark_note=", lines: earlier nights" if facts.earlier else "",
        least_nights=LEAST_NIGHTS,
        kinds=KINDS,
        cards=cards,
        problems=problems,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def figure(value: float | None) -> str:
    """Return a number as people read it: three digits that mean something, thousands apart.

    Example: 1234567 → 1,234,567; 12.345 → 12.3; 0.00012345 → 0.000123; None → –.
    """
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _tiles(facts: Facts) -> list[dict[str, Any]]:
    records = facts.records
    total = {
        key: sum(record.get(key) or 0 for record in records) for key in ("elapsed_s", "megapixels")
    }
    failed = sum(count for _, count, _ in facts.errors)
    tiles = [
        ("images done", figure(facts.images), False),
        ("failed", figure(failed), failed > 0),
        ("done before", figure(records[0].get("images_skipped") if records else None), False),
        (*_pixels(total["megapixels"]), False),
    ]
    if total["elapsed_s"]:
        tiles.append(("duration", _duration(total["elapsed_s"]), False))
        tiles.append(("images per second", figure(facts.images / total["elapsed_s"]), False))
    costs = [record["cost"]["total"] for record in records if record.get("cost")]
    if costs:
        tiles.append(("cost", figure(sum(costs)), False))
    bad = sorted({str(record["status"]) for record in records} - {"done"})
    tiles.append(("status", ", ".join(bad) or "done", bool(bad)))
    return [{"name": name, "value": value, "warn": warn} for name, value, warn in tiles]


def _pixels(megapixels: float) -> tuple[str, str]:
    is_large = megapixels >= 1000
    return (
        ("gigapixels", figure(megapixels / 1000))
        if is_large
        else ("megapixels", figure(megapixels))
    )


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{minutes} min"
        if hours < 2
        else f"{hours} h {minutes % 60:02d}"
    )


def _class(facts: Facts, number: int, index: int) -> dict[str, Any]:
    night, name = facts.nights[facts.date][number], facts.classes[number]
    return {
        "name": name,
        "colour": class_colour(index),
        "regions": figure(night.regions),
        "pixels": figure(night.pixels),
        "comparisons": compare(facts, number),
        "areas": histogram_svg(
            facts.areas[number],
            _bins(facts.areas[number]),
            lambda place: figure(round(2 ** (place / AREA_BINS_PER_DOUBLING))),
            f"Areas of regions of {name}",
        ),
        "scores": histogram_svg(
            facts.scores[number],
            range(SCORE_BINS),
            lambda place: f"{place / SCORE_BINS:.2f}",
            f"Scores of regions of {name}",
        ),
    }


def _bins(histogram: Histogram) -> range:
    used = [*histogram.night, *histogram.before] or [0]
    return range(min(used), max(used) + 1)
