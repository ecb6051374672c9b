"""Regions of masks of 512×512 px, compared with scikit-image; and the cost of separation.

    python -m tests.benchmarks.regions [--output FILE.json]

First come discs that lie apart: labels, all measures and outlines by our functions, and by
scikit-image's label, regionprops_table and find_contours. Then come discs most of which touch
others, with their true markers: separated, and as plain components of the same mask. The two sides
alternate in one process; figures are medians.
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
        prob_u8 = np.where(mask, 200, 20).astype(np.uint8)
        ours_s, theirs_s = _alternating(
            lambda: find_regions(unseparated(mask), prob_u8),  # noqa: B023
            lambda: _by_scikit_image(mask, prob_u8),  # noqa: B023
        )
        report[f"{count} apart"] = {
            "ours_ms": 1e3 * ours_s,
            "scikit_image_ms": 1e3 * theirs_s,
            "ratio": theirs_s / ours_s,
        }
        print(
            f"{len(find_regions(unseparated(mask), prob_u8))} regions apart: "
            f"{1e3 * ours_s:.2f} ms, scikit-image {1e3 * theirs_s:.2f} ms, "
            f"{theirs_s / ours_s:.1f} times as long"
        )
    for count in (10, 100, 1000):
        labels = discs(count, np.random.default_rng(count))
        mask, markers = labels > 0, find_markers(labels)
        prob_u8 = np.where(mask, 200, 20).astype(np.uint8)
        plain_s, separated_s = _alternating(
            lambda: len(find_regions(unseparated(mask), prob_u8)),  # noqa: B023
            lambda: len(find_regions(separate_touching(mask, markers, STEPS), prob_u8)),  # noqa: B023
        )
        found = (
            len(find_regions(unseparated(mask), prob_u8)),
            len(find_regions(separate_touching(mask, markers, STEPS), prob_u8)),
        )
        report[f"{count} touching"] = {
            "components": found[0],
            "separated": found[1],
            "components_ms": 1e3 * plain_s,
            "parted_ms": 1e3 * separated_s,
            "ratio": separated_s / plain_s,
        }
        print(
            f"{count} objects: {found[0]} components in {1e3 * plain_s:.2f} ms, "
            f"{found[1]} separated in {1e3 * separated_s:.2f} ms, ratio {separated_s / plain_s:.2f}"
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


def _by_scikit_image(mask: NDArray[np.bool_], prob_u8: NDArray[np.uint8]) -> object:
    labels = measure.label(mask, connectivity=2)
    names = ("label", "area", "bbox", "centroid", "intensity_mean", "intensity_max")
    return measure.regionprops_table(labels, prob_u8, properties=names), measure.find_contours(
        mask, 0.5
    )


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
