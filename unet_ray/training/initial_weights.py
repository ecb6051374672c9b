"""Initial weights of a training, taken from a model whose classes may differ."""

from __future__ import annotations

import logging

import torch

from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, state_bytes
from unet_ray.network.unet import UNet
from unet_ray.network.weights import load_weights

_logger = logging.getLogger("unet_ray")


def adapt_weights(initial: Model, labelling: Labelling, network: UNetConfig) -> bytes:
    """Return the weights to start from as safetensors.

    They are the weights of a model. Classes that the model has keep its filters; new classes get
    random filters. The classes that are kept are logged.

    Args:
        initial: Model to start from.
        labelling: Classes of the training.
        network: Architecture of the training; only its number of filters may differ from the model.
    """
    torch.manual_seed(0)
    fresh = UNet(network)
    weights = load_weights(initial.weights, initial.network)
    places = {c.name: place for place, c in enumerate(initial.classes)}
    known = [
        (place, places[c.name]) for place, c in enumerate(labelling.classes) if c.name in places
    ]
    filters = list(known)
    # The filters of the markers follow those of the classes.
    if network.num_classes > len(labelling.classes) and initial.postprocessing.separates:
        filters += [
            (place + len(labelling.classes), before + len(places)) for place, before in known
        ]
    for name in ("head.weight", "head.bias"):
        head = fresh.state_dict()[name]
        for place, before in filters:
            head[place] = weights[name][before]
        weights[name] = head
    fresh.load_state_dict(weights)
    names = ", ".join(labelling.classes[place].name for place, _ in known) or "none"
    _logger.info(
        f"starting from a model that has these classes: {names}; "
        f"classes with new filters: {len(labelling.classes) - len(known)}"
    )
    return state_bytes(fresh)
