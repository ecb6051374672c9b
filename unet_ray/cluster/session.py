"""Joining or starting the Ray that a command runs on, and the versions of what runs there."""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import version

import ray
from ray._private.services import JEMALLOC_SO
from ray.data import DataContext

REUSED_MEMORY = {
    "env_vars": {
        "LD_PRELOAD": JEMALLOC_SO,
        "MALLOC_CONF": "narenas:2,dirty_decay_ms:-1,oversize_threshold:0",
    }
}
"""Runtime environment of a process that computes on CPUs: freed memory stays with it.

By default the C library gives every large tensor back to the kernel and takes it anew, page by page, at each step:
60,000 page faults a second, a tenth of two CPUs. In a Ray worker jemalloc does so too where it may give anything back,
after however many seconds (seen: a quarter of the rate on large photographs). Few arenas keep small what stays.
jemalloc comes with Ray; where it does not, the linker goes on without.
"""
_KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 120_000}
"""Ray ends a process that had no task for a second wherever more processes than CPUs are alive, actors included: with
ten small actors each of Ray Data's tasks would start Python and load everything anew (seen: an eighth of two CPUs)."""
_ARENAS = "MALLOC_ARENA_MAX"
"""By default each thread of a process gets an arena of the C library's, up to eight for each CPU, and what is freed
stays there: processes that decode grow for many minutes. One for each CPU is as fast (seen: half the memory)."""


def connect(address: str) -> None:
    """Join the Ray at an address, or start one for this process with `local`; do nothing where one is joined already.

    Args:
        address — `local`, `auto`, or what RAY_ADDRESS holds inside `ray job submit`.
    """
    if not ray.is_initialized():
        # Workers' prints stay in Ray's log files: what people should see goes over the progress board.
        # A Ray of this process's own has no dashboard: its ten processes would take a fifth of two CPUs.
        own = (
            {"include_dashboard": False, "_system_config": _KEEP_WORKERS}
            if address == "local"
            else {}
        )
        if own:
            os.environ.setdefault(_ARENAS, str(os.cpu_count()))  # of what is started from here
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def software_versions() -> dict[str, str]:
    """Return the versions of what results can depend on."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("unet_ray", "torch", "ray", "pyarrow")
    }
