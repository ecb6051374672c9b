"""The pool of predictor actors: how many there are, and the CPUs and GPUs of each."""

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
    """Size of a pool of predictor actors, and the resources of each actor."""

    least: int
    """Smallest number of actors; the cluster must be able to hold them."""
    most: int
    """Largest number of actors. All are requested at once, so that the nodes they need come up
    together."""
    cpus: float
    """Logical CPUs of each actor."""
    gpus: float
    """GPUs of each actor."""
    threads: int
    """CPU threads of torch in each actor."""
    grows: bool = False
    """True if an autoscaler may add nodes for the actors."""

    def __str__(self) -> str:
        size = str(self.most)
        if self.least < self.most:
            size = f"{self.least} to {self.most}"
        predictors = "predictors" if self.most > 1 else "predictor"
        threads = "threads" if self.threads > 1 else "thread"
        device = "GPU" if self.uses_gpu else "CPU"
        return f"{size} {predictors} ({device}, {self.threads} {threads})"

    @property
    def uses_gpu(self) -> bool:
        """True if the actors run on GPUs."""
        return self.gpus > 0

    @property
    def remote_args(self) -> dict[str, Any]:
        """Arguments of Ray for each actor: its resources and its runtime environment."""
        if self.uses_gpu:
            return {"num_cpus": self.cpus, "num_gpus": self.gpus}
        return {"num_cpus": self.cpus, "runtime_env": REUSED_MEMORY}

    def strategy(self, calls: int = 1) -> ActorPoolStrategy:
        """Return the pool as a strategy of Ray Data.

        Ray Data withdraws requests for actors above the smallest size while the cluster cannot hold
        them, so an autoscaler would never add nodes for them. If nodes may come, the smallest size
        therefore equals the largest one. At the end of the input, Ray Data releases actors one by
        one in any case.

        Args:
            calls: Concurrent calls per actor, each in a thread.
        """
        return ActorPoolStrategy(
            min_size=self.most if self.grows else self.least,
            max_size=self.most,
            initial_size=self.most,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        )


def plan_pool(actors: str | None, device: Device, work: int | None = None) -> PoolPlan:
    """Choose size and resources of the predictor pool, leaving CPUs for reading and writing.

    Args:
        actors: `N`, `MIN,MAX`, or None for one per GPU, or one per four CPUs.
        device: Device of the network; `gpu` may bring up nodes, `auto` takes GPUs that are up.
        work: Number of blocks to predict; more actors than that would only wait.

    Returns:
        The plan of the pool.

    Raises:
        InputError: The cluster cannot hold such a pool.
    """
    have = Capacity.of_cluster()
    asked = parse_range(actors, "--actors") if actors else None
    takes_gpus = device == "auto" and have.gpus > 0
    if device == "gpu" or takes_gpus:
        return _gpu_pool(have, asked, work)
    if have.cpus < 1:
        raise InputError(
            "no node of the cluster has a CPU; keep one running (min_workers), or give "
            "--device gpu and --actors"
        )
    return _cpu_pool(have, asked, work)


def _gpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    one_per_gpu = max(1, have.gpus)
    least, most = _limit_to_work(asked or (one_per_gpu, one_per_gpu), work)
    if have.grows:
        cpus = 1.0
    else:
        most = max(least, min(most, have.gpus))
        cpus = min(1.0, have.cpus / (2 * most))
    flag = f"--actors {least} on GPUs" if asked else "--device gpu"
    remedy = "give --device cpu" if least == 1 else "give fewer --actors, or --device cpu"
    have.require_gpus(least, cpus, flag, remedy)
    if have.cpus < 1 and not have.grows:
        raise InputError("the cluster has no CPU; add one for reading and writing")
    return PoolPlan(least=least, most=most, cpus=cpus, gpus=1.0, threads=1, grows=have.grows)


def _cpu_pool(have: Capacity, asked: tuple[int, int] | None, work: int | None) -> PoolPlan:
    cpus = have.cpus
    available = max(1, cpus - 1)
    one_per_four_cpus = max(1, cpus // 4)
    least, most = asked or (one_per_four_cpus, one_per_four_cpus)
    if least > available:
        raise InputError(
            f"--actors {least}: the cluster has {cpus} CPUs, one of which is for reading; "
            f"give at most {available}"
        )
    least, most = _limit_to_work((least, min(most, available)), work)
    share: float = 0.5
    if cpus > 1:
        left_for_reading = max(1, cpus // 4)
        share = max(1, min((cpus - left_for_reading) // most, have.largest_cpus - 1))
    threads = max(1, min(cpus // most, have.largest_cpus))
    return PoolPlan(least=least, most=most, cpus=share, gpus=0.0, threads=threads)


def _limit_to_work(actors: tuple[int, int], work: int | None) -> tuple[int, int]:
    """Return the fewest and the most actors, limited to the number of blocks to predict."""
    least, most = actors
    if work is None:
        return least, most
    limit = max(1, work)
    return min(least, limit), min(most, limit)
