"""Masks become regions: objects and their measures, without a loop over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.regions.columns import Columns
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.outlines import Parts, outlines_wkb
from unet_ray.imaging.regions.runs import Runs
from unet_ray.imaging.regions.separation import SeparatedMask
from unet_ray.limits import MAX_REGIONS


@dataclass(frozen=True)
class RegionSums(Columns):
    """Sums over the pixels of each label, a column per field.

    They are integers, so that the sums of a region's pieces add up exactly.
    """

    area: NDArray[np.int64]
    """Number of pixels."""
    prob_u8_sum: NDArray[np.int64]
    """Sum of prob_u8 over the region's pixels."""
    prob_u8_max: NDArray[np.uint8]
    """Largest prob_u8 of the region."""
    x_sum: NDArray[np.int64]
    """Sum of the columns of the region's pixels."""
    y_sum: NDArray[np.int64]
    """Sum of the rows of the region's pixels."""
    bbox: NDArray[np.int64]
    """Bounding boxes, (regions, 4): xmin, ymin, xmax, ymax; half-open (px)."""
    first: NDArray[np.int64]
    """First pixels in raster order, (regions, 2): row, column."""
    beside_no_data: NDArray[np.int64]
    """Number of pixels that share a side with an invalid pixel."""


@dataclass(frozen=True)
class Regions:
    """The regions of one class in one image, a column per field, ranked by first pixel.

    First pixels are compared in raster order.
    """

    sums: RegionSums
    geometry: NDArray[np.object_]
    """Pixel-exact outlines as WKB, y down."""
    height: int
    """Height of the image (px)."""
    width: int
    """Width of the image (px)."""

    def __len__(self) -> int:
        return len(self.sums)

    def of(self, kept: NDArray[np.bool_]) -> Regions:
        """Return the regions that a mask selects."""
        return Regions(self.sums.of(kept), self.geometry[kept], self.height, self.width)

    @property
    def area(self) -> NDArray[np.int64]:
        """Number of pixels."""
        return self.sums.area

    @property
    def bbox(self) -> NDArray[np.int64]:
        """Bounding boxes, (regions, 4): xmin, ymin, xmax, ymax; half-open (px)."""
        return self.sums.bbox

    @property
    def score(self) -> NDArray[np.float32]:
        """Mean probability: Σ prob_u8 / (255·area)."""
        return (self.sums.prob_u8_sum / (255 * self.area)).astype(np.float32)

    @property
    def score_max(self) -> NDArray[np.float32]:
        """Largest probability."""
        return (self.sums.prob_u8_max / np.float64(255)).astype(np.float32)

    @property
    def centroid(self) -> NDArray[np.float64]:
        """Centroids, (regions, 2): x, y; pixel centres lie at +0.5 (px)."""
        return np.stack([self.sums.x_sum, self.sums.y_sum], axis=1) / self.area[:, None] + 0.5

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """True if a pixel of the region lies on the image's edge."""
        xmin, ymin, xmax, ymax = self.bbox.T
        return (xmin == 0) | (ymin == 0) | (xmax == self.width) | (ymax == self.height)

    @property
    def touches_no_data(self) -> NDArray[np.bool_]:
        """True if a pixel of the region shares a side with an invalid pixel."""
        return self.sums.beside_no_data > 0


def find_regions(
    separated: SeparatedMask,
    prob_u8_hw: NDArray[np.uint8],
    region_filter: RegionFilter = ANY,
    max_regions: int = MAX_REGIONS,
    beside_no_data_hw: NDArray[np.bool_] | None = None,
) -> Regions:
    """Measure the objects of a mask.

    Args:
        separated: Pixels of one class, separated into objects.
        prob_u8_hw: Probabilities of the class, round(255·p), uint8.
        region_filter: Filter that regions must pass; the others are dropped before ranking.
        max_regions: Limit on the number of regions, including those that the filter drops.
        beside_no_data_hw: Result of `find_beside_no_data`; None: all pixels are valid.

    Returns:
        Regions ranked by first pixel in raster order.

    Raises:
        ImageError: More regions than the limit (`too_large`).
    """
    check_count(separated.count, max_regions)
    sums = sum_pixels(separated.runs, prob_u8_hw, beside_no_data_hw=beside_no_data_hw)
    kept = np.flatnonzero(region_filter.met_by(sums.area, sums.prob_u8_sum))
    ranked = kept[np.lexsort((sums.first[kept, 1], sums.first[kept, 0]))]
    rank = np.full(len(sums), -1)
    rank[ranked] = np.arange(len(ranked))
    parts = Parts.of(separated.runs)
    outlines = outlines_wkb(parts.sides(), rank[parts.label], len(ranked))
    height, width = prob_u8_hw.shape
    return Regions(sums.of(ranked), outlines, height, width)


def check_count(num_regions: int, max_regions: int) -> None:
    """Check the number of regions of a class in an image.

    Raises:
        ImageError: More regions than the limit (`too_large`).
    """
    if num_regions > max_regions:
        raise ImageError(
            "too_large",
            f"more than {max_regions} regions of a class; raise --threshold or --max-regions",
        )


def find_beside_no_data(valid_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the valid pixels that share a side with an invalid pixel.

    Args:
        valid_hw: Valid pixels.
    """
    found = np.zeros_like(valid_hw)
    found[1:] |= ~valid_hw[:-1]
    found[:-1] |= ~valid_hw[1:]
    found[:, 1:] |= ~valid_hw[:, :-1]
    found[:, :-1] |= ~valid_hw[:, 1:]
    return found & valid_hw


def sum_pixels(
    runs: Runs,
    prob_u8_hw: NDArray[np.uint8],
    left: int = 0,
    top: int = 0,
    beside_no_data_hw: NDArray[np.bool_] | None = None,
) -> RegionSums:
    """Add up the pixels of each label 0..n of an image, or of a piece of an image.

    Args:
        runs: Labelled runs of the piece.
        prob_u8_hw: Probabilities of the piece, round(255·p), uint8.
        left: First column of the piece in the image (px).
        top: First row of the piece in the image (px).
        beside_no_data_hw: Result of `find_beside_no_data`; None: all pixels are valid.

    Returns:
        Sums per label. A label without pixels has area 0, and its other sums mean nothing.
    """
    label = runs.label
    num_labels = int(label.max(initial=-1)) + 1
    length = runs.stop - runs.start
    y = runs.row + top
    x = runs.start + left
    # Start and stop of each run in turn: `reduceat` reduces from each of them to the next one.
    row_start = runs.row * prob_u8_hw.shape[1]
    ends = np.stack([row_start + runs.start, row_start + runs.stop], axis=1).ravel()
    if len(ends) and ends[-1] == prob_u8_hw.size:
        ends = ends[:-1]  # `reduceat` rejects an index at the image's end, and ends there anyway
    # The sum of a run is far below 2^32, and uint32 takes half the time of int64.
    prob_u8_sum = np.add.reduceat(prob_u8_hw.ravel(), ends, dtype=np.uint32)[::2]
    prob_u8_max = np.maximum.reduceat(prob_u8_hw.ravel(), ends)[::2]
    if beside_no_data_hw is None:
        num_beside = np.zeros(len(label), np.uint32)
    else:
        num_beside = np.add.reduceat(beside_no_data_hw.ravel(), ends, dtype=np.uint32)[::2]

    def add_up(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        # float64 holds these sums exactly: 2^27 pixels × 65,535 < 2^53
        return np.bincount(label, weights=values, minlength=num_labels).astype(np.int64)

    def find_extreme(pick: np.ufunc, values: NDArray[np.integer[Any]], start: int) -> NDArray[Any]:
        found = np.full(num_labels, start, values.dtype)
        pick.at(found, label, values)
        return found

    # When several runs write to one place, the last write stays: that of the first run.
    first = np.zeros((num_labels, 2), np.int64)
    first[label[::-1]] = np.stack([y, x], axis=1)[::-1]
    last_row = np.zeros(num_labels, np.int64)
    last_row[label] = y
    left_most = find_extreme(np.minimum, x, np.iinfo(np.int64).max)
    right_most = find_extreme(np.maximum, x + length, 0)
    return RegionSums(
        area=add_up(length),
        prob_u8_sum=add_up(prob_u8_sum),
        prob_u8_max=find_extreme(np.maximum, prob_u8_max, 0),
        x_sum=add_up(length * (2 * x + length - 1) // 2),
        y_sum=add_up(length * y),
        bbox=np.stack([left_most, first[:, 0], right_most, last_row + 1], axis=1),
        first=first,
        beside_no_data=add_up(num_beside),
    )
