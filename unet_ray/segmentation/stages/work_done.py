"""Progress that the stages report.

The module imports nothing heavy, because every process that forwards these messages loads it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkDone:
    """Work that a worker reports to the driver."""

    images: int = 0
    """Measured images, failed ones included."""
    failed: int = 0
    """Failed ones among these images."""
    megapixels: float = 0.0
    predict_s: float = 0.0
    """Seconds that predictors worked for these images."""
    tiles: int = 0
    """Measured tiles of large images."""
    of_tiles: int = 0
    """All tiles of a large image that was started."""
    set_aside: tuple[str, ...] = ()
    """Images of a block that is set aside because processes died while they worked on it."""
    confinement: str | None = None
    """Measures that confine the decoder of a new process; see `codecs.confinement`."""
    lost_credentials: str = ""
    """Text of a CredentialsError: nothing more can be read."""
    at: float = field(default_factory=time.time)
