"""The progress of a training comes back from its JSON, or is damaged in one line."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tests.builders import make_progress
from unet_ray.errors import InputError
from unet_ray.storage.storage import Storage
from unet_ray.training.progress import (
    PROGRESS,
    SNAPSHOT,
    Progress,
    last_progress,
    listed_checkpoints,
)

DEEP = b'{"a":' * 100_000


def test_progress_comes_back_from_its_json() -> None:
    progress = make_progress(0.5, 0.7)
    assert Progress.of_json(progress.to_json()) == progress
    assert Progress.of_json(Progress().to_json()) == Progress()


@pytest.mark.parametrize(
    "change",
    [
        {"crops_seen": "many"},
        {"crops_seen": -1},
        {"best_epoch": 3},
        {"best_epoch": None},
        {"history": None},
        {"history": [1]},
        {"history": [{"epoch": 1}]},
        {"more": 1},
    ],
)
def test_other_values_are_damage(change: dict[str, Any]) -> None:
    found = asdict(make_progress(0.5, 0.7)) | change
    with pytest.raises(InputError, match="progress.json: damaged"):
        Progress.of_json(json.dumps(found).encode())


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", DEEP])
def test_a_damaged_checkpoint_or_list_is_passed_over(root: str, content: bytes) -> None:
    storage, good = Storage.of(root), make_progress(0.5)
    storage.write(f"run/one/{PROGRESS}", good.to_json())
    storage.write(f"run/two/{PROGRESS}", content)
    storage.write(f"run/{SNAPSHOT}", content)
    assert listed_checkpoints(storage, "run") is None
    assert last_progress(storage, "run") == good
