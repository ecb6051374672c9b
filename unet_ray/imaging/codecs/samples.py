"""Samples of images: which of them are valid, and the types that models take.

| type in the file | type of the image |
|---|---|
| 8 and 16 bits, signed or not; 32-bit floats | the same |
| 1 bit, boolean | uint8, 0 and 255 |
| 16-bit and 64-bit floats | float32 |
| integers of 32 and 64 bits | float32, if it holds all of them as they are |
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.raster import LARGEST_SAMPLE, SAMPLE_TYPES, Raster

_EXACT = 2**24
"""Largest magnitude up to which float32 holds all integers."""
_NEAR = 1e-4
"""Relative difference below which a huge sample is the no-data value."""
_EXACT_FLOAT64 = 2.0**53
"""The same for float64. All larger floats are whole numbers, but that does not make them counts."""


def find_no_data(raster: Raster) -> NDArray[np.bool_] | None:
    """Return the pixels that hold the no-data value of their file, HW; None: it states none.

    For unsigned samples, all channels of a pixel must have the value: they are pictures more often
    than measurements, and black is a colour. For signed samples and floats, one channel is enough.

    Raises:
        ImageError: `unsupported`: the value cannot be read.
    """
    if not raster.no_data:
        return None
    if raster.is_converted:
        raise ImageError(
            "unsupported",
            f"a CMYK image with a no-data value ({raster.no_data[:40]!r}); save it as RGB",
        )
    samples = raster.samples[:, :, :-1] if raster.has_alpha else raster.samples
    value = _parse_value(raster.no_data, samples.dtype)
    if value is None:  # no sample of the type has it
        return np.zeros(samples.shape[:2], np.bool_)
    equal = np.asarray(samples == value)
    if samples.dtype.kind == "f" and abs(value) > LARGEST_SAMPLE:
        # programs write the number with few digits, as GDAL allows for; no measurement is near it
        with np.errstate(over="ignore", invalid="ignore"):
            equal = np.abs(samples - value) <= _NEAR * abs(value)
    is_unsigned = samples.dtype.kind in "bu"
    return np.asarray(equal.all(axis=2) if is_unsigned else equal.any(axis=2))


def _parse_value(text: str, dtype: np.dtype[Any]) -> np.number[Any] | None:
    """Return a no-data value in the type of the samples; None if that cannot hold it."""
    try:
        value = float(text)
    except ValueError:
        message = f"the no-data value {text[:40]!r} is not a number; correct the tag 42113"
        raise ImageError("unsupported", message) from None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    if dtype.kind not in "iu" or not value.is_integer():
        return None
    whole = int(text) if text.lstrip("+-").isdecimal() else int(value)  # a float may not hold it
    limits = np.iinfo(dtype)
    return dtype.type(whole) if limits.min <= whole <= limits.max else None


def find_finite(samples_hwc: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return the pixels whose samples are all finite, HW; None: all pixels."""
    if samples_hwc.dtype.kind != "f":
        return None
    if isfinite(samples_hwc.min()) and isfinite(samples_hwc.max()):  # NaN if there is one
        return None
    finite = np.isfinite(samples_hwc[:, :, 0])
    for channel in range(1, samples_hwc.shape[2]):
        finite &= np.isfinite(samples_hwc[:, :, channel])
    return finite


def convert_samples(samples: NDArray[Any], lossy: bool = False) -> NDArray[Any]:
    """Return samples in a type that models take.

    Args:
        samples: Finite samples of any type.
        lossy: True to round whole numbers that float32 does not hold to the nearest that it holds.

    Raises:
        ImageError: `unsupported` type, or a sample that would change.
    """
    dtype = samples.dtype
    if dtype.name in SAMPLE_TYPES:
        return samples
    if dtype.kind == "b":
        return samples * np.uint8(255)
    if dtype.kind not in "iuf":
        raise ImageError(
            "unsupported", f"samples of type {dtype}; only integers and floats can be read"
        )
    if dtype.itemsize > 2:
        low, high = samples.min(), samples.max()
        check_magnitude(low, high)
        if not lossy and (low < -_EXACT or high > _EXACT):
            _check_exact(samples)
    return samples.astype(np.float32)


def check_magnitude(low: float, high: float) -> None:
    """Raise ImageError if float samples, from low to high, are too large to be measurements."""
    if max(-float(low), float(high)) > LARGEST_SAMPLE:
        raise ImageError(
            "unsupported",
            f"a sample of {max(low, high, key=abs):g}; the limit is {LARGEST_SAMPLE:.2g}: replace "
            "samples that mark missing data with NaN, or give their value in the tag GDAL_NODATA",
        )


def _check_exact(samples: NDArray[Any]) -> None:
    """Raise ImageError if a whole number would change in float32; the first one is named."""
    for row in samples:
        if row.dtype.kind == "f":
            magnitude = np.abs(row)
            is_count = (magnitude > _EXACT) & (magnitude <= _EXACT_FLOAT64)
            changes = is_count & (row == np.floor(row)) & (row.astype(np.float32) != row)
        else:
            magnitude = row.astype(np.uint64)
            if row.dtype.kind == "i":
                magnitude = np.where(row < 0, ~magnitude + np.uint64(1), magnitude)
            lowest_bit = np.maximum(magnitude & (~magnitude + np.uint64(1)), np.uint64(1))
            changes = magnitude // lowest_bit >= _EXACT
        if changes.any():
            raise ImageError(
                "unsupported",
                f"a sample of {int(row[changes][0])} ({samples.dtype}), which float32 cannot hold "
                f"exactly; it holds all whole numbers up to {_EXACT}, and --lossy-samples rounds "
                "larger ones",
            )
