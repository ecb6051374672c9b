"""The relation between a network's input and output sizes, which tiling needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSizes:
    """Requirements of a network for the size of its input, along one axis."""

    multiple: int
    """Spacing of the pooling grid, 2^depth (px)."""
    margin: int
    """Pixels that unpadded convolutions take away on each side; 0 for padded ones."""

    def input_size(self, output_size: int) -> int:
        """Return the smallest input size (px) whose output covers `output_size` px.

        Example:
            depth 4, margin 92: 388 → 572, 389 → 588; margin 0: 17 → 32.
        """
        if self.margin == 0:
            return -(-output_size // self.multiple) * self.multiple
        # The bottom level ends with t pixels, and each level above it with 2·size − 4:
        # t = 4 + k gives 4 + k·2^depth.
        steps = max(0, -(-(output_size - 4) // self.multiple))
        return 2 * self.margin + 4 + steps * self.multiple
