"""Masks to regions: 8-connected components and their measures, one pass over the labels, no loop over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.columns import Columns
from unet_ray.imaging.outlines import outlines_wkb

MAX_REGIONS = 2_000_000
"""Of one class in one image: what an image's rows may take in memory (a few hundred bytes each)."""


@dataclass(frozen=True)
class Sums(Columns):
    """What pixels of labels add up to, a column per field: integers, so that pieces of a region add up exactly."""

    area: NDArray[np.int64]
    """Pixels."""
    q_sum: NDArray[np.int64]
    """Sum of q over the region's pixels."""
    q_max: NDArray[np.uint8]
    """Largest q of the region."""
    x_sum: NDArray[np.int64]
    """Sum of the columns of the region's pixels."""
    y_sum: NDArray[np.int64]
    """Sum of the rows of the region's pixels."""
    bbox: NDArray[np.int64]
    """(regions, 4) xmin, ymin, xmax, ymax; half-open (px)."""
    first: NDArray[np.int64]
    """(regions, 2) row, column of the first pixel in raster order."""


@dataclass(frozen=True)
class Regions:
    """The regions of one class in one image, a column per field, ranked by first pixel in raster order."""

    sums: Sums
    geometry: NDArray[Any]
    """WKB of the pixel-exact outline, y down."""
    height: int
    """Of the image (px)."""
    width: int
    """Of the image (px)."""

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def area(self) -> NDArray[np.int64]:
        """Pixels."""
        return self.sums.area

    @property
    def bbox(self) -> NDArray[np.int64]:
        """(regions, 4) xmin, ymin, xmax, ymax; half-open (px)."""
        return self.sums.bbox

    @property
    def score(self) -> NDArray[np.float32]:
        """Mean probability: Σq / (255·area)."""
        return (self.sums.q_sum / (255 * self.area)).astype(np.float32)

    @property
    def score_max(self) -> NDArray[np.float32]:
        """Largest probability."""
        return (self.sums.q_max / np.float64(255)).astype(np.float32)

    @property
    def centroid(self) -> NDArray[np.float64]:
        """(regions, 2) x, y; pixel centres lie at +0.5 (px)."""
        return np.stack([self.sums.x_sum, self.sums.y_sum], axis=1) / self.area[:, None] + 0.5

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """Whether a pixel of the region lies on the image's edge."""
        xmin, ymin, xmax, ymax = self.bbox.T
        return (xmin == 0) | (ymin == 0) | (xmax == self.width) | (ymax == self.height)


def label_image(mask_hw: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the 8-connected components of a mask as a label image, 0 where the mask is not."""
    as_bytes = np.ascontiguousarray(mask_hw).view(np.uint8)  # cc3d 4.1.1 labels boolean images wrongly
    labels: NDArray[Any] = cc3d.connected_components(as_bytes, connectivity=8)
    return labels


def find_regions(
    mask_hw: NDArray[np.bool_], q_hw: NDArray[np.uint8], min_area: int = 1, max_regions: int = MAX_REGIONS
) -> Regions:
    """Label the 8-connected components of a mask and measure them.

    Args:
        mask_hw — pixels of one class.
        q_hw — its probabilities, round(255·p).
        min_area — smaller regions are dropped before ranking (px).
        max_regions — more of them, small ones too, are the error `too_large`.
    """
    labels = label_image(mask_hw)
    check_count(int(labels.max(initial=0)), max_regions)
    return measure_regions(rank_labels(labels, min_area), q_hw)


def check_count(regions: int, max_regions: int) -> None:
    """Raise ImageError where an image has more regions of a class than it may."""
    if regions > max_regions:
        raise ImageError("too_large", f"more than {max_regions} regions of a class; see --max-regions and --threshold")


def rank_labels(labels_hw: NDArray[Any], min_area: int = 1) -> NDArray[np.int32]:
    """Renumber a label image 1..n by first pixel in raster order; labels of fewer than `min_area` px become 0."""
    flat = labels_hw.ravel()
    found = np.flatnonzero(flat)
    first = np.full(int(flat.max(initial=0)) + 1, flat.size, np.int64)
    first[flat[found[::-1]]] = found[::-1]  # of several writes to one place the last stays: the first pixel's
    first[np.bincount(flat, minlength=len(first)) < max(1, min_area)] = flat.size
    kept = np.flatnonzero(first < flat.size)
    rank = np.zeros(len(first), np.int32)
    rank[kept[np.argsort(first[kept])]] = np.arange(1, len(kept) + 1, dtype=np.int32)
    return rank[labels_hw]


def measure_regions(labels_hw: NDArray[np.int32], q_hw: NDArray[np.uint8]) -> Regions:
    """Measure a label image whose labels are 1..n, every one present."""
    sums = sums_of(labels_hw, q_hw)
    height, width = labels_hw.shape
    return Regions(sums, outlines_wkb(labels_hw, len(sums)), height, width)


def sums_of(labels_hw: NDArray[np.int32], q_hw: NDArray[np.uint8], left: int = 0, top: int = 0) -> Sums:
    """Add up the pixels of each label 1..n of a label image, or of a piece of one that lies at (left, top) in px."""
    count = int(labels_hw.max(initial=0))
    y, x = np.nonzero(labels_hw)
    label = labels_hw[y, x] - 1
    q = q_hw[y, x]
    area = np.bincount(label, minlength=count)
    low, high = (
        [_extreme(pick, label, values, count, start) for values in (x, y)]
        for pick, start in ((np.minimum, np.iinfo(np.int64).max), (np.maximum, -1))
    )
    origin = np.array([left, top, left, top])
    first = np.zeros((count, 2), np.int64)
    first[label[::-1]] = np.stack([y, x], axis=1)[::-1]  # of several writes to one place the last stays
    return Sums(
        area=area,
        q_sum=_sums(label, q, count),
        q_max=_extreme(np.maximum, label, q, count, 0).astype(np.uint8),
        x_sum=_sums(label, x, count) + left * area,
        y_sum=_sums(label, y, count) + top * area,
        bbox=np.stack([*low, high[0] + 1, high[1] + 1], axis=1) + origin,
        first=first + origin[1::-1],
    )


def _sums(label: NDArray[Any], values: NDArray[Any], count: int) -> NDArray[np.int64]:
    # float64 holds these sums exactly: 2^27 pixels × 65,535 < 2^53
    return np.bincount(label, weights=values, minlength=count).astype(np.int64)


def _extreme(pick: np.ufunc, label: NDArray[Any], values: NDArray[Any], count: int, start: int) -> NDArray[np.int64]:
    extreme = np.full(count, start, np.int64)
    pick.at(extreme, label, values.astype(np.int64))
    return extreme
