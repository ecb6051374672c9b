"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.flags import Device, MaskKind, check_fields, check_numbers, parse_range, parse_uris

_MOST = 10**6
"""Largest count that a flag takes."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of `evaluate`: the model, the labelled images, the outputs, and how to run."""

    model: str
    """Model folder (URI)."""
    images: str
    """Folder or glob (URI) of images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by relative path without suffix."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which the files of a manifest lie.
    Default: the bucket of the manifest, or its folder on a local disk."""
    follow_links: bool = False
    """Follow symbolic links that lead out of --images or --masks; otherwise they are left out and
    counted."""
    mask_kind: MaskKind | None = None
    """Kind of the masks, which says what their values mean; default: inferred from all masks."""
    background_value: int = 0
    """Mask value of pixels that belong to no class."""
    ignore_value: int | None = 255
    """Mask value of pixels that are not counted; none: there is no such value."""
    max_error_rate: float = 0.0
    """Share of the images that may be unreadable; they are named and left out. More of them:
    exit code 2."""
    output: str | None = None
    """File (URI) for the metrics as JSON."""
    per_image: str | None = None
    """File (URI) for all counts and metrics as Parquet, one row per image and class."""
    worst: int = 10
    """Number of the worst images to list, by mean Dice over the classes."""
    bootstrap: int = 1000
    """Resamples of the images for the 95 % confidence intervals; 0: no intervals."""
    boundary_tolerance: int = 2
    """Largest distance at which boundaries match (px)."""
    actors: str | None = None
    """Predictor actors, N or MIN,MAX; default: one per GPU, or one per four CPUs."""
    device: Device = "auto"
    """Device of the network; auto: GPUs if the cluster has them."""

    def __post_init__(self) -> None:
        parse_uris(self.image_roots, "--image-roots")
        if self.actors is not None:
            parse_range(self.actors, "--actors")
        if self.output is not None and self.output == self.per_image:
            raise InputError(f"--output and --per-image: both are {self.output}; name two files")
        counts = ("worst", "bootstrap", "boundary_tolerance")
        check_fields(self, counts, lambda value: 0 <= value <= _MOST, f"0 to {_MOST}")
        check_fields(self, ["max_error_rate"], lambda value: 0 <= value <= 1, "0 to 1")
        check_numbers(self)
