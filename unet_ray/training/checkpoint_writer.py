"""Writing and reading a checkpoint: a folder of tensors and JSON, without code or pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from unet_ray.network.config import UNetConfig
from unet_ray.network.learner import Learner
from unet_ray.network.model_folder import state_bytes
from unet_ray.network.weights import load_weights
from unet_ray.training.checkpoints import BEST, DIGESTS, OPTIMIZER, WEIGHTS, digests_of
from unet_ray.training.progress import PROGRESS, Progress


@dataclass(frozen=True)
class State:
    """Content of a checkpoint."""

    progress: Progress
    """Progress of the training."""
    weights: dict[str, Tensor]
    """Weights of the network by name."""
    optimizer: dict[str, Tensor]
    """State of the optimizer, keyed `index.name`."""
    best: bytes | None = field(repr=False, default=None)
    """Weights of the best epoch as safetensors. None: there is no best epoch yet."""


def write_state(folder: Path, learner: Learner, progress: Progress, best: bytes | None) -> None:
    """Write the files of a checkpoint, with digests by which a later run checks them.

    Args:
        folder: Existing local folder to write to.
        learner: Network and optimizer.
        progress: Progress of the training.
        best: Weights of the best epoch as safetensors. None: there is no best epoch yet.
    """
    flat = {}
    for index, values in learner.optimizer.state_dict()["state"].items():
        for name, tensor in values.items():
            flat[f"{index}.{name}"] = tensor.cpu().contiguous()
    files = {
        WEIGHTS: state_bytes(learner.unet),
        OPTIMIZER: save(flat),
        PROGRESS: progress.to_json(),
    }
    if best is not None:
        files[BEST] = best
    files[DIGESTS] = digests_of(files)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def read_state(folder: Path, network: UNetConfig) -> State:
    """Read the files of a checkpoint.

    Args:
        folder: Local folder of the checkpoint.
        network: Architecture of the network that is trained.

    Raises:
        InputError: The weights do not fit the network, or are not all finite.
    """
    best = folder / BEST
    return State(
        progress=Progress.of_json((folder / PROGRESS).read_bytes()),
        weights=load_weights((folder / WEIGHTS).read_bytes(), network),
        optimizer=load_file(folder / OPTIMIZER),
        best=best.read_bytes() if best.exists() else None,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Load the state of a checkpoint into an optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        # The memory layout is that of the weights.
        layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        state.setdefault(int(index), {})[key] = tensor.contiguous(memory_format=layout)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
