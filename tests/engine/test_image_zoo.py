"""Images as instruments and tools write them, through `segment`: right, or refused with a remedy.

Each case of `image_zoo` has to give the regions, the counted pixels and the pixel size that are
true of it, or error rows whose remedy is then obeyed and gives them. Nothing may be silently wrong.
Cases of the same model and flags are one run.
"""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_job
from tests.engine.image_zoo import CASES
from tests.engine.image_zoo.cases import Case
from tests.engine.image_zoo.judging import Tables, judge, judge_refusal, write_files
from tests.engine.image_zoo.models import make_threshold_model
from unet_ray.cli.segment import summary
from unet_ray.errors import UnetRayError
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment

pytestmark = pytest.mark.slow

BUILT: dict[str, Case] = {name: build() for name, build in CASES.items()}
REFUSED = [name for name, case in BUILT.items() if case.refusal]


def obey(case: Case) -> Case:
    """Return a refused case as it is after what its message tells people to do."""
    assert case.refusal
    flags = case.refusal.flags or case.flags
    return replace(case, flags=flags, files=case.refusal.files or case.files, refusal=None)


OBEYED = {f"{name} obeyed": obey(BUILT[name]) for name in REFUSED}


def as_fields(flags: tuple[str, ...]) -> dict[str, Any]:
    """Return fields of the config for flags of the command line."""
    fields: dict[str, Any] = {}
    for place, word in enumerate(flags):
        if word.startswith("--"):
            value = flags[place + 1 : place + 2]
            is_switch = not value or value[0].startswith("--")
            fields[word[2:].replace("-", "_")] = True if is_switch else value[0]
    return fields


class Runs:
    """Runs that do all cases with the same model and flags, each at the first question.

    Args:
        root: Folder for models, archives and tables.
        cases: Cases by name.
    """

    def __init__(self, root: Path, cases: dict[str, Case]) -> None:
        self._root, self._cases = root, cases
        self._run = cache(self._run_now)

    def find(self, name: str) -> tuple[Case, Path, Tables]:
        """Return a case, its folder, and the tables in which its images are."""
        case = self._cases[name]
        place, tables = self._run(case.model, case.flags)
        assert tables, f"the run of model {case.model} with {case.flags} ended with an error"
        return case, place / "archive" / name, tables

    def _run_now(self, model: str, flags: tuple[str, ...]) -> tuple[Path, Tables | None]:
        """Run; tables are None where the run ended with an error, which is shown."""
        place = self._root / "-".join([model, *flags])
        for name, case in self._cases.items():
            if (case.model, case.flags) == (model, flags):
                write_files(place / "archive" / name, case.files)
        config = SegmentConfig(
            model=make_threshold_model(place, model),
            images=f"{place}/archive",
            output=f"{place}/tables",
            max_error_rate=1.0,
            **as_fields(flags),
        )
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        logging.getLogger("unet_ray").addHandler(handler)
        try:
            result = segment(config)
        except UnetRayError as error:
            print(f"error: {error}")
            return place, None
        finally:
            logging.getLogger("unet_ray").removeHandler(handler)
        said = "\n".join([log.getvalue(), *summary(config, result)])
        return place, Tables.read(config.output, said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Runs:
    """Return the runs of all cases, and of those that are refused after their remedies."""
    return Runs(tmp_path_factory.mktemp("zoo"), BUILT | OBEYED)


@pytest.mark.parametrize("name", [name for name in BUILT if name not in REFUSED])
def test_it_is_read(name: str, runs: Runs) -> None:
    assert judge(*runs.find(name)) == []


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_remedy_that_works(name: str, runs: Runs) -> None:
    assert judge_refusal(*runs.find(name)) == []
    assert judge(*runs.find(f"{name} obeyed")) == []


def test_most_of_the_zoo_is_read() -> None:
    assert len(BUILT) >= 60
    assert len(REFUSED) <= 0.15 * len(BUILT)


def test_the_job_says_what_to_do_and_then_does_it(tmp_path: Path) -> None:
    name = "ome_names_for_a_model_of_colours"
    case = BUILT[name]
    assert case.refusal
    write_files(tmp_path / "archive", case.files)
    flags = ["--model", make_threshold_model(tmp_path, case.model), "--output", tmp_path / "tables"]
    flags += ["--images", tmp_path / "archive"]
    failed = run_job("segment", *flags)
    assert failed.returncode == 3, failed.stdout + failed.stderr
    assert "--channels" in failed.stdout
    done = run_job("segment", *flags, *case.refusal.flags)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = Tables.read(f"{tmp_path}/tables")
    assert judge(OBEYED[f"{name} obeyed"], tmp_path / "archive", tables) == []
