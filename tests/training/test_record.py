"""What a training began with: a run with other flags or files is refused before Ray starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import encode_tiff, make_progress, small_training
from unet_ray.errors import InputError, OutputHeldError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.tables.lock import OutputLock
from unet_ray.training.config import TrainConfig
from unet_ray.training.record import (
    RECORD,
    DataDecisions,
    LabelledFile,
    TrainingRecord,
    list_labelled_files,
    read_record,
)
from unet_ray.training.train import train

LABELLED = "data/labelled"
WAYS_ON = "give another --storage to train anew, with --init-from MODEL"


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Return a config whose run folder has a training of one epoch, as far as files tell."""
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=4, check=0, archive=0)
    config = small_training(str(tmp_path), storage=f"{tmp_path}/run")
    labelled = find_labelled(config.images, config.masks, LabelOptions((ClassSpec(1, "cell"),)))
    decisions = DataDecisions(
        Labelling("classes", (ClassSpec(1, "cell"), ClassSpec(2, "fibre")), ignored=255),
        Preprocessing("uint8", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (-1.0, 1.5)),
        ("0003.png",),
    )
    run = Storage.of(f"{tmp_path}/run")
    settings = asdict(config) | {"labelled_images": 4}
    files = list_labelled_files(labelled, None)
    TrainingRecord(settings, files, decisions, "bfloat16").write(run)
    run.write("unet_ray/checkpoint_2026/progress.json", make_progress(0.5).to_json())
    return config


def test_a_record_comes_back_as_it_was_written(config: TrainConfig, tmp_path: Path) -> None:
    record = read_record(Storage.of(f"{tmp_path}/run"))
    record.write(Storage.of(f"{tmp_path}/other"))
    assert read_record(Storage.of(f"{tmp_path}/other")) == record
    assert record.decisions
    assert record.decisions.validation == ("0003.png",)
    assert record.settings == asdict(config) | {"labelled_images": 4}
    assert record.cpu_precision == "bfloat16"


def test_a_record_of_an_earlier_version_goes_on_in_float32(tmp_path: Path) -> None:
    run = Storage.of(f"{tmp_path}/run")
    run.write("train.json", json.dumps({"labelled_images": 4, "seed": 0}).encode())
    assert read_record(run).cpu_precision == "float32"


def test_groups_of_the_split_come_back_as_well(config: TrainConfig, tmp_path: Path) -> None:
    record = read_record(Storage.of(f"{tmp_path}/run"))
    assert record.decisions
    assert record.decisions.groups is None
    groups = {"0001.png": "a", "0002.png": "a", "0003.png": "b"}
    grouped = replace(record.decisions, groups=groups, grouped_by="--group-by -1")
    replace(record, decisions=grouped).write(Storage.of(f"{tmp_path}/other"))
    assert read_record(Storage.of(f"{tmp_path}/other")).decisions == grouped


def replace_all(folder: Path) -> None:
    """Give all images and masks other names, and so as many other images."""
    for kind in ("images", "masks"):
        for file in sorted((folder / kind).iterdir()):
            file.rename(file.with_name(f"other-{file.name}"))


def rename_one(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind / "0002.png").rename(folder / kind / "2.png")


def grow_mask(folder: Path) -> None:
    with (folder / "masks/0001.png").open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replace_all, "8 are missing (first: images/0000.png), 8 are new (first: images/other-00"),
        (rename_one, "2 are missing (first: images/0002.png), 2 are new (first: images/2.png)"),
        (grow_mask, "1 is changed (first: masks/0001.png);"),
    ],
)
def test_other_files_are_refused(
    config: TrainConfig, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    change(tmp_path / LABELLED)
    with pytest.raises(InputError) as refusal:
        train(config)
    assert f"--storage {tmp_path}/run holds a training on 8 other labelled" in str(refusal.value)
    assert named in str(refusal.value)
    assert WAYS_ON in str(refusal.value)


def test_only_known_contents_are_compared() -> None:
    """A file that could not be read once is none that changed."""
    file = LabelledFile(5, "aa")
    assert not file.differs(LabelledFile(5, None))
    assert not LabelledFile(5, None).differs(file)
    assert file.differs(LabelledFile(5, "bb"))
    record = TrainingRecord({}, {"images/a.png": file})
    kept = record.check_files({"images/a.png": LabelledFile(5, None)}, Storage.of("run"))
    assert kept == {"images/a.png": file}


def test_other_flags_are_refused(config: TrainConfig) -> None:
    with pytest.raises(
        InputError, match=r"a training with --seed 0, but this one has --seed 1; use"
    ):
        train(replace(config, seed=1))


def test_how_files_are_found_may_differ_if_they_are_the_same(config: TrainConfig) -> None:
    """Records of earlier versions have none of these settings."""
    now = asdict(replace(config, image_roots="s3://b", follow_links=True)) | {"labelled_images": 4}
    before = {name: now[name] for name in now if name not in ("image_roots", "follow_links")}
    TrainingRecord(before).check_settings(now, Storage.of("run"))
    with pytest.raises(InputError, match="a training with --seed 0, but this one has --seed 5"):
        TrainingRecord({}).check_settings({"seed": 5, "follow_links": True}, Storage.of("run"))


def test_a_record_without_files_compares_their_number(config: TrainConfig, tmp_path: Path) -> None:
    """A version before 2026-12 wrote such records."""
    settings = read_record(Storage.of(f"{tmp_path}/run")).settings
    TrainingRecord(settings).write(Storage.of(f"{tmp_path}/run"))
    for kind in ("images", "masks"):
        (tmp_path / LABELLED / kind / "0000.png").unlink()
    with pytest.raises(
        InputError, match="with 4 labelled images, but this one has 3 labelled images"
    ):
        train(config)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "is missing"),
        (b"", "is damaged: not JSON: Expecting value"),
        (b'{"labelled_images": 4, "fil', "is damaged: not JSON: Unterminated string"),
        (b"\xff\xfe", "is damaged: not JSON: "),
        (
            b'{"a":' + 100_000 * b"[" + 100_000 * b"]" + b"}",
            "is damaged: its JSON is nested too deeply",
        ),
        (b"[]", "is damaged: not a JSON object but a list"),
        (b"{}", "is damaged: KeyError: 'labelled_images'"),
        (b'{"labelled_images": 4, "files": {}}', "is damaged: KeyError: 'decisions'"),
    ],
)
def test_a_damaged_record_is_named(
    config: TrainConfig, tmp_path: Path, content: bytes | None, fault: str
) -> None:
    record = tmp_path / "run" / RECORD
    record.unlink()
    if content is not None:
        record.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        train(config)
    assert str(refusal.value).startswith(
        f"{record} records what this training began with, but {fault}"
    )
    assert "restore it to resume, or" in str(refusal.value)
    assert WAYS_ON in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_second_training_at_once_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with (
        OutputLock(Storage.of(f"{tmp_path}/run"), "first"),
        pytest.raises(OutputHeldError, match=r"run: .*another --storage") as refusal,
    ):
        train(config)
    assert refusal.value.exit_code == 4
    with pytest.raises(InputError, match="--seed"):  # the lock is free again
        train(replace(config, seed=1))


def test_names_do_not_depend_on_where_the_files_lie(tmp_path: Path) -> None:
    data = Storage.of(f"{tmp_path}/a")
    pages = np.zeros((2, 9, 9), np.uint8)
    for path in ("images/s.tif", "masks/cell/s.tif", "masks/fibre/s.tif"):
        data.write(path, encode_tiff(*pages))
    shutil.copytree(tmp_path / "a", tmp_path / "b/c")
    here, there = (
        list_labelled_files(find_labelled(f"{root}/images", f"{root}/masks", LabelOptions()), None)
        for root in (tmp_path / "a", tmp_path / "b/c")
    )
    assert here == there
    assert sorted(here) == [
        f"{folder}/s.tif#page={page}"
        for folder in ("images", "masks/cell", "masks/fibre")
        for page in (1, 2)
    ]
