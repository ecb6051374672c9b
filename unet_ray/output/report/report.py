"""Write the report of a date: what was found, as one HTML page with pictures, without Ray."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.output.config import ReportConfig
from unet_ray.output.report.facts import MAX_CLASSES, Facts, gather
from unet_ray.output.report.gallery import draw_gallery
from unet_ray.output.report.page import draw_page
from unet_ray.output.run_roots import roots_of_runs
from unet_ray.storage.output_file import OutputFile
from unet_ray.storage.roots import Gate
from unet_ray.store_options import read_store_options
from unet_ray.tables.committed import CommittedShards
from unet_ray.tables.duckdb_workspace import open_workspace
from unet_ray.tables.ledger import tables_at


@dataclass(frozen=True)
class ReportResult:
    """The content of a page."""

    facts: Facts
    """Facts of the date."""
    pictures: int
    """Number of pictures."""
    problems: list[str]
    """Lines about images for which no picture could be drawn."""
    size_bytes: int
    """Size of the HTML file (bytes)."""


def report(config: ReportConfig) -> ReportResult:
    """Write the page of a date.

    Args:
        config: Tables, date and HTML file.

    Returns:
        The content of the page.

    Raises:
        InputError: There are no tables or no images of that date, a shard is damaged, or the output
            cannot be written.
    """
    target = OutputFile.of("--output", config.output, read_store_options(config, "output"))
    output = tables_at(config.tables, read_store_options(config, "tables"))
    options = read_store_options(config, "images")
    shards = CommittedShards.of(output)
    with open_workspace() as database:
        facts = gather(database, shards, config.date)
        gate = Gate(roots_of_runs(output, facts.records, config.image_roots, options))
        cards, problems = draw_gallery(database, shards, facts, num_each=config.pictures, gate=gate)
    if facts.classes_left_out:
        problems.append(
            f"{facts.classes_left_out} further classes: a page shows at most {MAX_CLASSES}"
        )
    page = draw_page(facts, cards, problems, config.tables).encode(errors="backslashreplace")
    target.write(page)
    return ReportResult(facts, len(cards), problems, len(page))
