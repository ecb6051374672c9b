"""A model folder: `model.safetensors` and `model.json`, everything that inference needs, and no code.

Loading reads tensors and JSON only; what does not fit together is one clear line. Torch takes seconds to load: that
happens only where a network is built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.filter import ANY, Least
from unet_ray.imaging.regions.postprocessing import ObjectRule
from unet_ray.imaging.regions.separation import Parting
from unet_ray.network.config import UNetConfig
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage

if TYPE_CHECKING:
    from unet_ray.network.unet import UNet

_FORMAT = 2


@dataclass(frozen=True)
class Model:
    """A trained network and what it means."""

    network: UNetConfig
    weights: bytes
    """safetensors."""
    classes: tuple[ClassSpec, ...]
    preprocessing: Preprocessing
    thresholds: tuple[float, ...]
    """Per class: the probability from which on a pixel is the class."""
    parting: Parting | None = None
    """How touching objects are parted: the network has a second filter per class then, for cores of its objects; the
    order is all classes, then all cores. None: objects are the components of the masks."""
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained; not part of the digest."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the validation; not part of the digest."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the software that trained it; not part of the digest."""

    @property
    def digest(self) -> str:
        """sha256 of the weights and of the canonical JSON of network, classes, preprocessing and thresholds."""
        meaning = json.dumps(self._meaning(), sort_keys=True, separators=(",", ":")).encode()
        return hashlib.sha256(hashlib.sha256(self.weights).digest() + meaning).hexdigest()

    def _meaning(self) -> dict[str, Any]:
        meaning = {
            "network": asdict(self.network),
            "classes": [asdict(c) for c in self.classes],
            "preprocessing": asdict(self.preprocessing),
            "thresholds": list(self.thresholds),
        }
        if self.parting is None:
            return meaning  # digests of such models stay what they are
        parting = asdict(self.parting)
        if not self.parting.min_scores:
            del parting["min_scores"]
        return meaning | {"parting": parting}

    @property
    def channels(self) -> list[str]:
        """What each of the network's output filters finds."""
        names = [spec.name for spec in self.classes]
        return names + [f"core of {name}" for name in names] if self.parting else names

    @property
    def rule(self) -> ObjectRule:
        """What its output means."""
        if self.parting is None:
            return ObjectRule(self.thresholds, (ANY,) * len(self.classes))
        scores = self.parting.min_scores or (0.0,) * len(self.classes)
        return ObjectRule(self.thresholds, tuple(map(Least, self.parting.min_areas, scores)), self.parting)

    def build(self) -> UNet:
        """Return the network with its weights; raise InputError where they do not fit."""
        from safetensors.torch import load

        from unet_ray.network.unet import UNet

        network = UNet(self.network)
        try:
            network.load_state_dict(load(self.weights))
        except (RuntimeError, SafetensorError, KeyError) as error:
            first = " ".join(" ".join(str(error).splitlines()[:2]).split())  # of what may be a line per layer
            raise InputError(f"the weights do not fit the network of model.json: {first}") from None
        return network


def state_bytes(network: UNet) -> bytes:
    """Return a network's weights as safetensors."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def save_model(model: Model, folder: Storage) -> None:
    """Write a model folder: weights first, `model.json` last."""
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
    """Read a model folder and check that it is whole.

    Raises: InputError — no model there, damaged, or of a newer format.
    """
    try:
        described = json.loads(folder.read("model.json"))
        weights = folder.read("model.safetensors")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder.uri}: no model here (model.json, model.safetensors); check --model") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{folder.uri}: the model cannot be read: {error}") from None
    if not isinstance(described, dict) or described.get("format") != _FORMAT:
        raise InputError(f"{folder.uri}: model.json is not of format {_FORMAT}; train again, or update unet-ray")
    try:
        model = _parse(described, weights)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder.uri}: model.json is damaged: {error!r}") from None
    if described.get("digest") != model.digest:
        raise InputError(f"{folder.uri}: model.json and model.safetensors do not belong together (digest differs)")
    return model


def _parse(described: dict[str, Any], weights: bytes) -> Model:
    network = UNetConfig(**described["network"])
    model = Model(
        network,
        weights,
        tuple(ClassSpec(int(c["id"]), str(c["name"])) for c in described["classes"]),
        _parse_preprocessing(described["preprocessing"]),
        tuple(float(t) for t in described["thresholds"]),
        _parse_parting(described.get("parting")),
        described.get("training", {}),
        described.get("metrics", {}),
        described.get("versions", {}),
    )
    classes, parting = len(model.classes), model.parting
    per_class = [model.thresholds]
    if parting:
        per_class += [parting.thresholds, parting.min_areas, *([parting.min_scores] if parting.min_scores else [])]
    if any(len(values) != classes for values in per_class) or network.classes != classes * (2 if parting else 1):
        raise ValueError(f"{classes} classes, for each {per_class}, {network.classes} filters")
    return model


def _parse_parting(described: dict[str, Any] | None) -> Parting | None:
    if described is None:
        return None
    return Parting(
        tuple(float(t) for t in described["thresholds"]),
        tuple(int(area) for area in described["min_areas"]),
        int(described["steps"]),
        tuple(float(score) for score in described.get("min_scores", ())),
    )


def _parse_preprocessing(described: dict[str, Any]) -> Preprocessing:
    limits = described["limits"]
    return Preprocessing(
        described["dtype"],
        tuple(described["offset"]),
        tuple(described["scale"]),
        (float(limits[0]), float(limits[1])) if limits else None,
    )
