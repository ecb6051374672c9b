import threading
import weakref
from typing import Literal

import numpy as np
import pytest
import torch

from unet_ray.errors import ImageError
from unet_ray.imaging.geometry import Box
from unet_ray.network.config import Padding, Precision, PredictorConfig, UNetConfig
from unet_ray.network.cuda_graphs import BatchGraph
from unet_ray.network.devices import is_device_lost, is_out_of_memory
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

PREPROCESSING = Preprocessing("uint8", (100.0,), (50.0,))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_tiles_equal_the_whole_image(padding: str, norm: str) -> None:
    torch.manual_seed(1)
    network = UNet(UNetConfig(1, 2, 3, 2, padding, norm))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for height, width in ((61, 130), (128, 64), (3, 90), (1, 1)):
        image = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
        whole = Predictor(network, PREPROCESSING, PredictorConfig(tile=1024)).predict([image])[0]
        tiled = Predictor(network, PREPROCESSING, PredictorConfig(tile=32)).predict([image])[0]
        assert whole.shape == (2, height, width)
        assert np.abs(whole.astype(int) - tiled).max() <= 1
        assert whole.size < 100 or whole.std() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("trained", [False, True])
def test_tiles_are_not_visible_at_any_size_or_phase(padding: str, trained: bool) -> None:
    """Sizes have every residue of the pooling grid, and tiles end at different phases of it."""
    network = UNet(UNetConfig(1, 1, 4, 3, padding))  # type: ignore[arg-type]
    if trained:
        _train(network)
    rng = np.random.default_rng(0)
    compared = differing = 0
    for residue in range(8):
        image = _blobs(72 + residue, 113 - residue, rng)
        whole = Predictor(network, PREPROCESSING, PredictorConfig(tile=1024)).predict([image])[0]
        assert whole.std() > 0.5
        for tile in (24, 40) if residue != 3 else (8, 16, 24, 40, 72):
            predictor = Predictor(network, PREPROCESSING, PredictorConfig(tile=tile))
            (tiled,) = predictor.predict([image])
            assert np.abs(whole.astype(int) - tiled).max() <= 1
            compared += whole.size
            differing += ((whole >= 128) != (tiled >= 128)).sum()
    assert differing <= 1e-6 * compared


def _blobs(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return bright blobs on noise, (height, width, 1) uint8."""
    y, x = np.mgrid[:height, :width]
    image = rng.normal(60, 15, (height, width))
    for cy, cx, radius in zip(
        rng.uniform(0, height, 9), rng.uniform(0, width, 9), rng.uniform(3, 9, 9), strict=True
    ):
        image[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] += 90
    return image.clip(0, 255).astype(np.uint8)[..., None]


def _train(network: UNet) -> None:
    """Teach a network to find the blobs, well enough that it is sure of most pixels."""
    rng = np.random.default_rng(1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    margin = network.config.margin
    size = network.config.input_sizes.input_size(64)
    for _ in range(60):
        images = torch.from_numpy(np.stack([_blobs(size, size, rng) for _ in range(4)])).permute(
            0, 3, 1, 2
        )
        logits = network(PREPROCESSING.apply(images))
        targets = (images > 110).float()[..., margin : size - margin, margin : size - margin]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.2
    network.eval()


def test_images_of_a_batch_do_not_change_each_other() -> None:
    torch.manual_seed(2)
    predictor = Predictor(UNet(UNetConfig(1, 1, 3, 2)), PREPROCESSING, PredictorConfig())
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (*size, 1), dtype=np.uint8) for size in ((20, 30), (33, 8), (20, 30))
    ]
    together = predictor.predict(images)
    for image, prob_u8 in zip(images, together, strict=True):
        assert np.array_equal(predictor.predict([image])[0], prob_u8)


def test_lanes_do_not_change_results_and_fit_into_memory() -> None:
    torch.manual_seed(2)
    network = UNet(UNetConfig(1, 1, 3, 2))
    one, two = (
        Predictor(network, PREPROCESSING, PredictorConfig(tile=24, threads=threads))
        for threads in (1, 2)
    )
    assert (one.lane_count, two.lane_count) == (1, 2)
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (*size, 1), dtype=np.uint8)
        for size in ((20, 30), (90, 70), (33, 8), (20, 30))
    ]
    for alone, beside in zip(one.predict(images), two.predict(images), strict=True):
        assert np.abs(alone.astype(int) - beside).max() <= 1
    extended = Predictor(UNet(UNetConfig(1, 1, 64, 1)), PREPROCESSING, PredictorConfig(threads=8))
    assert extended.lane_count == 1  # a second tile of 1,024 px would take about 3 GiB more


def test_folding_of_batch_normalisation_does_not_change_results() -> None:
    torch.manual_seed(3)
    network = UNet(UNetConfig(1, 1, 3, 2))
    for _ in range(3):
        network(torch.rand(2, 1, 16, 16) * 3)  # fill the running statistics
    network.eval()
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    with torch.inference_mode():
        expected = (
            network(PREPROCESSING.apply(torch.from_numpy(image).permute(2, 0, 1)[None])).sigmoid()
            * 255
        )
    prob_u8 = Predictor(network, PREPROCESSING, PredictorConfig()).predict([image])[0]
    assert np.abs(prob_u8 - expected[0].numpy()).max() <= 0.51  # rounding, and a little for folding


def test_a_predictor_that_is_no_longer_used_gives_its_memory_back() -> None:
    """Its lanes must not keep it alive: a training makes a predictor for each validation."""
    predictor = Predictor(UNet(UNetConfig(1, 1, 3, 2)), PREPROCESSING, PredictorConfig(threads=2))
    predictor.predict([np.zeros((20, 30, 1), np.uint8)] * 4)
    still_there = weakref.ref(predictor)
    del predictor
    assert still_there() is None


@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [
        ("cpu", "bfloat16", 12),
        pytest.param("cuda", "float32", 2, marks=pytest.mark.gpu),
        pytest.param("cuda", "bfloat16", 12, marks=pytest.mark.gpu),
    ],
)
def test_devices_and_precisions_agree(
    device: Literal["cpu", "cuda"], precision: Precision, tolerance: int
) -> None:
    torch.manual_seed(4)
    network = UNet(UNetConfig(1, 1, 8, 3))
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 1), dtype=np.uint8)
    expected = Predictor(network, PREPROCESSING, PredictorConfig()).predict([image])[0].astype(int)
    predictor = Predictor(
        network, PREPROCESSING, PredictorConfig(device=device, precision=precision)
    )
    assert (type(predictor.network).__name__ == "FusedUNet") == (device == "cuda")
    assert str(predictor.network.head.weight.dtype) == f"torch.{precision}"
    assert np.abs(predictor.predict([image])[0] - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("device", "precision", "tolerance"),
    [
        ("cpu", "float32", 1),
        pytest.param("cuda", "float32", 2, marks=pytest.mark.gpu),
        pytest.param("cuda", "bfloat16", 12, marks=pytest.mark.gpu),
    ],
)
@pytest.mark.parametrize("tile", [64, 512])
def test_pixels_that_are_not_there_change_nothing(
    device: Literal["cpu", "cuda"], precision: Precision, tolerance: int, tile: int
) -> None:
    """Images of five channels, of which some lack pixels, share a run with whole ones."""
    torch.manual_seed(8)
    network, rng = UNet(UNetConfig(5, 2, 8, 2)), np.random.default_rng(8)
    constants = Preprocessing("uint16", (30_000.25,) * 5, (9_000.0,) * 5)
    valid = np.ones((200, 300), bool)
    valid[:70, :90] = valid[150:, 200:] = False
    image = rng.integers(0, 60_000, (200, 300, 5)).astype(np.uint16)
    checked = [constants.check(image)]
    for under in (0, 65_535):
        changed = np.where(valid[:, :, None], image, under).astype(np.uint16)
        checked.append(constants.check(changed, valid))
    expected = Predictor(network, constants, PredictorConfig()).predict(checked)
    config = PredictorConfig(tile=tile, device=device, precision=precision, threads=1)
    predictor = Predictor(network, constants, config)
    for _ in range(4):  # on a GPU the last ones are graphs
        found = predictor.predict(checked)
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one.astype(int) - other).max() <= tolerance
        assert np.array_equal(found[1], found[2])
    assert not np.array_equal(found[0], found[1])


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_fused_network_gives_the_results_of_the_plain_one(padding: Padding) -> None:
    from unet_ray.network.fused_unet import (
        FusedUNet,  # needs Triton, which comes with torch for CUDA
    )

    torch.manual_seed(6)
    plain = UNet(UNetConfig(3, 2, 8, 2, padding, norm="none")).eval()
    plain = plain.to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(2, 3, 60, 68, device="cuda").contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for wanted in (None, Box(4, 4, 12, 16)):
            expected, found = plain(images, wanted), FusedUNet(plain)(images, wanted)
            assert torch.allclose(
                expected, found, rtol=1e-2, atol=1e-2 * float(expected.abs().max())
            )


@pytest.mark.gpu
def test_streams_of_a_gpu_do_not_mix_images() -> None:
    """Many images of two sizes are in all lanes at once; each is predicted as it is alone."""
    torch.manual_seed(5)
    network = UNet(UNetConfig(1, 1, 8, 3))
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (*size, 1), dtype=np.uint8) for size in ((256, 256), (200, 320)) * 100
    ]
    predictor = Predictor(network, PREPROCESSING, PredictorConfig(device="cuda", threads=1))
    assert predictor.lane_count == 3
    together = predictor.predict(images)
    for image, prob_u8 in list(zip(images, together, strict=True))[::7]:
        assert np.abs(predictor.predict([image])[0].astype(int) - prob_u8).max() <= 1


@pytest.mark.gpu
def test_a_graph_computes_what_its_kernels_do_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batches of a shape run kernel by kernel, later ones as a graph.

    When memory runs out, captured graphs are given up.
    """
    torch.manual_seed(7)
    constants = Preprocessing("uint8", (100.0,) * 3, (50.0,) * 3)
    config = PredictorConfig(tile=128, device="cuda", threads=1)
    predictor = Predictor(UNet(UNetConfig(3, 2, 8, 3)), constants, config)
    replays, replay = [], BatchGraph.__call__
    monkeypatch.setattr(
        BatchGraph, "__call__", lambda graph: replays.append(graph.pixels.shape[0]) or replay(graph)
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (200, 300, 3), dtype=np.uint8) for _ in range(5)]
    by_kernels = predictor.predict(images)
    assert not replays
    for expected_most in (64, 4):
        for _ in range(30):
            for found, expected in zip(predictor.predict(images), by_kernels, strict=True):
                assert np.abs(found.astype(int) - expected).max() <= 1
        assert 0 < max(replays) <= expected_most
        predictor._halve(8)  # as when memory runs out: captured graphs are given up
        replays.clear()


def make_overflowing_network() -> UNet:
    """Return a network whose output for black pixels is finite, and for white ones is not."""
    torch.manual_seed(8)
    network = UNet(UNetConfig(1, 2, 8, 2, norm="none"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        network.head.weight.fill_(3e38)
    return network


BLACK_IS_ZERO = Preprocessing("uint8", (0.0,), (1.0,))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_output_that_is_not_finite_is_an_error_and_no_empty_image(
    device: Literal["cpu", "cuda"], precision: Precision
) -> None:
    """On a GPU the first batches run kernel by kernel, later ones as a graph."""
    config = PredictorConfig(tile=64, device=device, precision=precision, threads=1)
    predictor = Predictor(make_overflowing_network(), BLACK_IS_ZERO, config)
    black, white = np.zeros((64, 64, 1), np.uint8), np.full((64, 64, 1), 255, np.uint8)
    (tile,) = predictor.tiles(64, 64)
    for _ in range(6):
        assert predictor.predict([black])[0].max() == 128
        assert predictor.predict_tile(black, tile).max() == 128
        for predict in (
            lambda: predictor.predict([black, white]),
            lambda: predictor.predict_tile(white, tile),
        ):
            with pytest.raises(ImageError, match="internal: the network's output is NaN or infin"):
                predict()


def test_preprocessing_refuses_other_samples() -> None:
    with pytest.raises(ImageError, match="uint16 samples, but the model was trained on uint8"):
        PREPROCESSING.check(np.zeros((2, 2, 1), np.uint16))


def test_memory_that_runs_out_halves_the_batch_permanently() -> None:
    """The network refuses batches of more than two, as a full GPU would."""
    torch.manual_seed(4)
    network = UNet(UNetConfig(1, 1, 3, 2))
    images = [
        np.random.default_rng(i).integers(0, 256, (20, 30, 1), dtype=np.uint8) for i in range(9)
    ]
    expected = Predictor(network, PREPROCESSING, PredictorConfig()).predict(images)
    predictor = Predictor(network, PREPROCESSING, PredictorConfig())
    predictor._most = 8  # as on a GPU
    seen: list[int] = []

    def refuse(_: object, inputs: tuple[torch.Tensor]) -> None:
        seen.append(len(inputs[0]))
        if len(inputs[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    predictor.network.register_forward_pre_hook(refuse)
    limit = 2
    found = predictor.predict(images)
    assert seen == [8, 4, 2, 2, 2, 2, 2]  # two failures, then nine images in five batches
    assert predictor.batch_divisor == 4
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(found, expected, strict=True))
    seen.clear()
    predictor.predict(images[:3])
    assert seen == [2, 2]
    limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(images[:1])


def test_lanes_that_run_out_of_memory_together_halve_the_batch_once() -> None:
    predictor = Predictor(UNet(UNetConfig(1, 1, 3, 2)), PREPROCESSING, PredictorConfig(threads=2))
    predictor._most = 8  # as on a GPU
    both, seen = threading.Barrier(2), []

    def refuse(_: object, inputs: tuple[torch.Tensor]) -> None:
        seen.append(len(inputs[0]))
        if len(inputs[0]) > 4:
            both.wait(timeout=60)
            raise torch.OutOfMemoryError("CUDA out of memory")

    predictor.network.register_forward_pre_hook(refuse)
    predictor.predict([np.zeros((20, 30, 1), np.uint8)] * 16)
    assert seen.count(8) == 2
    assert seen.count(4) == 4
    assert predictor.batch_divisor == 2


@pytest.mark.parametrize(
    ("error", "full", "lost"),
    [
        (MemoryError(), True, False),
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
            False,
            True,
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False, False),
    ],
)
def test_a_full_memory_is_told_from_a_lost_device(error: Exception, full: bool, lost: bool) -> None:
    assert (is_out_of_memory(error), is_device_lost(error)) == (full, lost)


def test_an_image_of_two_tiles_is_one_piece_as_long_as_memory_lasts() -> None:
    torch.manual_seed(4)
    network = UNet(UNetConfig(1, 1, 3, 2))
    image = np.random.default_rng(0).integers(0, 256, (30, 240, 1), dtype=np.uint8)
    predictor = Predictor(network, PREPROCESSING, PredictorConfig(tile=64))
    widths: list[int] = []

    def refuse(_: object, inputs: tuple[torch.Tensor]) -> None:
        widths.append(inputs[0].shape[-1])
        if widths[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    predictor.network.register_forward_pre_hook(refuse)
    limit = 240
    whole = predictor.predict([image])[0].astype(int)
    assert widths == [240]
    limit = 200
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict([image])
    # the stage also tries again, image by image
    assert np.abs(predictor.predict([image])[0] - whole).max() <= 1
    assert len(widths) == 2 + 4  # whole twice, then four tiles of 64 px
    for config in (PredictorConfig(tile=64, context=4), PredictorConfig(tile=2048, threads=2)):
        other = Predictor(UNet(UNetConfig(1, 1, 64, 2)), PREPROCESSING, config)
        assert len(other.tiles(config.tile, config.tile + 16)) == 2
