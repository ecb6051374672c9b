"""Probability to mask to run-length code.

A probability is prob_u8 = round(255·p) as uint8; from there on all is integer arithmetic. Run lengths are COCO's
(column-major, compressed), so that pycocotools and everything that stands on it can read them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco


def threshold_level(threshold: float) -> int:
    """Return the smallest prob_u8 that counts as the class: ceil(255·threshold), exact for decimal thresholds.

    Example: 0.5 → 128, 1.0 → 255, 0.2 → 51 (and not 52, which 255·0.2 = 51.00000000000001 would give).
    """
    return math.ceil(round(255 * threshold, 9))


def binary_mask(prob_u8_hw: NDArray[np.uint8], threshold: float) -> NDArray[np.bool_]:
    """Return the pixels of a class: prob_u8 ≥ ceil(255·threshold)."""
    return prob_u8_hw >= threshold_level(threshold)


def encode_rle(mask_hw: NDArray[Any]) -> bytes:
    """Return a binary mask as COCO compressed run lengths; its size [height, width] is kept beside it."""
    counts: bytes = coco.encode(np.asfortranarray(mask_hw, dtype=np.uint8))["counts"]
    return counts


def decode_rle(counts: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Return the binary mask (height × width) of COCO compressed run lengths."""
    decoded: NDArray[np.uint8] = coco.decode({"size": [height, width], "counts": counts})
    return decoded.astype(bool)
