"""Digest of the settings that can change a row."""

from __future__ import annotations

import hashlib
import json

from unet_ray.flags import fold_channel, parse_channels
from unet_ray.network.config import PredictorConfig, UNetConfig, effective_context
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.config import SegmentConfig

RESULTS_VERSION = 1
"""Version of the results, raised by hand whenever the same input gives other rows than before."""


def config_digest(config: SegmentConfig, model: Model) -> str:
    """Return the sha256 of the settings that can change a row of an image and a model.

    The device, the number of actors and the size of exact tiles are not part of it.
    """
    context = effective_context(
        model.network, PredictorConfig(tile=config.tile, context=config.context)
    )
    postprocessing = model.postprocessing.override(
        config.threshold, config.min_area, config.min_score
    )
    areas = [rule.min_area for rule in postprocessing.rules]
    scores = [rule.filter.score for rule in postprocessing.rules]
    meaning = {
        "results_version": RESULTS_VERSION,
        "thresholds": [rule.threshold for rule in postprocessing.rules],
        "min_area": areas[0] if len(set(areas)) == 1 else areas,
        "precision": config.precision,
        "inexact": None if is_exact(config, model.network) else [config.tile, context],
    }
    if any(scores):
        meaning["min_score"] = scores  # only if set, so that other digests do not change
    if config.channels is not None:
        meaning["channels"] = [fold_channel(each) for each in parse_channels(config.channels)]
    if pixel_size_um := model.choose_pixel_size(config.pixel_size):
        meaning["pixel_size_um"] = pixel_size_um
    if config.lossy_samples:
        meaning["lossy_samples"] = True
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def is_exact(config: SegmentConfig, network: UNetConfig) -> bool:
    """Tell whether tiles give the same result as whole images.

    In bfloat16 they may not, because other shapes may round differently.
    """
    context = effective_context(network, PredictorConfig(tile=config.tile, context=config.context))
    return config.precision == "float32" and (
        network.padding == "valid" or context >= network.exact_context
    )
