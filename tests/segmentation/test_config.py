from dataclasses import replace

import pytest

from unet_ray.cluster.node_hours import compute_cost
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, parse_age, parse_prices
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.digest import config_digest

CONFIG = SegmentConfig(model="m", images="i", output="o")
NETWORK = UNetConfig(1, 1, 2, 2)
MODEL = Model(
    NETWORK,
    state_bytes(UNet(NETWORK)),
    (ClassSpec(1, "cell"),),
    Preprocessing("uint8", (0.0,), (1.0,)),
    Postprocessing((ObjectRule(),)),
)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.6},
        {"min_area": 2},
        {"min_score": 0.5},
        {"precision": "bfloat16"},
        {"lossy_samples": True},
        {"context": 4},
        {"context": 4, "tile": 512},
        {"channels": "0"},
        {"channels": "DAPI"},
        {"pixel_size": "0.5"},
    ],
    ids=str,
)
def test_what_can_change_a_row_changes_the_digest(change: dict[str, object]) -> None:
    assert config_digest(replace(CONFIG, **change), MODEL) != config_digest(CONFIG, MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.5},
        {"min_area": 1},
        {"min_score": 0.0},
        {"lossy_samples": False},
        {"device": "gpu"},
        {"actors": "2"},
        {"tile": 64},
        {"context": 10_000},
        {"shard_images": 3},
        {"limit": 3},
        {"date": "2026-01-01"},
        {"include": "*.tif", "exclude": "thumbs/*", "min_age": "1h"},
    ],
    ids=str,
)
def test_what_cannot_change_a_row_does_not_change_the_digest(change: dict[str, object]) -> None:
    assert config_digest(replace(CONFIG, **change), MODEL) == config_digest(CONFIG, MODEL)


def test_channels_that_mean_the_same_have_the_same_digest() -> None:
    one, two = (replace(CONFIG, channels=channels) for channels in ("DAPI,actin", "dapi, Actin"))
    assert config_digest(one, MODEL) == config_digest(two, MODEL)
    other = replace(CONFIG, channels="actin,DAPI")
    assert config_digest(other, MODEL) != config_digest(one, MODEL)


@pytest.mark.parametrize("exact", [{"context": 4}, {"precision": "bfloat16"}], ids=str)
def test_the_tile_can_change_a_row_where_tiles_are_not_exact(exact: dict[str, object]) -> None:
    config = replace(CONFIG, **exact)
    assert config_digest(replace(config, tile=64), MODEL) != config_digest(config, MODEL)


def test_the_pixel_size_of_the_model_changes_the_digest_only_where_it_is_used() -> None:
    learnt, other = (replace(MODEL, pixel_size_um=size) for size in ((0.5, 0.5), (0.25, 0.5)))
    assert config_digest(CONFIG, learnt) == config_digest(CONFIG, other)
    as_learnt = replace(CONFIG, pixel_size="model")
    assert config_digest(as_learnt, learnt) != config_digest(as_learnt, other)
    assert config_digest(as_learnt, learnt) == config_digest(
        replace(CONFIG, pixel_size=".5"), MODEL
    )
    with pytest.raises(
        InputError, match="the model does not know the pixel size of its training images"
    ):
        config_digest(as_learnt, MODEL)


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e-5", "0.5um", "Model"])
def test_pixel_sizes_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"--pixel-size {text}: give model, or a size in µm"):
        replace(CONFIG, pixel_size=text)


def test_an_unknown_precision_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="--precision fp16: choose float32 or bfloat16"):
        replace(CONFIG, precision="fp16")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"include": ""}, "--include '': an empty pattern; give patterns"),
        ({"exclude": "a.png,,b.png"}, "--exclude 'a.png,,b.png': an empty pattern"),
        ({"exclude": "thumbs/"}, "--exclude 'thumbs/': thumbs/ matches no file"),
        ({"include": "/raw/*"}, "--include '/raw/\\*': /raw/\\* matches no file"),
        ({"min_age": "60"}, "--min-age 60: give a number and its unit, as in 90s, 30m, 1h or 2d"),
        ({"min_age": "-1h"}, "--min-age -1h: give a number and its unit"),
    ],
    ids=str,
)
def test_patterns_and_ages_that_mean_nothing_are_refused(
    flags: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **flags)


@pytest.mark.parametrize(
    ("text", "age_s"), [("90s", 90), ("1.5m", 90), ("1h", 3600), ("2d", 172800)]
)
def test_ages_have_a_unit(text: str, age_s: float) -> None:
    assert parse_age(text, "--min-age") == age_s


def test_costs_are_node_hours_times_prices() -> None:
    hours = {"cpu": 2.0, "gpu": 1.0, "node": 3.0}
    found = compute_cost(hours, parse_prices("0.2,gpu=1.5"), images=4000, megapixels=2000)
    assert found["total"] == pytest.approx(1.5 + 0.2 * 5)  # one GPU hour, five others
    assert found["per_1000_images"] == pytest.approx(2.5 / 4)
    assert found["per_gigapixel"] == pytest.approx(2.5 / 2)
    assert compute_cost(hours, parse_prices("gpu=1.5"), 0, 0.0)["types_without_price"] == [
        "cpu",
        "node",
    ]
    for wrong in ("", "gpu", "gpu=x", "-1", "gpu=nan"):
        with pytest.raises(InputError, match="--node-price"):
            parse_prices(wrong)
