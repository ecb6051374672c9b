"""The filter that regions must pass to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RegionFilter:
    """What an object must come to; others are dropped, and masks keep their pixels."""

    area: int = 1
    """Pixels."""
    score: float = 0.0
    """Mean probability, 0..1."""

    def met_by(self, area: NDArray[Any], prob_u8_sum: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which objects do, from their pixels and the sum of prob_u8 over them."""
        return (area >= max(1, self.area)) & (prob_u8_sum >= 255 * self.score * area)


ANY = RegionFilter()
