"""The values of a set of masks, counted, and how messages name them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMED = 6
"""Values that a message names."""


@dataclass(frozen=True)
class MaskValues:
    """What the masks of a whole set hold."""

    pixels: Mapping[int, int]
    """Value → pixels of it."""
    masks: Mapping[int, int]
    """Value → masks that hold it."""
    most_distinct: int = 0
    """Most values that one mask holds."""
    examples: Mapping[int, str] = field(default_factory=dict)
    """Value → a mask that holds it."""
    of_classes: tuple[MaskValues, ...] = ()
    """Of class folders: the same of each class, in order; empty where nobody counted."""

    @property
    def between(self) -> list[int]:
        """The values between the lowest and the highest: of a two-valued mask, those of anti-aliased edges."""
        return sorted(self.pixels)[1:-1]

    @property
    def midpoint(self) -> int:
        """The smallest value nearer to the highest than to the lowest, or as near.

        Example: 0, 1 → 1; 0, 255 → 128.
        """
        return (min(self.pixels) + max(self.pixels) + 1) // 2

    def share(self, values: Iterable[int]) -> float:
        """Return the share of the pixels that have one of the values."""
        return sum(self.pixels.get(v, 0) for v in values) / sum(self.pixels.values())

    def show(self, values: Iterable[int]) -> str:
        """Name values, their pixels, masks and an example of each, for a message."""
        wanted = sorted(values)
        named = [
            f"{v} ({self.pixels[v]} px in {self.masks[v]} mask{'s' * (self.masks[v] != 1)}"
            f"{', such as ' + self.examples[v] if v in self.examples else ''})"
            for v in wanted[:_NAMED]
        ]
        return ", ".join(named) + (f", … ({len(wanted)} values)" if len(wanted) > _NAMED else "")

    def show_between(self) -> str:
        """Say how many pixels lie between the lowest and the highest value, in how many masks."""
        between = self.between
        pixels, masks = (
            sum(self.pixels[v] for v in between),
            max((self.masks[v] for v in between), default=0),
        )
        return (
            f"{pixels} px ({percent(self.share(between))}) in at least {masks} mask{'s' * (masks != 1)} lie between "
            f"{min(self.pixels)} and {max(self.pixels)}"
        )

    @property
    def nothing_to_learn(self) -> str:
        """What to say of masks without any object, or of nothing else."""
        return f"all masks hold only {self.show(self.pixels)}: there is nothing to learn; check --masks"


def mask_values(mask_hw: NDArray[Any]) -> dict[int, int]:
    """Return the values of a mask and the number of pixels of each."""
    if mask_hw.dtype in (np.uint8, np.uint16):  # many times as fast as sorting the pixels
        counts = np.bincount(mask_hw.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(mask_hw, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def add_up(masks: Sequence[tuple[Sequence[tuple[int, int]], str]]) -> MaskValues:
    """Return what several masks hold, each given as its (value, pixels) and its URI."""
    pixels, holders, examples = Counter[int](), Counter[int](), dict[int, str]()
    for values, uri in masks:
        for value, count in values:
            pixels[value] += count
            holders[value] += 1
            examples.setdefault(value, uri)
    return MaskValues(
        dict(pixels), dict(holders), max((len(values) for values, _ in masks), default=0), examples
    )


def percent(share: float) -> str:
    """Write a share (0..1) as a percentage."""
    return f"{100 * share:.3g} %"
