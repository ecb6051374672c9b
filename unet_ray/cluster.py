"""The Ray that a verb runs on: joining or starting it, and the arithmetic of its CPUs and GPUs before anything starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import ray
from ray.data import DataContext

from unet_ray.errors import InputError

Device = Literal["auto", "cpu", "gpu"]


def connect(address: str) -> None:
    """Join the Ray at an address, or start one for this process with `local`; do nothing where one is joined already.

    Args:
        address — `local`, `auto`, or what RAY_ADDRESS holds inside `ray job submit`.
    """
    if not ray.is_initialized():
        ray.init(address=address, logging_level=logging.WARNING, configure_logging=True)
    context = DataContext.get_current()
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)


@dataclass(frozen=True)
class PoolPlan:
    """A pool of predictor actors and what each of them is given."""

    least: int
    """Actors to start with."""
    most: int
    """Actors at most."""
    cpus: float
    """Logical CPUs of each."""
    gpus: float
    """GPUs of each."""
    threads: int
    """Torch's CPU threads in each."""

    @property
    def uses_gpu(self) -> bool:
        """Whether the actors run on GPUs."""
        return self.gpus > 0


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Return `N` or `MIN,MAX` as a pair; raise InputError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    least, most = (numbers * 2)[:2] if len(numbers) in (1, 2) else (0, 0)
    if not 1 <= least <= most:
        raise InputError(f"{flag} {text}: give a number from 1, or MIN,MAX with MIN ≤ MAX")
    return least, most


def plan_pool(actors: str | None, device: Device) -> PoolPlan:
    """Decide size and resources of the predictor pool from the cluster, leaving CPUs for reading and writing.

    Args:
        actors — `N`, `MIN,MAX`, or None: one per GPU, or on CPUs one per four of them.

    Raises: InputError — a pool that the cluster cannot hold.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if cpus < 1:
        raise InputError("the cluster has no CPU; add one for reading and writing")
    if device == "gpu" and gpus < 1:
        raise InputError("--device gpu: the cluster has no GPU; add one, or give --device cpu")
    if device == "gpu" or (device == "auto" and gpus > 0):
        least, most = parse_range(actors, "--actors") if actors else (gpus, gpus)
        if least > gpus:
            raise InputError(f"--actors {actors}: the cluster has {gpus} GPUs; give at most {gpus}")
        return PoolPlan(least, most, cpus=min(1.0, cpus / (2 * least)), gpus=1.0, threads=1)
    least, most = parse_range(actors, "--actors") if actors else (max(1, cpus // 4),) * 2
    if least > max(1, cpus - 1):
        raise InputError(f"--actors {actors}: {cpus} CPUs, one of them for reading; give at most {max(1, cpus - 1)}")
    most = min(most, max(1, cpus - 1))
    share = max(1, (cpus - max(1, cpus // 4)) // most) if cpus > 1 else 0.5
    return PoolPlan(least, most, cpus=share, gpus=0.0, threads=max(1, cpus // most))
