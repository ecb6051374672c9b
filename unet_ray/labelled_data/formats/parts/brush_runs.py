"""Run lengths of Label Studio's brush.

The code is `rle-pack` of thi.ng/umbrella. `label_studio_sdk.converter.brush.decode_rle` reads it
too, but that package depends on OpenCV, pandas, NLTK and about twenty others. The code is a stream
of bits, the highest bit of a byte first:

    32 bits   number of values, 4 (red, green, blue, alpha) for each pixel, row by row
     5 bits   bits of a value, less 1
    4×4 bits  bits of the four kinds of counts, less 1
    then until all values are there:
     1 bit    whether one value is repeated
     2 bits   kind of the count
     …        count, less 1
     …        that value, or as many values
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unet_ray.limits import MAX_ARRAY_PIXELS

_CHANNELS = 4
_ALPHA = 3
_VALUE_BITS = 8


def decode_brush(data: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of an image that a brush covered, even in part; HW.

    Raises:
        ValueError: The data are not run lengths for an image of this size.
    """
    pixels = height * width
    if pixels > MAX_ARRAY_PIXELS:
        raise ValueError(f"its image has {width}×{height} px; the limit is {MAX_ARRAY_PIXELS} px")
    bits = _Bits(data)
    number = bits.read(32)
    if number != _CHANNELS * pixels:
        raise ValueError(
            f"its run lengths have {number} values, but an image of {width}×{height} px has "
            f"{_CHANNELS * pixels}"
        )
    if bits.read(5) + 1 != _VALUE_BITS:
        raise ValueError("its run lengths have values that are not bytes")
    sizes = [bits.read(4) + 1 for _ in range(4)]
    is_inside = np.zeros(pixels, bool)
    done = 0
    while done < number:
        is_repeated = bits.read(1)
        end = min(done + 1 + bits.read(sizes[bits.read(2)]), number)
        # the alphas among the values from `done` to `end` are those of these pixels
        inside = is_inside[done // _CHANNELS : end // _CHANNELS]
        if is_repeated:
            inside[:] = bits.read(_VALUE_BITS) > 0
        else:
            values = bits.read_bytes(end - done)
            inside[:] = values[(_ALPHA - done) % _CHANNELS :: _CHANNELS] > 0
        done = end
    return is_inside.reshape(height, width)


class _Bits:
    """A stream of bits."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int) -> int:
        """Return the next `size` bits as a number; raise ValueError if there are fewer."""
        first_byte = self._at // 8
        self._at += size
        end_byte = math.ceil(self._at / 8)
        if end_byte > len(self._data):
            raise ValueError("its run lengths end too early")
        number = int.from_bytes(self._data[first_byte:end_byte])
        num_bits_after = 8 * end_byte - self._at
        return number >> num_bits_after & ((1 << size) - 1)

    def read_bytes(self, num_bytes: int) -> NDArray[np.uint8]:
        """Return the next bytes, which may begin within a byte of the data."""
        first, shift = divmod(self._at, 8)
        self._at += 8 * num_bytes
        if self._at > 8 * len(self._data):
            raise ValueError("its run lengths end too early")
        held = np.frombuffer(self._data[first : first + num_bytes + 1] + b"\0", np.uint8)
        # each byte lies in two neighbouring bytes of the data
        pairs = held[:num_bytes].astype(np.uint16) << 8 | held[1 : num_bytes + 1]
        return (pairs >> (8 - shift)).astype(np.uint8)
