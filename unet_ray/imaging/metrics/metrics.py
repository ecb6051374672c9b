"""Metrics computed from counts, which add up over images, workers and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.boundaries import count_boundaries
from unet_ray.imaging.metrics.objects import IOU_PERCENT, count_objects

COUNTS = {
    "true_positive": "pixels of the class that were found",
    "false_positive": "pixels found that are not of the class",
    "false_negative": "pixels of the class that were not found",
    "pixels": "pixels that count",
    "true_objects": "objects in the masks",
    "found_objects": "objects found",
    "iou_sum": "IoU of the objects matched at 0.5, added up",
    **{
        f"matched_{percent}": f"objects matched at IoU ≥ {percent / 100}" for percent in IOU_PERCENT
    },
    "split_objects": "objects in the masks that hold more than half of each of several found ones",
    "merged_objects": "found objects that hold more than half of each of several in the masks",
    "true_boundary": "boundary pixels in the masks",
    "true_boundary_matched": "of these, those within the tolerance of one found",
    "found_boundary": "boundary pixels found",
    "found_boundary_matched": "of these, those within the tolerance of one in the masks",
    "true_pairs": "ordered pairs of pixels of true objects that are in the same one",
    "found_pairs": "ordered pairs of pixels of true objects that are in the same found one",
    "common_pairs": "ordered pairs of pixels of true objects that are both",
}
"""Counts of a class in an image, and what they mean."""

METRICS = {
    "iou": "intersection over union of pixels",
    "dice": "Dice coefficient of pixels",
    "pixel_error": "share of the pixels that is wrong",
    "ap50": "objects matched at IoU ≥ 0.5, TP / (TP + FP + FN)",
    "map": "the same, mean over the IoU thresholds 0.5, 0.55 … 0.95",
    "f1": "F1 of objects matched at IoU ≥ 0.5",
    "pq": "panoptic quality at IoU ≥ 0.5",
    "boundary_f1": "F1 of boundary pixels matched within the tolerance",
    "adapted_rand_error": "1 − F1 of pairs of pixels of true objects",
}
"""Metrics computed from counts; NaN for a class that is neither present nor found."""

MEANS = {"image_iou": "iou", "image_dice": "dice", "adapted_rand_error": "adapted_rand_error"}
"""Metrics of a set that are means over the images that define them; others pool the counts."""

_MATCHED = slice(list(COUNTS).index("matched_50"), list(COUNTS).index("matched_95") + 1)
_WEIGHTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class PixelCounts:
    """Pixels per class: found correctly, found wrongly, missed, and counted in total."""

    true_positive: NDArray[np.int64]
    false_positive: NDArray[np.int64]
    false_negative: NDArray[np.int64]
    total: NDArray[np.int64]

    def as_array(self) -> NDArray[np.int64]:
        """Return the counts as (4, classes), in the order of the fields."""
        return np.stack([self.true_positive, self.false_positive, self.false_negative, self.total])

    @staticmethod
    def of_array(counts: NDArray[np.int64]) -> PixelCounts:
        """Return the counts in an array as returned by `as_array`."""
        return PixelCounts(*counts)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class; NaN for a class that is neither present nor found."""
        union = self.true_positive + self.false_positive + self.false_negative
        return _ratio(self.true_positive, union)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient (F1) per class; NaN for a class that is neither present nor found."""
        twice = 2 * self.true_positive
        return _ratio(twice, twice + self.false_positive + self.false_negative)


def count_pixels(masks_khw: NDArray[np.bool_], targets_khw: NDArray[np.uint8]) -> PixelCounts:
    """Compare a prediction with its targets.

    Args:
        masks_khw: Predicted masks, one per class; KHW bool.
        targets_khw: 0, 1 or IGNORED; KHW uint8.
    """
    wanted, counted = targets_khw == 1, targets_khw != IGNORED
    axes = (1, 2)
    return PixelCounts(
        true_positive=(masks_khw & wanted).sum(axes, dtype=np.int64),
        false_positive=(masks_khw & ~wanted & counted).sum(axes, dtype=np.int64),
        false_negative=(~masks_khw & wanted).sum(axes, dtype=np.int64),
        total=counted.sum(axes, dtype=np.int64),
    )


def count_image(
    masks_khw: NDArray[np.bool_],
    targets_khw: NDArray[np.uint8],
    found_objects: Sequence[NDArray[Any]],
    true_objects: Sequence[NDArray[Any]],
    boundary_tolerance_px: int,
) -> NDArray[np.float64]:
    """Count everything about one image.

    Args:
        masks_khw: Predicted masks, one per class; KHW bool.
        targets_khw: 0, 1 or IGNORED; KHW uint8.
        found_objects: Label image (HW) of the found objects of each class, as for `count_objects`.
        true_objects: Label image (HW) of the true objects of each class, as for `count_objects`.
        boundary_tolerance_px: Tolerance of `count_boundaries` (px).

    Returns:
        Counts in the order of COUNTS; (classes, COUNTS), float64.
    """
    pixels = count_pixels(masks_khw, targets_khw)
    rows = []
    for index, (mask, target) in enumerate(zip(masks_khw, targets_khw, strict=True)):
        counted = target != IGNORED
        row: dict[str, float] = {
            "true_positive": pixels.true_positive[index],
            "false_positive": pixels.false_positive[index],
            "false_negative": pixels.false_negative[index],
            "pixels": pixels.total[index],
        }
        row |= count_objects(true_objects[index], found_objects[index], counted)
        row |= count_boundaries(target == 1, mask, counted, boundary_tolerance_px)
        rows.append([row[name] for name in COUNTS])
    return np.array(rows, np.float64)


def compute_metrics(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute each of METRICS from counts.

    Average precision follows the Data Science Bowl 2018 and StarDist (Schmidt et al. 2018),
    panoptic quality Kirillov et al. 2019, boundary F1 Csurka et al. 2013, and the Rand error
    Arganda-Carreras et al. 2015.

    Args:
        counts: Counts in the order of COUNTS; (…, COUNTS).

    Returns:
        An array (…) for each metric.
    """
    c = dict(zip(COUNTS, np.moveaxis(counts, -1, 0), strict=True))
    hit = c["true_positive"]
    wrong = c["false_positive"] + c["false_negative"]
    objects = c["true_objects"] + c["found_objects"]
    matched = counts[..., _MATCHED]
    precisions = _ratio(matched, objects[..., None] - matched)
    # 0 where one side has no boundary, and NaN where neither side has one
    precision = np.nan_to_num(_ratio(c["found_boundary_matched"], c["found_boundary"]))
    recall = np.nan_to_num(_ratio(c["true_boundary_matched"], c["true_boundary"]))
    boundary_f1 = np.nan_to_num(_ratio(2 * precision * recall, precision + recall))
    has_boundary = c["true_boundary"] + c["found_boundary"] > 0
    return {
        "iou": _ratio(hit, hit + wrong),
        "dice": _ratio(2 * hit, 2 * hit + wrong),
        "pixel_error": _ratio(wrong, c["pixels"]),
        "ap50": precisions[..., 0],
        "map": precisions.mean(-1),
        "f1": _ratio(2 * c["matched_50"], objects),
        "pq": _ratio(2 * c["iou_sum"], objects),
        "boundary_f1": np.where(has_boundary, boundary_f1, np.nan),
        "adapted_rand_error": 1 - _ratio(2 * c["common_pairs"], c["true_pairs"] + c["found_pairs"]),
    }


def pool_metrics(
    counts_ikc: NDArray[np.float64], weights_ri: NDArray[np.float64] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Compute each of METRICS and MEANS over sets of images.

    Args:
        counts_ikc: Counts; (images, classes, COUNTS).
        weights_ri: How often each set contains each image, (sets, images); None: one set with
            every image once.

    Returns:
        An array (sets, classes) for each metric.
    """
    weights = np.ones((1, len(counts_ikc))) if weights_ri is None else weights_ri
    single = compute_metrics(counts_ikc)
    pooled = compute_metrics(np.tensordot(weights, counts_ikc, 1))
    for name, metric in MEANS.items():
        values = single[metric]
        sums = weights @ np.nan_to_num(values)
        pooled[name] = _ratio(sums, weights @ ~np.isnan(values))
    return pooled


def bootstrap_intervals(
    counts_ikc: NDArray[np.float64],
    resamples: int,
    seed: int,
    groups_i: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Compute 95 % confidence intervals of each of METRICS and MEANS.

    This is a bootstrap over groups of images with the percentile method (Efron). Resamples in which
    a metric is undefined are left out; a metric that fewer than two groups define has no interval.

    Args:
        counts_ikc: Counts; (images, classes, COUNTS).
        resamples: Number of sets, each with as many groups as there are, drawn with replacement.
        seed: Seed of the random draws.
        groups_i: Group of each image, numbered from 0; (images). None: each image is a group.

    Returns:
        An array (classes, 2) for each metric: low, high; NaN where there is no interval.
    """
    rng = np.random.default_rng(seed)
    groups = np.arange(len(counts_ikc)) if groups_i is None else groups_i
    num_groups = int(groups.max()) + 1
    parts = [
        pool_metrics(counts_ikc, weights_rg[:, groups])
        for weights_rg in _draw_weights(num_groups, resamples, rng, num_images=len(groups))
    ]
    pooled = compute_metrics(add_up_groups(counts_ikc, groups))
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        is_defined = ~np.isnan(pooled[MEANS.get(name, name)])
        has_interval = (is_defined.sum(0) > 1) & ~np.isnan(values).all(0)
        ends = np.full((len(has_interval), 2), np.nan)
        for index in np.flatnonzero(has_interval):
            ends[index] = np.nanpercentile(values[:, index], [2.5, 97.5])
        intervals[name] = ends
    return intervals


def add_up_groups(
    counts_ikc: NDArray[np.float64], groups_i: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the counts of groups of images; (groups, classes, COUNTS).

    Args:
        counts_ikc: Counts; (images, classes, COUNTS).
        groups_i: Group of each image, numbered from 0; (images).
    """
    sums = np.zeros((int(groups_i.max()) + 1, *counts_ikc.shape[1:]))
    np.add.at(sums, groups_i, counts_ikc)
    return sums


def _draw_weights(
    num_groups: int, resamples: int, rng: np.random.Generator, num_images: int
) -> Iterator[NDArray[np.float64]]:
    """Draw resamples, and yield how often each group was drawn, in chunks of bounded size.

    Yields:
        Counts of some of the resamples; (resamples, groups), float64.
    """
    at_once = max(1, _WEIGHTS_AT_ONCE // num_images)
    for start in range(0, resamples, at_once):
        num_sets = min(at_once, resamples - start)
        drawn = rng.integers(num_groups, size=(num_sets, num_groups))
        # Each set counts its groups in a place of its own.
        places = drawn + np.arange(num_sets)[:, None] * num_groups
        counts = np.bincount(places.ravel(), minlength=num_sets * num_groups)
        yield counts.reshape(num_sets, num_groups).astype(np.float64)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
