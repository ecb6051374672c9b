import math
import os
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.network import learner as learner_module
from unet_ray.network.config import AUGMENTATIONS, UNetConfig
from unet_ray.network.learner import Learner, LearnerConfig, summed, world_size
from unet_ray.network.losses import cross_entropy_sum, dice_loss
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

PREPROCESSING = Preprocessing("uint8", (128.0,), (64.0,))
PLAIN = UNetConfig(1, 2, 2, 1, "same", "none")
Sample = tuple[Tensor, Tensor, Tensor | None]

TRAININGS = {
    "bce": LearnerConfig(1e-2),
    "bce-weighted": LearnerConfig(1e-2, class_weights=(1.0, 5.0)),
    "bce_dice": LearnerConfig(1e-2, "bce_dice"),
}
"""Trainings that are the same on one worker and on two; `bce-weighted` has border weights."""


def make_learner(
    config: LearnerConfig, network: UNetConfig = PLAIN, wrapped: bool = False
) -> Learner:
    torch.manual_seed(7)
    unet = UNet(network)
    generator = torch.Generator().manual_seed(0)
    return Learner(
        DistributedDataParallel(unet) if wrapped else unet, PREPROCESSING, config, generator
    )


def samples(count: int, side: int = 16, weighted: bool = False, seed: int = 0) -> Sample:
    """Return bright squares and their targets.

    Nearly every pixel is ignored in the first half of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = torch.zeros(count, 2, side, side, dtype=torch.uint8)
    for plane in targets.flatten(0, 1):
        top, left = torch.randint(side // 2, (2,), generator=generator).tolist()
        plane[top : top + side // 2, left : left + side // 2] = 1
    images = 60 * targets.sum(1)[..., None] + torch.randint(
        60, (count, side, side, 1), generator=generator
    )
    share = torch.where(torch.arange(count) < count // 2, 0.9, 0.05).view(-1, 1, 1, 1)
    targets[torch.rand(targets.shape, generator=generator) < share] = IGNORED
    weights = 1 + 10 * torch.rand(targets.shape, generator=generator) if weighted else None
    return images.to(torch.uint8), targets, weights


def take_part(sample: Sample, chosen: slice) -> Sample:
    images, targets, weights = sample
    return images[chosen], targets[chosen], None if weights is None else weights[chosen]


def state_after(learner: Learner, sample: Sample) -> dict[str, Tensor]:
    """Take two steps; return their gradients, losses (mean over workers) and the weights."""
    found: dict[str, Tensor] = {}
    for step, progress in enumerate((0.05, 0.1)):
        loss = learner.step(*sample, progress)
        found[f"loss {step}"] = summed(loss) / world_size()
        found |= {
            f"gradient {step} {n}": p.grad.clone()
            for n, p in learner.unet.named_parameters()
            if p.grad is not None
        }
    return found | {
        f"weight {name}": p.detach().clone() for name, p in learner.unet.named_parameters()
    }


@pytest.mark.parametrize("peak", [1e-3, 0.5])
def test_the_learning_rate_warms_up_and_falls_to_nothing(peak: float) -> None:
    learner = make_learner(LearnerConfig(peak))
    rates = [learner.learning_rate(step / 1000) for step in range(1001)]
    top = rates.index(max(rates))
    assert top == 50  # the warm-up takes 5 % of the training
    assert rates[0] == 0
    assert rates[top] == pytest.approx(peak, rel=0.01)
    assert max(rates) <= peak
    assert all(before < after for before, after in pairwise(rates[:51]))
    assert all(before > after for before, after in pairwise(rates[50:]))
    assert rates[25] == pytest.approx(peak / 2, rel=0.01)
    assert rates[500] == pytest.approx(peak / 2)
    assert rates[1000] == pytest.approx(0, abs=1e-12)


def test_bfloat16_on_a_cpu_learns_what_float32_learns() -> None:
    """Weights and gradients stay float32; losses differ by the rounding of bfloat16, 2⁻⁸."""
    sample, losses = samples(4), {}
    for precision in ("float32", "bfloat16"):
        learner = make_learner(LearnerConfig(1e-2, cpu_precision=precision))  # type: ignore[arg-type]
        losses[precision] = [float(learner.step(*sample, step / 20)) for step in range(1, 21)]
        assert {weight.dtype for weight in learner.unet.parameters()} == {torch.float32}
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)
    assert losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]


def test_the_learning_rate_follows_progress_and_not_the_number_of_steps() -> None:
    sample = samples(2)
    rates = []
    for steps in (4, 8):
        learner = make_learner(LearnerConfig(1e-3))
        for step in range(1, steps + 1):
            learner.step(*sample, step / steps)
            rates.append((step / steps, learner.optimizer.param_groups[0]["lr"]))
    by_progress = dict(rates)
    assert len(by_progress) == 8
    assert all(
        by_progress[progress] == rate == learner.learning_rate(progress) for progress, rate in rates
    )
    assert by_progress[0.5] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("loss", "padding", "norm"), [("bce", "same", "batch"), ("bce_dice", "valid", "none")]
)
def test_a_few_steps_lower_the_loss(loss: str, padding: str, norm: str) -> None:
    network = UNetConfig(1, 2, 8, 1, padding, norm)  # type: ignore[arg-type]
    learner = make_learner(LearnerConfig(1e-2, loss, augmentations=frozenset({"flip"})), network)  # type: ignore[arg-type]
    sample = samples(4, 32)
    losses = [float(learner.step(*sample, 0.05 + step / 100)) for step in range(30)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("loss", ["bce", "bce_dice"])
def test_the_margin_of_a_valid_network_is_not_learnt_from(loss: str) -> None:
    network = UNetConfig(1, 2, 2, 1, "valid", "none")
    config = LearnerConfig(1e-2, loss, (2.0, 3.0))  # type: ignore[arg-type]
    margin, side = network.margin, 12 + 2 * network.margin
    images, targets, weights = samples(2, side, weighted=True)
    assert weights is not None
    inner = slice(margin, side - margin)
    learner = make_learner(config, network)
    with torch.no_grad():
        logits = learner.network(PREPROCESSING.apply(images.permute(0, 3, 1, 2)))
    cut = targets[..., inner, inner]
    total, counted = cross_entropy_sum(
        logits, cut, torch.tensor([2.0, 3.0]), weights[..., inner, inner]
    )
    expected = total / counted + (dice_loss(logits, cut) if loss == "bce_dice" else 0)
    other_targets, other_weights = torch.ones_like(targets), torch.full_like(weights, 1e3)
    other_targets[..., inner, inner], other_weights[..., inner, inner] = (
        cut,
        weights[..., inner, inner],
    )
    assert torch.equal(
        learner.step(images, targets, weights, 0.5),
        make_learner(config, network).step(images, other_targets, other_weights, 0.5),
    )
    assert torch.isclose(
        make_learner(config, network).step(images, targets, weights, 0.5), expected, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["rotate", "scale", "elastic"])
def test_the_margin_is_cut_after_augmentation(name: str) -> None:
    """Pixels of the margin come into view where a sample is turned, zoomed or bent."""
    network = UNetConfig(1, 2, 2, 1, "valid", "none")
    images, _, _ = samples(24, 12 + 2 * network.margin)
    targets = torch.ones(24, 2, *images.shape[1:3], dtype=torch.uint8)
    inner = slice(network.margin, -network.margin)
    targets[..., inner, inner] = IGNORED
    still, moved = LearnerConfig(1e-2), LearnerConfig(1e-2, augmentations=frozenset({name}))
    assert make_learner(still, network).step(images, targets, None, 0.5) == 0
    assert make_learner(moved, network).step(images, targets, None, 0.5) > 0


def test_a_batch_without_a_counted_pixel_changes_almost_nothing() -> None:
    learner = make_learner(LearnerConfig(1e-2, "bce_dice", augmentations=frozenset(AUGMENTATIONS)))
    images, targets, _ = samples(4)
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    assert learner.step(images, torch.full_like(targets, IGNORED), None, 0.5) == 0
    for name, parameter in learner.network.named_parameters():
        assert torch.allclose(parameter, before[name], rtol=1e-5), name  # weight decay


def test_normalisation_settles_late_in_training() -> None:
    """At first, statistics follow the batches; later they stay, as they do in inference."""
    learner = make_learner(LearnerConfig(1e-3), UNetConfig(1, 2, 2, 1))
    norm = next(
        layer for layer in learner.unet.modules() if isinstance(layer, torch.nn.BatchNorm2d)
    )
    seen = []
    for progress in (0.5, 0.59, 0.7, 1.0):
        learner.unet.train()
        before = norm.running_mean.clone()
        loss = learner.step(*samples(4, seed=int(100 * progress)), progress)
        seen.append(not torch.equal(before, norm.running_mean))
    assert seen == [True, True, False, False]
    images, targets, _ = samples(4, seed=3)
    learner.unet.eval()
    with torch.inference_mode():
        logits = learner.unet(PREPROCESSING.apply(images.permute(0, 3, 1, 2)))
        total, count = cross_entropy_sum(logits, targets)
    learner.unet.train()
    loss = learner.step(images, targets, None, 1.0)
    assert float(loss) == pytest.approx(float(total / count), rel=1e-5)


def test_gradients_are_clipped() -> None:
    learner = make_learner(LearnerConfig(1e-2, class_weights=(1e4, 1e4)))
    learner.step(*samples(2), 0.5)
    norm = torch.stack(
        [p.grad.norm() for p in learner.network.parameters() if p.grad is not None]
    ).norm()
    assert float(norm) == pytest.approx(1, rel=1e-3)


@pytest.fixture(scope="module")
def results_of_two_workers(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, dict[str, Tensor]]]:
    """Train in two processes with half of the samples each; return the results by rank."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(_work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _work(rank: int, folder: Path) -> None:
    """Run one of two workers."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(minutes=2)
    torch.distributed.init_process_group("gloo", store, patience, world_size=2, rank=rank)
    found: dict[str, dict[str, Tensor]] = {}
    for name, config in TRAININGS.items():
        mine = take_part(samples(4, weighted=name == "bce-weighted"), slice(2 * rank, 2 * rank + 2))
        found[name] = state_after(make_learner(config, wrapped=True), mine)
        # each worker counts its own pixels only
        with mock.patch.object(learner_module, "summed", lambda counted: 2 * counted):
            found[f"{name}, own count"] = state_after(make_learner(config, wrapped=True), mine)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", TRAININGS)
def test_two_workers_learn_what_one_learns(
    name: str, results_of_two_workers: list[dict[str, dict[str, Tensor]]]
) -> None:
    """Two workers with half of a batch each end at the weights of one with all of it.

    The tolerance is 1e-5 of the largest number of a tensor. Sums in another order differ by some
    roundings of float32, 6e-8 each; 8e-7 was seen. A mean over each worker's own pixels would be
    off by 1e5 times as much: one half of the samples has many times as many ignored pixels as the
    other.
    """
    alone = state_after(make_learner(TRAININGS[name]), samples(4, weighted=name == "bce-weighted"))
    assert distance(results_of_two_workers[0][name], results_of_two_workers[1][name]) == 0
    assert distance(results_of_two_workers[0][name], alone) < 1e-5
    wrong = results_of_two_workers[0][f"{name}, own count"]
    assert distance({k: v for k, v in wrong.items() if k.startswith("weight")}, alone) > 0.1


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of any tensor, in units of its largest number."""
    return max(
        float((found[k] - expected[k]).abs().max() / expected[k].abs().max().clamp(min=1e-6))
        for k in found
    )
