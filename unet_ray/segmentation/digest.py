"""The digest of those settings that can change a row, and what the settings make of a model's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.network.config import PredictorConfig, UNetConfig, effective_context
from unet_ray.network.model_folder import Model
from unet_ray.segmentation.config import SegmentConfig

RESULTS_VERSION = 1
"""Raised by hand whenever the same input gives other rows than before."""


def config_digest(config: SegmentConfig, model: Model) -> str:
    """Return the sha256 of what can change a row beside image and model; never of device, actors or exact tiles."""
    context = effective_context(
        model.network, PredictorConfig(tile=config.tile, context=config.context)
    )
    rule = choose_postprocessing(config, model)
    areas, scores = [least.area for least in rule.least], [least.score for least in rule.least]
    meaning = {
        "results_version": RESULTS_VERSION,
        "thresholds": rule.thresholds,
        "min_area": areas[0] if len(set(areas)) == 1 else areas,
        "precision": config.precision,
        "inexact": None if is_exact(config, model.network) else [config.tile, context],
    }
    if any(scores):
        meaning["min_score"] = scores  # digests without stay what they are
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def is_exact(config: SegmentConfig, network: UNetConfig) -> bool:
    """Tell whether tiles give what whole images do; in bfloat16 another shape may round otherwise."""
    context = effective_context(network, PredictorConfig(tile=config.tile, context=config.context))
    return config.precision == "float32" and (
        network.padding == "valid" or context >= network.exact_context
    )


def choose_postprocessing(config: SegmentConfig, model: Model) -> Postprocessing:
    """Return what of prob_u8 is a class and what its objects: as the flags say, else as the model does."""
    rule, classes = model.rule, len(model.classes)
    thresholds = rule.thresholds if config.threshold is None else (config.threshold,) * classes
    given = {"area": config.min_area, "score": config.min_score}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(
        rule, thresholds=thresholds, least=tuple(replace(least, **chosen) for least in rule.least)
    )
