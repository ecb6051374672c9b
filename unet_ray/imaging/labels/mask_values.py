"""Counts of the values in a set of masks, and their wording in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.flags import COLOUR, is_colour, show_value

_NAMED = 6
"""Largest number of values that a message names."""


@dataclass(frozen=True)
class MaskValues:
    """Values that the masks of a whole set hold."""

    pixels: Mapping[int, int]
    """Number of pixels of each value."""
    masks: Mapping[int, int]
    """Number of masks that hold each value."""
    most_distinct: int = 0
    """Largest number of values in one mask."""
    examples: Mapping[int, str] = field(default_factory=dict)
    """URI of one mask that holds each value."""
    of_classes: tuple[MaskValues, ...] = ()
    """Values of each class folder, in the order of the classes; empty if they were not counted."""

    @property
    def between(self) -> list[int]:
        """Values between the lowest and the highest; anti-aliased edges if masks are two-valued."""
        return sorted(self.pixels)[1:-1]

    @property
    def midpoint(self) -> int:
        """Smallest value that is at least as near to the highest value as to the lowest.

        Example:
            Values 0 and 1 give 1; values 0 and 255 give 128.
        """
        return (min(self.pixels) + max(self.pixels) + 1) // 2

    def share(self, values: Iterable[int]) -> float:
        """Return the share of all pixels that have one of the given values."""
        return sum(self.pixels.get(v, 0) for v in values) / sum(self.pixels.values())

    @property
    def has_colours(self) -> bool:
        """True if a mask holds a colour."""
        return max(self.pixels, default=0) >= COLOUR

    def with_grey_colours(self) -> MaskValues:
        """Return the values of masks with colours, whose grey values are colours as well.

        Black stays 0; drawn black, where masks have it, is a colour.
        """

        def to_colour(value: int) -> int:
            """Return the colour of a grey value."""
            return COLOUR + value * 0x010101 if 0 < value <= 255 else value

        def rename(found: Mapping[int, Any]) -> dict[int, Any]:
            """Return a mapping with colours instead of grey values as keys."""
            return {to_colour(value): known for value, known in found.items()}

        return replace(
            self,
            pixels=rename(self.pixels),
            masks=rename(self.masks),
            examples=rename(self.examples),
        )

    def show(self, values: Iterable[int]) -> str:
        """Format values for a message: `3 (120 px in 2 masks, such as a.png), 4 (…)`."""
        found = list(values)
        ids = sorted(value for value in found if not is_colour(value))
        colours = [value for value in found if is_colour(value)]
        # colours have no order, so the most frequent come first
        colours.sort(key=lambda value: -self.pixels[value])
        wanted = ids + colours
        shown = []
        for value in wanted[:_NAMED]:
            num_masks = self.masks[value]
            masks = "1 mask" if num_masks == 1 else f"{num_masks} masks"
            example = f", such as {self.examples[value]}" if value in self.examples else ""
            shown.append(f"{show_value(value)} ({self.pixels[value]} px in {masks}{example})")
        if len(wanted) > _NAMED:
            shown.append(f"… ({len(wanted)} values)")
        return ", ".join(shown)

    def show_between(self) -> str:
        """Format the numbers of pixels and masks with values between the lowest and the highest."""
        between = self.between
        num_pixels = sum(self.pixels[value] for value in between)
        num_masks = max((self.masks[value] for value in between), default=0)
        return (
            f"{num_pixels} px ({percent(self.share(between))}) in at least {num_masks} "
            f"mask{'s' * (num_masks != 1)} lie between {min(self.pixels)} and {max(self.pixels)}"
        )

    @property
    def nothing_to_learn(self) -> str:
        """Message for masks that hold no objects, or nothing but objects."""
        return (
            f"all masks hold only {self.show(self.pixels)}, so there is nothing to learn; "
            "check --masks"
        )


def mask_values(mask_hw: NDArray[Any]) -> dict[int, int]:
    """Return the number of pixels of each value in a mask."""
    if mask_hw.dtype in (np.uint8, np.uint16):  # many times faster than sorting the pixels
        counts = np.bincount(mask_hw.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        flat = mask_hw.ravel()  # neighbours are alike: only the first pixel of a run is sorted
        begins = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
        values, run = np.unique(flat[begins], return_inverse=True)
        counts = np.bincount(run, np.diff(begins, append=flat.size)).astype(np.int64)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def add_up(masks: Sequence[tuple[Sequence[tuple[int, int]], str]]) -> MaskValues:
    """Add up the values of several masks, each given as its (value, pixels) pairs and its URI."""
    num_pixels = Counter[int]()
    num_masks = Counter[int]()
    examples: dict[int, str] = {}
    most_distinct = 0
    for values, uri in masks:
        most_distinct = max(most_distinct, len(values))
        for value, count in values:
            num_pixels[value] += count
            num_masks[value] += 1
            examples.setdefault(value, uri)
    return MaskValues(
        pixels=dict(num_pixels),
        masks=dict(num_masks),
        most_distinct=most_distinct,
        examples=examples,
    )


def percent(share: float) -> str:
    """Format a share (0..1) as a percentage."""
    return f"{100 * share:.3g} %"
