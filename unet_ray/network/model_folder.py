"""A model folder: weights and `model.json`, all that inference needs, and no code.

Loading reads tensors and JSON only, and checks every value: a folder may come from anywhere. Torch
takes seconds to load, so it is imported only where a network is built.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any

from unet_ray.errors import InputError, one_line
from unet_ray.flags import ClassSpec, check_classes, parse_channels, parse_pixel_size
from unet_ray.imaging.channels import ChannelSelection, ChosenChannels, InputChannels
from unet_ray.imaging.regions.filter import ANY
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.json_object import JsonObject
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.weights import check_weights, load_weights, read_weights
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    from unet_ray.network.unet import UNet

_logger = logging.getLogger("unet_ray")

_FORMAT = 3
_FORMAT_OF_0_1 = 2
"""Format of version 0.1, whose weights are always `model.safetensors`."""
_DESCRIPTION = "model.json"
_MAX_DESCRIPTION_BYTES = 2**22
"""Largest `model.json` (bytes); with 255 classes it has about 200 KB."""


@dataclass(frozen=True)
class Model:
    """A trained network with everything needed to turn images into regions."""

    network: UNetConfig
    """Architecture of the network."""
    weights: bytes
    """Weights as safetensors."""
    classes: tuple[ClassSpec, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing
    """Rules that turn the network's output into masks and regions. If it separates touching
    objects, the network has a second filter per class, for the markers of its objects; the filters
    of all classes come first, then those of all markers. If it does not, the rules keep every
    object."""
    pixel_size_um: tuple[float, float] | None = None
    """Median width and height of the pixels of the training images (µm); not part of the digest.
    None: most images do not state it."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of the training; not part of the digest."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results on the validation images; not part of the digest."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the software that trained the model; not part of the digest."""
    input_channels: tuple[str, ...] | tuple[int, ...] | None = None
    """Channels that the network takes: their names, or their indices in images whose channels have
    none. None: as many as the network takes, of images whose channels have no names or are
    colours."""
    image_channels: int | None = None
    """Number of channels of the images in which `input_channels` are indices; None: not known."""
    is_of_0_1: bool = False
    """True if version 0.1 wrote the model, which did not read channel names; not part of the
    digest."""

    def __post_init__(self) -> None:
        check_classes(self.classes)
        if self.pixel_size_um is not None and not all(map(_is_size, self.pixel_size_um)):
            raise InputError(f"pixel_size_um {list(self.pixel_size_um)}: each must be above 0")
        rules = self.postprocessing.rules
        separates = self.postprocessing.separates
        _check_count("thresholds", len(rules), len(self.classes))
        num_filters = len(self.classes)
        if separates:
            num_filters *= 2
        _check_count("filters of the network", self.network.num_classes, num_filters)
        # model.json holds areas and scores only for models that separate objects
        assert separates or all(rule.filter == ANY for rule in rules)
        channels = self.network.in_channels
        _check_count("channels of the preprocessing", self.preprocessing.channels, channels)
        _ = self.inputs

    @property
    def inputs(self) -> InputChannels:
        """Channels that the network takes; raise InputError if they cannot be right."""
        inputs = InputChannels.of(
            self.network.in_channels, self.input_channels, self.image_channels
        )
        return replace(inputs, takes_any_name=self.is_of_0_1)

    def select_channels(self, channels: str | None) -> ChannelSelection:
        """Return which channels of each image the network takes.

        Args:
            channels: Value of `--channels`, which overrides the model's own; None: not given.

        Raises:
            InputError: The number of channels differs from what the network takes.
        """
        tokens = parse_channels(channels)
        if not tokens:
            return self.inputs
        if len(tokens) != self.network.in_channels:
            raise InputError(
                f"--channels {channels}: the number of channels is {len(tokens)}, but the model "
                f"was trained on {self.inputs}; give one for each of these"
            )
        return ChosenChannels(tokens)

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(self.weights).hexdigest()

    @property
    def digest(self) -> str:
        """SHA-256 that identifies what the model computes.

        It covers the weights and the canonical JSON of network, classes, preprocessing,
        postprocessing and channels.
        """
        meaning = json.dumps(self._meaning(), sort_keys=True, separators=(",", ":")).encode()
        return hashlib.sha256(bytes.fromhex(self.weights_sha256) + meaning).hexdigest()

    def _meaning(self) -> dict[str, Any]:
        """Return the settings that the digest covers.

        The keys are written out, so that renaming a field does not change the digest.
        """
        meaning: dict[str, Any] = {
            "network": {
                "in_channels": self.network.in_channels,
                "classes": self.network.num_classes,
                "base_channels": self.network.base_channels,
                "depth": self.network.depth,
                "padding": self.network.padding,
                "norm": self.network.norm,
            },
            "classes": [{"id": spec.id, "name": spec.name} for spec in self.classes],
            "preprocessing": preprocessing_as_json(self.preprocessing),
        }
        rules = self.postprocessing.rules
        meaning["thresholds"] = [rule.threshold for rule in rules]
        if self.postprocessing.separates:
            # the separation of touching objects; model folders keep the name of version 0.1
            parting: dict[str, Any] = {
                "thresholds": [rule.marker_threshold for rule in rules],
                "min_areas": [rule.min_area for rule in rules],
                "steps": self.postprocessing.steps,
            }
            if any(rule.min_score is not None for rule in rules):
                parting["min_scores"] = [rule.filter.score for rule in rules]
            meaning["parting"] = parting
        return meaning | inputs_as_json(self.inputs)

    @property
    def channels(self) -> list[str]:
        """Name of what each output filter of the network finds."""
        names = [spec.name for spec in self.classes]
        if not self.postprocessing.separates:
            return names
        return names + [f"marker of {name}" for name in names]

    def choose_pixel_size(self, flag: str | None) -> tuple[float, float] | None:
        """Return the width and height that pixels have for the network (µm).

        Args:
            flag: Value of `--pixel-size`; None: not given.

        Returns:
            The size that images are resampled to; None: they are not resampled.

        Raises:
            InputError: The flag is `model`, and the model does not know its pixel size.
        """
        chosen = parse_pixel_size(flag)
        if chosen is None:
            return None
        if chosen != "model":
            return chosen, chosen
        if self.pixel_size_um is None:
            raise InputError(
                "--pixel-size model: the model does not know the pixel size of its training "
                "images, most of which did not state it; give a number in µm, as in 0.5"
            )
        return self.pixel_size_um

    def build(self) -> UNet:
        """Build the network with its weights.

        Raises:
            InputError: Weights that do not fit the network, or are not all finite.
        """
        from unet_ray.network.unet import UNet

        network = UNet(self.network)
        network.load_state_dict(load_weights(self.weights, self.network))
        return network


def _is_size(side_um: float) -> bool:
    return 0 < side_um < inf


def _check_count(name: str, found: int, needed: int) -> None:
    if found != needed:
        raise InputError(f"{name}: {found} found, but {needed} needed")


def state_bytes(network: UNet) -> bytes:
    """Return a network's weights as safetensors."""
    from safetensors.torch import save

    tensors = {}
    for name, tensor in network.state_dict().items():
        tensors[name] = tensor.detach().cpu().contiguous()
    return save(tensors)


def save_model(model: Model, folder: Storage) -> None:
    """Write a model folder, or replace the model in one.

    A reader finds the earlier model or the new one at any moment, also after a crash. The weights
    get a name of their own, and `model.json`, which names them, is written after them. The weights
    that it named before are removed last.

    Args:
        model: Model to write.
        folder: Model folder, which need not exist.

    Raises:
        InputError: Weights that would not load again.
    """
    check_weights(model.weights, model.network)
    weights = _name_weights(model.weights_sha256)
    replaced = None
    with suppress(OSError, InputError):  # no model, or a damaged one, is replaced
        replaced = _WeightsFile.of(_read_description(folder)).name
    folder.write(weights, model.weights)
    described = {
        "format": _FORMAT,
        "digest": model.digest,
        "weights": {"file": weights, "sha256": model.weights_sha256},
        **model._meaning(),
        "channels": model.channels,
        "pixel_size_um": model.pixel_size_um,
        "training": model.training,
        "metrics": model.metrics,
        "versions": model.versions,
    }
    folder.write(_DESCRIPTION, json.dumps(described, indent=2, sort_keys=True).encode())
    if replaced is None or replaced == weights:
        return
    try:
        folder.delete(replaced)
    except OSError as error:
        _logger.warning(
            f"{folder.uri}/{replaced}: the weights of the replaced model cannot be removed "
            f"({one_line(error)}); remove them by hand"
        )


def _name_weights(sha256: str) -> str:
    return f"model-{sha256[:16]}.safetensors"


def load_model(folder: Storage) -> Model:
    """Read a model folder, and check that its files belong together and that every value is sound.

    Args:
        folder: Model folder, of this version or of 0.1.

    Raises:
        InputError: A folder without a model, a damaged model, or one of another format.
    """
    try:
        try:
            return _read_model(folder)
        except FileNotFoundError:  # another model may have replaced it between the two reads
            return _read_model(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder.uri}: there is no model here ({_DESCRIPTION} and the weights that it names); "
            "check --model"
        ) from None
    except OSError as error:
        raise InputError(f"{folder.uri}: the model cannot be read: {one_line(error)}") from None
    except MemoryError:
        raise InputError(f"{folder.uri}: the weights do not fit into memory") from None


def _read_model(folder: Storage) -> Model:
    file = _DESCRIPTION
    try:
        described = _read_description(folder)
        model = _parse(described)
        digest = described.text("digest")
        stored = _WeightsFile.of(described)
        file = stored.name
        model = replace(model, weights=read_weights(folder.join(file), model.network))
        if stored.sha256 not in (None, model.weights_sha256) or digest != model.digest:
            raise InputError(f"not the weights of {_DESCRIPTION}: the digest differs")
        check_weights(model.weights, model.network)
    except InputError as error:
        raise InputError(
            f"{folder.uri}/{file}: {error}; restore the model folder, or train again"
        ) from None
    return model


def _read_description(folder: Storage) -> JsonObject:
    """Return the content of `model.json`.

    Raises:
        InputError: A file that is too large, not JSON, or of another format.
        OSError: A file that cannot be read.
    """
    data = folder.join(_DESCRIPTION).read_range(0, _MAX_DESCRIPTION_BYTES + 1)
    if len(data) > _MAX_DESCRIPTION_BYTES:
        raise InputError(f"larger than {_MAX_DESCRIPTION_BYTES} bytes")
    described = JsonObject.parse(data)
    found = described.integer("format")
    if found not in (_FORMAT_OF_0_1, _FORMAT):
        raise InputError(f"format {found}, but this version reads {_FORMAT_OF_0_1} and {_FORMAT}")
    return described


@dataclass(frozen=True)
class _WeightsFile:
    """File of the weights, as `model.json` names it."""

    name: str
    sha256: str | None
    """SHA-256 of its content. None: version 0.1 did not write it."""

    @staticmethod
    def of(described: JsonObject) -> _WeightsFile:
        """Return the file that a `model.json` names.

        Raises:
            InputError: A name that does not follow from the digest, and might point anywhere.
        """
        if described.integer("format") == _FORMAT_OF_0_1:
            return _WeightsFile("model.safetensors", None)
        weights = described.object("weights")
        name = weights.text("file")
        sha256 = weights.text("sha256")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise InputError(f"weights.sha256 {sha256!r} is not 64 hexadecimal digits")
        if name != _name_weights(sha256):
            raise InputError(f"weights.file {name!r} is not {_name_weights(sha256)}")
        return _WeightsFile(name, sha256)


def _parse(described: JsonObject) -> Model:
    """Return the model that a `model.json` describes, without its weights."""
    training = JsonObject.of(described.values.get("training", {}), "training")
    metrics = JsonObject.of(described.values.get("metrics", {}), "metrics")
    versions = JsonObject.of(described.values.get("versions", {}), "versions")
    stored = described.object("network")
    network = UNetConfig(
        in_channels=stored.integer("in_channels"),
        num_classes=stored.integer("classes"),
        base_channels=stored.integer("base_channels"),
        depth=stored.integer("depth"),
        padding=stored.text("padding"),  # type: ignore[arg-type]
        norm=stored.text("norm"),  # type: ignore[arg-type]
    )
    inputs = parse_inputs(described, network.in_channels)
    classes = tuple(
        ClassSpec(spec.integer("id"), spec.text("name")) for spec in described.objects("classes")
    )
    return Model(
        network=network,
        weights=b"",
        classes=classes,
        preprocessing=parse_preprocessing(described.object("preprocessing")),
        postprocessing=_parse_postprocessing(described, len(classes)),
        pixel_size_um=_parse_pixel_size(described),
        training=training.values,
        metrics=metrics.values,
        versions=versions.values,
        input_channels=inputs.chosen,
        image_channels=inputs.image_channels,
        is_of_0_1=described.integer("format") == _FORMAT_OF_0_1,
    )


def inputs_as_json(inputs: InputChannels) -> dict[str, Any]:
    """Return the channels that a network takes as plain values; empty if any channels fit."""
    found: dict[str, Any] = {}
    if inputs.chosen is not None:  # only if there are any, so that other digests do not change
        found["input_channels"] = list(inputs.chosen)
    if inputs.image_channels is not None:
        found["image_channels"] = inputs.image_channels
    return found


def parse_inputs(described: JsonObject, count: int) -> InputChannels:
    """Read what `inputs_as_json` returns, for a network that takes `count` channels.

    Raises:
        InputError: A value of another type or out of bounds.
    """
    chosen: tuple[str, ...] | tuple[int, ...] | None = None
    if "input_channels" in described.values:
        values = described.get("input_channels")
        are_names = isinstance(values, list) and any(isinstance(value, str) for value in values)
        take = described.texts if are_names else described.integers
        chosen = take("input_channels")
    has_count = "image_channels" in described.values
    image_channels = described.integer("image_channels") if has_count else None
    return InputChannels.of(count, chosen, image_channels)


def _parse_postprocessing(described: JsonObject, num_classes: int) -> Postprocessing:
    thresholds = described.numbers("thresholds")
    _check_count("thresholds", len(thresholds), num_classes)
    if described.values.get("parting") is None:
        return Postprocessing(tuple(ObjectRule(float(each)) for each in thresholds))
    parting = described.object("parting")
    markers = parting.numbers("thresholds")
    areas = parting.integers("min_areas")
    _check_count("thresholds of markers", len(markers), num_classes)
    _check_count("min_areas", len(areas), num_classes)
    # models before 2026-11-26, and those that were not tuned, have no scores
    stored = parting.numbers("min_scores") if "min_scores" in parting.values else ()
    if stored:
        _check_count("min_scores", len(stored), num_classes)
    scores: tuple[float | None, ...] = tuple(map(float, stored)) or (None,) * num_classes
    rules = []
    for threshold, marker, area, score in zip(thresholds, markers, areas, scores, strict=True):
        rules.append(ObjectRule(float(threshold), float(marker), area, score))
    return Postprocessing(tuple(rules), parting.integer("steps"))


def _parse_pixel_size(described: JsonObject) -> tuple[float, float] | None:
    if described.values.get("pixel_size_um") is None:  # an earlier version, or not known
        return None
    sides = described.numbers("pixel_size_um")
    _check_count("sides of pixel_size_um", len(sides), 2)
    return float(sides[0]), float(sides[1])


def preprocessing_as_json(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the constants of a preprocessing as plain values."""
    return {
        "dtype": preprocessing.dtype,
        "offset": preprocessing.offset,
        "scale": preprocessing.scale,
        "limits": preprocessing.limits,
    }


def parse_preprocessing(described: JsonObject) -> Preprocessing:
    """Read what `preprocessing_as_json` returns.

    Raises:
        InputError: A value that is missing, of another type or out of bounds.
    """
    has_limits = described.get("limits") is not None
    limits = described.numbers("limits") if has_limits else (-1.0, 1.0)
    if len(limits) != 2:
        raise InputError(f"limits of the preprocessing: {len(limits)} found, but 2 needed")
    low, high = map(float, limits)
    return Preprocessing(
        described.text("dtype"),
        described.numbers("offset"),
        described.numbers("scale"),
        (low, high) if has_limits else None,
    )
