"""Geo tags of any content give a georeference or none; a good one maps as it should."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.imaging.georeference import Georeference

SCALE = (33550, "d", 3, (0.5, 0.5, 0.0), False)
TIEPOINT = (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0), False)
KEYS = (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), False)
GOOD = [SCALE, TIEPOINT, KEYS]


def write(*tags: tuple[int, Any, int, Any, bool]) -> io.BytesIO:
    """Return a TIFF file with these tags."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((4, 4), np.uint8), extratags=tags)
    file.seek(0)
    return file


def find_georeference(file: io.BytesIO) -> Georeference | None:
    """Return the georeference of a file as an export finds it."""
    try:
        tags = process_decoder().read_geo_tags(make_range_file(file.getvalue()))
    except ImageError:
        return None
    return Georeference.from_tags(tags)


def test_scale_and_tie_point_give_the_map() -> None:
    found = find_georeference(write(*GOOD))
    assert found == Georeference(32633, (0.5, 0.0, 500_000.0, 0.0, -0.5, 5_400_000.0))
    (point,) = found.to_map(np.array([shapely.Point(2, 4)]))
    assert (point.x, point.y) == (500_001.0, 5_399_998.0)


def test_a_matrix_gives_the_map() -> None:
    matrix = (0.0, 2.0, 0.0, 10.0, -2.0, 0.0, 0.0, 20.0, *(0.0,) * 8)
    found = find_georeference(write((34264, "d", 16, matrix, False), KEYS))
    assert found == Georeference(32633, (0.0, 2.0, 10.0, -2.0, 0.0, 20.0))


@pytest.mark.parametrize(
    "tags",
    [
        [SCALE, TIEPOINT, (34735, "H", 1, 1, False)],
        [SCALE, TIEPOINT, (34735, "H", 5, (1, 1, 0, 1, 3072), False)],
        [SCALE, TIEPOINT, (34735, "s", 0, "keys", False)],
        [SCALE, TIEPOINT, (34735, "d", 8, (1, 1, 0, 1, 3072, 0, 1, math.nan), False)],
        [SCALE, TIEPOINT, (34735, "d", 8, (1, 1, 0, 1, 3072, 0, 1, 1e300), False)],
        [SCALE, TIEPOINT, (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 65535), False)],
        [SCALE, TIEPOINT, (34735, "H", 70_000, (0,) * 70_000, False)],
        [(33550, "d", 1, 0.5, False), TIEPOINT, KEYS],
        [(33550, "s", 0, "half", False), TIEPOINT, KEYS],
        [(33550, "d", 3, (0.0, 0.5, 0.0), False), TIEPOINT, KEYS],
        [(33550, "d", 3, (math.nan, 0.5, 0.0), False), TIEPOINT, KEYS],
        [(33550, "d", 3, (1e308, 0.5, 0.0), False), TIEPOINT, KEYS],
        [SCALE, (33922, "d", 6, (0, 0, 0, math.inf, 0, 0), False), KEYS],
        [SCALE, (33922, "d", 1, 0.0, False), KEYS],
        [(34264, "d", 1, 1.0, False), KEYS],
        [(34264, "d", 16, (math.nan,) * 16, False), KEYS],
        [(34264, "d", 16, (0.0,) * 16, False), KEYS],
        [(34264, "2i", 8, (1, 2) * 8, False), KEYS],
    ],
    ids=range(18),
)
def test_malformed_tags_are_none(tags: list[Any]) -> None:
    assert find_georeference(write(*tags)) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_files_of_any_bytes_raise_nothing(place: int, value: int, length: int) -> None:
    data = bytearray(write(*GOOD).getvalue())
    data[place % len(data)] = value
    found = find_georeference(io.BytesIO(data[: max(1, length % (2 * len(data)))]))
    assert found is None or all(map(math.isfinite, found.affine))
