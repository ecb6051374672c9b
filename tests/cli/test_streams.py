"""A reader that goes away is no error of a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import write_noise
from tests.conftest import REPOSITORY, make_tiny_model

_COMMAND = """
import logging, os, sys
from unet_ray.cli.command import run
from unet_ray.errors import InputError
from unet_ray.output.config import VerifyConfig

def work(config, _):
    "Say more than a pipe or a buffer holds, in both ways."
    for number in range(20_000):
        logging.getLogger("unet_ray").info(f"line {number}")
        print(f"print {number}")
    open("done", "w").close()
    if config.images:
        raise InputError("wrong")

run(VerifyConfig, work, None)
"""


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--images", "i"], 2)])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_the_exit_code_is_that_of_the_run_when_its_reader_goes(
    tmp_path: Path, flags: list[str], code: int, both: bool
) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "--tables", "t", *flags],
        stdout=writer,
        stderr=writer if both else subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    os.close(writer)
    assert os.read(reader, 6) == b"line 0"
    os.close(reader)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert (stderr or "") == ("" if both or not code else "error: wrong\n")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("gone", [">&-", "2>&-", ">/dev/full"])
def test_a_command_without_a_place_to_print_to_works(tmp_path: Path, gone: str) -> None:
    command = f'"$0" -c "$1" --tables t {gone}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, _COMMAND],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").exists()


@pytest.mark.slow
def test_a_run_whose_output_is_cut_by_head_goes_on(tmp_path: Path) -> None:
    places = f"--images {write_noise(tmp_path / 'images', 6, 64)} --output {tmp_path}/tables"
    command = f"jobs/segment.py --model {make_tiny_model(tmp_path)} {places}"
    script = f"set -o pipefail; {sys.executable} {command} | head -1"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert list(tmp_path.glob("tables/images/*/*.parquet"))
