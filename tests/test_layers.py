"""The layout as a table: what each package may import. Every import counts, lazy ones too."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import unet_ray
from unet_ray.cli.main import COMMANDS

PACKAGE = Path(__file__).parent.parent / "unet_ray"
IMAGING = {"imaging.channels", "imaging.codecs", "imaging.drawing", "imaging.geometry"}
IMAGING |= {
    "imaging.georeference",
    "imaging.labels",
    "imaging.metrics",
    "imaging.regions",
    "imaging.resampling",
    "imaging.tiling",
}
ANYWHERE = {"errors", "flags", "limits", "periodic", "prefetch", "store_options", "text"}
"""Files at the bottom, which import nothing but each other."""
MAY_IMPORT = {
    "errors": set(),
    "flags": {"errors"},
    "limits": set(),
    "periodic": {"errors"},
    "prefetch": set(),
    "store_options": {"errors", "flags"},
    "text": set(),
    "imaging.channels": {"imaging.codecs"},
    "imaging.geometry": set(),
    "imaging.tiling_config": set(),
    "imaging.tiling": {"imaging.geometry", "imaging.tiling_config"},
    "imaging.georeference": {"imaging.codecs"},
    "imaging.resampling": {"imaging.geometry"},
    "imaging.codecs": {"imaging.geometry"},
    "imaging.regions": {"imaging.geometry"},
    "imaging.labels": {"imaging.geometry", "imaging.regions"},
    "imaging.metrics": {"imaging.labels", "imaging.regions"},
    "imaging.drawing": {"imaging.labels", "imaging.regions"},
    "storage": set(),
    "synthetic": {"storage"},
    "tables": {"storage"},
    "network": {"storage", "imaging.tiling_config", *IMAGING},
    "cluster": set(),
    "image_sources": {"storage", "imaging.codecs"},
    "labelled_data": {"cluster", "image_sources", "network", "storage", "tables", *IMAGING},
    "segmentation": {"cluster", "image_sources", "network", "storage", "tables", *IMAGING},
    "output": {"cluster", "image_sources", "segmentation", "storage", "tables", *IMAGING},
    "prediction": {"image_sources", "network", "output", "segmentation", "storage", *IMAGING},
    "evaluation": {"cluster", "labelled_data", "network", "storage", "tables", *IMAGING},
    "training": {"cluster", "labelled_data", "network", "storage", "tables", *IMAGING},
    "api": {"evaluation", "output", "prediction", "segmentation", "training", *IMAGING},
    "cli": {"evaluation", "output", "segmentation", "storage", "synthetic", "training", *IMAGING},
    "": {"api", "output", "prediction", *IMAGING},
}
"""Package → packages that it may import, beside those of ANYWHERE; "" is the package's own API."""
RAY = {"cluster", "evaluation", "labelled_data", "output", "segmentation", "training"}
"""Packages that know Ray."""
FOREIGN = {
    "imaging": {"torch", "ray", "fsspec", "s3fs"},
    "storage": {"torch"},
    "tables": {"torch"},
    "network": {"fsspec"},
    "cluster": {"torch"},
}
"""Package → other people's packages that it may not import."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Return the modules that a file imports, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            for alias in node.names:
                inner = PACKAGE.joinpath(*parts[1:], alias.name)
                is_module = parts[0] == "unet_ray" and (
                    inner.is_dir() or inner.with_suffix(".py").exists()
                )
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return found


def package_of(module: str) -> str:
    """Return the row of the table that a module below `unet_ray` belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "imaging" and len(parts) > 1 else parts[0]


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def inner_imports(file: Path) -> set[str]:
    found = {name.removeprefix("unet_ray.") for name in imports_of(file) if "unet_ray." in name}
    return {package_of(name) for name in found}


def test_packages_import_what_the_table_allows() -> None:
    for file in modules():
        here = package_of(module_of(file))
        if here == "imaging":  # its own __init__
            continue
        beyond = inner_imports(file) - {here} - ANYWHERE - MAY_IMPORT[here]
        assert not beyond, f"{file} imports {beyond}"


def test_the_table_has_no_cycle_and_no_row_for_nothing() -> None:
    assert list(TopologicalSorter(MAY_IMPORT).static_order())
    assert {package_of(module_of(file)) for file in modules()} - {"imaging"} == MAY_IMPORT.keys()


def test_other_packages_stay_where_they_belong() -> None:
    for file in modules():
        top = module_of(file).split(".")[0]
        packages = {name.split(".")[0] for name in imports_of(file)}
        forbidden = FOREIGN.get(top, set()) | (set() if top in RAY else {"ray"})
        assert not packages & forbidden, f"{file} imports {packages & forbidden}"


def test_tasks_without_a_network_start_without_torch() -> None:
    tasks = (
        "labelled_data.readers",
        "labelled_data.statistics",
        "output.verify",
        "segmentation.chain_tasks",
        "segmentation.shard_writer",
        "segmentation.stages.decode",
        "segmentation.stages.measure",
        "segmentation.stages.work_done",
        "training.crop_stream",
    )
    imports = ", ".join(f"unet_ray.{module}" for module in tasks)
    assert run(f"import sys, {imports}; print('torch' in sys.modules)") == "False"


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CONFIGS = [module_of(f) for f in modules() if f.stem == "config" or f.stem.endswith("_config")]


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_work_without_ray_and_torch(config: str) -> None:
    """Flags, help and documentation need neither; configs import the files at the bottom."""
    blocked = "import sys; sys.modules |= dict.fromkeys(('ray', 'torch', 'numpy', 'pyarrow'))"
    loaded = "print(*(m for m in sys.modules if m.startswith('unet_ray.')))"
    names = run(f"{blocked}; import unet_ray.{config}; {loaded}").split()
    plain = {f"unet_ray.{name}" for name in ("errors", "flags", "limits", "store_options", "text")}
    packages = {name for name in names if PACKAGE.joinpath(*name.split(".")[1:]).is_dir()}
    assert all(name.endswith("config") for name in set(names) - plain - packages), names


def test_importing_the_package_loads_neither_ray_nor_torch() -> None:
    loaded = (
        "import sys, unet_ray; print([m for m in ('ray', 'torch', 'pyarrow') if m in sys.modules])"
    )
    assert run(loaded) == "[]"
    helped = (
        "sys.argv = ['unet-ray', 'segment', '--help']; from unet_ray.cli.main import main; main()"
    )
    shown = run(
        f"import atexit, sys; atexit.register(lambda: print('ray' in sys.modules)); {helped}"
    )
    assert shown.endswith("False")


def test_public_names_are_what_is_there() -> None:
    for name in unet_ray.__all__:
        assert getattr(unet_ray, name).__doc__, name
    assert set(unet_ray.__all__) <= set(dir(unet_ray))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = unet_ray.nothing


def test_nothing_prints_but_the_streams_of_the_command_line() -> None:
    """There, what others wrote is escaped on its way to a terminal."""
    for file in modules():
        if file.match("cli/streams.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            is_print = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            assert not is_print, f"{file}:{node.lineno} prints"


def test_jobs_are_the_commands() -> None:
    jobs = sorted((PACKAGE.parent / "jobs").glob("*.py"))
    assert {file.stem for file in jobs} == COMMANDS.keys()
    for file in jobs:
        assert imports_of(file) == {f"unet_ray.cli.{file.stem}"}
        help_text = ast.get_docstring(ast.parse((PACKAGE / f"cli/{file.stem}.py").read_text()))
        first = COMMANDS[file.stem].rstrip(".").split(":")[0].split(",")[0]
        assert help_text is not None
        assert help_text.startswith(first), file
