"""The area of a pixel in nature, where the table of images states its sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

PIXEL_SIDES = ("pixel_size_x_um", "pixel_size_y_um")
"""Columns of `images` with width and height of a pixel (µm)."""
_SMALLEST_UM, _LARGEST_UM = 1e-4, 1e9
"""Range of sides that are believed: anybody may have written the tables."""


def has_pixel_area() -> Any:
    """Return the condition for rows of `images` whose pixels have a known area."""
    x, y = (
        (pc.field(side) >= _SMALLEST_UM) & (pc.field(side) <= _LARGEST_UM) for side in PIXEL_SIDES
    )
    return x & y


def measure_pixel_area(row: Mapping[str, Any]) -> float | None:
    """Return the area of a pixel (µm²) of an image; None where it is not known.

    Args:
        row: Row of the table `images`, or some of its columns.
    """
    width_um, height_um = map(row.get, PIXEL_SIDES)
    sides = (width_um or 0.0, height_um or 0.0)
    is_known = all(_SMALLEST_UM <= side <= _LARGEST_UM for side in sides)
    return sides[0] * sides[1] if is_known else None
