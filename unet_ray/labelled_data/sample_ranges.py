"""Notes on the range of the samples of a labelled set within the range of their type.

A network learns the scale of its training images. Other images of the same type may have another
scale: a camera of 12 bits beside one of 16, floats from 0 to 1 beside floats from 0 to 255. Nothing
fails then, but the network finds less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_TWELVE_BITS = 4095
"""Largest sample of a camera of 12 bits."""
_MOST_RATIO = 16
"""Largest ratio of the ranges of two images, as between 12 and 16 bits."""
_REMEDY = "--normalise percentile limits what images of another scale can do"


@dataclass(frozen=True)
class SampleRange:
    """Range of the samples of an image, over all its channels."""

    uri: str
    dtype: str
    low: float
    high: float

    @property
    def span(self) -> float:
        """Difference of the largest and the smallest sample."""
        return self.high - self.low


def note_sample_ranges(ranges: Sequence[SampleRange]) -> list[str]:
    """Return a line for each finding in the sample ranges of a set that the user should know.

    Args:
        ranges: Range of each image; images of a single value are left out.
    """
    used = [each for each in ranges if each.span > 0 and each.dtype not in ("uint8", "int8")]
    if not used:
        return []
    if all(each.dtype == "float32" for each in used):
        notes = _note_floats(used)
    else:
        notes = _note_few_bits(used)
    return notes or _note_ratio(used)


def _note_few_bits(ranges: Sequence[SampleRange]) -> list[str]:
    highest = max(each.high for each in ranges)
    if highest > _TWELVE_BITS or any(each.dtype != "uint16" for each in ranges):
        return []
    return [
        f"the images have 16 bits, but no sample is above {highest:,.0f}, as if from a camera of "
        f"12 bits or fewer: images to be segmented should have the same scale; {_REMEDY}"
    ]


def _note_floats(ranges: Sequence[SampleRange]) -> list[str]:
    """Return a line about floats in 0..1, in 0..255, or some of each."""
    if min(each.low for each in ranges) < 0 or max(each.high for each in ranges) > 255:
        return []
    shares = [each for each in ranges if each.high <= 1]
    others = [each for each in ranges if each.high > 1]
    if shares and others:
        return [
            f"{len(shares)} images have float samples in 0..1 (for instance {shares[0].uri}), "
            f"{len(others)} in 0..255 (for instance {others[0].uri}): convert them to one scale; "
            f"{_REMEDY}"
        ]
    found = "0..1" if shares else "0..255"
    return [
        f"the float samples of all images lie in {found}: images to be segmented should have the "
        f"same scale; {_REMEDY}"
    ]


def _note_ratio(ranges: Sequence[SampleRange]) -> list[str]:
    small = min(ranges, key=lambda each: each.span)
    large = max(ranges, key=lambda each: each.span)
    if large.span <= _MOST_RATIO * small.span:
        return []
    return [
        f"the ranges of the images differ by {large.span / small.span:,.0f} times: samples of "
        f"{small.uri} lie in {small.low:g}..{small.high:g}, of {large.uri} in "
        f"{large.low:g}..{large.high:g}; {_REMEDY}"
    ]
