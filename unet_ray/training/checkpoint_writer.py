"""The state of a training as a folder of tensors and JSON: what a checkpoint holds; no code, no pickle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from unet_ray.network.learner import Learner
from unet_ray.network.model_folder import state_bytes
from unet_ray.training.checkpoints import BEST, DIGESTS, OPTIMIZER, WEIGHTS, digests_of
from unet_ray.training.progress import PROGRESS, Progress


@dataclass(frozen=True)
class State:
    """What a checkpoint is made of."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: bytes | None = field(repr=False, default=None)
    """safetensors of the best epoch's weights."""


def write_state(folder: Path, learner: Learner, progress: Progress, best: bytes | None) -> None:
    """Write a checkpoint's files, and what tells later that they are whole."""
    state = learner.optimizer.state_dict()["state"]
    flat = {
        f"{i}.{name}": t.cpu().contiguous()
        for i, values in state.items()
        for name, t in values.items()
    }
    files = {
        WEIGHTS: state_bytes(learner.unet),
        OPTIMIZER: save(flat),
        PROGRESS: progress.to_json(),
    }
    if best is not None:
        files[BEST] = best
    for name, data in {**files, DIGESTS: digests_of(files)}.items():
        (folder / name).write_bytes(data)


def read_state(folder: Path) -> State:
    """Read a checkpoint's files."""
    best = folder / BEST
    return State(
        Progress.of_json((folder / PROGRESS).read_bytes()),
        load_file(folder / WEIGHTS),
        load_file(folder / OPTIMIZER),
        best.read_bytes() if best.exists() else None,
    )


def load_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Give an optimizer the state of a checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        index, _, key = name.partition(".")
        layout = (
            torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
        )  # as the weights are
        state.setdefault(int(index), {})[key] = tensor.contiguous(memory_format=layout)
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
