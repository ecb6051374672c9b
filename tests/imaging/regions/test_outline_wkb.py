"""Outlines of any origin are parsed, or are None; nothing ends the process."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import shapely

from unet_ray.imaging.regions.outline_wkb import parse_outlines, parse_wkb

SQUARE = shapely.box(0, 0, 4, 4)
HOLED = shapely.Polygon(SQUARE.exterior, [shapely.box(1, 1, 2, 2).exterior])
PARTS = shapely.MultiPolygon([HOLED, shapely.box(4, 4, 6, 5)])


def nest(depth: int, kind: int) -> bytes:
    """Return WKB of a collection in a collection in a collection…"""
    return struct.pack("<BII", 1, kind, 1) * depth + shapely.to_wkb(SQUARE)


def test_outlines_of_the_tables_are_parsed() -> None:
    outlines = [SQUARE, HOLED, PARTS]
    assert parse_outlines(shapely.to_wkb(outlines).tolist(), 5, 6).tolist() == outlines
    assert len(parse_outlines([], 5, 6)) == 0
    codes, sides = shapely.to_wkb([SQUARE, SQUARE]).tolist(), np.array([5, 1])
    assert parse_outlines(codes, sides, np.array([6, 6])).tolist() == [SQUARE, None]


@pytest.mark.parametrize(
    "code",
    [
        None,
        b"",
        b"junk",
        shapely.to_wkb(SQUARE)[:-1],
        shapely.to_wkb(PARTS)[:-1],
        shapely.to_wkb(PARTS) + b"\0",
        shapely.to_wkb(PARTS)[:9],
        shapely.to_wkb(shapely.Point(1, 1)),
        shapely.to_wkb(shapely.GeometryCollection([SQUARE])),
        struct.pack("<BII", 1, 3, 2**31),
        struct.pack("<BIIBII", 1, 6, 1, 1, 3, 2**32 - 1),
        nest(200_000, 7),  # GEOS itself overflows its stack
        nest(200_000, 6),
    ],
)
def test_whatever_else_is_none(code: bytes | None) -> None:
    outlines = parse_wkb([code, shapely.to_wkb(SQUARE)])
    assert outlines[0] is None
    assert outlines[1] == SQUARE


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0), (9, 0), (9, 1), (0, 0)],
        [(0, 0), (0, -1), (1, 0), (0, 0)],
        [(0, 0), (0.5, 0), (1, 1), (0, 0)],
        [(0, 0), (np.nan, 0), (1, 1), (0, 0)],
        [(0, 0), (np.inf, 0), (1, 1), (0, 0)],
        [(0, 0), (4, 0), (0, 0), (0, 0)],
    ],
    ids=["beyond", "negative", "within a pixel", "NaN", "infinite", "no area"],
)
def test_outlines_that_no_mask_of_the_image_has_are_none(
    points: list[tuple[float, float]],
) -> None:
    with np.errstate(invalid="ignore"):
        code = shapely.to_wkb(shapely.Polygon(points))
    assert parse_outlines([code, shapely.to_wkb(SQUARE)], 5, 6).tolist() == [None, SQUARE]
