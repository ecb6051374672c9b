import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.network.config import PRESETS
from unet_ray.training.config import TrainConfig


def make_config(**flags: Any) -> TrainConfig:
    return TrainConfig(images="i", masks="m", output="o", **flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": 0}, "--epochs 0: choose at least 1"),
        ({"batch_size": 0}, "--batch-size 0: choose at least 1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0: choose at least 1"),
        ({"patience": -1}, "--patience -1: choose at least 0"),
        ({"border_weight": -0.5}, "--border-weight -0.5: choose at least 0"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: choose above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: choose above 0"),
        ({"border_sigma": 0.0}, "--border-sigma 0.0: choose above 0"),
        ({"checkpoint_minutes": -1.0}, "--checkpoint-minutes -1.0: choose above 0"),
        ({"foreground_share": 1.5}, "--foreground-share 1.5: choose 0 to 1"),
        ({"foreground_share": float("nan")}, "--foreground-share nan: choose 0 to 1"),
        ({"max_error_rate": -0.1}, "--max-error-rate -0.1: choose 0 to 1"),
        ({"val_fraction": 1.0}, "--val-fraction 1.0: choose from 0 up to (not including) 1"),
        (
            {"group_by": -1, "val_fraction": 0.0},
            "--group-by -1 says how images are split, but with --val-fraction 0 none are",
        ),
        (
            {"group_by": "none", "val_images": "i", "val_masks": "m"},
            "--group-by none says how images are split, but with --val-images none are",
        ),
        ({"val_fraction": -0.1}, "--val-fraction -0.1: choose from 0"),
        ({"val_images": "v"}, "--val-images and --val-masks go together"),
        ({"val_masks": "v"}, "--val-images and --val-masks go together"),
        ({"preset": "papr"}, "--preset papr: choose paper or article"),
        ({"init_from": "m", "preset": "paper"}, "--init-from brings its own network"),
        ({"init_from": "m", "depth": 3}, "--init-from brings its own network"),
        ({"init_from": "m", "norm": "none"}, "--init-from brings its own network"),
        ({"workers": "0"}, "--workers 0: give a number from 1"),
        ({"workers": "3,2"}, "--workers 3,2: give a number from 1, or MIN,MAX"),
        ({"workers": "all"}, "--workers all: give a number from 1"),
        ({"classes": "a,a"}, "--classes a,a: 'a' is given to 2 classes: ids and names must differ"),
        ({"classes": "a,"}, "--classes a,: class name '': choose a text of 1 to 256 printable"),
        ({"classes": "a\x1b[31m"}, r"class name 'a\x1b[31m': choose a text of 1 to 256"),
        (
            {"classes": "a=1,b=1"},
            "--classes a=1,b=1: 1 is given to 2 classes: ids and names must differ",
        ),
        ({"classes": "a=-1"}, "--classes a=-1: class id -1: choose 0 to 2147483647"),
        ({"classes": f"a={2**31}"}, "class id 2147483648: choose 0 to 2147483647"),
        (
            {"augment": "flip,flop"},
            "--augment flip,flop: flop is unknown; give all, none, or flip,rotate",
        ),
        ({"best_by": "loss"}, "--best-by loss: give dice, iou"),
        ({"depth": 8}, "depth 8: choose 1 to 7"),
        ({"base_channels": 0}, "base_channels 0: choose 1 to 1024"),
        ({"padding": "full"}, "padding full: choose same or valid"),
        ({"norm": "layer"}, "norm layer: choose none or batch"),
        ({"crop": 100}, "--crop 100 px does not fit depth 4, padding same; nearest: 96 and 112"),
        ({"crop": 8}, "--crop 8 px does not fit depth 4, padding same; nearest: 16"),
        ({"crop": 0}, "--crop 0 px does not fit depth 4, padding same; nearest: 16"),
        ({"crop": -16}, "--crop -16 px does not fit"),
        (
            {"crop": 256, "padding": "valid"},
            "--crop 256 px does not fit depth 4, padding valid; nearest: 244 and 260",
        ),
        ({"class_weights": "1,5", "classes": "a"}, "--class-weights 1,5: give 1 numbers above 0"),
        (
            {"class_weights": "1", "classes": "a,b"},
            "--class-weights 1: give 2 numbers above 0 with commas",
        ),
        ({"class_weights": "1,x"}, "--class-weights 1,x: give numbers above 0 with commas"),
        ({"class_weights": "0,1"}, "--class-weights 0,1: give numbers above 0"),
        ({"class_weights": "1,-1"}, "--class-weights 1,-1: give numbers above 0"),
        ({"class_weights": "nan"}, "--class-weights nan: give numbers above 0"),
        ({"class_weights": "inf,1"}, "--class-weights inf,1: give numbers above 0"),
        ({"class_weights": ""}, "--class-weights : give numbers above 0"),
    ],
)
def test_flags_that_cannot_work_are_refused_in_one_line_before_anything_starts(
    flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        make_config(**flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {
            "val_fraction": 0.0,
            "foreground_share": 0.0,
            "max_error_rate": 1.0,
            "patience": 0,
            "border_weight": 0.0,
        },
        {"foreground_share": 1.0, "val_images": "v", "val_masks": "w"},
        {"workers": "2,4", "classes": "a=1,b=7", "class_weights": "1,5", "best_by": "iou:b"},
        {
            "init_from": "m",
            "crop": 100,
            "class_weights": "1,2,3",
        },  # the model says whether they fit
        {"preset": "paper", "depth": 3, "norm": "batch"},
        {"augment": "none", "ignore_value": None},
    ],
)
def test_flags_that_can_work_are_taken(flags: dict[str, Any]) -> None:
    config = make_config(**flags)
    assert all(getattr(config, name) == value for name, value in flags.items())


def test_class_weights_are_numbers_one_per_class() -> None:
    assert make_config().parse_class_weights(2) is None
    assert make_config(class_weights="1, 5.5").parse_class_weights(2) == (1.0, 5.5)
    assert make_config(class_weights="1e2").parse_class_weights(0) == (100.0,)
    with pytest.raises(
        InputError, match="--class-weights 1,5: give 3 numbers above 0 with commas, one per class"
    ):
        make_config(class_weights="1,5").parse_class_weights(3)


def test_crops_are_256_px_or_the_next_that_fits() -> None:
    for flags, expected in (
        ({}, 256),
        ({"padding": "valid"}, 260),
        ({"preset": "paper"}, 260),
        ({"crop": 64}, 64),
    ):
        config = make_config(**flags)
        assert config.crop_px(config.network(1, 1)) == expected


def test_flags_win_over_the_preset() -> None:
    network = make_config(preset="paper", depth=3).network(5, 2)
    assert (network.in_channels, network.num_classes, network.depth, network.base_channels) == (
        5,
        2,
        3,
        64,
    )
    assert (network.padding, network.norm) == ("valid", "none")
    plain = make_config().network(3, 1)
    assert (plain.base_channels, plain.depth, plain.padding, plain.norm) == (32, 4, "same", "batch")
    assert set(PRESETS) == {"paper", "article"}


@given(st.integers(1, 7), st.sampled_from(["same", "valid"]))
@settings(deadline=None)
def test_the_default_crop_fits_every_network(depth: int, padding: str) -> None:
    config = make_config(depth=depth, padding=padding)
    network = config.network(1, 1)
    crop = config.crop_px(network)
    network.check_size(crop + 2 * network.margin, crop + 2 * network.margin)
    assert 256 <= crop < 256 + network.multiple


@given(st.integers(1, 5), st.sampled_from(["same", "valid"]), st.integers(4, 600))
@settings(deadline=None)
def test_a_crop_is_refused_where_the_network_would_refuse_it_and_the_nearest_are_not(
    depth: int, padding: str, crop: int
) -> None:
    network = make_config(depth=depth, padding=padding).network(1, 1)

    def fits(side: int) -> bool:
        try:
            network.check_size(side + 2 * network.margin, side + 2 * network.margin)
        except InputError:
            return False
        return side > 0

    if fits(crop):
        assert make_config(depth=depth, padding=padding, crop=crop).crop_px(network) == crop
        return
    with pytest.raises(InputError, match="nearest: ") as error:
        make_config(depth=depth, padding=padding, crop=crop)
    nearest = [
        int(number) for number in re.findall(r"\d+", str(error.value).partition("nearest: ")[2])
    ]
    assert all(map(fits, nearest))
    assert not any(map(fits, range(crop, nearest[-1])))
    assert not any(map(fits, range((nearest[0] if len(nearest) == 2 else 0) + 1, crop)))
