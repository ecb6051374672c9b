"""The filter that regions must pass to be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Least:
    """What an object must come to; others are dropped, and masks keep their pixels."""

    area: int = 1
    """Pixels."""
    score: float = 0.0
    """Mean probability, 0..1."""

    def met_by(self, area: NDArray[Any], q_sum: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which objects do, from their pixels and the sum of q over them."""
        return (area >= max(1, self.area)) & (q_sum >= 255 * self.score * area)


ANY = Least()
