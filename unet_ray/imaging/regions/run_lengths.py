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

    The size [height, width] is not part of the code; callers store it beside it.
    """
    counts: bytes = coco.encode(np.asfortranarray(mask_hw, dtype=np.uint8))["counts"]
    return counts


def decode_rle(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Decode COCO compressed run lengths to a binary mask of height × width."""
    decoded: NDArray[np.uint8] = coco.decode({"size": [height, width], "counts": counts})
    return decoded.astype(bool)
