"""Resampling of an image by any factor, with the same result for every choice of windows.

The filter is a triangle, as wide as a pixel of the coarser grid on both sides of its centre: linear
interpolation where pixels become smaller, and a weighted mean of all pixels below where they become
larger. This is what Pillow calls `BILINEAR` in `resize`. Along one axis:

    size 6, resampled to 3                    (pixel 1 of the resampled image has its centre at 3.0)
    pixel of the image       0    1    2    3    4    5
    its centre              0.5  1.5  2.5  3.5  4.5  5.5
    weight in pixel 1        0   1/8  3/8  3/8  1/8   0

Weights are quotients of integers, computed from positions in the whole image, so a window equals
that part of the whole result bit for bit. Libraries do not ensure this: Pillow keeps the position
of a window as float32 and rounds 8-bit samples between its two passes; torch and scipy.ndimage
treat a window as the whole image. None of them leaves out invalid pixels. The weights are applied
by scipy's sparse matrices, which sum in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from unet_ray.errors import ImageError
from unet_ray.imaging.geometry import Box

_MOST_FACTOR = 16
"""Largest factor by which sides of pixels may differ. Beyond it, objects on one grid are mere dots
on the other."""
_Span = tuple[int, int]
"""First pixel, and the one after the last, along one axis."""


@dataclass(frozen=True)
class Axis:
    """One axis of an image, and of the resampled image that covers the same length."""

    size: int
    """Pixels of the image."""
    resampled: int
    """Pixels of the resampled image."""

    @property
    def inverse(self) -> Axis:
        """The axis of the resampling back."""
        return Axis(self.resampled, self.size)

    def needed(self, start: int, stop: int) -> _Span:
        """Return the pixels of the image that have weight in pixels of the resampled image.

        Args:
            start: First pixel of the resampled image.
            stop: Pixel after the last one; above `start`.
        """
        first, end = self._reach(np.array([start, stop - 1]))
        return int(first[0]), int(end[1])

    def weights(self, start: int, stop: int) -> csr_array:
        """Return the weights of the image's pixels in pixels of the resampled image.

        Args:
            start: First pixel of the resampled image.
            stop: Pixel after the last one; above `start`.

        Returns:
            Weights, a row per pixel of the resampled image and a column per pixel of `needed`; the
            sum of each row is 1; float32.
        """
        target = np.arange(start, stop, dtype=np.int64)
        first, end = self._reach(target)
        num_sources = end - first
        rows = np.repeat(np.arange(len(target)), num_sources)
        row_start = np.concatenate([[0], np.cumsum(num_sources)])
        source = np.arange(row_start[-1]) - row_start[rows] + first[rows]
        # In units of 1/2 px of a grid of size·resampled pixels, centres and weights are integers.
        source_centre = (2 * source + 1) * self.resampled
        target_centre = (2 * target[rows] + 1) * self.size
        weight = self._half_width - np.abs(source_centre - target_centre)
        total = np.add.reduceat(weight, row_start[:-1])
        data = (weight / total[rows]).astype(np.float32)
        shape = len(target), int(end[-1] - first[0])
        return csr_array((data, source - first[0], row_start), shape=shape)

    def centred(self, start: int, stop: int) -> _Span:
        """Return the pixels of the image whose centres lie in pixels of the resampled image.

        A centre between two pixels lies in the second. The result may be empty.

        Args:
            start: First pixel of the resampled image.
            stop: Pixel after the last one.
        """
        return self._first_centre(start), self._first_centre(stop)

    def _first_centre(self, edge: int) -> int:
        """Return the first pixel of the image whose centre is not before an edge.

        Args:
            edge: Number of pixels of the resampled image before the edge.
        """
        # The centre i + 1/2 is at edge·size/resampled or after it.
        return -((self.resampled - 2 * edge * self.size) // (2 * self.resampled))

    def halo(self, pixels: int) -> int:
        """Return how far beyond a span of the resampled image resampling back reads.

        Args:
            pixels: Pixels of the image around those whose centres lie in the span.

        Returns:
            Distance in pixels of the resampled image.
        """
        # `pixels` of the image, the filter's half width, and half a pixel to the next centre
        twice = 2 * pixels * self.resampled + self._half_width + self.size
        return -(-twice // (2 * self.size))

    @property
    def _half_width(self) -> int:
        """Distance from the filter's centre at which its weight becomes 0."""
        return 2 * max(self.size, self.resampled)

    def _reach(self, target: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first pixel, and the one after the last, with weight in each of `target`."""
        centre = (2 * target + 1) * self.size - self.resampled
        first = (centre - self._half_width) // (2 * self.resampled) + 1
        end = -((-centre - self._half_width) // (2 * self.resampled))
        return np.maximum(first, 0), np.minimum(end, self.size)


@dataclass(frozen=True)
class Pixels:
    """Samples of a box, and which of its pixels are valid."""

    samples: NDArray[Any]
    """Samples; (H, W, C)."""
    valid: NDArray[np.bool_] | None
    """True where a pixel is valid; (H, W). None: all are."""

    def cut(self, box: Box) -> Pixels:
        """Return the pixels of a box."""
        place = slice(box.top, box.bottom), slice(box.left, box.right)
        return Pixels(self.samples[place], None if self.valid is None else self.valid[place])


@dataclass(frozen=True)
class Resampling:
    """Relation between an image and its resampled image."""

    rows: Axis
    columns: Axis

    @staticmethod
    def of(height: int, width: int, factors_yx: tuple[float, float]) -> Resampling:
        """Return the resampling of an image.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).
            factors_yx: Pixels of the resampled image per pixel of the image, down and across.
        """
        down, across = factors_yx
        return Resampling(
            rows=Axis(height, max(1, round(height * down))),
            columns=Axis(width, max(1, round(width * across))),
        )

    @staticmethod
    def to_pixel_size(
        height: int,
        width: int,
        own_um: tuple[float, float] | None,
        wanted_um: tuple[float, float] | None,
    ) -> Resampling:
        """Return the resampling that gives an image pixels of another size.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).
            own_um: Width and height of its pixels (µm); None: not known.
            wanted_um: Width and height of the resampled image's pixels (µm); None: as they are.

        Raises:
            ImageError: Same as `find_factors`.
        """
        factors = (1.0, 1.0) if wanted_um is None else find_factors(own_um, wanted_um)
        return Resampling.of(height, width, factors)

    @property
    def is_identity(self) -> bool:
        """True if the resampled image is the image."""
        return self.rows.size == self.rows.resampled and self.columns.size == self.columns.resampled

    @property
    def resampled_size(self) -> tuple[int, int]:
        """Height and width of the resampled image (px)."""
        return self.rows.resampled, self.columns.resampled

    @property
    def coarseness(self) -> float:
        """Side of a pixel of the resampled image, in pixels; the larger one, and at least 1."""
        down = self.rows.size / self.rows.resampled
        across = self.columns.size / self.columns.resampled
        return max(1, down, across)

    @cached_property
    def inverse(self) -> Resampling:
        """The resampling back."""
        return Resampling(self.rows.inverse, self.columns.inverse)

    def needed(self, box: Box) -> Box:
        """Return the box of the image that a box of the resampled image is computed from."""
        top, bottom = self.rows.needed(box.top, box.bottom)
        left, right = self.columns.needed(box.left, box.right)
        return Box(top, left, bottom, right)

    def centred(self, box: Box) -> Box:
        """Return the box of the pixels whose centres lie in a box of the resampled image."""
        top, bottom = self.rows.centred(box.top, box.bottom)
        left, right = self.columns.centred(box.left, box.right)
        return Box(top, left, bottom, right)

    def halo(self, pixels: int) -> int:
        """Return how far beyond a box of the resampled image resampling back reads; `Axis.halo`."""
        return max(self.rows.halo(pixels), self.columns.halo(pixels))

    def resample(self, pixels: Pixels, box: Box, least: float = 0.5) -> Pixels:
        """Compute a box of the resampled image.

        Invalid pixels have no weight.

        Args:
            pixels: Pixels of the box `needed(box)` of the image.
            box: Box of the resampled image; not empty.
            least: Share of its weight that must lie on valid pixels for a pixel of the resampled
                image to be valid; 0: any.

        Returns:
            Pixels of the box: float32, 0 where they are invalid. `valid` is None only if it is None
            in `pixels`.
        """
        rows = self.rows.weights(box.top, box.bottom)
        columns = self.columns.weights(box.left, box.right)
        valid = pixels.valid
        num_channels = pixels.samples.shape[2]
        samples = np.empty((box.height, box.width, num_channels), np.float32)
        for channel in range(num_channels):
            plane = pixels.samples[:, :, channel].astype(np.float32)
            if valid is not None:
                plane[~valid] = 0
            samples[:, :, channel] = _apply(rows, columns, plane)
        if valid is None:
            return Pixels(samples, None)
        present = _apply(rows, columns, valid.astype(np.float32))
        # Where no pixel is missing, the weights sum to 1 only up to rounding. A window with no
        # missing pixel does not divide by the sum, and must give the same result.
        missing = _apply(rows, columns, (~valid).astype(np.float32))
        present[missing == 0] = 1
        is_there = (present >= least) & (present > 0)
        samples /= np.where(is_there, present, 1)[:, :, None]
        samples[~is_there] = 0
        return Pixels(samples, is_there)

    def bands(self, box: Box, most_pixels: int) -> Iterator[Box]:
        """Cut a box of the resampled image into bands of rows that need few pixels each.

        Args:
            box: Box of the resampled image.
            most_pixels: Largest number of the image's pixels that a band needs, unless a single row
                needs more.

        Yields:
            Bands from top to bottom.
        """
        width = self.needed(box).width
        reach = self.needed(Box(box.top, box.left, box.top + 1, box.right)).height
        rows = most_pixels // width - reach
        step = max(1, rows * self.rows.resampled // self.rows.size)
        for top in range(box.top, box.bottom, step):
            yield Box(top, box.left, min(top + step, box.bottom), box.right)


def _apply(
    rows: csr_array, columns: csr_array, plane_hw: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Apply weights of rows, then of columns, to a plane."""
    return (columns @ (rows @ plane_hw).T).T


def find_factors(
    own_um: tuple[float, float] | None, wanted_um: tuple[float, float]
) -> tuple[float, float]:
    """Return the factors that give an image pixels of another size.

    Args:
        own_um: Width and height of the image's pixels (µm); None: not known.
        wanted_um: Width and height of the resampled image's pixels (µm).

    Returns:
        Pixels of the resampled image per pixel of the image, down and across.

    Raises:
        ImageError: `unsupported`: the pixel size is not known, or too different.
    """
    if own_um is None:
        raise ImageError(
            "unsupported",
            "the file does not state its pixel size, which --pixel-size requires; write the size "
            "into the file (TIFF resolution, OME-XML or PNG pHYs), or leave such images to a run "
            "without --pixel-size",
        )
    x = own_um[0] / wanted_um[0]
    y = own_um[1] / wanted_um[1]
    if not all(1 / _MOST_FACTOR <= factor <= _MOST_FACTOR for factor in (x, y)):
        raise ImageError(
            "unsupported",
            f"pixels of {own_um[0]:g}×{own_um[1]:g} µm cannot be resampled to "
            f"{wanted_um[0]:g}×{wanted_um[1]:g} µm: sides may differ by a factor of up to "
            f"{_MOST_FACTOR}; check the pixel size that the file states",
        )
    return y, x
