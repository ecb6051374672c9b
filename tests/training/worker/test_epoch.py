"""The training steps of an epoch, without Ray: batches are given, reports are counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.worker.builders import ALONE, CROPS_PER_EPOCH, make_settings, make_state
from unet_ray.training.worker.epoch import EpochClock, EpochTrainer, NotLearningError
from unet_ray.training.worker.state import CheckpointReporter, TrainingState


class Reports(CheckpointReporter):
    """Counts the chances for a checkpoint instead of reporting one to Ray Train."""

    def __init__(self) -> None:
        super().__init__(ALONE, interval_s=3600.0)
        self.num_chances = 0

    def report_within_epoch(self, state: TrainingState, is_due: bool) -> None:
        assert not is_due
        self.num_chances += 1


def batches() -> Iterator[dict[str, Tensor]]:
    """Yield batches without end."""
    for number in itertools.count():
        generator = torch.Generator().manual_seed(number)
        images = torch.randint(256, (2, 16, 16, 1), generator=generator, dtype=torch.uint8)
        targets = (images[..., 0] > 100).to(torch.uint8)[:, None].repeat(1, 2, 1, 1)
        yield {"image": images, "targets": targets}


def test_an_epoch_takes_its_crops_and_adds_up_their_losses(tmp_path: Path) -> None:
    state, reports, clock = make_state(), Reports(), EpochClock()
    trainer = EpochTrainer(make_settings(tmp_path), ALONE, state, reports, batches())
    trainer.train(clock)
    assert state.progress.crops_seen == CROPS_PER_EPOCH
    assert 0 < state.progress.epoch_loss / CROPS_PER_EPOCH < 2  # an untrained network has about 0.7
    assert reports.num_chances == 1
    assert clock.crops_per_s > 0
    assert 0 <= clock.wait_share <= 1


def test_an_epoch_that_was_begun_is_ended_not_repeated(tmp_path: Path) -> None:
    """Checkpoints within an epoch know how many of its crops were seen."""
    state = make_state()
    trainer = EpochTrainer(make_settings(tmp_path), ALONE, state, Reports(), batches())
    state.progress = type(state.progress)(crops_seen=CROPS_PER_EPOCH - 2, epoch_loss=1.0)
    trainer.train(EpochClock())
    assert state.progress.crops_seen == CROPS_PER_EPOCH
    assert 1 < state.progress.epoch_loss < 1 + 2 * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_spoilt_end_the_training_at_their_step(
    tmp_path: Path, value: float
) -> None:
    state = make_state()
    trainer = EpochTrainer(make_settings(tmp_path), ALONE, state, Reports(), batches())
    with torch.no_grad():
        next(iter(state.learner.network.parameters())).fill_(value)
    with pytest.raises(NotLearningError, match="the loss became .* at step 1"):
        trainer.train(EpochClock())
    assert state.progress.epoch_loss == 0


def test_waiting_counts_until_training_ends() -> None:
    clock = EpochClock()
    with clock.waiting():
        time.sleep(0.05)
    clock.end_training(num_crops=10)
    trained = clock.crops_per_s, clock.wait_share
    with clock.waiting():
        pass
    assert (clock.crops_per_s, clock.wait_share) == trained
    assert 0 < clock.wait_share <= 1
    assert clock.validation_s < clock.elapsed_s
