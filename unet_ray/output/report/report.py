"""What a night found, as one HTML page with pictures; no Ray."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.output.config import ReportConfig
from unet_ray.output.report.facts import Facts, gather
from unet_ray.output.report.gallery import draw_gallery
from unet_ray.output.report.page import draw_page
from unet_ray.storage.output_file import OutputFile
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import tables_at


@dataclass(frozen=True)
class ReportResult:
    """What the page holds."""

    facts: Facts
    pictures: int
    problems: list[str]
    """Images that no picture could be drawn of."""
    size_bytes: int


def report(config: ReportConfig) -> ReportResult:
    """Write the page.

    Raises: InputError — no tables there, no images of that date, an output that cannot be written.
    """
    target, output = OutputFile.of("--output", config.output), tables_at(config.tables)
    with open_workspace() as database:
        facts = gather(database, output, config.date)
        cards, problems = draw_gallery(database, output, facts, config.pictures)
    page = draw_page(facts, cards, problems, config.tables).encode()
    target.write(page)
    return ReportResult(facts, len(cards), problems, len(page))
