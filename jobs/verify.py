"""Check an output of segmentation against its rules; exit code 1 if anything is wrong. Nothing is written.

python jobs/verify.py --tables tables --images data/images
ray job submit --working-dir . -- python jobs/verify.py --tables s3://b/tables --images s3://b/images
"""

from _command import run

from unet_ray.errors import UnetRayError
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import VerifyResult, verify


def main(config: VerifyConfig, ray_address: str) -> None:
    """Verify and say what is wrong."""
    result = verify(config, ray_address)
    print(summary(result))
    if result.problems:
        raise UnetRayError(
            f"{config.tables}: {result.problems.total()} breaches of {len(result.problems)} rules"
        )


def summary(result: VerifyResult) -> str:
    """Return what was checked and found, a line per rule that is broken."""
    rows = ", ".join(f"{result.rows[name]:,} {name}" for name in ("images", "masks", "regions"))
    lines = [f"{result.shards} shards: {rows}"]
    lines += [
        f"{count} × {kind}: {'; '.join(result.examples[kind])}{'; …' if count > len(result.examples[kind]) else ''}"
        for kind, count in result.problems.most_common()
    ]
    return "\n".join(lines if result.problems else [*lines, "all rules hold"])


if __name__ == "__main__":
    run(VerifyConfig, main, __doc__)
