"""The record of a run: `runs/RUN_ID.json`."""

from __future__ import annotations

from dataclasses import asdict

from unet_ray.cluster.node_hours import compute_cost
from unet_ray.cluster.session import software_versions
from unet_ray.flags import parse_prices
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.network.model_folder import Model, inputs_as_json
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.result import SegmentResult
from unet_ray.storage.storage import Storage
from unet_ray.tables.runs import write_run_record

_MESSAGES = 10
"""Number of error messages in a run record."""
_BUSY = 0.8
"""Share of time at work above which the predictors are the bottleneck."""


def write_record(
    output: Storage,
    result: SegmentResult,
    config: SegmentConfig,
    config_digest: str,
    model: Model,
    postprocessing: Postprocessing,
) -> None:
    """Write the current record of a run.

    Args:
        output: Root of the tables.
        result: Result of the run so far.
        config: Settings of the run.
        config_digest: Their digest.
        model: The model.
        postprocessing: The model's postprocessing, with the values that the settings override.
    """
    filters = {
        spec.id: rule.filter for spec, rule in zip(model.classes, postprocessing.rules, strict=True)
    }
    if config.node_price and result.node_hours:
        prices = parse_prices(config.node_price)
        result.cost = compute_cost(result.node_hours, prices, result.images_done, result.megapixels)
    record = asdict(result) | {
        "error_messages": dict(list(result.error_messages.items())[:_MESSAGES]),
        "config": asdict(config),
        "config_digest": config_digest,
        "model_digest": model.digest,
        **inputs_as_json(model.inputs),
        "images_per_s": result.images_per_s,
        "megapixels_per_s": result.megapixels_per_s,
        "bottleneck": _find_bottleneck(result),
        "objects": {
            "parted": postprocessing.separates,
            "min_areas": {class_id: kept.area for class_id, kept in filters.items()},
            "min_scores": {class_id: kept.score for class_id, kept in filters.items()},
        },
        "versions": software_versions(),
    }
    write_run_record(output, result.run_id, record)


def _find_bottleneck(result: SegmentResult) -> str | None:
    """Return the stage that the others wait for: busy predictors, else the longest other stage."""
    if result.predictor_busy_share >= _BUSY:
        return "predict"
    others = {stage: seconds for stage, seconds in result.stage_s.items() if stage != "predict"}
    return max(others, key=lambda stage: others[stage]) if others else None
