"""Alpha channels: which pixels they leave out, and when they leave out none.

Alpha has two meanings. In a mosaic it is 0 where there is no picture. In a drawing with soft edges
and shadows it is a part of the colours. One image does not show which of the two holds: it is read
as a mosaic, and refused if more than a few pixels are half transparent. The decision is made for a
whole image: for a large one, the counts of its windows are added up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import MAX_CHANNELS

_MOST_PARTIAL = 0.05
"""Largest share of half transparent pixels: a mosaic with a resampled rim has fewer."""


@dataclass(frozen=True)
class AlphaCounts:
    """Counts of alpha values; those of a whole image decide what its alpha means."""

    pixels: int
    """Number of pixels."""
    partial: int
    """Number of pixels that are neither transparent nor opaque."""
    low: float
    """Smallest alpha."""
    high: float
    """Largest alpha."""
    colours: tuple[tuple[float, float], ...] = ()
    """Smallest and largest sample of each colour; counted only where all alpha is 0."""

    def __add__(self, other: AlphaCounts) -> AlphaCounts:
        """Return the counts of the pixels of both."""
        high = max(self.high, other.high)
        colours: list[tuple[float, float]] = []
        if high == 0:
            for (low, top), (other_low, other_top) in zip(self.colours, other.colours, strict=True):
                colours.append((min(low, other_low), max(top, other_top)))
        return AlphaCounts(
            pixels=self.pixels + other.pixels,
            partial=self.partial + other.partial,
            low=min(self.low, other.low),
            high=high,
            colours=tuple(colours),
        )

    def check(self) -> None:
        """Raise ImageError if these are counts of an image that may be drawn half transparent."""
        if self.low != self.high and self.partial > _MOST_PARTIAL * self.pixels:
            raise ImageError(
                "unsupported",
                f"varying transparency: {self.partial / self.pixels:.1%} of the pixels are half "
                f"transparent, more than {_MOST_PARTIAL:.0%}, as in drawings with shadows; flatten "
                "the image",
            )

    @property
    def is_opaque(self) -> bool:
        """True if alpha leaves out no pixel, so that all pixels of the image are valid.

        Alpha is then the same everywhere; if it is 0, the colours below it vary.
        """
        return self.low == self.high and (self.high > 0 or self._is_hidden)

    @property
    def notes(self) -> tuple[str, ...]:
        """Choices that were made for the image."""
        return ("alpha 0 everywhere, taken as opaque",) if self._is_hidden else ()

    @property
    def _is_hidden(self) -> bool:
        return self.high == 0 and any(low < high for low, high in self.colours)

    @staticmethod
    def from_json(found: Mapping[str, Any] | None) -> AlphaCounts | None:
        """Make counts from the JSON of another process.

        Raises:
            ValueError: It does not hold counts; TypeError and KeyError too.
        """
        if found is None:
            return None
        counts = AlphaCounts(
            pixels=int(found["pixels"]),
            partial=int(found["partial"]),
            low=float(found["low"]),
            high=float(found["high"]),
            colours=tuple((float(least), float(most)) for least, most in found["colours"]),
        )
        is_finite = isfinite(counts.low) and isfinite(counts.high)
        is_counted = 0 <= counts.partial <= counts.pixels
        if not is_finite or not is_counted or len(counts.colours) > MAX_CHANNELS:
            raise ValueError(found)
        return counts


@dataclass(frozen=True, eq=False)
class Alpha:
    """Alpha channel of an image, or of a window of it."""

    values: NDArray[Any]
    """Alpha of each pixel, HW; 0 is transparent."""
    opaque: int
    """Alpha of opaque pixels; 1 of floats."""

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Valid pixels: their alpha is at least half of its maximum; HW."""
        half = 0.5 if self.opaque == 1 else (self.opaque + 1) // 2
        return np.asarray(self.values >= half)

    def count(self, colours_hwc: NDArray[Any]) -> AlphaCounts:
        """Count the pixels.

        Args:
            colours_hwc: Samples of the same pixels.
        """
        values = self.values
        if values.dtype.kind == "f":
            values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = values.min(), values.max()
        if low == high:
            partial = 0 if low in (0, self.opaque) else values.size
        else:
            is_whole = (values == 0) | (values == self.opaque)
            partial = values.size - int(is_whole.sum())
        colours: list[tuple[float, float]] = []
        if high == 0:
            for channel in np.moveaxis(colours_hwc, 2, 0):
                colours.append((_finite(channel.min()), _finite(channel.max())))
        return AlphaCounts(
            pixels=values.size,
            partial=partial,
            low=float(low),
            high=float(high),
            colours=tuple(colours),
        )


def _finite(value: float) -> float:
    return float(value) if isfinite(value) else 0.0
