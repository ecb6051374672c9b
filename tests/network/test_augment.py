import math
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from unet_ray.errors import InputError
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.network import augment as augment_module
from unet_ray.network.augment import Batch, augment, sampling_grid
from unet_ray.network.config import AUGMENTATIONS, SPATIAL, VALUES, parse_augmentations

SIDE = 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, classes: int = 1, side: int = SIDE, seed: int = 0) -> Tensor:
    """Return smooth random blobs, (count, classes, side, side) uint8."""
    coarse = torch.randn(count, classes, 5, 5, generator=seeded(seed))
    return (interpolate(coarse, (side, side), mode="bicubic", align_corners=True) > 0).to(
        torch.uint8
    )


def make_batch(count: int = 16, channels: int = 3, classes: int = 1, side: int = SIDE) -> Batch:
    """Return samples whose first channel is the first target.

    Targets have ignored pixels, and the weights are a function of the targets.
    """
    targets = blobs(count, classes, side)
    images = torch.randn(count, channels, side, side, generator=seeded(1))
    images[:, 0] = targets[:, 0]
    targets = torch.where(
        blobs(count, classes, side, 2) & blobs(count, classes, side, 3) > 0, IGNORED, targets
    )
    return Batch(images, targets, make_weights(targets))


def make_weights(targets: Tensor) -> Tensor:
    return (targets.to(torch.float16) + 3) / 4


def is_inside(mask: Tensor) -> Tensor:
    """Return the pixels, not at the image's edge, all of whose neighbours have the same value."""
    plane = mask.float()
    same = max_pool2d(plane, 3, 1, 1) == -max_pool2d(-plane, 3, 1, 1)
    same[..., [0, -1], :] = False
    same[..., :, [0, -1]] = False
    return same


@pytest.mark.parametrize(
    "names", [*({name} for name in SPATIAL), set(SPATIAL), set(AUGMENTATIONS) - {"noise", "blur"}]
)
def test_masks_follow_their_images(names: set[str]) -> None:
    """The image is its own mask: bilinear and nearest neighbours differ only next to an edge."""
    for seed in range(3):
        targets = blobs(32, seed=seed)
        moved = augment(Batch(targets.float(), targets), frozenset(names), seeded(seed))
        centre = (
            moved.images.amin((1, 2, 3), keepdim=True) + moved.images.amax((1, 2, 3), keepdim=True)
        ) / 2
        differs = (moved.images > centre) != (moved.targets == 1)
        assert not (differs & is_inside(moved.targets)).any()
        assert differs.float().mean() < 0.03
        # most pixels are inside, so that the first assert says something
        assert is_inside(moved.targets).float().mean() > 0.7
        assert (moved.targets != targets).float().mean() > 0.03


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_flips_are_exact_and_of_all_four_kinds(channels: int) -> None:
    batch = make_batch(48, channels)
    moved = augment(batch, frozenset({"flip"}), seeded(0))
    kinds: list[tuple[int, ...]] = [(), (-1,), (-2,), (-1, -2)]
    found = []
    for index, planes in enumerate(zip(*moved.planes(), strict=True)):
        before = [plane[index] for plane in batch.planes()]
        found += [
            kind
            for kind, axes in enumerate(kinds)
            if all(torch.equal(a, b.flip(axes)) for a, b in zip(planes, before, strict=True))
        ]
    assert len(found) == 48
    assert set(found) == {0, 1, 2, 3}


def test_quarter_turns_are_exact_and_of_all_four_kinds() -> None:
    """Half of the samples are turned by an odd angle as well; the others by quarter turns only."""
    batch = make_batch(64)
    moved = augment(batch, frozenset({"rotate"}), seeded(0))
    found = []
    for index, planes in enumerate(zip(*moved.planes(), strict=True)):
        before = [plane[index] for plane in batch.planes()]
        found += [
            turns
            for turns in range(4)
            if all(
                torch.equal(a, b.rot90(turns, (-2, -1)))
                for a, b in zip(planes, before, strict=True)
            )
        ]
    assert set(found) == {0, 1, 2, 3}
    assert 16 < len(found) < 48  # of 64 samples, about half


@pytest.mark.parametrize("names", [*({name} for name in SPATIAL), set(AUGMENTATIONS)])
@pytest.mark.parametrize("classes", [1, 3])
def test_ignored_pixels_and_weights_move_with_the_targets(names: set[str], classes: int) -> None:
    batch = make_batch(classes=classes)
    for seed in range(3):
        moved = augment(batch, frozenset(names), seeded(seed))
        assert set(moved.targets.unique().tolist()) == {0, 1, IGNORED}
        assert moved.weights is not None
        assert moved.weights.dtype == torch.float16
        assert torch.equal(moved.weights, make_weights(moved.targets))
        assert not torch.equal(moved.targets, batch.targets)


def test_ignored_pixels_are_those_of_the_image() -> None:
    """The image marks the ignored pixels, and still does after augmentation."""
    ignored = blobs(32)
    targets = torch.where(ignored == 1, IGNORED, 0).to(torch.uint8)
    moved = augment(Batch(ignored.float(), targets), frozenset(SPATIAL), seeded(0))
    differs = (moved.images > 0.5) != (moved.targets == IGNORED)
    assert not (differs & is_inside(moved.targets)).any()


@pytest.mark.parametrize("names", [*({name} for name in VALUES), set(VALUES)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_augmentations_of_values_leave_masks_alone_and_stay_finite(
    names: set[str], channels: int
) -> None:
    drawn = make_batch(24, channels)
    constant = (
        torch.tensor([0.0, -2.0, 1e-8, 7.5])
        .repeat(6)
        .view(24, 1, 1, 1)
        .expand(24, channels, 16, 16)
    )
    for images in (drawn.images, constant, 1e4 * drawn.images):
        size = images.shape[-1]
        batch = Batch(
            images,
            drawn.targets[..., :size, :size],
            make_weights(drawn.targets[..., :size, :size]),
        )
        moved = augment(batch, frozenset(names), seeded(5))
        assert moved.targets is batch.targets
        assert moved.weights is batch.weights
        assert torch.isfinite(moved.images).all()
        assert moved.images.shape == images.shape
        assert moved.images.dtype == torch.float32


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "blur"])
def test_grey_stays_grey(name: str) -> None:
    """One draw per sample holds for all of its channels."""
    images = torch.randn(64, 1, 24, 24, generator=seeded(2)).repeat(1, 3, 1, 1)
    moved = augment(Batch(images, torch.zeros(64, 1, 24, 24)), frozenset({name}), seeded(0)).images
    assert not torch.equal(moved, images)
    assert torch.allclose(moved, moved[:, :1].expand_as(moved), atol=1e-6)


def test_resampling_at_the_pixels_gives_the_image_back() -> None:
    batch = make_batch()
    with mock.patch.object(augment_module, "_SCALES", (1.0, 1.0)):
        moved = augment(batch, frozenset({"scale"}), seeded(0))
    assert not torch.equal(moved.images, batch.images)  # it was resampled
    assert torch.allclose(moved.images, batch.images, atol=1e-4)
    assert torch.equal(moved.targets, batch.targets)


def test_no_augmentation_changes_nothing() -> None:
    batch = make_batch()
    moved = augment(batch, frozenset(), seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(moved.planes(), batch.planes(), strict=True))
    without = augment(Batch(batch.images, batch.targets), frozenset(AUGMENTATIONS), seeded(0))
    assert without.weights is None
    assert torch.equal(without.targets, augment(batch, frozenset(AUGMENTATIONS), seeded(0)).targets)


def test_a_batch_is_not_changed_in_place() -> None:
    batch, same = make_batch(), make_batch()
    augment(batch, frozenset(AUGMENTATIONS), seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(batch.planes(), same.planes(), strict=True))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_seed_and_each_sample_has_its_own_draws(name: str) -> None:
    one = torch.randn(1, 2, 32, 32, generator=seeded(3))
    batch = Batch(one.repeat(64, 1, 1, 1), torch.zeros(64, 1, 32, 32, dtype=torch.uint8))
    first, again, other = (
        augment(batch, frozenset({name}), seeded(seed)).images for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    changed = [image for image in first if not torch.equal(image, one[0])]
    distinct = {tuple(image.flatten()[:50].tolist()) for image in changed}
    if name not in ("flip", "rotate"):
        assert len(distinct) == len(changed)
    assert len(distinct) >= 3  # there are only a few flips and quarter turns
    share = {
        "flip": 0.75,
        "rotate": 0.875,
        "scale": 0.5,
        "elastic": 0.5,
        "noise": 0.15,
        "blur": 0.15,
    }.get(name, 0.3)
    assert len(changed) / 64 == pytest.approx(share, abs=0.2)


def augment_values(name: str, count: int = 128) -> list[tuple[Tensor, Tensor]]:
    """Return the samples that one augmentation of values changed: before, after."""
    images = torch.randn(count, 3, 24, 24, generator=seeded(4))
    after = augment(
        Batch(images, torch.zeros(count, 1, 24, 24)), frozenset({name}), seeded(4)
    ).images
    pairs = [(a, b) for a, b in zip(images, after, strict=True) if not torch.equal(a, b)]
    assert pairs
    return pairs


def test_brightness_adds_one_number() -> None:
    for before, after in augment_values("brightness"):
        shift = after - before
        assert shift.std() < 1e-6
        assert shift.abs().max() < 0.31  # standard deviations of the training set


def test_contrast_stretches_about_the_mean() -> None:
    for before, after in augment_values("contrast"):
        assert torch.isclose(before.mean(), after.mean(), atol=1e-5)
        factor = float(after.std() / before.std())
        assert 0.7 <= factor <= 1.4
        assert torch.allclose(after - after.mean(), factor * (before - before.mean()), atol=1e-5)


def test_gamma_keeps_the_range_and_the_order() -> None:
    for before, after in augment_values("gamma"):
        assert torch.isclose(before.min(), after.min(), atol=1e-5)
        assert torch.isclose(before.max(), after.max(), atol=1e-5)
        sorted_after = after.flatten()[before.flatten().argsort()]
        assert (sorted_after.diff() >= -1e-6).all()


def test_noise_is_small_and_differs_from_pixel_to_pixel() -> None:
    for before, after in augment_values("noise"):
        noise = after - before
        assert 0 < noise.std() < 0.17
        assert noise.mean().abs() < 0.02
        neighbours = torch.stack([noise[:, :, :-1].flatten(), noise[:, :, 1:].flatten()])
        assert torch.corrcoef(neighbours)[0, 1].abs() < 0.15


def test_blur_smooths_each_channel_for_itself() -> None:
    for before, after in augment_values("blur"):
        for one, other in zip(before, after, strict=True):
            assert other.std() < one.std()
            assert abs(float(one.mean() - other.mean())) < 0.05
            assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.2
        assert torch.corrcoef(after.flatten(1)).fill_diagonal_(0).abs().max() < 0.35
    point = torch.zeros(64, 2, 17, 17)
    point[:, 0, 8, 8] = 1
    after = augment(Batch(point, torch.zeros(64, 1, 17, 17)), frozenset({"blur"}), seeded(0)).images
    assert torch.allclose(after[:, 0].sum((1, 2)), torch.ones(64), atol=1e-5)
    assert torch.allclose(after, after.flip(-1), atol=1e-6)
    assert torch.allclose(after, after.transpose(-1, -2), atol=1e-6)
    assert not after[:, 1].any()


def jacobian(grid: Tensor) -> Tensor:
    """Return how the grid turns and stretches at each pixel, px per px.

    The shape is (…, side − 1, side − 1, 2, 2).
    """
    side = grid.shape[1]
    along_x = (grid[:, :-1, 1:] - grid[:, :-1, :-1]) * side / 2
    along_y = (grid[:, 1:, :-1] - grid[:, :-1, :-1]) * side / 2
    return torch.stack([along_x, along_y], -1)


@pytest.mark.parametrize("names", [{"elastic"}, set(SPATIAL)])
@pytest.mark.parametrize(("side", "count"), [(16, 400), (32, 400), (256, 30)])
def test_elastic_bending_does_not_fold_the_image(names: set[str], side: int, count: int) -> None:
    matrix = jacobian(sampling_grid(count, side, frozenset(names), seeded(side)))
    assert float((torch.linalg.det(matrix) > 0).float().mean()) > 0.999


@pytest.mark.parametrize("side", [32, 256])
def test_elastic_bending_is_as_strong_as_in_the_paper_at_256_px_and_less_below(side: int) -> None:
    plain = sampling_grid(100, side, frozenset(), seeded(0))
    shift_px = (sampling_grid(100, side, frozenset({"elastic"}), seeded(0)) - plain) * side / 2
    corners = shift_px[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert float(corners.std()) == pytest.approx(10 * side / 256, rel=0.15)
    assert shift_px.mean((0, 1, 2)).abs().max() < 0.2 * corners.std()


def test_without_augmentation_each_pixel_is_sampled_where_it_is() -> None:
    grid = sampling_grid(2, 8, frozenset(), seeded(0))
    places = (torch.arange(8) * 2 + 1) / 8 - 1
    assert torch.allclose(grid[0, ..., 0], places.expand(8, 8))
    assert torch.allclose(grid[1, ..., 1], places[:, None].expand(8, 8))


def test_rotating_only_rotates_and_scaling_only_scales() -> None:
    identity = torch.eye(2)
    turned = jacobian(sampling_grid(300, 32, frozenset({"rotate"}), seeded(0)))
    assert torch.allclose(turned.mT @ turned, identity.expand_as(turned), atol=1e-4)
    angles = torch.atan2(turned[:, 0, 0, 1, 0], turned[:, 0, 0, 0, 0])
    assert angles.abs().max() <= math.pi / 4 + 1e-4
    assert angles.max() > 0.7
    assert angles.min() < -0.7
    zoomed = jacobian(sampling_grid(300, 32, frozenset({"scale"}), seeded(0)))
    factors = zoomed[:, 0, 0, 0, 0]
    assert torch.allclose(zoomed, factors.view(-1, 1, 1, 1, 1) * identity, atol=1e-4)
    assert 1 / 1.4 - 1e-4 <= factors.min() < 0.75
    assert 1.38 < factors.max() <= 1 / 0.7 + 1e-4
    for name in ("rotate", "scale"):
        centre = sampling_grid(50, 33, frozenset({name}), seeded(0))[:, 16, 16]
        assert torch.allclose(centre, torch.zeros(2), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", set(AUGMENTATIONS)),
        ("none", set()),
        ("flip", {"flip"}),
        ("flip, noise", {"flip", "noise"}),
        (",".join(AUGMENTATIONS), set(AUGMENTATIONS)),
    ],
)
def test_names_of_augmentations_are_understood(text: str, expected: set[str]) -> None:
    assert parse_augmentations(text) == expected


@pytest.mark.parametrize(
    ("text", "unknown"),
    [("flop", "flop"), ("flip,flop", "flop"), ("all,flip", "all"), ("Flip", "Flip"), ("", "")],
)
def test_unknown_names_are_refused_in_one_line(text: str, unknown: str) -> None:
    with pytest.raises(InputError) as error:
        parse_augmentations(text)
    assert f"--augment {text}: {unknown} is unknown; give all, none, or flip,rotate," in str(
        error.value
    )
    assert "\n" not in str(error.value)
