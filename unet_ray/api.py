"""The commands as Python functions: keywords are the flags, with underscores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.imaging.geometry import Box
from unet_ray.output.reader import Tables, image_objects, read_tables
from unet_ray.prediction import resolve_uri

if TYPE_CHECKING:
    from unet_ray.evaluation.evaluate import EvaluateResult
    from unet_ray.segmentation.result import SegmentResult
    from unet_ray.training.train import TrainResult


def train(*, ray_address: str = "local", **settings: Any) -> TrainResult:
    """Train a U-Net and write a model folder, as `unet-ray train` does.

    Args:
        ray_address: `local` starts a Ray of this process's own, unless it has joined one; `auto` or
            an address joins one.
        **settings: Fields of `unet_ray.training.config.TrainConfig`; `images`, `masks` and `output`
            are required.

    Returns:
        The model, where it is, and how training went.

    Raises:
        InputError: Anything that cannot work, before training starts.
        UnetRayError: A training that fails.
    """
    from unet_ray.training.config import TrainConfig
    from unet_ray.training.train import train as run

    return run(TrainConfig(**settings), ray_address)


def segment(*, ray_address: str = "local", **settings: Any) -> SegmentResult:
    """Segment what is new in an image archive, as `unet-ray segment` does.

    Args:
        ray_address: As for `train`.
        **settings: Fields of `unet_ray.segmentation.config.SegmentConfig`; `model`, `images` and
            `output` are required.

    Returns:
        What the run did, as its record has it.

    Raises:
        InputError: Anything that cannot work, before anything expensive starts.
        OutputHeldError: Another run writes to the output.
        TooManyFailuresError: The run finished, but more images failed than allowed.
    """
    from unet_ray.segmentation.config import SegmentConfig
    from unet_ray.segmentation.segment import segment as run

    return run(SegmentConfig(**settings), ray_address)


def evaluate(*, ray_address: str = "local", **settings: Any) -> EvaluateResult:
    """Evaluate a trained model on labelled images, as `unet-ray evaluate` does.

    Args:
        ray_address: As for `train`.
        **settings: Fields of `unet_ray.evaluation.config.EvaluateConfig`; `model`, `images` and
            `masks` are required.

    Returns:
        Counts of every image; `.metrics()` has the metrics per class.

    Raises:
        InputError: Anything that cannot work.
    """
    from unet_ray.evaluation.config import EvaluateConfig
    from unet_ray.evaluation.evaluate import evaluate as run

    return run(EvaluateConfig(**settings), ray_address)


def objects(
    tables: Tables | str, image_uri: str, class_name: str, window: Box | None = None
) -> NDArray[np.int64]:
    """Return the regions of a class in an image as a label image.

    Args:
        tables: What `read_tables` returned, or the URI of an output.
        image_uri: URI of the image as in the tables; of a local file its path will do.
        class_name: Class of the model.
        window: Part of the image in px; None: all of it.

    Returns:
        (H, W) of `region_id`, 0 where there is no region.

    Raises:
        InputError: An unknown image or class, or a window that leaves the image.
    """
    found = read_tables(tables) if isinstance(tables, str) else tables
    labels = image_objects(found, resolve_uri(image_uri), window)
    if class_name not in labels:
        known = ", ".join(sorted(labels))
        raise InputError(f"{image_uri} has no class {class_name}; choose one of {known}")
    return labels[class_name]
