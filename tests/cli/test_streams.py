"""A reader that goes away is no error of a command, and no text of others commands a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.builders import write_noise
from tests.conftest import REPOSITORY, make_tiny_model
from unet_ray.text import escape_controls

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


HOSTILE = "\x1b]0;title\x07 \x9b2J \x1b[8m \x85 \r \u202egnp \u2066 \udcff"
"""Sets a title, clears, conceals, breaks and overwrites lines, turns text around, is no UTF-8."""
_SAYS = f"""
import logging, sys, warnings
from unet_ray.cli.command import run
from unet_ray.cli.streams import show
from unet_ray.errors import InputError
from unet_ray.output.config import VerifyConfig

HOSTILE = {HOSTILE!a}

def work(config, _):
    logging.getLogger("unet_ray").warning("logged\\nin one line " + HOSTILE)
    show("shown\\nin one line " + HOSTILE, "and more")
    print("printed " + HOSTILE)
    sys.stdout.writelines(["written " + HOSTILE + "\\n"])
    warnings.warn("warned " + HOSTILE)
    sys.stderr.write("by a library " + HOSTILE + "\\n")
    raise (InputError if config.images else ValueError)("wrong\\nin one line " + HOSTILE)

run(VerifyConfig, work, None)
"""


def say_hostile_things(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SAYS, "--tables", "t", *flags],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("flags", "code"), [((), 1), (("--images", "i"), 2)])
def test_no_control_character_reaches_a_terminal(flags: tuple[str, ...], code: int) -> None:
    done = say_hostile_things(*flags)
    assert done.returncode == code
    for said in (done.stdout, done.stderr):
        assert said == escape_controls(said, keep="\n\t")
    shown = escape_controls(HOSTILE)
    assert done.stdout.splitlines() == [
        rf"logged\nin one line {shown}",
        rf"shown\nin one line {shown}",
        "and more",
        f"printed {shown}",
        f"written {shown}",
    ]
    *_, last = done.stderr.splitlines()
    assert f"warned {shown}" in done.stderr
    assert f"by a library {shown}" in done.stderr
    wrong = rf"wrong\nin one line {shown}" if code == 2 else "ValueError: wrong in one line"
    assert last.startswith(f"error: {wrong}")


def test_a_terminal_that_knows_few_characters_is_no_error() -> None:
    done = say_hostile_things(PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert "UnicodeEncodeError" not in done.stderr
    assert "and more" in done.stdout


def test_help_on_a_terminal_is_plain() -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, REPOSITORY / "jobs/verify.py", "--help"]
    with subprocess.Popen(command, stdout=end, stderr=end, env=os.environ | {"TERM": "xterm"}):
        os.close(end)
        said = b""
        with suppress(OSError):  # the other end is closed
            while piece := os.read(terminal, 1000):
                said += piece
    os.close(terminal)
    assert b"--tables" in said
    assert b"\x1b" not in said
    assert rb"\x1b" not in said
