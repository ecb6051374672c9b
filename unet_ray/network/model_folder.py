"""A model folder: `model.safetensors` and `model.json`, all that inference needs, and no code.

Loading reads tensors and JSON only, and reports files that do not fit together in one line. Torch
takes seconds to load, so it is imported only where a network is built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.imaging.regions.separation import Separation
from unet_ray.network.config import UNetConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    from unet_ray.network.unet import UNet

_FORMAT = 2


@dataclass(frozen=True)
class Model:
    """A trained network with everything needed to turn images into regions."""

    network: UNetConfig
    """Architecture of the network."""
    weights: bytes
    """Weights as safetensors."""
    classes: tuple[ClassSpec, ...]
    preprocessing: Preprocessing
    thresholds: tuple[float, ...]
    """Lowest probability at which a pixel belongs to the class, for each class."""
    separation: Separation | None = None
    """Settings of the separation of touching objects. The network then has a second filter per
    class, for the markers of its objects; the filters of all classes come first, then those of all
    markers. None: objects are the components of the masks."""
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of the training; not part of the digest."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Results on the validation images; not part of the digest."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the software that trained the model; not part of the digest."""

    @property
    def digest(self) -> str:
        """SHA-256 that identifies what the model computes.

        It covers the weights and the canonical JSON of network, classes, preprocessing, thresholds
        and separation.
        """
        meaning = json.dumps(self._meaning(), sort_keys=True, separators=(",", ":")).encode()
        return hashlib.sha256(hashlib.sha256(self.weights).digest() + meaning).hexdigest()

    def _meaning(self) -> dict[str, Any]:
        """Return the settings that the digest covers.

        The keys are written out, so that renaming a field does not change the digest.
        """
        meaning: dict[str, Any] = {
            "network": _network_as_json(self.network),
            "classes": [{"id": spec.id, "name": spec.name} for spec in self.classes],
            "preprocessing": preprocessing_as_json(self.preprocessing),
            "thresholds": list(self.thresholds),
        }
        if self.separation is not None:
            meaning["parting"] = _separation_as_json(self.separation)
        return meaning

    @property
    def channels(self) -> list[str]:
        """Name of what each output filter of the network finds."""
        names = [spec.name for spec in self.classes]
        return names + [f"marker of {name}" for name in names] if self.separation else names

    @property
    def rule(self) -> Postprocessing:
        """Postprocessing that turns the network's output into masks and regions."""
        if self.separation is None:
            return Postprocessing(self.thresholds, (ANY,) * len(self.classes))
        scores = self.separation.min_scores or (0.0,) * len(self.classes)
        return Postprocessing(
            self.thresholds,
            tuple(map(RegionFilter, self.separation.min_areas, scores)),
            self.separation,
        )

    def build(self) -> UNet:
        """Build the network with its weights.

        Raises:
            InputError: Weights that do not fit the network.
        """
        from safetensors.torch import load

        from unet_ray.network.unet import UNet

        network = UNet(self.network)
        try:
            network.load_state_dict(load(self.weights))
        except (RuntimeError, SafetensorError, KeyError) as error:
            # Torch may write a line per layer: keep the first two.
            first = " ".join(" ".join(str(error).splitlines()[:2]).split())
            raise InputError(f"the weights do not fit the network of model.json: {first}") from None
        return network


def _network_as_json(network: UNetConfig) -> dict[str, Any]:
    return {
        "in_channels": network.in_channels,
        "classes": network.num_classes,
        "base_channels": network.base_channels,
        "depth": network.depth,
        "padding": network.padding,
        "norm": network.norm,
    }


def _separation_as_json(separation: Separation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "thresholds": separation.thresholds,
        "min_areas": separation.min_areas,
        "steps": separation.steps,
    }
    if separation.min_scores:
        found["min_scores"] = separation.min_scores
    return found


def state_bytes(network: UNet) -> bytes:
    """Return a network's weights as safetensors."""
    from safetensors.torch import save

    return save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    )


def save_model(model: Model, folder: Storage) -> None:
    """Write a model folder: first the weights, then `model.json`."""
    folder.write("model.safetensors", model.weights)
    described = {
        "format": _FORMAT,
        "digest": model.digest,
        **model._meaning(),
        "channels": model.channels,
        "training": model.training,
        "metrics": model.metrics,
        "versions": model.versions,
    }
    folder.write("model.json", json.dumps(described, indent=2, sort_keys=True).encode())


def load_model(folder: Storage) -> Model:
    """Read a model folder and check that its files belong together.

    Raises:
        InputError: A folder without a model, a damaged model, or one of another format.
    """
    try:
        described = json.loads(folder.read("model.json"))
        weights = folder.read("model.safetensors")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder.uri}: there is no model here (model.json, model.safetensors); check --model"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"{folder.uri}: the model cannot be read: {error}") from None
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise InputError(
            f"{folder.uri}: model.json is not of format {_FORMAT}; train again, or update unet-ray"
        )
    try:
        model = _parse(described, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder.uri}: model.json is damaged: {error!r}") from None
    if described.get("digest") != model.digest:
        raise InputError(
            f"{folder.uri}: model.json and model.safetensors do not belong together: "
            "the digest differs"
        )
    return model


def _parse(described: dict[str, Any], weights: bytes) -> Model:
    network = _parse_network(described["network"])
    model = Model(
        network,
        weights,
        tuple(ClassSpec(int(c["id"]), str(c["name"])) for c in described["classes"]),
        parse_preprocessing(described["preprocessing"]),
        tuple(float(t) for t in described["thresholds"]),
        _parse_separation(described.get("parting")),
        described.get("training", {}),
        described.get("metrics", {}),
        described.get("versions", {}),
    )
    classes, separation = len(model.classes), model.separation
    per_class = [model.thresholds]
    if separation:
        per_class += [
            separation.thresholds,
            separation.min_areas,
            *([separation.min_scores] if separation.min_scores else []),
        ]
    if any(len(values) != classes for values in per_class) or network.num_classes != classes * (
        2 if separation else 1
    ):
        raise ValueError(f"{classes} classes, for each {per_class}, {network.num_classes} filters")
    return model


def _parse_network(described: dict[str, Any]) -> UNetConfig:
    return UNetConfig(
        num_classes=described["classes"], **{k: v for k, v in described.items() if k != "classes"}
    )


def _parse_separation(described: dict[str, Any] | None) -> Separation | None:
    if described is None:
        return None
    return Separation(
        tuple(float(t) for t in described["thresholds"]),
        tuple(int(area) for area in described["min_areas"]),
        int(described["steps"]),
        tuple(float(score) for score in described.get("min_scores", ())),
    )


def preprocessing_as_json(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the constants of a preprocessing as plain values."""
    return {
        "dtype": preprocessing.dtype,
        "offset": preprocessing.offset,
        "scale": preprocessing.scale,
        "limits": preprocessing.limits,
    }


def parse_preprocessing(described: dict[str, Any]) -> Preprocessing:
    """Read what `preprocessing_as_json` returns."""
    limits = described["limits"]
    return Preprocessing(
        described["dtype"],
        tuple(described["offset"]),
        tuple(described["scale"]),
        (float(limits[0]), float(limits[1])) if limits else None,
    )
