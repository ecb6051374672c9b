"""Tuning of a model that separates touching objects.

Thresholds, smallest areas and smallest scores are chosen on the validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from unet_ray.cluster.actor_pool import PoolPlan
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.metrics.objects import matches_by_filter
from unet_ray.imaging.regions.filter import RegionFilter
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.imaging.regions.separation import separate_touching, unseparated
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.labelled_data.predict_labelled import predict_labelled
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.model_folder import Model

METRIC = "ap50"
"""Name of the metric to maximise: TP / (TP + FP + FN) of objects matched at IoU ≥ 0.5, counted over
all images."""
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Thresholds of the class to choose from."""
_MARKER_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Thresholds of the markers to choose from."""
_AS_GOOD = 2e-3
"""Difference from the best AP below which a choice always counts as equally good; with few images
the standard error is unreliable."""
_AREAS = (1, 2, 4, 7, 12, 20, 30, 45, 70, 100, 150, 200)
"""Smallest areas to choose from (px)."""
_SCORES = (0.0, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
"""Smallest mean probabilities to choose from."""
_FILTERS = tuple(RegionFilter(area, score) for area in _AREAS for score in _SCORES)
"""Filters of objects to choose from."""


@dataclass(frozen=True)
class Tuned:
    """A tuned model, and its results on the validation images."""

    model: Model
    """The model with the settings that were chosen."""
    ap50: tuple[float, ...]
    """AP of each class."""
    ap50_of_components: tuple[float, ...]
    """Best AP of each class without markers, where objects are the components of the masks and have
    their own best thresholds, areas and scores."""


def tune_objects(
    model: Model, labelling: Labelling, reader: Reader, indices: Sequence[int], pool: PoolPlan
) -> Tuned:
    """Choose the rules that separate a model's objects best.

    Args:
        model: Model that separates touching objects.
        labelling: Meaning of the masks.
        reader: Reads the validation images.
        indices: Indices of the validation images in the reader.
        pool: Actors that predict them.
    """
    steps = model.postprocessing.steps
    assert steps is not None
    counts = predict_labelled(model, reader, indices, pool, partial(_count_grid, labelling, steps))
    best = [choose(counts[:, index]) for index in range(counts.shape[1])]
    rules, ap50, ap50_of_components = zip(*best, strict=True)
    tuned = replace(model, postprocessing=Postprocessing(rules, steps))
    return Tuned(tuned, ap50, ap50_of_components)


def _count_grid(
    labelling: Labelling, steps: int, prob_u8_khw: NDArray[np.uint8], labelled: LabelledPixels
) -> NDArray[np.float64]:
    """Count matches in an image for every choice of settings.

    Returns:
        Counts; (classes, thresholds, marker thresholds and then no markers, _FILTERS, the 3 counts
        of `matches_by_filter`).
    """
    _, masks, valid = labelled
    targets = labelling.targets(masks, valid)
    classes = len(targets)
    counts = np.zeros((classes, len(_THRESHOLDS), len(_MARKER_THRESHOLDS) + 1, len(_FILTERS), 3))
    for index, target in enumerate(targets):
        truth = labelling.objects(masks, index, valid)
        counted = target != IGNORED
        markers = [binary_mask(prob_u8_khw[classes + index], each) for each in _MARKER_THRESHOLDS]
        for place, threshold in enumerate(_THRESHOLDS):
            mask = binary_mask(prob_u8_khw[index], threshold)
            separated = [separate_touching(mask, marker, steps) for marker in markers]
            separated.append(unseparated(mask))
            counts[index, place] = [
                matches_by_filter(truth, p.labels, counted, prob_u8_khw[index], _FILTERS)
                for p in separated
            ]
    return counts


def choose(counts: NDArray[np.float64]) -> tuple[ObjectRule, float, float]:
    """Choose the settings of one class by the rule of one standard error.

    Among the choices that are as good as the best, this takes the one least likely to be luck. A
    choice is as good if its AP is below the best one by no more than the standard error of that
    difference, estimated by the jackknife over images (Breiman et al. 1984, section 3.4.3, applied
    to the difference; Efron 1979). Among these choices, the thresholds nearest to ½ win, then the
    smallest area, then the smallest score.

    Args:
        counts: Counts of one class as in `_count_grid`; (images, thresholds, marker thresholds and
            then no markers, _FILTERS, 3).

    Returns:
        The settings, the AP of their objects, and the best AP without markers.
    """
    total = counts.sum(0)
    ap = _average_precision(total)
    separated = ap[:, :-1]
    without = _average_precision(total - counts)[:, :, :-1]
    best = int(separated.argmax())
    behind = without.reshape(len(counts), -1)[:, best, None, None, None] - without
    images = len(counts)
    error = np.maximum(_AS_GOOD, np.sqrt((images - 1) * behind.var(0)))
    rows, columns, filters = np.nonzero(separated.flat[best] - separated <= error)
    off = np.abs(np.array(_THRESHOLDS)[rows] - 0.5) + np.abs(
        np.array(_MARKER_THRESHOLDS)[columns] - 0.5
    )
    first = np.lexsort((filters, off.round(6)))[0]
    at = rows[first], columns[first], filters[first]
    kept = _FILTERS[at[2]]
    chosen = ObjectRule(_THRESHOLDS[at[0]], _MARKER_THRESHOLDS[at[1]], kept.area, kept.score)
    return chosen, float(separated[at]), float(ap[:, -1].max())


def _average_precision(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) from the counts of `matches_by_filter`."""
    matched, found, true = np.moveaxis(counts, -1, 0)
    return matched / np.maximum(1, found + true - matched)
