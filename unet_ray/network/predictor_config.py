"""How images are cut and computed; without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unet_ray.errors import InputError
from unet_ray.network.unet_config import UNetConfig

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
    around: int = 0
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
