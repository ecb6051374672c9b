"""Private names of Ray: one file uses them, with the version that it was checked with."""

import ast
from pathlib import Path

import pytest
import ray

import unet_ray
from unet_ray.cluster.ray_internals import PROVEN_WITH

PACKAGE = Path(unet_ray.__file__).parent
PRIVATE = ("ray.autoscaler.v2", "ray.core.generated")
"""Modules that are private although no part of their name has a leading underscore."""
FILES = [
    str(file.relative_to(PACKAGE))
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.name != "ray_internals.py"
]


def find_private_names(source: str) -> list[str]:
    """Return the private modules of Ray, and private attributes of `ray`, that a source names."""
    named = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            named.append(ast.unparse(node))
    return [name for name in named if is_private(name)]


def is_private(name: str) -> bool:
    root, *parts = name.split(".")
    is_dunder = [part.startswith("__") for part in parts]
    return root == "ray" and (
        name.startswith(PRIVATE)
        or any(
            part.startswith("_") and not dunder
            for part, dunder in zip(parts, is_dunder, strict=True)
        )
    )


def test_ray_is_the_version_that_the_private_names_were_checked_with() -> None:
    assert ray.__version__ == PROVEN_WITH, (
        f"Ray {ray.__version__} is installed, but cluster/ray_internals.py was checked with "
        f"{PROVEN_WITH}. Compare each name there with the new Ray, as its docstring says; run "
        "tests/engine (shards close at their bytes: test_line.py; infeasible GPUs: "
        "test_autoscaling.py; a lost GPU: test_lost_gpu.py; trainings without a cleaner: "
        "test_train.py); compare the snapshot of "
        "training/checkpoints.py with Ray Train's (tests/training/test_checkpoints.py); then raise "
        "PROVEN_WITH and the pin in pyproject.toml"
    )


@pytest.mark.parametrize("file", FILES)
def test_no_other_file_uses_private_names_of_ray(file: str) -> None:
    assert not find_private_names((PACKAGE / file).read_text())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import ray._private.worker", ["ray._private.worker"]),
        ("from ray.data._internal import stats", ["ray.data._internal.stats"]),
        ("def f():\n    from ray.autoscaler.v2 import utils", ["ray.autoscaler.v2.utils"]),
        ("ray._private", ["ray._private"]),
        ("import ray\nray.__version__\nfrom ray.data import Dataset", []),
        ("from unet_ray._x import y", []),
    ],
)
def test_private_names_are_found(source: str, found: list[str]) -> None:
    assert find_private_names(source) == found
