"""Weights that a training starts from, out of a model with other classes."""

from __future__ import annotations

import torch

from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.network.model_folder import load_model
from unet_ray.network.weights import load_weights
from unet_ray.storage.storage import Storage
from unet_ray.training.initial_weights import adapt_weights


def test_classes_of_the_same_name_keep_their_filters(tiny_model: str) -> None:
    """The model has cell and fibre, the training fibre and hole: fibre moves to the first place."""
    model = load_model(Storage.of(tiny_model))
    labelling = Labelling("classes", (ClassSpec(1, "fibre"), ClassSpec(2, "hole")))
    old = load_weights(model.weights, model.network)
    new = load_weights(adapt_weights(model, labelling, model.network), model.network)
    heads = {"head.weight", "head.bias"}
    for name in heads:
        assert torch.equal(new[name][0], old[name][1])
    assert not torch.equal(new["head.weight"][1], old["head.weight"][0])
    for name in old.keys() - heads:
        assert torch.equal(new[name], old[name]), name
