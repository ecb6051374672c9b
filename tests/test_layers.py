"""Imports point down only, and only the verbs and their cluster know Ray."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "unet_ray"
ROOMS = ("network", "imaging", "archive")
RAY_MODULES = {
    *(
        "capacity",
        "cluster",
        "costs",
        "crop_stream",
        "evaluate",
        "labelled_counts",
        "predict_actor",
        "readers",
        "run_folder",
        "run_metrics",
        "segment",
        "shard_sink",
        "statistics",
        "train",
        "train_worker",
    ),
    "verify",
}
MAY_IMPORT = {
    "imaging": {"imaging", "errors"},
    "archive": {"archive", "ahead", "errors"},
    "ahead": set(),
    "network": {"network", "imaging", "errors"},
    "errors": set(),
}
FOREIGN = {
    "imaging": {"torch", "ray", "fsspec", "s3fs"},
    "archive": {"torch", "ray"},
    "network": {"ray", "fsspec"},
}


def imports_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    plain = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    return plain | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_rooms_import_only_what_lies_below() -> None:
    for file in PACKAGE.rglob("*.py"):
        room = room_of(file)
        if room not in MAY_IMPORT:
            continue
        inner = {name.split(".")[1] for name in imports_of(file) if name.startswith("unet_ray.")}
        if file.name == "model_folder.py":
            assert "unet_ray.storage.storage" in imports_of(file)
            inner.discard("archive")
        assert inner <= MAY_IMPORT[room], f"{file} imports {inner - MAY_IMPORT[room]}"


def test_foreign_packages_stay_out_of_rooms() -> None:
    for file in PACKAGE.rglob("*.py"):
        packages = {name.split(".")[0] for name in imports_of(file)}
        forbidden = FOREIGN.get(room_of(file), set())
        assert not packages & forbidden, f"{file} imports {packages & forbidden}"
        if room_of(file) not in RAY_MODULES:
            assert "ray" not in packages, f"{file} imports ray"


def test_tasks_without_a_network_start_without_torch() -> None:
    modules = (
        "crop_stream",
        "readers",
        "shard_sink",
        "stages.decode",
        "stages.measure",
        "stages.work_done",
        "statistics",
        "verify",
    )
    imports = ", ".join(f"unet_ray.{module}" for module in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {imports}; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_jobs_import_no_rooms_that_hold_logic_of_their_own() -> None:
    for file in (PACKAGE.parent / "jobs").glob("*.py"):
        assert not any(
            name.startswith(("ray", "torch", "unet_ray.network")) for name in imports_of(file)
        ), file
