"""Probabilities become masks, and masks become run-length codes.

A probability is stored as prob_u8 = round(255·p), uint8; everything after that is integer
arithmetic. Run lengths are those of COCO (column-major, compressed), so that pycocotools and all
the tools built on it can read them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

_FIRST_CHARACTER = 48
"""Character that stands for 0 in compressed run lengths; each character holds 6 bits."""
_MOST_CHARACTERS = 7
"""Longest number of compressed run lengths (characters): 32 bits and a sign, 5 bits in each."""


def threshold_level(threshold: float) -> int:
    """Return the smallest prob_u8 that counts as the class.

    This is ceil(255·threshold), exact for decimal thresholds.

    Example:
        0.5 → 128, 1.0 → 255, 0.2 → 51 (not 52, which 255·0.2 = 51.00000000000001 would give).
    """
    return math.ceil(round(255 * threshold, 9))


def binary_mask(prob_u8_hw: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    """Return the mask of a class: True where prob_u8 ≥ ceil(255·threshold)."""
    return prob_u8_hw >= threshold_level(threshold)


def encode_rle(mask_hw: NDArray[Any]) -> bytes:
    """Encode a binary mask as COCO compressed run lengths.

    The size [height, width] is not part of the code; callers store it separately.
    """
    counts: bytes = coco.encode(np.asfortranarray(mask_hw, dtype=np.uint8))["counts"]
    return counts


def decode_rle(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Decode COCO compressed run lengths to a binary mask of height × width.

    Raises:
        ValueError: The counts are not run lengths, or do not fill the mask exactly.
    """
    runs = decompress_counts(counts)
    check_runs(runs, height, width)
    is_inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_inside, runs).reshape(width, height).T


def check_runs(runs: NDArray[np.int64], height: int, width: int) -> None:
    """Raise ValueError unless run lengths fill a mask exactly.

    Args:
        runs: Lengths of the runs in turn, column-major, background first (px); (runs,).
        height: Height of the mask (px).
        width: Width of the mask (px).
    """
    pixels = height * width
    # Where no run is longer than the mask, their sum cannot overflow.
    if min(height, width) < 0 or ((runs < 0) | (runs > pixels)).any():
        raise ValueError(
            f"run lengths of {runs.min(initial=0)} to {runs.max(initial=0)} px in a mask of "
            f"{width}×{height} px"
        )
    if runs.sum() != pixels:
        raise ValueError(f"run lengths that fill {runs.sum()} px of a mask of {width}×{height} px")


def decompress_counts(counts: bytes) -> NDArray[np.int64]:
    """Return the numbers that COCO compressed run lengths hold; (runs,).

    Each character holds 5 bits of a number, lowest first, and says whether more follow; the last
    one also holds the sign. From the fourth on, a number is the difference from the one two before.

    Raises:
        ValueError: An invalid character, or a number that is cut off or too long.
    """
    if not counts:
        return np.empty(0, np.int64)
    sixes = np.frombuffer(counts, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if ((sixes < 0) | (sixes > 63)).any():
        raise ValueError("compressed run lengths with characters other than 0 to o")
    last = np.flatnonzero(sixes < 32)
    first = np.append(0, last[:-1] + 1)
    length = last - first + 1
    if sixes[-1] >= 32 or length.max() > _MOST_CHARACTERS:
        raise ValueError("compressed run lengths with a number that is cut off or too long")
    digit = np.arange(len(sixes)) - np.repeat(first, length)
    numbers = np.add.reduceat((sixes & 31) << (5 * digit), first)
    numbers -= (sixes[last] >> 4 & 1) << (5 * length)
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers


def compress_counts(runs: NDArray[np.int64]) -> bytes:
    """Return COCO compressed run lengths, from which `decompress_counts` gets the numbers back.

    Args:
        runs: Lengths of the runs, 0 to 2³¹ − 1; (runs,).
    """
    numbers = np.asarray(runs, np.int64).copy()
    numbers[3:] -= numbers[1:-2].copy()
    places = 5 * np.arange(_MOST_CHARACTERS)
    # a number needs another character until the rest is the sign of the last one
    is_needed = np.ones((len(numbers), _MOST_CHARACTERS), bool)
    rest = numbers[:, None] >> places[1:]
    last_bit = numbers[:, None] >> (places[1:] - 1) & 1
    is_needed[:, 1:] = rest != -last_bit
    is_needed = np.logical_or.accumulate(is_needed[:, ::-1], axis=1)[:, ::-1]
    more = np.zeros_like(is_needed)
    more[:, :-1] = is_needed[:, 1:]
    digits = numbers[:, None] >> places & 31
    characters = digits + 32 * more + _FIRST_CHARACTER
    return characters[is_needed].astype(np.uint8).tobytes()
