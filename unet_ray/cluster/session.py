"""The Ray session of a command, which it joins or starts, and the versions of the software."""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import ray
from ray.data import DataContext

from unet_ray.cluster.ray_internals import JEMALLOC_PATH, listening_on_loopback

REUSED_MEMORY = {
    "env_vars": {
        "LD_PRELOAD": JEMALLOC_PATH,
        "MALLOC_CONF": "narenas:2,dirty_decay_ms:-1,oversize_threshold:0",
    }
}
"""Runtime environment of a process that computes on CPUs and keeps the memory that it frees.

By default the C library returns every large tensor to the kernel and requests it anew, page by
page, at each step: 60,000 page faults a second, a tenth of two CPUs. jemalloc does the same in a
Ray worker if it may return memory after any time at all (seen: a quarter of the rate on large
photographs). With few arenas, little memory stays unused. jemalloc comes with Ray; where it is
missing, processes start without it.
"""
_KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 120_000}
"""Configuration of a Ray that keeps idle workers for two minutes.

By default Ray ends a process that has had no task for a second while more processes than CPUs are
alive, actors included. With ten small actors, each of Ray Data's tasks would have to start Python
and load everything again (seen: an eighth of two CPUs)."""
_ARENAS = "MALLOC_ARENA_MAX"
"""Environment variable for the number of the C library's arenas.

By default each thread of a process gets an arena, up to eight per CPU, and freed memory stays
there, so that processes that decode grow for many minutes. One per CPU is as fast and takes half
the memory."""

_RAY_LOGGERS = ("ray", "ray.data", "ray.train")


def connect(address: str) -> None:
    """Join the Ray at an address, or start one for this process with `local`.

    A Ray that is started listens only on the loopback interface. If this process has already joined
    a Ray, it stays with that one. It stays joined after the command, too. Call this in a
    `quiet_ray` block, which restores the level of Ray's logger.

    Args:
        address: `local`, `auto`, or the value of RAY_ADDRESS inside `ray job submit`.
    """
    if ray.is_initialized():
        return
    # Prints of workers stay in Ray's log files; what users should see goes over the progress board.
    # Ray's own handler of SIGTERM aborts the process after three seconds, which may be too early to
    # store what was measured. Therefore a handler of the host stays.
    with _kept_handlers(only_functions=True):
        if address != "local":
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            return
        with _default_environment(_ARENAS, str(os.cpu_count())), listening_on_loopback():
            ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=False,  # its ten processes would take a fifth of two CPUs
                _system_config=_KEEP_WORKERS,
            )


@contextmanager
def _default_environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable that is not set, for processes that start in the `with` block."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def _kept_handlers(only_functions: bool = False) -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM after the `with` block.

    Args:
        only_functions: Whether to restore only Python functions; where there was none, a handler
            that the block sets stays.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # others cannot set handlers
            for number, handler in handlers.items():
                goes_back = callable(handler) if only_functions else handler is not None
                if goes_back:  # None: not installed from Python
                    signal.signal(number, handler)


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Silence Ray's progress bars and logs in the `with` block, then restore the host's settings.

    It restores the levels of Ray's loggers; the handlers of SIGINT and SIGTERM, since Ray Train and
    Ray each replace one of them; and, in this process's context of Ray Data, the progress bars and
    the list of callback classes (see `calm_ray_data` and `call_back`). It also decorates functions:
    `@quiet_ray()`.
    """
    context = DataContext.get_current()
    levels = {name: logging.getLogger(name).level for name in _RAY_LOGGERS}
    progress_bars = context.enable_progress_bars
    callbacks = list(context.custom_execution_callback_classes)
    context.enable_progress_bars = False
    for name in _RAY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _kept_handlers():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        context.enable_progress_bars = progress_bars
        context.custom_execution_callback_classes = callbacks


def software_versions() -> dict[str, str]:
    """Return the versions of the software that results can depend on."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("unet_ray", "torch", "ray", "pyarrow")
    }
