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
from unet_ray.flags import is_colour, parse_classes, parse_mask_value, show_value
from unet_ray.network.config import PredictorConfig
from unet_ray.output.config import ExportConfig, PruneConfig, ReportConfig, VerifyConfig
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.store_options import StoreOptions, parse_store_options
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


def test_classes_have_names_ids_or_colours() -> None:
    assert [(c.id, c.colour, c.is_numbered) for c in parse_classes("a,b")] == [
        (1, None, False),
        (2, None, False),
    ]
    assert [(c.id, c.colour, c.is_numbered) for c in parse_classes("a=4, b=2")] == [
        (4, None, True),
        (2, None, True),
    ]
    assert [(c.id, c.colour, c.is_numbered) for c in parse_classes("a=#0aBc00,b = #000001")] == [
        (1, "#0abc00", False),
        (2, "#000001", False),
    ]
    assert parse_classes("a=#000001") == parse_classes("a"), "a class is its id and its name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=#000001,b", "number or colour all classes or none"),
        ("a=#000001,b=2", "give ids to all classes, or colours to all"),
        ("a=#00001,b=#000002", "#00001 is neither a whole number nor a colour"),
        ("a=#gg0000", "neither"),
        ("a=red", "red is neither a whole number nor a colour .a=1,b=7 or a=#307020"),
        ("a=#000001,b=#000001", "'#000001' is given to 2 classes: colours must differ"),
    ],
)
def test_classes_of_mixed_or_equal_colours_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^--classes {text}: .*{message}"):
        parse_classes(text)


def test_values_of_masks_are_numbers_or_colours() -> None:
    for value in (255, 0, -1, None):
        assert parse_mask_value(value, "--ignore-value") == value
    value = parse_mask_value("#E0e0c0", "--ignore-value")
    assert show_value(value) == "#e0e0c0"
    assert is_colour(value)
    with pytest.raises(InputError, match="--ignore-value e0: give a number, or a colour in quotes"):
        parse_mask_value("e0", "--ignore-value")


def test_every_command_has_its_config_here() -> None:
    assert len(NEEDED) == len(COMMANDS)


def test_the_largest_values_are_taken() -> None:
    SegmentConfig(**NEEDED[SegmentConfig], tile=2**16, actors="100000", stall_minutes=10**6)
    TrainConfig(**NEEDED[TrainConfig], seed=2**63 - 1, crop=2**16, epochs=10**6)
    PredictorConfig(tile=2**16, context=2**16)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (None, StoreOptions()),
        ("anon=true", StoreOptions(anon=True)),
        (
            "requester_pays=True, region=us-west-2,endpoint_url=https://s3.example.org:9000",
            StoreOptions(
                requester_pays=True,
                region="us-west-2",
                endpoint_url="https://s3.example.org:9000",
            ),
        ),
        (
            "profile=far,addressing_style=path,ca_bundle=/etc/ca.pem",
            StoreOptions(profile="far", addressing_style="path", ca_bundle="/etc/ca.pem"),
        ),
    ],
)
def test_options_of_a_store_are_typed(text: str | None, options: StoreOptions) -> None:
    assert parse_store_options(text, "--images-options") == options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("secret=abc", "secrets do not belong in flags"),
        ("key=abc,anon=true", "secrets do not belong in flags"),
        ("aws_session_token=abc", "secrets do not belong in flags"),
        ("password=abc", "secrets do not belong in flags"),
        ("verify=false", "give NAME=VALUE of requester_pays, anon, endpoint_url, profile"),
        ("anon", "give NAME=VALUE of"),
        ("region=", "region is empty"),
        ("", "give NAME=VALUE of"),
        ("anon=1", "choose true or false"),
        ("anon=true,anon=true", "given twice"),
        ("addressing_style=dns", "choose auto, path, virtual"),
        ("endpoint_url=https://me:abc@host", "without a user, a password"),
        ("endpoint_url=https://host/?AWSAccessKeyId=abc", "without a user, a password"),
        ("endpoint_url=file:///etc", "give https://HOST"),
        ("anon=true,profile=far", "give only one of them"),
    ],
)
def test_options_of_a_store_that_cannot_be_are_refused_with_the_reason(
    text: str, reason: str
) -> None:
    with pytest.raises(InputError, match="--images-options") as caught:
        parse_store_options(text, "--images-options")
    assert reason in str(caught.value)
    assert "abc" not in str(caught.value)
