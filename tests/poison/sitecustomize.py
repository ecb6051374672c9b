"""Makes images with certain words in their names kill, or hang, the process that works on them.

Python runs this file at the start of each process that has its folder in PYTHONPATH.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from typing import Any


def die() -> None:
    """Die as a process does that the kernel kills for its memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    """Never end."""
    time.sleep(1e6)


POISON = {"kills": die, "aborts": os.abort, "hangs": hang}


def swallow(stage: str, uris: Iterable[str]) -> None:
    for uri in uris:
        for word, act in POISON.items():
            if f"{word}-{stage}" in uri:
                act()


def poison(owner: Any, name: str, stage: str, uris_of: Callable[..., Iterable[str]]) -> None:
    """Let a function swallow the images that it is called with before it works on them.

    Args:
        owner: Module or class of the function.
        name: Name of the function.
        stage: Stage of the pipeline, as names of images have it.
        uris_of: Returns the URIs of the images from the arguments of a call.
    """
    work = getattr(owner, name)

    def poisoned(*args: Any) -> Any:
        swallow(stage, uris_of(*args))
        return work(*args)

    setattr(owner, name, poisoned)


def done_images(_output: Any, _name: Any, tables: Any, _may_commit: Any) -> list[str]:
    """Return the URIs of the images of a shard without an error."""
    rows = tables["images"].select(["image_uri", "error_type"]).to_pylist()
    return [row["image_uri"] for row in rows if row["error_type"] is None]


HOOKS: dict[str, Callable[[Any], None]] = {
    "unet_ray.segmentation.stages.decode": lambda module: poison(
        module.Decode, "_decode_or_fail", "decode", lambda _self, record, _data: [record.source.uri]
    ),
    "unet_ray.segmentation.stages.predict": lambda module: poison(
        module.Predict, "_predict", "predict", lambda _self, pixels: pixels["image_uri"].to_pylist()
    ),
    "unet_ray.segmentation.stages.measure": lambda module: poison(
        module.Measure, "image", "measure", lambda _self, record, _prob: [record.source.uri]
    ),
    "unet_ray.segmentation.shard_writer": lambda module: poison(
        module, "write_shard", "write", done_images
    ),
}


class Poisoner(importlib.abc.MetaPathFinder):
    """Calls a hook after a module is loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in HOOKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        load = loader.exec_module

        def load_poisoned(module: Any) -> None:
            load(module)
            HOOKS[name](module)

        loader.exec_module = load_poisoned
        return spec


sys.meta_path.insert(0, Poisoner())
