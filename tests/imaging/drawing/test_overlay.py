"""Overlays draw what is an outline, and nothing else."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import shapely

from unet_ray.imaging.drawing.overlay import overlay


def test_damaged_outlines_are_left_out() -> None:
    nested = struct.pack("<BII", 1, 7, 1) * 200_000  # on which GEOS overflows its stack
    codes = [shapely.to_wkb(shapely.box(2, 2, 6, 6)), b"junk", None, nested]
    regions = pa.table({"class_id": [1] * 4, "geometry": pa.array(codes, pa.binary())})
    image = np.zeros((10, 10, 1), np.uint8)
    drawn = np.asarray(overlay(image, regions))
    assert np.array_equal(drawn, np.asarray(overlay(image, regions.slice(0, 1))))
    assert drawn[2, 2].any()
    assert not drawn[8, 8].any()
