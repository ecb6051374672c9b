import numpy as np
import pytest
import torch

from unet_ray.errors import InputError
from unet_ray.imaging.geometry import Box
from unet_ray.network.config import PRESETS, UNetConfig
from unet_ray.network.losses import cross_entropy_sum
from unet_ray.network.unet import UNet


def test_the_paper_preset_is_the_network_of_the_paper() -> None:
    network = UNet(UNetConfig(in_channels=1, num_classes=2, **PRESETS["paper"]))  # type: ignore[arg-type]
    assert (
        sum(p.numel() for p in network.parameters()) == 31_030_658
    )  # weights and biases of the paper's network with two classes
    with torch.device("meta"):
        shapes = UNet(network.config)(torch.zeros(1, 1, 572, 572)).shape
    assert shapes == (1, 2, 388, 388)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_network_takes_the_sizes_that_its_config_names(depth: int, padding: str) -> None:
    config = UNetConfig(1, 1, 2, depth, padding)  # type: ignore[arg-type]
    size = config.input_sizes.input_size(1)
    for height in (size, size + config.multiple):
        output = UNet(config).eval()(torch.zeros(1, 1, height, size))
        assert output.shape[2:] == (height - 2 * config.margin, size - 2 * config.margin)


def test_a_wrong_size_names_the_nearest_that_work() -> None:
    with pytest.raises(InputError, match="571 does not work; the nearest sizes are 556 and 572"):
        UNet(UNetConfig(1, 1, 2, 4, "valid"))(torch.zeros(1, 1, 571, 571))
    with pytest.raises(InputError, match="the nearest sizes are 48 and 64"):
        UNet(UNetConfig(1, 1, 2, 4, "same"))(torch.zeros(1, 1, 60, 64))
    with pytest.raises(InputError, match="depth 9: choose 1 to 7"):
        UNetConfig(depth=9)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_receptive_field_is_that_of_the_worst_pooling_phase(depth: int, padding: str) -> None:
    """A pixel outside the radius changes nothing; the farthest inside does, at the worst phase.

    Max pooling passes the gradient to the largest pixel of a cell only; images that rise towards
    one side make that the outermost pixel.
    """
    config = UNetConfig(1, 1, 1, depth, padding, "none")  # type: ignore[arg-type]
    network = UNet(config).double()
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    radius, step = config.receptive_field_radius, config.multiple
    centre = (radius // step + 2) * step
    size = config.input_sizes.input_size(2 * centre + 2 * step)
    rising = torch.linspace(0, 1, size, dtype=torch.double)[:, None].expand(1, 1, size, size)
    farthest = []
    for image in (rising, rising.flip(2)):
        for place in range(centre, centre + step):
            image = image.detach().clone().requires_grad_()
            network(image)[0, 0, place, place].backward()
            assert image.grad is not None
            rows = image.grad[0, 0].abs().sum(1).nonzero().ravel() - (place + config.margin)
            farthest.append(int(rows.abs().max()))
    assert max(farthest) == radius


def test_the_default_depths_have_a_known_radius_and_context() -> None:
    assert [UNetConfig(depth=d).receptive_field_radius for d in (3, 4)] == [51, 107]
    assert [UNetConfig(depth=d).exact_context for d in (3, 4)] == [56, 112]


def test_the_loss_leaves_ignored_pixels_out() -> None:
    logits = torch.tensor([[[[0.0, 5.0, -5.0]]]], requires_grad=True)
    total, counted = cross_entropy_sum(logits, torch.tensor([[[[1, 1, 255]]]], dtype=torch.uint8))
    assert counted == 2
    # −log sigmoid(0) and −log sigmoid(5)
    assert torch.isclose(total, torch.tensor(0.6931472 + 0.0067153), atol=1e-5)
    total.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, 2] == 0


@pytest.mark.parametrize(
    ("padding", "depth"), [("same", 1), ("same", 2), ("same", 3), ("valid", 2)]
)
def test_a_wanted_box_is_that_box_of_the_whole_output(padding: str, depth: int) -> None:
    torch.manual_seed(depth)
    config = UNetConfig(2, 2, 2, depth, padding)  # type: ignore[arg-type]
    network = UNet(config).double().eval()
    height, width = (
        config.input_sizes.input_size(5 * 2**depth),
        config.input_sizes.input_size(3 * 2**depth + 5),
    )
    images = torch.randn(2, 2, height, width, dtype=torch.float64)
    rng = np.random.default_rng(depth)
    with torch.inference_mode():
        whole = network(images)
        for _ in range(60):
            top, bottom = sorted(rng.choice(whole.shape[-2] + 1, 2, replace=False).tolist())
            left, right = sorted(rng.choice(whole.shape[-1] + 1, 2, replace=False).tolist())
            part = network(images, Box(top, left, bottom, right))
            torch.testing.assert_close(
                part, whole[..., top:bottom, left:right], rtol=1e-12, atol=1e-12
            )
