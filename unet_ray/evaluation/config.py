"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.flags import Device, check_fields, check_numbers, parse_pixel_size, parse_range
from unet_ray.labelled_data.config import LabelConfig
from unet_ray.store_options import check_store_options

_MOST = 10**6
"""Largest count that a flag takes."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(LabelConfig):
    """Settings of `evaluate`: the model, the labelled images, the outputs, and how to run."""

    model: str
    """Model folder (URI)."""
    model_options: str | None = None
    """Options of the store of --model, as for --images."""
    max_error_rate: float = 0.0
    """Share of the images that may be unreadable; these are reported and left out. If more are,
    the exit code is 2."""
    pixel_size: str | None = None
    """Pixel size at which the network sees images: a number (µm), or model for that of its training
    images, as for segment. Default: images are not resampled."""
    output: str | None = None
    """File (URI) for the metrics as JSON."""
    output_options: str | None = None
    """Options of the store of --output and --per-image, as for --images."""
    per_image: str | None = None
    """File (URI) for all counts and metrics as Parquet, one row per image and class."""
    worst: int = 10
    """Number of the worst images to list, by mean Dice over the classes."""
    bootstrap: int = 1000
    """Resamples of the images, group by group (--group-by), for the 95 % confidence intervals; 0:
    no intervals."""
    boundary_tolerance: int = 2
    """Largest distance at which boundaries match (px)."""
    actors: str | None = None
    """Predictor actors, N or MIN,MAX; default: one per GPU, or one per four CPUs."""
    device: Device = "auto"
    """Device of the network; auto: GPUs if the cluster has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_store_options(self, "model", (self.model,))
        check_store_options(self, "output", (self.output, self.per_image))
        parse_pixel_size(self.pixel_size)
        if self.actors is not None:
            parse_range(self.actors, "--actors")
        if self.output is not None and self.output == self.per_image:
            raise InputError(f"--output and --per-image: both are {self.output}; name two files")
        counts = ("worst", "bootstrap", "boundary_tolerance")
        check_fields(self, counts, lambda value: 0 <= value <= _MOST, f"0 to {_MOST}")
        check_fields(self, ["max_error_rate"], lambda value: 0 <= value <= 1, "0 to 1")
        check_numbers(self)
