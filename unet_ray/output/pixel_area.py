"""The real area of a pixel, if the table of images states its sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

PIXEL_SIDES = ("pixel_size_x_um", "pixel_size_y_um")
"""Columns of `images` with the width and the height of a pixel (µm)."""
_SMALLEST_UM, _LARGEST_UM = 1e-4, 1e9
"""Range of sides that are plausible; tables may come from any source."""


def has_pixel_area() -> pc.Expression:
    """Return the condition for rows of `images` whose pixels have a known area."""
    width_um, height_um = map(pc.field, PIXEL_SIDES)
    has_width = (width_um >= _SMALLEST_UM) & (width_um <= _LARGEST_UM)
    has_height = (height_um >= _SMALLEST_UM) & (height_um <= _LARGEST_UM)
    return has_width & has_height


def measure_pixel_area(row: Mapping[str, Any]) -> float | None:
    """Return the area of a pixel of an image (µm²); None where it is not known.

    Args:
        row: Row of the table `images`, or some of its columns.
    """
    sides_um: list[float] = [row.get(side) or 0.0 for side in PIXEL_SIDES]
    width_um, height_um = sides_um
    for side_um in sides_um:
        if not _SMALLEST_UM <= side_um <= _LARGEST_UM:
            return None
    return width_um * height_um
