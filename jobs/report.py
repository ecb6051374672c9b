"""Look at a night: one HTML page with what was done, found and failed, what differs from earlier nights, and pictures.

python jobs/report.py --tables tables --output report.html
python jobs/report.py --tables s3://b/tables --output s3://b/reports/2026-11-22.html --date 2026-11-22
"""

from _command import run

from unet_ray.output.config import ReportConfig
from unet_ray.output.report.report import report


def main(config: ReportConfig, _: str) -> None:
    """Write the page and say what is in it."""
    result = report(config)
    facts = result.facts
    print(
        f"{facts.date}: {facts.images} images, {result.pictures} pictures, {len(facts.earlier)} earlier nights; "
        f"{config.output} ({result.size_bytes / 2**20:.1f} MiB)"
    )
    for problem in result.problems:
        print(f"note: no picture of {problem}")


if __name__ == "__main__":
    run(ReportConfig, main, __doc__)
