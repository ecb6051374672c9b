"""True and found objects compared: matches and pairs of pixels, as counts.

Everything comes from the contingency table of two label images (how many pixels each pair of labels
shares). It is made from the runs of equal pairs along the rows, without a loop over objects or
pixels, so that thousands of objects cost little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.regions.filter import RegionFilter

IOU_PERCENT = tuple(range(50, 100, 5))
"""IoU thresholds of the mean average precision (%), as in the Data Science Bowl 2018."""


def count_objects(
    true_hw: NDArray[Any], found_hw: NDArray[Any], counted_hw: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Count the objects of one class in one image, their matches, and pairs of pixels in them.

    A found object matches a true one at IoU ≥ threshold, one to one. Pixels that do not count are
    first removed from both sides; a found object that loses more than half of its pixels is left
    out.

    Args:
        true_hw: Label image of the true objects: 0 background, other values below 2^31 objects.
        found_hw: Label image of the found objects, likewise.
        counted_hw: Pixels that count; None: all.

    Returns:
        `true_objects`; `found_objects`; `iou_sum`, the IoU of the matches at 0.5 added up;
        `matched_50` … `matched_95`; `split_objects` and `merged_objects` (see `_count_splits`);
        `true_pairs`, `found_pairs` and `common_pairs` (see `_count_pairs`).
    """
    table, kept = _tabulate(true_hw, found_hw, counted_hw)
    return _count_matches(table, kept) | _count_splits(table, kept) | _count_pairs(table)


def matches_by_filter(
    true_hw: NDArray[Any],
    found_hw: NDArray[Any],
    counted_hw: NDArray[np.bool_],
    prob_u8_hw: NDArray[np.uint8],
    region_filters: Sequence[RegionFilter],
) -> NDArray[np.int64]:
    """Count matches at IoU ≥ 0.5, and objects, for several filters of found objects.

    If two found objects tie at 0.5 as the halves of a true one, the same one counts for all
    filters.

    Args:
        true_hw: Label image of the true objects, as for `count_objects`.
        found_hw: Label image of the found objects; its labels are small.
        counted_hw: Pixels that count.
        prob_u8_hw: round(255·probability), uint8.
        region_filters: Filters that found objects must pass.

    Returns:
        Matches, found objects and true objects for each filter; (filters, 3).
    """
    table, kept = _tabulate(true_hw, found_hw, counted_hw)
    _, one_each = np.unique(np.where(kept, table.found, 0), return_index=True)
    found = one_each[kept[one_each]]
    prob_u8_sum = np.bincount(found_hw.ravel(), prob_u8_hw.ravel())
    whole = np.bincount(found_hw.ravel())
    true_objects = len(np.unique(table.true[table.true != 0]))
    counts = np.full((len(region_filters), 3), true_objects)
    for column, cells in enumerate((_find_matches(table, kept), found)):
        labels = table.found[cells]
        counts[:, column] = [
            region_filter.met_by(whole[labels], prob_u8_sum[labels]).sum()
            for region_filter in region_filters
        ]
    return counts


def _tabulate(
    true_hw: NDArray[Any], found_hw: NDArray[Any], counted_hw: NDArray[np.bool_] | None
) -> tuple[_Contingency, NDArray[np.bool_]]:
    """Return the contingency table of the counted pixels, and its cells of counted found objects.

    Args:
        true_hw: Label image of the true objects.
        found_hw: Label image of the found objects.
        counted_hw: Pixels that count; None: all.

    Returns:
        The table, and for each cell whether it belongs to a found object that counts.
    """
    if counted_hw is None or counted_hw.all():
        table = _Contingency.of(true_hw.ravel(), found_hw.ravel())
        return table, table.found != 0
    table = _Contingency.of(true_hw[counted_hw], found_hw[counted_hw])
    total = np.bincount(found_hw.ravel())[table.found]
    return table, (table.found != 0) & (2 * table.found_area >= total)


@dataclass(frozen=True)
class _Contingency:
    """The non-empty cells of a contingency table, in columns."""

    true: NDArray[np.int64]
    """Label among the true objects; 0 background."""
    found: NDArray[np.int64]
    """Label among the found objects; 0 background."""
    pixels: NDArray[np.int64]
    """Number of pixels with both labels."""

    @staticmethod
    def of(true_n: NDArray[Any], found_n: NDArray[Any]) -> _Contingency:
        """Count the pairs of labels of two flat label images.

        Example:
            true 0 1 1 1, found 0 0 2 2 → runs (0, 0)×1, (1, 0)×1, (1, 2)×2, each of them a cell.
        """
        if not true_n.size:
            return _Contingency(*np.zeros((3, 0), np.int64))
        changes = np.flatnonzero((true_n[1:] != true_n[:-1]) | (found_n[1:] != found_n[:-1])) + 1
        starts = np.concatenate([[0], changes])
        stride = int(found_n.max()) + 1
        pair_of_run = true_n[starts].astype(np.int64) * stride + found_n[starts]
        pairs, cell_of_run = np.unique(pair_of_run, return_inverse=True)
        true, found = np.divmod(pairs, stride)
        length_of_run = np.diff(starts, append=true_n.size)
        return _Contingency(true, found, pixels=_add_up(cell_of_run, length_of_run))

    @cached_property
    def true_area(self) -> NDArray[np.int64]:
        """Pixels of each cell's true label."""
        return _sum_by_label(self.true, self.pixels)

    @cached_property
    def found_area(self) -> NDArray[np.int64]:
        """Pixels of each cell's found label."""
        return _sum_by_label(self.found, self.pixels)

    @cached_property
    def union(self) -> NDArray[np.int64]:
        """Pixels that have the true or the found label of each cell."""
        return self.true_area + self.found_area - self.pixels

    def where(self, kept: NDArray[np.bool_]) -> _Contingency:
        """Return the cells that a mask selects."""
        return _Contingency(self.true[kept], self.found[kept], self.pixels[kept])


def _count_matches(table: _Contingency, kept: NDArray[np.bool_]) -> dict[str, float]:
    """Count objects, and matches at each threshold.

    The IoU is compared in integers, 100·intersection ≥ percent·union, so that no rounding decides a
    tie.

    Args:
        table: Contingency table of the image.
        kept: Cells of found objects that count.
    """
    matches = _find_matches(table, kept)
    shared = table.pixels[matches]
    union = table.union[matches]
    counts: dict[str, float] = {
        "true_objects": len(np.unique(table.true[table.true != 0])),
        "found_objects": len(np.unique(table.found[kept])),
        "iou_sum": math.fsum(shared / union),  # rounded once, in any order of ids
    }
    for percent in IOU_PERCENT:
        counts[f"matched_{percent}"] = int((100 * shared >= percent * union).sum())
    return counts


def _find_matches(table: _Contingency, kept: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the cells of objects that match at 0.5.

    Above 0.5 matches are one to one anyway: sharing more than half of the union means sharing more
    than half of each object (Kirillov et al. 2019). At exactly 0.5 an object may be the union of
    two that tie; one of them counts.
    """
    matches = np.flatnonzero(kept & (table.true != 0) & (2 * table.pixels >= table.union))
    for label in (table.true, table.found):
        _, first_of_each = np.unique(label[matches], return_index=True)
        matches = matches[first_of_each]
    return matches


def _count_splits(table: _Contingency, kept: NDArray[np.bool_]) -> dict[str, float]:
    """Count the true objects that were split and the found objects that merge several.

    Returns:
        `split_objects`, true objects that hold more than half of each of several found ones, and
        `merged_objects`, found objects that hold more than half of each of several true ones.
    """
    both = kept & (table.true != 0)
    split = table.true[both & (2 * table.pixels > table.found_area)]
    merged = table.found[both & (2 * table.pixels > table.true_area)]
    return {"split_objects": _count_repeated(split), "merged_objects": _count_repeated(merged)}


def _count_repeated(labels: NDArray[np.int64]) -> int:
    """Return the number of labels that occur more than once."""
    _, counts = np.unique(labels, return_counts=True)
    return int((counts > 1).sum())


def _count_pairs(table: _Contingency) -> dict[str, float]:
    """Count the ordered pairs of pixels with equal labels.

    They give the adapted Rand error (Arganda-Carreras et al. 2015). Only pixels of true objects
    take part, and found background is a label like any other, as in
    `skimage.metrics.adapted_rand_error`; so an image whose only object is missed altogether has no
    error.

    Returns:
        `true_pairs` and `found_pairs`, with equal true or found labels, and `common_pairs`, with
        both.
    """
    inside = table.where(table.true != 0)
    num_pixels = int(inside.pixels.sum())
    return {
        "true_pairs": int((inside.pixels * inside.true_area).sum()) - num_pixels,
        "found_pairs": int((inside.pixels * inside.found_area).sum()) - num_pixels,
        "common_pairs": int((inside.pixels * inside.pixels).sum()) - num_pixels,
    }


def _sum_by_label(labels: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each cell the pixels of all cells with its label."""
    _, index = np.unique(labels, return_inverse=True)
    return _add_up(index, pixels)[index]


def _add_up(index: NDArray[np.intp], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    # float64 holds counts of pixels exactly.
    return np.bincount(index, weights=pixels).astype(np.int64)
