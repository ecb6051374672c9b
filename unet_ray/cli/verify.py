"""Check an output of segmentation against its rules; exit code 1 if any is broken. Nothing is written.

unet-ray verify --tables tables --images data/images
ray job submit --working-dir . -- python jobs/verify.py --tables s3://b/tables --images s3://b/images
"""  # noqa: E501

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.errors import UnetRayError
from unet_ray.output.config import VerifyConfig

if TYPE_CHECKING:
    from unet_ray.output.verify import VerifyResult


def main(config: VerifyConfig, ray_address: str) -> None:
    """Verify an output, and print the breaches."""
    from unet_ray.output.verify import verify

    result = verify(config, ray_address)
    show(*summary(result))
    if result.problems:
        num_breaches = result.problems.total()
        num_rules = len(result.problems)
        raise UnetRayError(f"{config.tables}: {num_breaches} breaches of {num_rules} rules")


def summary(result: VerifyResult) -> list[str]:
    """Return what was checked and found, with a line for each broken rule."""
    rows = [f"{result.rows[table]:,} {table}" for table in ("images", "masks", "regions")]
    lines = [f"{result.shards} shards: {', '.join(rows)}"]
    for kind, count in result.problems.most_common():
        examples = "; ".join(result.examples[kind])
        more = "; …" if count > len(result.examples[kind]) else ""
        lines.append(f"{count} × {kind}: {examples}{more}")
    if not result.problems:
        lines.append("all rules hold")
    return lines


def command() -> NoReturn:
    """Run the command with the flags of this process."""
    run(VerifyConfig, main, __doc__)
