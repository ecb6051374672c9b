"""The page of a report: one self-contained HTML file with facts and pictures."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unet_ray.imaging.drawing.overlay import class_colour
from unet_ray.output.report.charts import draw_histogram
from unet_ray.output.report.drift import MIN_EARLIER_DATES, compare
from unet_ray.output.report.facts import AREA_BINS_PER_DOUBLING, SCORE_BINS, Facts
from unet_ray.output.report.gallery import KINDS, Card
from unet_ray.segmentation.result import describe_other_sizes


def draw_page(facts: Facts, cards: list[Card], problems: list[str], tables: str) -> str:
    """Return the page as HTML.

    Args:
        facts: Facts of the date.
        cards: Pictures.
        problems: Lines about images without a picture.
        tables: URI of the tables, as the page names it.
    """
    environment = Environment(
        loader=PackageLoader("unet_ray.output.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
    )
    environment.filters["figure"] = format_figure
    return environment.get_template("page.html.j2").render(
        facts=facts,
        tables=tables,
        tiles=_make_tiles(facts),
        messages=_list_messages(facts.records),
        classes=[
            _describe_class(facts, number, index) for index, number in enumerate(facts.classes)
        ],
        mark_note="; lines: earlier dates" if facts.earlier else "",
        min_earlier_dates=MIN_EARLIER_DATES,
        kinds=KINDS,
        cards=cards,
        problems=problems,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )


def format_figure(value: float | None) -> str:
    """Format a number for people: three significant digits, thousands separated by commas.

    Example:
        1234567 → 1,234,567; 12.345 → 12.3; 0.00012345 → 0.000123; None → –.
    """
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _list_messages(records: list[dict[str, Any]]) -> list[str]:
    """Return the messages of runs that ended badly, and one about differing pixel sizes."""
    messages = [
        f"{record.get('run_id', '')}: {record['status']}, {record['message']}"
        for record in records
        if record.get("message")
    ]
    sizes = Counter[str]()
    model_size_um = None
    for record in records:
        sizes.update(record.get("other_pixel_sizes") or {})
        model_size_um = record.get("model_pixel_size_um") or model_size_um
    line = describe_other_sizes(dict(sizes.most_common()), model_size_um)
    if line:
        messages.append(f"pixel sizes: {line}")
    return messages


def _make_tiles(facts: Facts) -> list[dict[str, Any]]:
    records = facts.records
    elapsed_s = sum(record.get("elapsed_s") or 0 for record in records)
    unit = "megapixels"
    pixels = sum(record.get("megapixels") or 0 for record in records)
    if pixels >= 1000:
        unit = "gigapixels"
        pixels /= 1000
    failed = sum(count for _, count, _ in facts.errors)
    skipped = records[0].get("images_skipped") if records else None
    tiles = [
        ("images done", format_figure(facts.images), False),
        ("failed", format_figure(failed), failed > 0),
        ("done before", format_figure(skipped), False),
        (unit, format_figure(pixels), False),
    ]
    if elapsed_s:
        tiles.append(("duration", _format_duration(elapsed_s), False))
        taken_over = sum(record.get("images_taken_over") or 0 for record in records)
        rate = (facts.images - taken_over) / elapsed_s
        tiles.append(("images per second", format_figure(rate), False))
    costs = [record["cost"]["total"] for record in records if record.get("cost")]
    if costs:
        tiles.append(("cost", format_figure(sum(costs)), False))
    not_done = sorted({str(record["status"]) for record in records} - {"done"})
    tiles.append(("status", ", ".join(not_done) or "done", bool(not_done)))
    return [{"name": name, "value": value, "warn": warn} for name, value, warn in tiles]


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours = int(seconds // 3600)
    if hours < 2:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60:02d}"


def _describe_class(facts: Facts, number: int, index: int) -> dict[str, Any]:
    """Return the page's entry for a class; `index` is its place among the classes."""
    found = facts.by_date[facts.date][number]
    name = facts.classes[number]
    areas = facts.areas[number]
    used_bins = [*areas.now, *areas.before] or [0]
    return {
        "name": name,
        "colour": class_colour(index),
        "regions": format_figure(found.regions),
        "pixels": format_figure(found.pixels),
        "comparisons": compare(facts, number),
        "areas": draw_histogram(
            areas,
            range(min(used_bins), max(used_bins) + 1),
            lambda place: format_figure(round(2 ** (place / AREA_BINS_PER_DOUBLING))),
            f"Areas of regions of {name}",
        ),
        "scores": draw_histogram(
            facts.scores[number],
            range(SCORE_BINS),
            lambda place: f"{place / SCORE_BINS:.2f}",
            f"Scores of regions of {name}",
        ),
    }
