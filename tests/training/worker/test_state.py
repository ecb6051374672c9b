"""The state of a training in a worker."""

from __future__ import annotations

from tests.builders import make_epoch_record
from tests.training.worker.builders import ALONE, SECOND, make_state
from unet_ray.network.model_folder import state_bytes
from unet_ray.training.worker.state import CheckpointReporter


def test_the_first_worker_keeps_the_weights_of_the_best_epoch() -> None:
    state = make_state()
    assert state.end_epoch(make_epoch_record(1, 0.9), ALONE)
    best = state.best
    assert best == state_bytes(state.learner.unet)
    assert not state.end_epoch(make_epoch_record(2, 0.1), ALONE)
    assert state.best is best
    assert (state.progress.epochs, state.progress.best_epoch) == (2, 1)


def test_other_workers_have_the_same_progress_and_no_weights() -> None:
    state = make_state()
    assert state.end_epoch(make_epoch_record(1, 0.9), SECOND)
    assert state.progress.best_epoch == 1
    assert state.best is None


def test_a_checkpoint_is_due_on_the_first_worker_only() -> None:
    assert CheckpointReporter(ALONE, interval_s=-1.0).is_due
    assert not CheckpointReporter(SECOND, interval_s=-1.0).is_due
    assert not CheckpointReporter(ALONE, interval_s=3600.0).is_due
