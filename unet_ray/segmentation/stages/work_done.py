"""What stages tell of their work; in a module that loads nothing, since every process that passes it on loads it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkDone:
    """What a worker tells the driver."""

    images: int = 0
    """That were measured, failed ones included."""
    failed: int = 0
    """Of these."""
    megapixels: float = 0.0
    predict_s: float = 0.0
    """Seconds that predictors worked for them."""
    tiles: int = 0
    """Of large images, that were measured."""
    of_tiles: int = 0
    """Of a large image that was begun."""
    at: float = field(default_factory=time.time)
