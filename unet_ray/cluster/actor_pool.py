"""A pool of predictor actors: how many, and the CPUs and GPUs that each of them is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.data import ActorPoolStrategy

from unet_ray.cluster.resources import Capacity
from unet_ray.cluster.session import REUSED_MEMORY
from unet_ray.errors import InputError
from unet_ray.flags import Device, parse_range


@dataclass(frozen=True)
class PoolPlan:
    """A pool of predictor actors and what each of them is given."""

    least: int
    """Actors that must be possible."""
    most: int
    """Actors that are asked for, all at once: nodes that have to come for them come together."""
    cpus: float
    """Logical CPUs of each."""
    gpus: float
    """GPUs of each."""
    threads: int
    """Torch's CPU threads in each."""
    grows: bool = False
    """Whether nodes may come for them."""

    def __str__(self) -> str:
        size = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        plurals = "s" * (self.most > 1), "s" * (self.threads > 1)
        return f"{size} predictor{plurals[0]} ({'GPU' if self.uses_gpu else 'CPU'}, {self.threads} thread{plurals[1]})"

    @property
    def uses_gpu(self) -> bool:
        """Whether the actors run on GPUs."""
        return self.gpus > 0

    @property
    def remote_args(self) -> dict[str, Any]:
        """What Ray is to give each actor."""
        if self.uses_gpu:
            return {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return {"num_cpus": self.cpus, "runtime_env": REUSED_MEMORY}

    def strategy(self, calls: int = 1) -> ActorPoolStrategy:
        """Return the pool as Ray Data wants it.

        Ray Data takes back actors above the smallest size for which the cluster has no room yet, so that no node would
        ever come for them: where nodes may come, the smallest size is the largest. At the end of the input it gives
        actors back one by one, in any case.

        Args:
            calls — of an actor at a time, each in a thread.
        """
        return ActorPoolStrategy(
            min_size=self.most if self.grows else self.least,
            max_size=self.most,
            initial_size=self.most,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        )


def plan_pool(actors: str | None, device: Device, work: int | None = None) -> PoolPlan:
    """Decide size and resources of the predictor pool from the cluster, leaving CPUs for reading and writing.

    Args:
        actors — `N`, `MIN,MAX`, or None: one per GPU, or on CPUs one per four of them.
        device — `gpu` may bring up nodes; `auto` takes GPUs that are up.
        work — pieces of work there are; more actors than that would only wait.

    Raises: InputError — a pool that the cluster cannot hold.
    """
    have = Capacity.of_cluster()
    asked = parse_range(actors, "--actors") if actors else None
    if device == "gpu" or (device == "auto" and have.gpus):
        return _gpu_pool(have, asked, work)
    if have.cpus < 1:
        raise InputError(
            "no node of the cluster has a CPU for work; keep one up (min_workers), or give --device gpu and --actors"
        )
    return _cpu_pool(have, asked, work)


def _gpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    least, most = _useful(asked or (max(1, have.gpus),) * 2, work)
    most = most if have.grows else max(least, min(most, have.gpus))
    cpus = 1.0 if have.grows else min(1.0, have.cpus / (2 * most))
    flag = f"--actors {least} on GPUs" if asked else "--device gpu"
    have.require_gpus(
        least,
        cpus,
        flag,
        "give --device cpu" if least == 1 else "give fewer --actors, or --device cpu",
    )
    if have.cpus < 1 and not have.grows:
        raise InputError("the cluster has no CPU; add one for reading and writing")
    return PoolPlan(least, most, cpus=cpus, gpus=1.0, threads=1, grows=have.grows)


def _cpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    cpus, room = have.cpus, max(1, have.cpus - 1)
    least, most = asked or (max(1, cpus // 4),) * 2
    if least > room:
        raise InputError(
            f"--actors {least}: {cpus} CPUs, one of them for reading; give at most {room}"
        )
    least, most = _useful((least, min(most, room)), work)
    share = (
        max(1, min((cpus - max(1, cpus // 4)) // most, have.largest_cpus - 1)) if cpus > 1 else 0.5
    )
    return PoolPlan(
        least, most, cpus=share, gpus=0.0, threads=max(1, min(cpus // most, have.largest_cpus))
    )


def _useful(actors: tuple[int, int], work: int | None) -> tuple[int, int]:
    """Return least and most, none above the work that there is."""
    limit = actors[1] if work is None else max(1, work)
    return min(actors[0], limit), min(actors[1], limit)
