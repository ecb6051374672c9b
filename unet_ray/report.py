"""What a night found, as one HTML page with pictures; no Ray."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.archive.ledger import tables_at
from unet_ray.archive.output_file import OutputFile
from unet_ray.archive.runs import check_day
from unet_ray.archive.scratch import scratch
from unet_ray.errors import InputError
from unet_ray.reporting.facts import Facts, gather
from unet_ray.reporting.gallery import draw_gallery
from unet_ray.reporting.page import draw_page


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Of what, and where to."""

    tables: str
    """Output of segmentation (URI)."""
    output: str
    """HTML file (URI)."""
    date: str | None = None
    """Partition, YYYY-MM-DD; default: the last one."""
    pictures: int = 8
    """Of each kind: most regions, largest regions, least certain regions, random."""

    def __post_init__(self) -> None:
        if not self.output.endswith(".html"):
            raise InputError(f"--output {self.output}: name a .html file")
        if self.pictures < 0:
            raise InputError(f"--pictures {self.pictures}: choose 0 or more")
        check_day("--date", self.date)


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
    with scratch() as database:
        facts = gather(database, output, config.date)
        cards, problems = draw_gallery(database, output, facts, config.pictures)
    page = draw_page(facts, cards, problems, config.tables).encode()
    target.write(page)
    return ReportResult(facts, len(cards), problems, len(page))
