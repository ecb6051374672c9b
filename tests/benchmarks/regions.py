"""Regions of masks of 512×512 px: against scikit-image, and what separation objects that touch costs.

    python tests/benchmarks/regions.py [--output FILE.json]

First discs that lie apart: labels, all measures and outlines here, and with scikit-image's label, regionprops_table and
find_contours. Then discs most of which touch others, with their true cores: separated, and as plain components of the same
mask. Sides alternate in one process; medians.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from skimage import measure

from unet_ray.imaging.labels.markers import find_markers
from unet_ray.imaging.regions.regions import find_regions
from unet_ray.imaging.regions.separation import STEPS, separate_touching, unseparated

_SIDE = 512
_ROUNDS = 41


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output")
    flags = parser.parse_args()
    report: dict[str, dict[str, float]] = {}
    for count in (10, 1000):
        mask = discs(count, np.random.default_rng(count), apart=True) > 0
        q = np.where(mask, 200, 20).astype(np.uint8)
        ours_s, theirs_s = _alternating(
            lambda: find_regions(unseparated(mask), q),  # noqa: B023
            lambda: _by_scikit_image(mask, q),  # noqa: B023
        )
        report[f"{count} apart"] = {
            "ours_ms": 1e3 * ours_s,
            "scikit_image_ms": 1e3 * theirs_s,
            "ratio": theirs_s / ours_s,
        }
        print(
            f"{len(find_regions(unseparated(mask), q))} regions apart: {1e3 * ours_s:.2f} ms, scikit-image "
            f"{1e3 * theirs_s:.2f} ms, {theirs_s / ours_s:.1f} times as long"
        )
    for count in (10, 100, 1000):
        labels = discs(count, np.random.default_rng(count))
        mask, core = labels > 0, find_markers(labels)
        q = np.where(mask, 200, 20).astype(np.uint8)
        plain_s, parted_s = _alternating(
            lambda: len(find_regions(unseparated(mask), q)),  # noqa: B023
            lambda: len(find_regions(separate_touching(mask, core, STEPS), q)),  # noqa: B023
        )
        found = (
            len(find_regions(unseparated(mask), q)),
            len(find_regions(separate_touching(mask, core, STEPS), q)),
        )
        report[f"{count} touching"] = {
            "components": found[0],
            "separated": found[1],
            "components_ms": 1e3 * plain_s,
            "parted_ms": 1e3 * parted_s,
            "ratio": parted_s / plain_s,
        }
        print(
            f"{count} objects: {found[0]} components in {1e3 * plain_s:.2f} ms, {found[1]} separated in "
            f"{1e3 * parted_s:.2f} ms, ratio {parted_s / plain_s:.2f}"
        )
    if flags.output:
        Path(flags.output).write_text(json.dumps(report, indent=2))


def discs(count: int, rng: np.random.Generator, apart: bool = False) -> NDArray[np.int64]:
    """Return a label image of discs that touch, cut where they meet, or lie apart."""
    radius = 0.62 * _SIDE / np.sqrt(count)
    centres = rng.uniform(0, _SIDE, (8 * count, 2))
    kept: list[NDArray[np.float64]] = []
    for centre in centres:  # not nearer than a radius: nothing is swallowed
        if len(kept) < count and all(np.hypot(*(centre - other)) > radius for other in kept):
            kept.append(centre)
    distance, nearest = KDTree(np.array(kept)).query(np.indices((_SIDE, _SIDE)).reshape(2, -1).T)
    return np.where(distance < radius * (0.45 if apart else 0.9), nearest + 1, 0).reshape(
        _SIDE, _SIDE
    )


def _by_scikit_image(mask: NDArray[np.bool_], q: NDArray[np.uint8]) -> object:
    labels = measure.label(mask, connectivity=2)
    names = ("label", "area", "bbox", "centroid", "intensity_mean", "intensity_max")
    return measure.regionprops_table(labels, q, properties=names), measure.find_contours(mask, 0.5)


def _alternating(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        for times, function in zip(seconds, (one, other), strict=True):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1])


if __name__ == "__main__":
    main()
