"""Special values in the targets that a network learns."""

from __future__ import annotations

IGNORED = 255
"""Target value of a pixel that is not counted."""
