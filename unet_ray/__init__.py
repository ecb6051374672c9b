"""Train a U-Net and segment image archives with it, on Ray.

For notebooks, names below need no import of their own: `unet_ray.load_model(uri)`, `unet_ray.read_tables(uri)`,
`unet_ray.mask(…)`, `unet_ray.overlay(…)`. Jobs (`jobs/`) and verbs (`unet_ray.training.train`, `unet_ray.segmentation.segment`, …) do the
work on clusters.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_ray.output.reader import Box, Tables, read_tables
    from unet_ray.prediction import Prediction, Segmenter, load_model, mask, overlay

__version__ = "0.1.0"
__all__ = [
    "Box",
    "Prediction",
    "Segmenter",
    "Tables",
    "load_model",
    "mask",
    "overlay",
    "read_tables",
]

_HOMES = {
    name: "unet_ray.prediction"
    for name in ("Prediction", "Segmenter", "load_model", "mask", "overlay")
}
_HOMES |= {name: "unet_ray.output.reader" for name in ("Box", "Tables", "read_tables")}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for: torch and Arrow take seconds, and most processes need neither."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unet_ray' has no attribute {name!r}")
