"""The filter that decides which regions are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RegionFilter:
    """Filter for objects. Objects below either limit are dropped from `regions`.

    Masks keep the pixels of dropped objects.
    """

    area: int = 1
    """Smallest area that is kept (px)."""
    score: float = 0.0
    """Smallest mean probability that is kept, 0..1."""

    def met_by(self, area: NDArray[Any], prob_u8_sum: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which objects pass the filter.

        Args:
            area: Pixels of each object; (objects,), integer.
            prob_u8_sum: Sum of prob_u8 over the pixels of each object; (objects,).

        Returns:
            True for each object that is kept; (objects,), bool.
        """
        return (area >= max(1, self.area)) & (prob_u8_sum >= 255 * self.score * area)


ANY = RegionFilter()
"""Filter that keeps every region."""
