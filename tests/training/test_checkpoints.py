"""Checkpoints are found again whatever happened to Ray Train's list of them.

They are removed only if a list says so.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

from tests.builders import make_learner, make_progress
from unet_ray.errors import InputError
from unet_ray.network.model_folder import state_bytes
from unet_ray.storage.storage import Storage
from unet_ray.training.checkpoint_writer import read_state, write_state
from unet_ray.training.checkpoints import BEST, DIGESTS, OPTIMIZER, WEIGHTS, settle_checkpoints
from unet_ray.training.progress import PROGRESS, SNAPSHOT, last_progress, listed_checkpoints

RUN = "unet_ray"


def checkpoint_name(epoch: int) -> str:
    return f"checkpoint_2026-11-24_00-00-{epoch:02d}.000000"


def add_checkpoint(storage: Storage, folder: Path, epoch: int, digests: bool = True) -> str:
    """Store the checkpoint of an epoch and return its name; earlier versions wrote no digests."""
    torch.manual_seed(epoch)
    learner = make_learner("none")
    place = folder / f"local-{epoch}"
    place.mkdir()
    write_state(place, learner, make_progress(*[0.5] * epoch), state_bytes(learner.unet))
    for file in place.iterdir():
        if digests or file.name != DIGESTS:
            storage.write(f"{RUN}/{checkpoint_name(epoch)}/{file.name}", file.read_bytes())
    return checkpoint_name(epoch)


def write_list(storage: Storage, *names: str) -> None:
    results = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    snapshot = {
        "checkpoint_results": results,
        "pending_training_results": [],
        "latest_checkpoint_result": results[-1],
    }
    storage.write(f"{RUN}/{SNAPSHOT}", json.dumps(snapshot).encode())


def checkpoints(storage: Storage) -> set[str]:
    paths = [entry.path for entry in storage.entries(RUN, missing_ok=True)]
    return {path.partition("/")[0] for path in paths if path.startswith("checkpoint_20")}


def test_an_unlisted_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    storage, others = Storage.of(f"{tmp_path}/run"), [tmp_path / "mine", tmp_path / "yours"]
    for folder in others:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "thesis.txt").write_text("x")
    listed, unlisted = (add_checkpoint(storage, tmp_path, epoch) for epoch in (1, 2))
    write_list(storage, listed)
    place = tmp_path / "run" / RUN
    (place / "checkpoint_2099").symlink_to(others[0])
    (place / unlisted / "inside").symlink_to(others[1])
    (place / unlisted / ".hidden").write_text("x")
    assert settle_checkpoints(storage, RUN) == []
    assert {path.name for path in place.iterdir()} == {listed, SNAPSHOT}
    assert all((folder / "deep" / "thesis.txt").exists() for folder in others)


@pytest.mark.parametrize(
    "change",
    [
        {"crops_seen": "5"},
        {"crops_seen": True},
        {"crops_seen": 10**400},
        {"best_epoch": 1.5},
        {"history": [{"epoch": "x"}]},
        {"history": [{"score": "x"}]},
        {"history": [{"thresholds": []}]},
        {"history": [{"worst": [[float("inf"), 1]]}]},
    ],
)
def test_a_progress_of_other_types_does_not_load(tmp_path: Path, change: dict[str, Any]) -> None:
    storage = Storage.of(str(tmp_path))
    first, newest = (add_checkpoint(storage, tmp_path, epoch, digests=False) for epoch in (1, 2))
    write_list(storage, first, newest)
    file = tmp_path / RUN / newest / PROGRESS
    content = json.loads(file.read_text())
    epochs = change.pop("history", None)
    if epochs:
        content["history"][-1] |= epochs[0]
    file.write_text(json.dumps(content | change))
    lines = settle_checkpoints(storage, RUN)
    assert "progress.json does not parse: progress.json: damaged: " in lines[0]
    assert lines[-1] == f"  resuming from {first}, after epoch 1"
    progress = last_progress(storage, RUN)
    assert progress is not None
    assert progress.epochs == 1


def test_an_empty_place_has_no_checkpoints_to_settle(root: str) -> None:
    assert settle_checkpoints(Storage.of(root), RUN) == []
    assert Storage.of(root).entries() == []


def test_a_checkpoint_that_the_list_does_not_name_is_removed(root: str, tmp_path: Path) -> None:
    storage = Storage.of(f"{root}/run")
    names = [add_checkpoint(storage, tmp_path, epoch) for epoch in (1, 2, 3)]
    storage.write(f"{RUN}/notes.txt", b"not a checkpoint")
    write_list(storage, *names[:2])
    assert last_progress(storage, RUN) == make_progress(0.5, 0.5)
    assert settle_checkpoints(storage, RUN) == []
    assert checkpoints(storage) == set(names[:2])
    assert storage.exists(f"{RUN}/notes.txt")


@pytest.mark.parametrize(
    "content", [None, b"", b'{"checkpoint_res', b"[]", b'{"checkpoint_results": [{}]}', b"\xff"]
)
@pytest.mark.parametrize("digests", [True, False])
def test_a_list_that_is_missing_or_damaged_is_rebuilt(
    root: str, tmp_path: Path, content: bytes | None, digests: bool
) -> None:
    storage = Storage.of(f"{root}/run")
    names = [add_checkpoint(storage, tmp_path, epoch, digests) for epoch in (2, 1, 10)]
    storage.write(f"{RUN}/{checkpoint_name(11)}/{PROGRESS}", b"{half a fi")
    if content is not None:
        storage.write(f"{RUN}/{SNAPSHOT}", content)
    said = settle_checkpoints(storage, RUN)
    assert said[0].endswith(f"{SNAPSHOT}, the list of checkpoints, is missing or damaged")
    assert said[1].startswith(f"  {checkpoint_name(11)} does not load: {PROGRESS} does not parse")
    assert said[2] == f"  resuming from {checkpoint_name(10)}, after epoch 10"
    assert checkpoints(storage) == {*names, checkpoint_name(11)}
    assert listed_checkpoints(storage, RUN) == [checkpoint_name(epoch) for epoch in (1, 2, 10)]
    # as Ray Train reads it
    state = _CheckpointManagerState(**json.loads(storage.read(f"{RUN}/{SNAPSHOT}")))
    assert state.latest_checkpoint_result is not None
    assert state.latest_checkpoint_result.metrics == {"crops_seen": 1000, "epochs": 10}
    assert state.current_report_index == 3
    assert last_progress(storage, RUN) == make_progress(*[0.5] * 10)
    assert settle_checkpoints(storage, RUN) == []


def cut(name: str, kept: int) -> Callable[[Storage, str], str]:
    def apply(storage: Storage, folder: str) -> str:
        data = storage.read(f"{folder}/{name}")
        storage.write(f"{folder}/{name}", data[: kept % len(data)])
        return f"{name} has {kept % len(data)} of {len(data)} bytes|{name}: cut short"

    return apply


def flip(name: str) -> Callable[[Storage, str], str]:
    def apply(storage: Storage, folder: str) -> str:
        data = bytearray(storage.read(f"{folder}/{name}"))
        data[-5] ^= 1
        storage.write(f"{folder}/{name}", bytes(data))
        return f"{name} differs from what was written"

    return apply


def remove(name: str) -> Callable[[Storage, str], str]:
    def apply(storage: Storage, folder: str) -> str:
        storage.delete(f"{folder}/{name}")
        return f"{name} is missing"

    return apply


def remove_all(storage: Storage, folder: str) -> str:
    for entry in storage.entries(folder):
        storage.delete(f"{folder}/{entry.path}")
    return f"{folder.rpartition('/')[2]} is missing"


def empty_digests(storage: Storage, folder: str) -> str:
    storage.write(f"{folder}/{DIGESTS}", json.dumps({WEIGHTS: {}}).encode())
    return f"{DIGESTS} has no entry for {WEIGHTS}"


DAMAGES: list[Any] = [
    *(
        (cut(name, kept), True)
        for name in (WEIGHTS, OPTIMIZER, BEST, PROGRESS)
        for kept in (0, 100, -1)
    ),
    *((cut(name, kept), False) for name in (WEIGHTS, OPTIMIZER, BEST) for kept in (0, 4, 100, -1)),
    *((flip(name), True) for name in (WEIGHTS, OPTIMIZER, BEST, PROGRESS)),
    *(
        (remove(name), digests)
        for name in (WEIGHTS, OPTIMIZER, BEST, PROGRESS)
        for digests in (True, False)
    ),
    (remove_all, True),
    (empty_digests, True),
]


@pytest.mark.parametrize(("damage", "digests"), DAMAGES)
def test_training_falls_back_from_a_newest_checkpoint_that_does_not_load(
    tmp_path: Path, damage: Callable[[Storage, str], str], digests: bool
) -> None:
    storage = Storage.of(f"{tmp_path}/run")
    names = [add_checkpoint(storage, tmp_path, epoch, digests) for epoch in (1, 2, 3)]
    write_list(storage, *names)
    fault = damage(storage, f"{RUN}/{names[2]}")
    first, *_, last = settle_checkpoints(storage, RUN)
    assert any(part in first for part in fault.split("|")), first
    assert last == f"  resuming from {names[1]}, after epoch 2"
    assert listed_checkpoints(storage, RUN) == names[:2]
    assert last_progress(storage, RUN) == make_progress(0.5, 0.5)
    network = make_learner("none").unet.config
    loaded = read_state(Path(f"{tmp_path}/run/{RUN}/{names[1]}"), network)
    assert loaded.progress == make_progress(0.5, 0.5)


def test_a_training_without_a_checkpoint_that_loads_is_refused(root: str, tmp_path: Path) -> None:
    storage = Storage.of(f"{root}/run")
    names = [add_checkpoint(storage, tmp_path, epoch) for epoch in (1, 2)]
    write_list(storage, *names)
    for name in names:
        cut(WEIGHTS, 50)(storage, f"{RUN}/{name}")
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints of this training loads .*; restore one"
    ):
        settle_checkpoints(storage, RUN)
    assert checkpoints(storage) == set(names)


def test_a_first_checkpoint_that_was_cut_off_starts_training_anew(root: str) -> None:
    storage = Storage.of(root)
    storage.write(f"{RUN}/{checkpoint_name(1)}/{WEIGHTS}", b"half")
    said = settle_checkpoints(storage, RUN)
    assert said[1:] == [
        f"  {checkpoint_name(1)} does not load: {PROGRESS} is missing",
        "  training starts from epoch 1",
    ]
    assert checkpoints(storage) == {checkpoint_name(1)}
    assert last_progress(storage, RUN) is None
    assert settle_checkpoints(storage, RUN) == []
    assert checkpoints(storage) == set()


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Make writes of this process fail beyond a file size, as they do on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def write_pieces(arrow: Any, path: str, pieces: list[bytes]) -> None:
    with arrow.open_output_stream(path) as stream:
        for piece in pieces:
            stream.write(piece)


def test_a_file_for_ray_train_is_stored_whole_or_not_at_all(root: str) -> None:
    """A write that fails leaves the earlier file, although the stream is then closed."""
    storage = Storage.of(root)
    storage.write("run/list.json", b"before")
    arrow, path = storage.arrow_filesystem, f"{storage.path}/run/list.json"
    for piece in (b"x" * 100, b"x" * 100_000):  # one fails when closed, one when written
        with limit_file_size(3000), pytest.raises(OSError, match="File too large"):
            write_pieces(arrow, path, [piece] * 100)
        assert storage.read("run/list.json") == b"before"
    with arrow.open_output_stream(path) as stream:
        stream.write(b"aft")
        assert storage.read("run/list.json") == b"before"
        stream.write(b"er")
    assert storage.read("run/list.json") == b"after"
    assert [entry.path for entry in storage.entries()] == ["run/list.json"]
    stream = arrow.open_output_stream(path)
    stream.write(b"of a process that was killed")
    del stream
    assert storage.read("run/list.json") == b"after"


def test_progress_is_that_of_the_listed_checkpoint(root: str, tmp_path: Path) -> None:
    """A checkpoint that is stored but not listed is not the one that Ray Train goes on from."""
    storage = Storage.of(f"{root}/run")
    first = add_checkpoint(storage, tmp_path, 1)
    write_list(storage, first)
    ahead = replace(make_progress(0.5, 0.5), crops_seen=10**6)
    storage.write(f"{RUN}/{checkpoint_name(2)}/{PROGRESS}", ahead.to_json())
    assert last_progress(storage, RUN) == make_progress(0.5)
