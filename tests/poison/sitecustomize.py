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
from collections.abc import Iterable
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


def poison_decode(module: Any) -> None:
    decode = module.Decode._decode

    def poisoned(self: Any, row: Any, data: Any) -> Any:
        swallow("decode", [row["image_uri"]])
        return decode(self, row, data)

    module.Decode._decode = poisoned


def poison_predict(module: Any) -> None:
    predict = module.Predict._predict

    def poisoned(self: Any, pixels: Any) -> Any:
        swallow("predict", pixels["image_uri"].to_pylist())
        return predict(self, pixels)

    module.Predict._predict = poisoned


def poison_measure(module: Any) -> None:
    image = module.Measure.image

    def poisoned(self: Any, row: Any, prob_u8_khw: Any) -> Any:
        swallow("measure", [row["image_uri"]])
        return image(self, row, prob_u8_khw)

    module.Measure.image = poisoned


def poison_write(module: Any) -> None:
    write_shard = module.write_shard

    def poisoned(output: Any, name: Any, tables: Any, may_commit: Any) -> None:
        rows = tables["images"].select(["image_uri", "error_type"]).to_pylist()
        swallow("write", [row["image_uri"] for row in rows if row["error_type"] is None])
        write_shard(output, name, tables, may_commit)

    module.write_shard = poisoned


HOOKS = {
    "unet_ray.segmentation.stages.decode": poison_decode,
    "unet_ray.segmentation.stages.predict": poison_predict,
    "unet_ray.segmentation.stages.measure": poison_measure,
    "unet_ray.segmentation.shard_writer": poison_write,
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
