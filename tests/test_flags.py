"""Numbers that make no sense are refused by every config, whatever its fields."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from unet_ray.cli.main import COMMANDS
from unet_ray.cli.quickstart import QuickstartConfig
from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.network.config import PredictorConfig
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig, VerifyConfig
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.training.config import TrainConfig

NEEDED: dict[type, dict[str, str]] = {
    TrainConfig: {"images": "i", "masks": "m", "output": "o"},
    SegmentConfig: {"model": "m", "images": "i", "output": "o"},
    EvaluateConfig: {"model": "m", "images": "i", "masks": "k"},
    ReportConfig: {"tables": "t", "output": "o.html"},
    VerifyConfig: {"tables": "t"},
    PruneConfig: {"tables": "t", "first_date": "2026-01-01"},
    ExportConfig: {"tables": "t", "format": "png", "output": "o"},
    QuickstartConfig: {},
}
"""Configs of the commands, a row for each, and the flags that they need."""


def fields_of(kind: type) -> list[tuple[type, str]]:
    found = []
    for config in NEEDED:
        hints = get_type_hints(config)
        for field in fields(config):  # type: ignore[arg-type]
            if kind in (hints[field.name], *get_args(hints[field.name])):
                found.append((config, field.name))
    return found


def refuse(config: type, name: str, value: Any) -> None:
    with pytest.raises(InputError) as error:
        config(**NEEDED[config] | {name: value})
    flag = name.replace("_", "-")
    assert str(error.value).startswith(f"--{flag} {value}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("config", "name"), fields_of(float))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(config: type, name: str, value: float) -> None:
    refuse(config, name, value)


@pytest.mark.parametrize(("config", "name"), fields_of(int))
def test_absurdly_large_counts_are_refused(config: type, name: str) -> None:
    refuse(config, name, 2**63)


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (SegmentConfig, "tile", 10**9),
        (SegmentConfig, "tile", 2**16 + 1),
        (SegmentConfig, "context", 10**9),
        (SegmentConfig, "actors", "99999999"),
        (SegmentConfig, "actors", "1,100001"),
        (SegmentConfig, "stall_minutes", 1e300),
        (EvaluateConfig, "actors", "99999999"),
        (EvaluateConfig, "bootstrap", 10**9),
        (TrainConfig, "workers", "99999999"),
        (TrainConfig, "seed", -1),
        (TrainConfig, "epochs", 10**9),
        (TrainConfig, "batch_size", 10**6),
        (TrainConfig, "crop", 2**20),
        (TrainConfig, "border_sigma", 1e9),
        (ReportConfig, "pictures", 10**6),
    ],
)
def test_values_that_no_machine_can_serve_are_refused(config: type, name: str, value: Any) -> None:
    refuse(config, name, value)


def test_every_command_has_its_config_here() -> None:
    assert len(NEEDED) == len(COMMANDS)


def test_the_largest_values_are_taken() -> None:
    SegmentConfig(**NEEDED[SegmentConfig], tile=2**16, actors="100000", stall_minutes=10**6)
    TrainConfig(**NEEDED[TrainConfig], seed=2**63 - 1, crop=2**16, epochs=10**6)
    PredictorConfig(tile=2**16, context=2**16)
