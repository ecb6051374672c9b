"""Train a U-Net and segment image archives with it, on Ray.

Names are loaded when they are first used: importing this package loads neither Ray nor torch.
The command line is `unet-ray`; `unet_ray.cli` is its code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet_ray.api import evaluate, objects, segment, train
    from unet_ray.errors import (
        ImageError,
        InputError,
        ListingError,
        OutputHeldError,
        TooManyFailuresError,
        UnetRayError,
    )
    from unet_ray.imaging.geometry import Box
    from unet_ray.output.reader import Tables, read_tables
    from unet_ray.prediction import Prediction, Segmenter, load_model, mask, overlay

__version__ = "0.1.0"
__all__ = [
    "Box",
    "ImageError",
    "InputError",
    "ListingError",
    "OutputHeldError",
    "Prediction",
    "Segmenter",
    "Tables",
    "TooManyFailuresError",
    "UnetRayError",
    "evaluate",
    "load_model",
    "mask",
    "objects",
    "overlay",
    "read_tables",
    "segment",
    "train",
]

_HOMES = {
    "unet_ray.api": ("evaluate", "objects", "segment", "train"),
    "unet_ray.errors": (
        "ImageError",
        "InputError",
        "ListingError",
        "OutputHeldError",
        "TooManyFailuresError",
        "UnetRayError",
    ),
    "unet_ray.imaging.geometry": ("Box",),
    "unet_ray.output.reader": ("Tables", "read_tables"),
    "unet_ray.prediction": ("Prediction", "Segmenter", "load_model", "mask", "overlay"),
}
"""Modules, and the public names that they hold."""


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: torch and Arrow take seconds to load."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'unet_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
