"""Settings of the network and the predictor; without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unet_ray.errors import InputError
from unet_ray.flags import MAX_SIDE_PX, check_fields, check_range
from unet_ray.imaging.tiling_config import InputSizes

Padding = Literal["same", "valid"]
Norm = Literal["none", "batch"]


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of a U-Net."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1
    """Output filters: one per class, or two if the network separates touching objects."""
    base_channels: int = 32
    """Channels of the first level; each deeper level has twice as many."""
    depth: int = 4
    """Number of pooling steps."""
    padding: Padding = "same"
    """Padding of the convolutions. `same`: the output is as large as the input; `valid`: the
    paper's unpadded convolutions, whose output is smaller."""
    norm: Norm = "batch"
    """Normalisation after each 3×3 convolution."""

    def __post_init__(self) -> None:
        limits = {
            "in_channels": (1, 64),
            "num_classes": (1, 255),
            "base_channels": (1, 1024),
            "depth": (1, 7),
        }
        for name, (least, most) in limits.items():
            check_range(name, [getattr(self, name)], least, most)
        for name, words in (("padding", ("same", "valid")), ("norm", ("none", "batch"))):
            if getattr(self, name) not in words:
                raise InputError(f"{name} {getattr(self, name)}: choose {' or '.join(words)}")

    @property
    def multiple(self) -> int:
        """Spacing of the pooling grid, 2^depth (px)."""
        return 1 << self.depth

    @property
    def margin(self) -> int:
        """Pixels that the output lacks on each side.

        6·2^depth − 4 for `valid` (92 at depth 4), 0 for `same`.
        """
        return 6 * self.multiple - 4 if self.padding == "valid" else 0

    @property
    def receptive_field_radius(self) -> int:
        """Distance to the farthest input pixel that an output pixel depends on (px).

        The distance depends on where the pixel lies in its pooling cell; this is the largest. The
        outputs of one pooling cell, 2^depth px wide, see 6·2^depth − 4 px beyond the cell on both
        sides; a pixel at one end of its cell is 2^depth − 1 px from the other end. The sum is
        7·2^depth − 5: 107 at depth 4, 51 at depth 3.
        """
        return 7 * self.multiple - 5

    @property
    def exact_context(self) -> int:
        """Smallest context with which a tile's result equals that of the whole image (px).

        It is the receptive field radius, rounded up to a multiple of 2^depth.
        """
        return -(-self.receptive_field_radius // self.multiple) * self.multiple

    @property
    def input_sizes(self) -> InputSizes:
        """Multiple and margin, in the form that tiling takes."""
        return InputSizes(self.multiple, self.margin)

    def check_size(self, height: int, width: int) -> None:
        """Check that the network accepts an input of this size.

        Args:
            height: Height of the input (px).
            width: Width of the input (px).

        Raises:
            InputError: A size that does not work; the message names the nearest sizes that do.
        """
        for size in (height, width):
            if self.input_sizes.input_size(size - 2 * self.margin) != size or size <= 0:
                above = self.input_sizes.input_size(max(1, size - 2 * self.margin))
                below = above - self.multiple
                smallest = self.input_sizes.input_size(1)
                nearest = f"{above}" if below < smallest else f"{below} and {above}"
                raise InputError(
                    f"an input of {height}×{width} px does not fit depth {self.depth}, "
                    f"padding {self.padding}: {size} does not work; "
                    f"the nearest sizes are {nearest}"
                )


PRESETS: dict[str, dict[str, int | str]] = {
    "paper": {"base_channels": 64, "depth": 4, "padding": "valid", "norm": "none"},
    "article": {"base_channels": 8, "depth": 3, "padding": "same", "norm": "none"},
}
"""Networks by name. `paper`: Ronneberger et al. 2015; `article`: small enough for a laptop."""


SPATIAL = ("flip", "rotate", "scale", "elastic")
VALUES = ("brightness", "contrast", "gamma", "noise", "blur")
AUGMENTATIONS = SPATIAL + VALUES


def parse_augmentations(text: str) -> frozenset[str]:
    """Return the augmentations that a value of `--augment` names.

    Args:
        text: `all`, `none`, or names separated by commas.

    Raises:
        InputError: An unknown name.
    """
    if text == "all":
        return frozenset(AUGMENTATIONS)
    if text == "none":
        return frozenset()
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise InputError(
            f"--augment {text}: {unknown[0]} is unknown; "
            f"give all, none, or {','.join(AUGMENTATIONS)}"
        )
    return frozenset(names)


Normalisation = Literal["mean", "percentile", "range"]


Loss = Literal["bce", "bce_dice"]


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PredictorConfig:
    """Settings of a prediction: tiles, device and arithmetic.

    Only `precision`, and a `context` below the exact one, change results.
    """

    tile: int = 1024
    """Side of a tile, the part of an image that is predicted at once (px); rounded up to a multiple
    of 2^depth. An image of up to two tiles is predicted in one piece if that is exact and fits into
    memory."""
    context: int | None = None
    """Pixels that the network reads around a tile. None: enough to make the result exact."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that the network runs on."""
    precision: Precision = "float32"
    """Number type that the network computes in."""
    threads: int | None = None
    """CPU threads of the network, summed over all lanes. None: one lane with torch's default."""
    halo: int = 0
    """Pixels around the core of a tile that are predicted with it, so that the tile overlaps its
    neighbours (px)."""

    def __post_init__(self) -> None:
        check_fields(self, ["tile"], lambda px: 1 <= px <= MAX_SIDE_PX, f"1 to {MAX_SIDE_PX} px")
        check_fields(self, ["context"], lambda px: 0 <= px <= MAX_SIDE_PX, f"0 to {MAX_SIDE_PX} px")


def effective_context(unet: UNetConfig, config: PredictorConfig) -> int:
    """Return the context that a predictor uses (px).

    It is the configured context, rounded up to a multiple of 2^depth, but at most the exact one,
    which is also the default.
    """
    if config.context is None:
        return unet.exact_context
    return min(unet.exact_context, up_to_multiple(config.context, unet.multiple))


def up_to_multiple(value: int, multiple: int) -> int:
    """Round a value up to a multiple."""
    return -(-value // multiple) * multiple
