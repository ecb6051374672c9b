import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.builders import make_epoch_record, make_learner, make_progress
from unet_ray.errors import InputError
from unet_ray.network.learner import Learner
from unet_ray.network.model_folder import state_bytes
from unet_ray.storage.storage import Storage
from unet_ray.training.checkpoint_writer import load_optimizer, read_state, write_state
from unet_ray.training.checkpoints import BEST, WEIGHTS
from unet_ray.training.progress import PROGRESS, Progress, as_metrics, last_progress


def take_steps(learner: Learner, first: int, count: int) -> list[float]:
    """Take steps on batches that depend on the step's number only; return the losses."""
    losses = []
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        images = torch.randint(256, (2, 16, 16, 1), generator=generator, dtype=torch.uint8)
        targets = (images[..., 0] > 100).to(torch.uint8)[:, None].repeat(1, 2, 1, 1)
        losses.append(float(learner.step(images, targets, None, step / 20)))
    return losses


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    tmp_path: Path, norm: str
) -> None:
    learner = make_learner(norm)
    take_steps(learner, 1, 5)
    best = state_bytes(learner.unet)
    write_state(tmp_path, learner, make_progress(0.5, 0.4), best)
    losses = take_steps(learner, 6, 4)

    state = read_state(tmp_path, learner.unet.config)
    resumed = make_learner(norm, state.weights)
    load_optimizer(resumed.optimizer, state.optimizer)
    assert take_steps(resumed, 6, 4) == losses
    assert state.progress == make_progress(0.5, 0.4)
    assert state.best == best
    for name, tensor in learner.unet.state_dict().items():
        assert torch.equal(resumed.unet.state_dict()[name], tensor), name

    forgetful = make_learner(norm, state.weights)  # without the moments of AdamW
    assert take_steps(forgetful, 6, 4) != losses


def test_a_checkpoint_before_the_first_step_can_be_resumed(tmp_path: Path) -> None:
    learner = make_learner("none")
    write_state(tmp_path, learner, Progress(), None)
    state = read_state(tmp_path, learner.unet.config)
    assert state.best is None
    assert not (tmp_path / BEST).exists()
    resumed = make_learner("none", state.weights)
    load_optimizer(resumed.optimizer, state.optimizer)
    assert take_steps(resumed, 1, 2) == take_steps(learner, 1, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cut off", "not a safetensors file|cut short"),
        (state_bytes(make_learner("none").unet), "the weights do not fit the network"),
    ],
)
def test_a_checkpoint_with_other_weights_is_refused(
    tmp_path: Path, data: bytes, message: str
) -> None:
    learner = make_learner("batch")
    write_state(tmp_path, learner, Progress(), None)
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_state(tmp_path, learner.unet.config)


def test_the_best_weights_are_kept_as_they_were(tmp_path: Path) -> None:
    learner = make_learner("batch")
    best = state_bytes(learner.unet)
    before = {name: tensor.clone() for name, tensor in learner.unet.state_dict().items()}
    take_steps(learner, 1, 2)
    write_state(tmp_path, learner, make_progress(0.5), best)
    state = read_state(tmp_path, learner.unet.config)
    assert state.best is not None
    kept = load(state.best)
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert not torch.equal(state.weights["head.weight"], before["head.weight"])


@pytest.mark.parametrize(
    ("scores", "best", "idle"),
    [
        ([0.1], 1, 0),
        ([0.1, 0.2, 0.3], 3, 0),
        ([0.3, 0.2, 0.1], 1, 2),
        ([0.1, 0.3, 0.3], 3, 1),  # as good is no gain, but the later one is kept
        ([0.0, 0.0], 2, 1),
        ([0.3, 0.296, 0.292], 2, 2),  # as good as the highest, not as the last that was as good
        ([None], 1, 0),
        ([None, None, None], 3, 0),  # without validation the last is the best
        ([None, 0.0], 2, 0),
        ([None, 0.2, 0.1], 2, 1),
        ([0.5, 0.1, 0.2, 0.6, 0.4], 4, 1),
    ],
)
def test_the_best_epoch_is_the_last_one_that_is_as_good_as_the_highest(
    scores: list[float | None], best: int, idle: int
) -> None:
    progress = make_progress(*scores)
    assert progress.best_epoch == best
    assert progress.best == make_epoch_record(best, scores[best - 1])
    assert progress.epochs_without_gain == idle
    assert progress.epochs == len(scores)
    assert progress.epoch_loss == 0


def test_a_training_without_epochs_has_no_best_and_no_idle_epoch() -> None:
    assert (Progress().epochs, Progress().epochs_without_gain, Progress().best_epoch) == (0, 0, 0)


@pytest.mark.parametrize(
    "progress", [Progress(), make_progress(0.5, None, 0.7), Progress(37, 12.25)]
)
def test_progress_survives_json(progress: Progress) -> None:
    data = progress.to_json()
    assert Progress.of_json(data) == progress
    assert json.loads(data)["crops_seen"] == progress.crops_seen
    assert as_metrics(progress) == {"crops_seen": progress.crops_seen, "epochs": progress.epochs}


def test_the_last_progress_is_the_newest_that_is_whole(root: str) -> None:
    storage = Storage.of(root)
    assert last_progress(storage, "train") is None
    storage.write("train/checkpoint_9/model.safetensors", b"cut off")
    assert last_progress(storage, "train") is None
    for name, epochs in (("checkpoint_a", 3), ("checkpoint_b", 1), ("checkpoint_c", 2)):
        storage.write(f"train/{name}/{PROGRESS}", make_progress(*[0.5] * epochs).to_json())
    storage.write(f"other/checkpoint_d/{PROGRESS}", make_progress(*[0.5] * 9).to_json())
    assert last_progress(storage, "train") == make_progress(0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "names", [("checkpoint_1", "checkpoint_2"), ("checkpoint_2", "checkpoint_1")]
)
def test_of_two_checkpoints_at_the_end_of_an_epoch_the_one_with_its_record_wins(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """A checkpoint on the last step of an epoch has as many crops as the one after validation."""
    before, after = Progress(100, 12.0), make_progress(0.5)
    for name, progress in zip(names, (before, after), strict=True):
        Storage.of(str(tmp_path)).write(f"train/{name}/{PROGRESS}", progress.to_json())
    assert last_progress(Storage.of(str(tmp_path)), "train") == after
