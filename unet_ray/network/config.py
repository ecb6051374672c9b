"""The network and the predictor: their settings, without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unet_ray.errors import InputError
from unet_ray.imaging.tiling_config import InputSizes

Padding = Literal["same", "valid"]
Norm = Literal["none", "batch"]


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1
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
        limits = {
            "in_channels": (1, 64),
            "num_classes": (1, 255),
            "base_channels": (1, 1024),
            "depth": (1, 7),
        }
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

        Outputs of one pooling cell (2^depth px extended) see 6·2^depth − 4 px beyond it, to both sides; the pixel at one
        end of its cell is 2^depth − 1 px from the other: 7·2^depth − 5, 107 at depth 4, 51 at depth 3.
        """
        return 7 * self.multiple - 5

    @property
    def exact_context(self) -> int:
        """Context with which a tile equals the whole image: the radius up to the next multiple of 2^depth (px)."""
        return -(-self.receptive_field_radius // self.multiple) * self.multiple

    @property
    def input_sizes(self) -> InputSizes:
        """The same, as tiling wants it."""
        return InputSizes(self.multiple, self.margin)

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError unless an input of this size works; the message names the nearest sizes that do."""
        for size in (height, width):
            if self.input_sizes.input_size(size - 2 * self.margin) != size or size <= 0:
                above = self.input_sizes.input_size(max(1, size - 2 * self.margin))
                below = above - self.multiple
                nearest = (
                    f"{above}" if below < self.input_sizes.input_size(1) else f"{below} and {above}"
                )
                raise InputError(
                    f"an input of {height}×{width} px does not fit depth {self.depth}, padding {self.padding}: "
                    f"{size} is not a size that works; the nearest are {nearest}"
                )


PRESETS: dict[str, dict[str, int | str]] = {
    "paper": {"base_channels": 64, "depth": 4, "padding": "valid", "norm": "none"},
    "article": {"base_channels": 8, "depth": 3, "padding": "same", "norm": "none"},
}
"""`paper`: Ronneberger et al. 2015; `article`: small enough for a laptop."""


SPATIAL = ("flip", "rotate", "scale", "elastic")
VALUES = ("brightness", "contrast", "gamma", "noise", "blur")
AUGMENTATIONS = SPATIAL + VALUES


def parse_augmentations(text: str) -> frozenset[str]:
    """Return the augmentations of `--augment`: `all`, `none`, or names with commas.

    Raises: InputError — an unknown name.
    """
    names = {"all": list(AUGMENTATIONS), "none": []}.get(
        text, [name.strip() for name in text.split(",")]
    )
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise InputError(
            f"--augment {text}: {unknown[0]} is unknown; give all, none, or {','.join(AUGMENTATIONS)}"
        )
    return frozenset(names)


Normalisation = Literal["mean", "percentile", "range"]


Loss = Literal["bce", "bce_dice"]


Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class PredictorConfig:
    """How images are cut and computed; none of it changes results but precision and a context below the exact one."""

    tile: int = 1024
    """Side of the piece of an image that is predicted at once (px); rounded up to a multiple of 2^depth. An image of up
    to two such pieces is one, where that is exact and fits."""
    context: int | None = None
    """Pixels read around a tile; None: as many as make the result exact."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the network runs."""
    precision: Precision = "float32"
    """Arithmetic of the network."""
    threads: int | None = None
    """CPU threads of the network, all lanes together; None: one lane and torch's choice."""
    halo: int = 0
    """Pixels around a tile that are predicted with it: what `tiles` are to know of their neighbours (px)."""

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise InputError(f"--tile {self.tile}: choose at least 1 px")
        if self.context is not None and self.context < 0:
            raise InputError(f"--context {self.context}: choose 0 px or more")


def effective_context(unet: UNetConfig, config: PredictorConfig) -> int:
    """Return the context in px: the given one up to a multiple of 2^depth, at most (and by default) the exact one."""
    if config.context is None:
        return unet.exact_context
    return min(unet.exact_context, up_to_multiple(config.context, unet.multiple))


def up_to_multiple(value: int, multiple: int) -> int:
    """Return the next multiple that is not below a value."""
    return -(-value // multiple) * multiple
