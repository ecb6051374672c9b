"""Event files and pictures in a run folder."""

from __future__ import annotations

from pathlib import Path

from tests.builders import make_epoch_record, make_progress
from tests.training.worker.builders import (
    ALONE,
    LABELLING,
    PREPROCESSING,
    SECOND,
    Squares,
    make_settings,
    make_state,
)
from unet_ray.network.model_folder import state_bytes
from unet_ray.training.validation import Validation
from unet_ray.training.worker.artifacts import draw_pictures, open_event_log


def test_only_the_first_worker_writes_events(tmp_path: Path) -> None:
    run_folder = make_settings(tmp_path).run_folder
    with open_event_log(run_folder, SECOND) as write:
        write(make_epoch_record(1))
    assert not [*run_folder.entries("tensorboard", missing_ok=True)]
    with open_event_log(run_folder, ALONE) as write:
        write(make_epoch_record(1))
    assert len([*run_folder.entries("tensorboard")]) == 1


def test_curves_are_drawn_and_the_worst_images_beside_them(tmp_path: Path) -> None:
    settings, validation = (
        make_settings(tmp_path),
        Validation(Squares(), PREPROCESSING, LABELLING, ((1, "1.png"), (3, "3.png"))),
    )
    best = state_bytes(make_state().learner.unet)
    draw_pictures(settings, make_progress(0.5, 0.6), best, validation)
    for picture in ("curves.png", "worst.png"):
        assert settings.run_folder.read(picture).startswith(b"\x89PNG")
