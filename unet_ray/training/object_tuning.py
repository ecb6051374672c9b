"""Thresholds, smallest areas and scores of a model that parts touching objects, chosen on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.objects import matches_by_least
from unet_ray.imaging.regions.filter import RegionFilter
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.imaging.regions.separation import Separation, separate_touching, unseparated
from unet_ray.labelled_data.predict_labelled import predict_labelled
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.model_folder import Model

METRIC = "ap50"
"""What is made as large as it gets: TP / (TP + FP + FN) of objects matched at IoU ≥ 0.5, over all images."""
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_CORES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_AS_GOOD = 2e-3
"""AP this close to the best is always as good: of few images the standard error says nothing."""
_AREAS = (1, 2, 4, 7, 12, 20, 30, 45, 70, 100, 150, 200)
_SCORES = (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
_LEAST = tuple(RegionFilter(area, score) for area in _AREAS for score in _SCORES)


@dataclass(frozen=True)
class Tuned:
    """What was chosen, and what it came to on the validation images."""

    model: Model
    ap50: tuple[float, ...]
    """Per class."""
    ap50_of_components: tuple[float, ...]
    """Per class: the best that the masks' components reach with thresholds, areas and scores of their own."""


def tune_objects(
    model: Model, labelling: Labelling, reader: Reader, indices: Sequence[int], pool: PoolPlan
) -> Tuned:
    """Return a model with the thresholds, areas and scores that part its objects best.

    Args:
        model — with a `separation`.
        labelling — what masks mean.
        reader, indices — the validation images.
        pool — predicts them.
    """
    assert model.separation
    counts = predict_labelled(
        model, reader, indices, pool, partial(_count_grid, labelling, model.separation.steps)
    )
    best = [choose(counts[:, index]) for index in range(counts.shape[1])]
    thresholds, markers, least, found, plain = zip(*best, strict=True)
    areas, scores = tuple(each.area for each in least), tuple(each.score for each in least)
    tuned = replace(
        model,
        thresholds=thresholds,
        separation=Separation(markers, areas, model.separation.steps, scores),
    )
    return Tuned(tuned, found, plain)


def _count_grid(
    labelling: Labelling, steps: int, prob_u8_khw: NDArray[np.uint8], masks: list[NDArray[Any]]
) -> NDArray[np.float64]:
    """Count matches for every choice: (classes, thresholds, markers and then none, _LEAST, 3 of `matches_by_least`)."""
    targets = labelling.targets(masks)
    classes = len(targets)
    counts = np.zeros((classes, len(_THRESHOLDS), len(_CORES) + 1, len(_LEAST), 3))
    for index, target in enumerate(targets):
        truth, counted = labelling.objects(masks, index), target != IGNORED
        markers = [binary_mask(prob_u8_khw[classes + index], level) for level in _CORES]
        for place, threshold in enumerate(_THRESHOLDS):
            mask = binary_mask(prob_u8_khw[index], threshold)
            separated = [
                *(separate_touching(mask, core, steps) for core in markers),
                unseparated(mask),
            ]
            counts[index, place] = [
                matches_by_least(truth, p.labels, counted, prob_u8_khw[index], _LEAST)
                for p in separated
            ]
    return counts


def choose(counts: NDArray[np.float64]) -> tuple[float, float, RegionFilter, float, float]:
    """Choose by the rule of one standard error: of what is as good as the best, the least a matter of chance.

    As good is a choice whose AP is behind the best one's by no more than the standard error of that difference, by the
    jackknife over images (Breiman et al. 1984, section 3.4.3, on the difference; Efron 1979). Of those the thresholds
    nearest to ½ are taken, then the smallest area, then the smallest score.

    Args:
        counts — (images, thresholds, markers and then none, _LEAST, 3) of one class, as `_count_grid`.

    Returns: threshold, marker threshold, what an object must come to, their AP, and the best AP without markers.
    """
    total = counts.sum(0)
    ap = _average_precision(total)
    separated = ap[:, :-1]
    without = _average_precision(total - counts)[:, :, :-1]
    best = int(separated.argmax())
    behind = without.reshape(len(counts), -1)[:, best, None, None, None] - without
    images = len(counts)
    error = np.maximum(_AS_GOOD, np.sqrt((images - 1) * behind.var(0)))
    rows, columns, least = np.nonzero(separated.flat[best] - separated <= error)
    off = np.abs(np.array(_THRESHOLDS)[rows] - 0.5) + np.abs(np.array(_CORES)[columns] - 0.5)
    first = np.lexsort((least, off.round(6)))[0]
    at = rows[first], columns[first], least[first]
    return (
        _THRESHOLDS[at[0]],
        _CORES[at[1]],
        _LEAST[at[2]],
        float(separated[at]),
        float(ap[:, -1].max()),
    )


def _average_precision(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) of `matches_by_least`."""
    matched, found, true = np.moveaxis(counts, -1, 0)
    return matched / np.maximum(1, found + true - matched)
