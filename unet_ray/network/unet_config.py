"""What a U-Net is made of, and what that means for sizes and tiles; without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unet_ray.errors import InputError
from unet_ray.imaging.tiling import Reach

Padding = Literal["same", "valid"]
Norm = Literal["none", "batch"]


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of."""

    in_channels: int = 3
    """Channels of the image."""
    classes: int = 1
    """Output filters: one per class, or two where it parts touching objects."""
    base_channels: int = 32
    """Channels of the first level; doubled at each deeper one."""
    depth: int = 4
    """Number of poolings."""
    padding: Padding = "same"
    """`same`: output as large as the input; `valid`: the paper's unpadded convolutions."""
    norm: Norm = "batch"
    """Normalisation after each 3×3 convolution."""

    def __post_init__(self) -> None:
        limits = {"in_channels": (1, 64), "classes": (1, 255), "base_channels": (1, 1024), "depth": (1, 7)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: choose {least} to {most}")
        for name, words in (("padding", ("same", "valid")), ("norm", ("none", "batch"))):
            if getattr(self, name) not in words:
                raise InputError(f"{name} {getattr(self, name)}: choose {' or '.join(words)}")

    @property
    def multiple(self) -> int:
        """The pooling grid, 2^depth (px)."""
        return 1 << self.depth

    @property
    def margin(self) -> int:
        """Pixels that the output lacks on each side: 6·2^depth − 4 for `valid` (92 at depth 4), 0 for `same`."""
        return 6 * self.multiple - 4 if self.padding == "valid" else 0

    @property
    def receptive_field_radius(self) -> int:
        """Farthest input pixel that an output pixel depends on, at the worst pooling phase (px).

        Outputs of one pooling cell (2^depth px wide) see 6·2^depth − 4 px beyond it, to both sides; the pixel at one
        end of its cell is 2^depth − 1 px from the other: 7·2^depth − 5, 107 at depth 4, 51 at depth 3.
        """
        return 7 * self.multiple - 5

    @property
    def exact_context(self) -> int:
        """Context with which a tile equals the whole image: the radius up to the next multiple of 2^depth (px)."""
        return -(-self.receptive_field_radius // self.multiple) * self.multiple

    @property
    def reach(self) -> Reach:
        """The same, as tiling wants it."""
        return Reach(self.multiple, self.margin)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError unless an input of this size works; the message names the nearest sizes that do."""
        for size in (height, width):
            if self.reach.input_size(size - 2 * self.margin) != size or size <= 0:
                above = self.reach.input_size(max(1, size - 2 * self.margin))
                below = above - self.multiple
                nearest = f"{above}" if below < self.reach.input_size(1) else f"{below} and {above}"
                raise InputError(
                    f"an input of {height}×{width} px does not fit depth {self.depth}, padding {self.padding}: "
                    f"{size} is not a size that works; the nearest are {nearest}"
                )


PRESETS: dict[str, dict[str, int | str]] = {
    "paper": {"base_channels": 64, "depth": 4, "padding": "valid", "norm": "none"},
    "article": {"base_channels": 8, "depth": 3, "padding": "same", "norm": "none"},
}
"""`paper`: Ronneberger et al. 2015; `article`: small enough for a laptop."""
