"""Objects of a truth and a prediction held against each other: matches and pixel pairs, as counts.

Everything comes from the contingency table of two label images (how many pixels each pair of labels shares), which
is made from the runs of equal pairs along the rows: no loop over objects or pixels, thousands of objects cost little.
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
    """Count the objects of one class in one image, the matches between them, and the pairs of pixels within them.

    A found object matches a true one at IoU ≥ threshold, one to one. Pixels that do not count are taken out of both
    sides first; a found object that lies with more than half of its pixels there is left out.

    Args:
        true_hw, found_hw — label images: 0 background, any other value below 2^31 an object.
        counted_hw — pixels that count; None: all.

    Returns: true_objects; found_objects; iou_sum, of the matches at 0.5; matched_50 … matched_95; split_objects and
        merged_objects (see `_count_splits`); true_pairs, found_pairs and common_pairs (see `_count_pairs`).
    """
    table, kept = _table_of(true_hw, found_hw, counted_hw)
    return _count_matches(table, kept) | _count_splits(table, kept) | _count_pairs(table)


def matches_by_least(
    true_hw: NDArray[Any],
    found_hw: NDArray[Any],
    counted_hw: NDArray[np.bool_],
    prob_u8_hw: NDArray[np.uint8],
    leasts: Sequence[RegionFilter],
) -> NDArray[np.int64]:
    """Count matches at IoU ≥ 0.5 and objects, for several demands on what a found object must come to.

    Of two found objects that tie at 0.5, the halves of a true one, the same one counts for all demands.

    Args:
        true_hw, found_hw, counted_hw — as for `count_objects`; labels of `found_hw` are small.
        prob_u8_hw — round(255·probability).
        leasts — the demands.

    Returns: (leasts, 3): matches, found objects, true objects.
    """
    table, kept = _table_of(true_hw, found_hw, counted_hw)
    _, one_each = np.unique(np.where(kept, table.found, 0), return_index=True)
    found = one_each[kept[one_each]]
    prob_u8_sum = np.bincount(found_hw.ravel(), prob_u8_hw.ravel())
    whole = np.bincount(found_hw.ravel())
    true_objects = len(np.unique(table.true[table.true != 0]))
    counts = np.full((len(leasts), 3), true_objects)
    for column, cells in enumerate((_matches(table, kept), found)):
        labels = table.found[cells]
        counts[:, column] = [
            least.met_by(whole[labels], prob_u8_sum[labels]).sum() for least in leasts
        ]
    return counts


def _table_of(
    true_hw: NDArray[Any], found_hw: NDArray[Any], counted_hw: NDArray[np.bool_] | None
) -> tuple[_Contingency, NDArray[np.bool_]]:
    """Return the contingency table of the pixels that count, and which cells are of found objects that count."""
    true, found = true_hw.ravel(), found_hw.ravel()
    if counted_hw is None or counted_hw.all():
        table = _Contingency.of(true, found)
        return table, table.found != 0
    table = _Contingency.of(true[counted_hw.ravel()], found[counted_hw.ravel()])
    total = np.bincount(found)[table.found]
    return table, (table.found != 0) & (2 * table.found_area >= total)


@dataclass(frozen=True)
class _Contingency:
    """The cells of a contingency table that are not empty, in columns."""

    true: NDArray[np.int64]
    """Label in the truth; 0 background."""
    found: NDArray[np.int64]
    """Label in the prediction; 0 background."""
    pixels: NDArray[np.int64]
    """How many pixels have both."""

    @staticmethod
    def of(true_n: NDArray[Any], found_n: NDArray[Any]) -> _Contingency:
        """Count the pairs of labels of two flat label images.

        Example: true 0 1 1 1, found 0 0 2 2 → runs (0, 0)×1, (1, 0)×1, (1, 2)×2, each of them a cell.
        """
        if not true_n.size:
            return _Contingency(*np.zeros((3, 0), np.int64))
        changes = np.flatnonzero((true_n[1:] != true_n[:-1]) | (found_n[1:] != found_n[:-1])) + 1
        starts = np.concatenate([[0], changes])
        stride = int(found_n.max()) + 1
        cells, cell = np.unique(
            true_n[starts].astype(np.int64) * stride + found_n[starts], return_inverse=True
        )
        true, found = np.divmod(cells, stride)
        return _Contingency(true, found, _added_up(cell, np.diff(starts, append=true_n.size)))

    @cached_property
    def true_area(self) -> NDArray[np.int64]:
        """Pixels of each cell's true label."""
        return _area_of(self.true, self.pixels)

    @cached_property
    def found_area(self) -> NDArray[np.int64]:
        """Pixels of each cell's found label."""
        return _area_of(self.found, self.pixels)

    @cached_property
    def union(self) -> NDArray[np.int64]:
        """Pixels of each cell's true or found label."""
        return self.true_area + self.found_area - self.pixels

    def where(self, kept: NDArray[np.bool_]) -> _Contingency:
        """Return some of the cells."""
        return _Contingency(self.true[kept], self.found[kept], self.pixels[kept])


def _count_matches(table: _Contingency, kept: NDArray[np.bool_]) -> dict[str, float]:
    """Count objects, and matches at each threshold.

    The IoU is compared in integers, 100·intersection ≥ percent·union, so that no rounding decides a tie.

    Args:
        kept — cells of found objects that count.
    """
    matches = _matches(table, kept)
    shared, union = table.pixels[matches], table.union[matches]
    return {
        "true_objects": len(np.unique(table.true[table.true != 0])),
        "found_objects": len(np.unique(table.found[kept])),
        "iou_sum": math.fsum(shared / union),  # rounded once: the order of the ids does not matter
        **{
            f"matched_{percent}": int((100 * shared >= percent * union).sum())
            for percent in IOU_PERCENT
        },
    }


def _matches(table: _Contingency, kept: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the cells of objects that match at 0.5.

    Above 0.5 matches are one to one by themselves: sharing more than half of the union is sharing more than half of
    each object (Kirillov et al. 2019). At 0.5 exactly an object may be the union of two that tie; one of them counts.
    """
    matches = np.flatnonzero(kept & (table.true != 0) & (2 * table.pixels >= table.union))
    for label in (table.true, table.found):
        matches = matches[np.unique(label[matches], return_index=True)[1]]
    return matches


def _count_splits(table: _Contingency, kept: NDArray[np.bool_]) -> dict[str, float]:
    """Count true objects that were split, and found ones that merge.

    Returns: split_objects — true ones that hold more than half of each of several found ones; merged_objects — found
        ones that hold more than half of each of several true ones.
    """
    both = kept & (table.true != 0)
    split = table.true[both & (2 * table.pixels > table.found_area)]
    merged = table.found[both & (2 * table.pixels > table.true_area)]
    counts = [
        int((np.unique(labels, return_counts=True)[1] > 1).sum()) for labels in (split, merged)
    ]
    return dict(zip(("split_objects", "merged_objects"), counts, strict=True))


def _count_pairs(table: _Contingency) -> dict[str, float]:
    """Count the ordered pairs of pixels with equal labels, for the adapted Rand error (Arganda-Carreras et al. 2015).

    Only pixels of true objects take part, and found background is a label like any other, as in
    `skimage.metrics.adapted_rand_error`; so an image whose only object is missed altogether has no error.

    Returns: true_pairs, found_pairs — with equal labels in truth or prediction; common_pairs — in both.
    """
    inside = table.where(table.true != 0)
    pixels = int(inside.pixels.sum())
    areas = {"true": inside.true_area, "found": inside.found_area, "common": inside.pixels}
    return {
        f"{name}_pairs": int((inside.pixels * area).sum()) - pixels for name, area in areas.items()
    }


def _area_of(labels: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each cell the pixels of all cells with its label."""
    index = np.unique(labels, return_inverse=True)[1]
    return _added_up(index, pixels)[index]


def _added_up(index: NDArray[Any], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(index, weights=pixels).astype(
        np.int64
    )  # float64 holds counts of pixels exactly
