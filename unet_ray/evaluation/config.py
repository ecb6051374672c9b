"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.flags import Device, MaskKind, parse_range


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to hold against what."""

    model: str
    """Model folder (URI)."""
    images: str
    """Folder or glob (URI) of images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by relative path without suffix."""
    mask_kind: MaskKind | None = None
    """What mask values mean; default: inferred from all masks."""
    background_value: int = 0
    """Mask value of no class."""
    ignore_value: int | None = 255
    """Mask value that is not counted; none: there is no such value."""
    max_error_rate: float = 0.0
    """Share of the images that may be unreadable; they are named and left out. More of them: exit code 2."""
    output: str | None = None
    """File (URI) for the metrics as JSON."""
    per_image: str | None = None
    """File (URI) for all counts and metrics as Parquet, one row per image and class."""
    worst: int = 10
    """How many of the worst images are listed, by the mean Dice over the classes."""
    bootstrap: int = 1000
    """Resamples of the images that the 95 % confidence intervals are made from; 0: no intervals."""
    boundary_tolerance: int = 2
    """How far apart boundaries may lie and still match (px)."""
    actors: str | None = None
    """Predictor actors, N or MIN,MAX; default: one per GPU, or one per four CPUs."""
    device: Device = "auto"
    """Where the network runs; auto: GPUs where the cluster has them."""

    def __post_init__(self) -> None:
        if self.actors is not None:
            parse_range(self.actors, "--actors")
        if self.output is not None and self.output == self.per_image:
            raise InputError(f"--output and --per-image: both are {self.output}; name two files")
        for name in ("worst", "bootstrap", "boundary_tolerance"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self, name)}: choose 0 or more"
                )
