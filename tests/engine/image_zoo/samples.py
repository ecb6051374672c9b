"""Types of samples: signed, wide, narrow, packed, inverted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.engine.image_zoo.cases import (
    HEIGHT,
    WIDTH,
    Case,
    Marks,
    RawTiff,
    case,
    draw,
    draw_stack,
    first,
    one,
    paint,
    plain_tags,
    refused,
    several,
    tiff,
    tiff_with,
)


def without_ground(marks: Marks) -> Marks:
    """Return the marks of an image of two levels: what is not bright is dark."""
    return np.where(marks == 1, 1, -1).astype(np.int8)


def typed(seed: int, dtype: str, model: str) -> Case:
    """Return a grey TIFF file of a sample type."""
    marks = draw(seed)
    return one(tiff(first(paint(marks, dtype))), marks, model)


@case
def samples_int8() -> Case:
    return typed(301, "int8", "i8x1")


@case
def samples_int16() -> Case:
    return typed(302, "int16", "i16x3")


@case
def samples_int32() -> Case:
    return typed(303, "int32", "f32x3")


@case
def samples_uint32() -> Case:
    return typed(304, "uint32", "f32x3")


@case
def samples_int64() -> Case:
    return typed(305, "int64", "f32x3")


@case
def samples_float16() -> Case:
    return typed(306, "float16", "f32x3")


@case
def samples_float64() -> Case:
    return typed(307, "float64", "f32x3")


@case
def samples_bool() -> Case:
    marks = draw(308)
    return one(tiff(first(marks) == 1), without_ground(marks))


@case
def samples_int16_for_a_model_of_uint16() -> Case:
    marks = draw(309)
    right = {"image.tif": tiff(first(paint(marks, "uint16")))}
    return refused(one(tiff(first(paint(marks, "int16"))), marks, "u16x3"), "int16", files=right)


@case
def colours_of_int16() -> Case:
    marks = draw(310, 3)
    return one(tiff(paint(marks, "int16"), photometric="rgb"), marks, "i16x3")


@case
def planes_of_int32() -> Case:
    marks = draw_stack(2, seed=311)
    data = tiff_with(
        first(paint(marks, "int32")),
        ome=True,
        metadata={"axes": "ZYX"},
        photometric="minisblack",
    )
    return several(data, {f"z={z}": marks[z] for z in range(2)}, "f32x3")


# --- values that float32 does not have


def with_large_value(samples: NDArray[np.generic], value: float) -> NDArray[np.generic]:
    """Set a pixel in the middle of the first bright disc."""
    changed = samples.copy()
    place = np.argmax(samples)
    changed.flat[place] = value
    return changed


@case
def uint32_beyond_what_float32_counts() -> Case:
    marks = draw(320)
    samples = with_large_value(first(paint(marks, "uint32")), 2**24 + 1)
    return refused(one(tiff(samples), marks, "f32x3"), "16777217|float32", "--lossy-samples")


@case
def int32_beyond_what_float32_counts() -> Case:
    marks = draw(321)
    samples = with_large_value(first(paint(marks, "int32")), 2**25 + 1)
    return refused(one(tiff(samples), marks, "f32x3"), "33554433|float32", "--lossy-samples")


@case
def uint32_of_large_values_that_float32_has() -> Case:
    marks = draw(322)
    samples = with_large_value(first(paint(marks, "uint32")), 2**26)
    return one(tiff(samples), marks, "f32x3")


@case
def float64_beyond_the_range_of_float32() -> Case:
    marks = draw(323)
    samples = with_large_value(first(paint(marks, "float64")), 1e300)
    right = {"image.tif": tiff(first(paint(marks, "float64")))}
    return refused(one(tiff(samples), marks, "f32x3"), r"1e\+300|float32", files=right)


# --- packed and inverted samples


@case
def miniswhite_uint8() -> Case:
    marks = draw(330)
    return one(tiff(255 - first(paint(marks)), photometric="miniswhite"), marks)


@case
def miniswhite_uint16() -> Case:
    marks = draw(331)
    data = tiff(65535 - first(paint(marks, "uint16")), photometric="miniswhite")
    return one(data, marks, "u16x3")


@case
def miniswhite_one_bit() -> Case:
    marks = draw(332)
    data = tiff(first(marks) != 1, photometric="miniswhite")
    return one(data, without_ground(marks))


@case
def miniswhite_pages_of_imagej() -> Case:
    """ImageJ's inverting LUT: what is shown bright is stored dark."""
    marks = draw(333)
    data = tiff_with(255 - first(paint(marks)), imagej=True, photometric="miniswhite")
    return one(data, marks)


def pack(samples: NDArray[np.integer], bits: int) -> bytes:
    """Pack samples, each row from a whole byte on, most significant bit first."""
    places = np.arange(bits)[::-1]
    planes = (samples[:, :, None].astype(np.int64) >> places) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


@case
def packed_12_bits() -> Case:
    marks = draw(334)
    file = RawTiff()
    file.add(pack(first(paint(marks, "uint16")), 12), plain_tags(bits=12))
    return one(file.to_bytes(), marks, "u16x3", may_refuse=True)


@case
def packed_4_bits() -> Case:
    """Samples are scaled to 0..255."""
    marks = draw(335)
    file = RawTiff()
    levels = np.array([0, 6, 12], np.uint8)  # 0, 102 and 204 of 255
    file.add(pack(levels[first(marks) + 1], 4), plain_tags(bits=4))
    return one(file.to_bytes(), marks)


@case
def twelve_bits_in_sixteen() -> Case:
    """A camera of 12 bits: nothing is scaled."""
    marks = draw(336)
    samples = first(paint(marks, "uint16"))
    assert samples.max() < 4096
    data = tiff(samples, extratags=[(281, "H", 1, 4095, True)])  # MaxSampleValue
    return one(data, marks, "u16x3")


@case
def complex_samples() -> Case:
    marks = draw(337)
    data = tiff(first(paint(marks, "float32")).astype(np.complex64))
    right = {"image.tif": tiff(first(paint(marks, "float32")))}
    return refused(one(data, marks, "f32x3"), "complex", files=right)


@case
def strip_that_is_shorter_than_the_image() -> Case:
    marks = draw(338)
    file = RawTiff()
    file.add(paint(marks).tobytes()[: HEIGHT * WIDTH // 2], plain_tags())
    right = {"image.tif": tiff(first(paint(marks)))}
    return refused(one(file.to_bytes(), marks), "", error_type="unreadable", files=right)
