"""Write one HTML page about a run: what was done, found and failed, what differs from earlier runs, pictures.

unet-ray report --tables tables --output report.html
unet-ray report --tables s3://b/tables --output s3://b/reports/2026-11-22.html --date 2026-11-22
"""  # noqa: E501

from __future__ import annotations

from typing import NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.output.config import ReportConfig


def main(config: ReportConfig, _: str) -> None:
    """Write the page, and print what is in it."""
    from unet_ray.output.report.report import report

    result = report(config)
    facts = result.facts
    show(
        f"{facts.date}: {facts.images} images, {result.pictures} pictures, {len(facts.earlier)} "
        f"earlier dates; {config.output} ({result.size_bytes / 2**20:.1f} MiB)"
    )
    for table, count in facts.unsound.items():
        show(f"note: {count} rows of {table} make no sense and are left out; see unet-ray verify")
    for problem in result.problems:
        show(f"note: no picture of {problem}")


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(ReportConfig, main, __doc__)
