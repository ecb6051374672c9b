"""Conditions for rows that make sense; reports and exports use only these and count the others.

Tables may have been written or changed by anyone. `verify` says what is wrong with a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_

import pyarrow.compute as pc

_MAX_SIDE_PX = 2**31 - 1


def _all(*conditions: pc.Expression) -> pc.Expression:
    return reduce(and_, conditions)


def _lies_in(name: str | tuple[str, str], low: float, high: float) -> pc.Expression:
    """Return the condition that a value is neither null, NaN nor outside a range."""
    value = pc.field(name)
    return (value >= low) & (value <= high)


_KEY = _all(pc.field("image_uri") != "", pc.field("run_id") != "")
_CLASS = _all(_lies_in("class_id", 0, _MAX_SIDE_PX), pc.field("class_name").is_valid())
_SIDES = _all(*(_lies_in(name, 1, _MAX_SIDE_PX) for name in ("height", "width")))
SOUND_ROWS: Mapping[str, pc.Expression] = {
    "images": _all(
        _KEY, pc.field("segmented_at").is_valid(), pc.field("error_type").is_valid() | _SIDES
    ),
    "masks": _all(
        _KEY,
        _CLASS,
        _SIDES,
        *(_lies_in(name, 0, _MAX_SIDE_PX) for name in ("top", "left")),
        _lies_in("area", 0, 2**62),
        pc.field("counts").is_valid(),
    ),
    "regions": _all(
        _KEY,
        _CLASS,
        _lies_in("region_id", 1, _MAX_SIDE_PX),
        *(_lies_in(name, 0, 1) for name in ("score", "score_max")),
        _lies_in("area", 1, 2**62),
        *(_lies_in(("bbox", side), 0, _MAX_SIDE_PX) for side in ("xmin", "ymin", "xmax", "ymax")),
        pc.field("geometry").is_valid(),
    ),
}
"""Conditions on the rows of each table, for the method `filter` of an Arrow table or dataset."""
SOUND_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "images": ("image_uri", "run_id", "segmented_at", "error_type", "height", "width"),
    "masks": (
        "image_uri",
        "run_id",
        "class_id",
        "class_name",
        "height",
        "width",
        "top",
        "left",
        "area",
        "counts",
    ),
    "regions": (
        "image_uri",
        "run_id",
        "class_id",
        "class_name",
        "region_id",
        "score",
        "score_max",
        "area",
        "bbox",
        "geometry",
    ),
}
"""Columns that the conditions use, by table."""
