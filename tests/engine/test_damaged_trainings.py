"""Trainings go on from the newest whole checkpoint: after damage, a full disk, a lost list."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.builders import small_training_flags
from tests.conftest import run_job, start_job
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.training.checkpoints import WEIGHTS
from unet_ray.training.progress import SNAPSHOT, last_progress, listed_checkpoints

RUN = "unet_ray"


def train(root: Path, storage: Path, epochs: int) -> subprocess.CompletedProcess[str]:
    flags = ["--storage", storage, "--epochs", epochs, "--keep-checkpoints", 3]
    return run_job("train", *small_training_flags(root), *flags)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Train for three epochs; return the run folder."""
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=4, check=0, archive=0)
    done = train(tmp_path, tmp_path / "run", 3)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def epochs_done(run_folder: Path) -> int:
    progress = last_progress(Storage.of(str(run_folder)), RUN)
    return progress.epochs if progress else 0


@pytest.mark.soak
def test_a_training_goes_on_without_its_list_and_without_its_newest_checkpoint(
    tmp_path: Path, trained: Path
) -> None:
    # the obvious remedy for a list that a full disk left empty
    (trained / RUN / SNAPSHOT).unlink()
    done = train(tmp_path, trained, 4)
    assert done.returncode == 0, done.stderr
    assert f"{SNAPSHOT}, the list of checkpoints, is missing or damaged" in done.stdout
    assert "after epoch 3" in done.stdout
    assert "from epoch 4\n" in done.stdout
    assert epochs_done(trained) == 4

    listed = listed_checkpoints(Storage.of(str(trained)), RUN)
    assert listed is not None
    assert len(listed) == 3
    weights = trained / RUN / listed[-1] / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    done = train(tmp_path, trained, 4)
    assert done.returncode == 0, done.stderr
    assert f"{listed[-1]} does not load: {WEIGHTS} has 1000 of" in done.stdout
    assert f"resuming from {listed[-2]}, after epoch 3" in done.stdout
    assert epochs_done(trained) == 4


@pytest.mark.soak
def test_a_full_disk_costs_only_the_epochs_that_did_not_fit(
    tmp_path: Path, small_disk: Path
) -> None:
    """On a larger disk the same command goes on; the listed checkpoints are still whole."""
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=4, check=0, archive=0)
    flags = ["--storage", small_disk / "run", "--epochs", 12, "--keep-checkpoints", 3]
    full = start_job("train", *small_training_flags(tmp_path), *flags)
    assert full.stdout
    said = next(line for line in full.stdout if "training on" in line)
    # what is left after the checks before the start: the checkpoints of a few epochs fill it
    (small_disk / "others").write_bytes(bytes(800 * 1024))
    said += full.stdout.read()
    assert full.wait() == 1
    assert said.endswith("free some and run again\n") or "free some and run again; rerun" in said
    assert "no space left on" in said, said
    assert "Traceback" not in said
    reached = epochs_done(small_disk / "run")
    assert 1 <= reached < 12
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = train(tmp_path, small_disk / "run", 12)
    assert again.returncode == 0, again.stderr
    (first,) = re.findall(r"from epoch (\d+)\n", again.stdout)
    assert int(first) == reached + 1
    assert epochs_done(small_disk / "run") == 12
