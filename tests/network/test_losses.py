import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.network.losses import cross_entropy_sum, dice_loss

SURE = 50.0
"""A logit whose sigmoid is 1 in float32."""


def draw_batch(
    seed: int, images: int = 3, classes: int = 2, side: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, targets with ignored pixels, and weights."""
    generator = torch.Generator().manual_seed(seed)
    shape = images, classes, side, side
    logits = 4 * torch.randn(shape, generator=generator)
    targets = torch.randint(3, shape, generator=generator)
    weights = 1 + 10 * torch.rand(shape, generator=generator)
    return logits, torch.where(targets == 2, IGNORED, targets).to(torch.uint8), weights


@given(st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=50)
def test_cross_entropy_is_the_formula(seed: int, by_class: bool, by_pixel: bool) -> None:
    """The sum of −c·t·log p − (1 − t)·log(1 − p) times the weight, over the pixels that count."""
    logits, targets, weights = draw_batch(seed)
    factors = torch.tensor([1.5, 7.0])
    total, counted = cross_entropy_sum(
        logits, targets, factors if by_class else None, weights if by_pixel else None
    )
    p, expected, pixels = logits.double().sigmoid(), 0.0, 0
    for place in (targets != IGNORED).nonzero().tolist():
        at = tuple(place)
        loss = (
            -(factors[at[1]] if by_class else 1.0) * p[at].log()
            if targets[at] == 1
            else -(1 - p[at]).log()
        )
        expected += float(loss) * (float(weights[at]) if by_pixel else 1.0)
        pixels += 1
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(counted) == pixels
    assert total.dtype == counted.dtype == torch.float32


@pytest.mark.parametrize("kind", ["bce", "dice"])
@pytest.mark.parametrize("wild", [1e4, -1e4, 3.0])
def test_ignored_pixels_change_neither_value_nor_gradient(kind: str, wild: float) -> None:
    logits, targets, weights = draw_batch(1)
    ignored = targets == IGNORED

    def loss(values: Tensor) -> Tensor:
        return (
            cross_entropy_sum(values, targets, None, weights)[0]
            if kind == "bce"
            else dice_loss(values, targets)
        )

    other = logits.masked_fill(ignored, wild).requires_grad_()
    value = loss(other)
    assert torch.equal(value, loss(logits))
    value.backward()
    assert other.grad is not None
    assert not other.grad[ignored].any()
    assert other.grad[~ignored].abs().min() > 0


def test_without_counted_pixels_loss_and_gradient_are_zero() -> None:
    logits = torch.randn(2, 1, 4, 4, requires_grad=True)
    nothing = torch.full((2, 1, 4, 4), IGNORED, dtype=torch.uint8)
    total, counted = cross_entropy_sum(logits, nothing)
    assert (total.item(), counted.item()) == (0, 0)
    (total + dice_loss(logits, nothing)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_losses_stay_finite_at_extreme_logits_and_in_half_precision() -> None:
    targets = torch.tensor([[[[0, 1]]]], dtype=torch.uint8)
    for logits in (
        torch.tensor([[[[1e4, -1e4]]]]),
        torch.tensor([[[[1e30, -1e30]]]], dtype=torch.bfloat16),
    ):
        assert torch.isfinite(cross_entropy_sum(logits, targets)[0])
        assert float(dice_loss(logits, targets)) == pytest.approx(1 - 1 / 3)
    half = torch.randn(1, 1, 64, 64).bfloat16()
    many = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    assert torch.equal(cross_entropy_sum(half, many)[0], cross_entropy_sum(half.float(), many)[0])


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 0.0),  # perfect
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),  # absent and not found
        ([0, 0, 0, 0], [1, 1, 0, 0], 1 - 1 / 3),  # missed
        ([1, 1, 0, 0], [0, 0, 0, 0], 1 - 1 / 3),  # invented
        ([1, 0, 1, 0], [1, 1, 0, 0], 1 - 3 / 5),  # half
        ([1, 1, 1, 1], [1, 1, IGNORED, IGNORED], 0.0),  # wrong only where nothing counts
        ([1, 0, 1, 0], [IGNORED] * 4, 0.0),  # nothing counts
    ],
)
def test_dice_equals_values_worked_out_by_hand(
    found: list[int], wanted: list[int], expected: float
) -> None:
    logits = torch.tensor(found).float().sub(0.5).mul(2 * SURE).view(1, 1, 2, 2)
    assert float(
        dice_loss(logits, torch.tensor(wanted, dtype=torch.uint8).view(1, 1, 2, 2))
    ) == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
@settings(deadline=None, max_examples=50)
def test_dice_of_a_batch_is_the_mean_over_its_images(seed: int, images: int, classes: int) -> None:
    """Thus the mean over workers with equal batches is that of all images."""
    logits, targets, _ = draw_batch(seed, images, classes)
    each = [
        dice_loss(logits[i : i + 1, k : k + 1], targets[i : i + 1, k : k + 1])
        for i in range(images)
        for k in range(classes)
    ]
    assert float(dice_loss(logits, targets)) == pytest.approx(
        float(torch.stack(each).mean()), rel=1e-5
    )
