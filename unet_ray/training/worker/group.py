"""The workers of a training, as one of them sees the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray

from unet_ray.network.learner import summed


@dataclass(frozen=True)
class WorkerGroup:
    """Place of this worker among all workers, which take their steps together."""

    rank: int
    """Number of this worker, from 0."""
    size: int
    """Number of workers."""
    device: torch.device
    """Device of this worker."""

    @staticmethod
    def of_this_worker() -> WorkerGroup:
        """Return the group that Ray Train started this process in."""
        context = ray.train.get_context()
        return WorkerGroup(
            context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
        )

    @property
    def is_first(self) -> bool:
        """True for the worker that saves the network and tells the user."""
        return self.rank == 0

    def add_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum an array over all workers; all of them must call this together."""
        return np.asarray(summed(torch.from_numpy(values).to(self.device)).cpu().numpy())
