"""Runs over a finished output of which a part cannot be listed.

Nothing is removed, and no image is done twice.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import make_tiny_model
from tests.conftest import REPOSITORY, new_bucket
from tests.faults import failing_scandir, is_listing, without_capabilities
from tests.faulty_store import faulty_store
from unet_ray.errors import InputError
from unet_ray.output.config import PruneConfig, VerifyConfig
from unet_ray.output.prune import prune
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage import retry as retry_module
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.tables.output_folder import take_inventory

pytestmark = pytest.mark.usefixtures("ray_local", "locks_settle_at_once")

_CODES = (errno.EACCES, errno.EIO, errno.ESTALE)


def make_finished_output(root: str, model: str) -> SegmentConfig:
    """Segment a small archive into two shards, beside the leftovers of a run that crashed."""
    archive, rng = Storage.of(f"{root}/archive"), np.random.default_rng(0)
    for index in range(3):
        archive.write(f"{index % 2}/{index}.png", encode(draw_scene(40, 40, rng)[0], "png"))
    config = SegmentConfig(
        model=model,
        images=archive.uri,
        output=f"{root}/tables",
        shard_images=2,
        date="2026-01-01",
        stall_minutes=5,
    )
    segment(config)
    output = Storage.of(config.output)
    output.write("runs/20260101T000000Z-aaaaaa.json", b'{"status": "failed", "exit_code": 1}')
    output.write("masks/date=2026-01-01/20260101T000000Z-aaaaaa-000000.parquet", b"left")
    return replace(config, date="2026-01-02")


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> SegmentConfig:
    """Make one finished output, and a copy of it, for all tests of this file."""
    folder = tmp_path_factory.mktemp("finished")
    config = make_finished_output(str(folder), make_tiny_model(folder))
    shutil.copytree(config.output, folder / "copy")
    return config


@pytest.fixture
def config(segmented: SegmentConfig) -> SegmentConfig:
    """Restore the finished output from its copy; return the settings of the run after it."""
    shutil.rmtree(segmented.output)
    shutil.copytree(folder_of(segmented) / "copy", segmented.output)
    return segmented


def folder_of(config: SegmentConfig) -> Path:
    """Return the folder that has `archive` and `tables`."""
    return Path(config.output).parent


def digest_files(config: SegmentConfig) -> dict[str, str]:
    """Return the digest of every file of an output."""
    output = Storage.of(config.output)
    return {
        entry.path: hashlib.sha256(output.read(entry.path)).hexdigest()
        for entry in output.entries()
    }


def check_nothing_changed_and_go_on(config: SegmentConfig, before: dict[str, str]) -> None:
    """Check that nothing was changed, and that the next run is whole and does nothing."""
    assert digest_files(config) == before
    result = segment(config)
    assert (result.images_done, result.images_skipped, result.exit_code) == (0, 3, 0)
    assert not verify(VerifyConfig(tables=config.output, images=config.images)).problems
    left = {path for path in before if "aaaaaa" in path and path.startswith("masks")}
    assert before.keys() - digest_files(config).keys() == left


def test_a_local_listing_that_fails_ends_the_run_and_changes_nothing(
    config: SegmentConfig,
) -> None:
    root = folder_of(config)
    before = digest_files(config)
    with failing_scandir(0, 0) as listed:
        segment(replace(config, dry_run=True))
    ours = [folder for folder in listed if folder.startswith(str(root))]
    assert {folder.removeprefix(f"{root}/") for folder in ours} >= {
        *("archive", "archive/0", "archive/1"),
        *("tables/runs", "tables/images", "tables/masks/date=2026-01-01"),
    }
    for number, folder in enumerate(listed, 1):
        if folder in ours:
            with (
                failing_scandir(number, _CODES[number % 3]),
                # masks and regions are listed side by side, in either order
                pytest.raises(InputError, match=f"{root}/.*: this folder cannot be listed"),
            ):
                segment(config)
    check_nothing_changed_and_go_on(config, before)


@pytest.mark.slow
def test_a_listing_of_a_store_that_fails_ends_the_run_and_changes_nothing(
    request: pytest.FixtureRequest, s3_server: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_finished_output(new_bucket(request), tiny_model)
    before, listings = digest_files(config), list[str]()
    fails_at, status = 0, 403

    def refuse(command: str, path: str) -> int | None:
        if not is_listing(command, path):
            return None
        listings.append(path)
        return status if len(listings) == fails_at else None

    monkeypatch.setattr(retry_module, "ATTEMPTS", 1)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1, raising=False)
    with faulty_store(s3_server, refuse=refuse) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        segment(replace(config, dry_run=True))
        count = len(listings)
        assert count >= 5
        for fails_at in range(1, count + 1):
            status = (403, 500)[fails_at % 2]
            listings.clear()
            with pytest.raises(InputError, match=r"can(not)? be listed|_lock.json: cannot be read"):
                segment(config)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    check_nothing_changed_and_go_on(config, before)


@pytest.fixture
def closed_folder(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function that takes all permissions of a folder away until the test ends."""
    closed = list[Path]()

    def close(folder: Path) -> None:
        closed.append(folder)
        folder.chmod(0)

    yield close
    for folder in closed:
        folder.chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["tables/images/date=2026-01-01", "archive/1"])
def test_a_folder_that_may_not_be_read_ends_the_run_with_exit_code_2(
    config: SegmentConfig, closed_folder: Any, place: str
) -> None:
    """A user who may not read one folder runs the job: this once deleted a finished output."""
    closed = folder_of(config) / place
    before = digest_files(config)
    closed_folder(closed)
    flags = ["--model", config.model, "--images", config.images]
    flags += ["--output", config.output, "--date", "2026-01-02"]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "jobs/segment.py", *flags],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        capture_output=True,
        text=True,
        preexec_fn=without_capabilities,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(
        f"error: {closed}: this folder cannot be listed completely (Permission"
    )
    closed.chmod(0o755)
    check_nothing_changed_and_go_on(config, before)


@pytest.mark.parametrize("absent", ["images", "masks/date=2026-01-01", "regions"])
def test_a_disk_that_is_not_mounted_is_not_taken_for_an_empty_output(
    config: SegmentConfig, tmp_path: Path, absent: str
) -> None:
    """The files of the output are behind a broken link, or below a mount point without its disk."""
    before, place = digest_files(config), Path(config.output) / absent
    shutil.move(place, tmp_path / "disk")
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="a link to nothing"):
        segment(config)
    place.unlink()
    place.mkdir()
    with pytest.raises(InputError, match=r"missing, but runs/.*.json counts them; restore them"):
        segment(config)
    with pytest.raises(InputError, match=r"missing, but runs/.*.json counts them; restore them"):
        segment(replace(config, dry_run=True))
    place.rmdir()
    shutil.move(tmp_path / "disk", place)
    check_nothing_changed_and_go_on(config, before)


def test_an_empty_archive_is_told_from_one_that_is_gone(
    root: str, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_finished_output(root, tiny_model)
    assert "nothing here yet, a new output starts" in capsys.readouterr().out
    before, archive = digest_files(config), Storage.of(config.images)
    for entry in archive.entries():
        archive.delete(entry.path)
    both = "0 images listed, but the tables have rows of 3 of its images; is a disk not mounted"
    with pytest.raises(InputError, match=both):
        segment(config)
    with pytest.raises(InputError, match=both):
        segment(replace(config, dry_run=True))
    assert digest_files(config) == before
    assert segment(replace(config, allow_empty=True)).images_listed == 0
    assert "a new output starts" not in capsys.readouterr().out
    other = replace(config, output=f"{tmp_path}/other")
    with pytest.raises(InputError) as error:
        segment(other)
    assert "tables have rows" not in str(error.value)
    assert segment(replace(other, allow_empty=True)).exit_code == 0


def test_leftovers_without_a_record_stay_until_a_prune_asks_for_them(
    config: SegmentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Storage.of(config.output)
    output.delete("runs/20260101T000000Z-aaaaaa.json")
    before = digest_files(config)
    segment(config)
    assert "1 files of masks and regions have no images file" in capsys.readouterr().out
    assert before.items() <= digest_files(config).items()
    (found,) = verify(VerifyConfig(tables=config.output)).problems
    assert found.startswith(
        "a file without its images file, of a run that no record calls unfinished"
    )
    assert len(prune(PruneConfig(tables=config.output, leftovers=True)).leftovers) == 1
    assert not take_inventory(output).leftovers
    assert not verify(VerifyConfig(tables=config.output)).problems


def test_a_record_lists_the_shards_of_its_run(config: SegmentConfig) -> None:
    inventory = take_inventory(Storage.of(config.output))
    record = next(record for record in inventory.records.values() if record["status"] == "done")
    assert (record["date"], record["shards"]) == ("2026-01-01", [0, 1])
