"""Models with weights set by hand, that find bright and dark pixels of each channel exactly."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.builders import read_model_files, write_model_files
from tests.engine.image_zoo.cases import LEVELS
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

MODELS: dict[str, tuple[str, int, tuple[str, ...] | None]] = {
    "u8x1": ("uint8", 1, None),
    "u8x3": ("uint8", 3, None),
    "u8x5": ("uint8", 5, None),
    "rgb": ("uint8", 3, ("R", "G", "B")),
    "u16x2": ("uint16", 2, None),
    "u16x3": ("uint16", 3, None),
    "dapi,actin": ("uint16", 2, ("DAPI", "actin")),
    "488,405": ("uint16", 2, ("488", "405")),
    "i8x1": ("int8", 1, None),
    "i16x3": ("int16", 3, None),
    "f32x3": ("float32", 3, None),
}
"""Sample type, number of channels and their names (None: the model says none), by name."""


def make_threshold_model(folder: Path, name: str) -> str:
    """Write a model that finds the classes bright0, dark0, bright1, … in channels 0, 1, …

    A pixel is bright or dark if its sample is nearer to that level of `LEVELS` than to the ground.
    No pixel has an effect on another one.

    Args:
        folder: Folder in which the model folder is made.
        name: Name in `MODELS`.
    """
    dtype, channels, names = MODELS[name]
    _, ground, bright = LEVELS[dtype]
    words = [f"{word}{channel}" for channel in range(channels) for word in ("bright", "dark")]
    config = UNetConfig(channels, len(words), len(words), 1, "same", "none")
    preprocessing = Preprocessing(dtype, (ground,) * channels, (bright - ground,) * channels)
    model = Model(
        config,
        state_bytes(set_thresholds(UNet(config))),
        tuple(ClassSpec(number, word) for number, word in enumerate(words, 1)),
        preprocessing,
        Postprocessing((ObjectRule(),) * len(words)),
    )
    place = folder / name
    save_model(model, Storage.of(str(place)))
    if names:
        described, weights = read_model_files(place)
        write_model_files(place, described | {"input_channels": list(names)}, weights)
    return str(place)


def set_thresholds(network: UNet) -> UNet:
    """Set the weights so that filter 2k is positive where channel k is above 0.5, and filter 2k + 1
    where it is below −0.5.
    """
    first, second = (network.contracting[0][place] for place in (0, 2))
    third, fourth = (network.expansive[0][place] for place in (0, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for filter_ in range(network.config.num_classes):
            sign = -1.0 if filter_ % 2 else 1.0
            first.weight[filter_, filter_ // 2, 1, 1] = sign
            for passing in (second, third, fourth):
                passing.weight[filter_, filter_, 1, 1] = 1.0
            network.head.weight[filter_, filter_, 0, 0] = 40.0
            network.head.bias[filter_] = -20.0
    return network
