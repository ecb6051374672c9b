"""Resampling is not visible in the tiles, and is undone in the result."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.network.config import Padding, PredictorConfig, UNetConfig
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.resampled_predictor import ResampledPredictor
from unet_ray.network.unet import UNet

PREPROCESSING = Preprocessing("uint8", (100.0,), (50.0,))
WHOLE = 4096
"""Side of a tile that no image of these tests fills."""


def make_network(padding: Padding = "same", seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(UNetConfig(1, 2, 3, 1, padding))


def make_predictor(network: UNet, tile: int = WHOLE, **settings: object) -> ResampledPredictor:
    return ResampledPredictor(
        Predictor(network, PREPROCESSING, PredictorConfig(tile=tile, **settings))  # type: ignore[arg-type]
    )


NETWORKS: dict[Padding, UNet] = {"same": make_network("same"), "valid": make_network("valid")}


def draw_image(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return smooth noise, (height, width, 1)."""
    coarse = rng.integers(0, 256, (height // 3 + 2, width // 3 + 2, 1), dtype=np.uint8)
    return coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]


def draw_rim(height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """Return a mask without a wedge and some pixels, or without a rim, or None."""
    y, x = np.mgrid[:height, :width]
    kind = rng.integers(4)
    if kind == 0:
        return None
    if kind == 1:
        top, left, bottom, right = rng.integers(0, 9, 4)
        return (y >= top) & (x >= left) & (y < height - bottom) & (x < width - right)
    slope = rng.uniform(-2, 2)
    wedge = y + slope * x > rng.uniform(-width, height) / 2
    return wedge if kind == 2 else wedge & (rng.random((height, width)) > 0.05)


def predict(
    predictor: ResampledPredictor, image: Pixels, resampling: Resampling
) -> NDArray[np.uint8]:
    return predictor.predict_timed([image], [resampling])[0][0]


def predict_in_windows(
    predictor: ResampledPredictor, image: Pixels, resampling: Resampling
) -> NDArray[np.uint8]:
    """Predict tile by tile, as large images are."""
    halo = predictor.predictor.config.halo
    height, width = image.samples.shape[:2]
    found = np.zeros((2, height, width), np.uint8)
    times = np.zeros((height, width), int)
    for tile in predictor.tiles(resampling):
        pixels = predictor.read_tile(image.cut, tile, resampling)
        assert tile.extended == tile.core.grown(halo, height, width)
        prob_u8 = predictor.predict_tile(pixels, tile)
        assert prob_u8.shape[1:] == (tile.extended.height, tile.extended.width)
        core = np.s_[tile.core.top : tile.core.bottom, tile.core.left : tile.core.right]
        found[:, *core] = prob_u8[:, *tile.inner]
        times[core] += 1
    assert (times == 1).all()
    return found


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    factors=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    tiles=st.integers(1, 7),
    halo=st.integers(0, 5),
    padding=st.sampled_from(["same", "valid"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_tiles_of_resampled_images_are_not_visible(
    size: tuple[int, int],
    factors: tuple[float, float],
    tiles: int,
    halo: int,
    padding: Padding,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    image = Pixels(draw_image(*size, rng), draw_rim(*size, rng))
    resampling = Resampling.of(*size, factors)
    whole = predict(make_predictor(NETWORKS[padding]), image, resampling)
    tile = int(max(resampling.resampled_size) * resampling.coarseness) // tiles + 1
    tiled = make_predictor(NETWORKS[padding], tile, halo=halo)
    for found in (
        predict(tiled, image, resampling),
        predict_in_windows(tiled, image, resampling),
    ):
        assert np.abs(found.astype(int) - whole).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_masks_of_resampled_images_do_not_depend_on_tiles(padding: Padding) -> None:
    rng = np.random.default_rng(5)
    compared = differing = 0
    for _ in range(30):
        height, width = rng.integers(100, 200, 2).tolist()
        image = Pixels(draw_image(height, width, rng), draw_rim(height, width, rng))
        factors = tuple(np.exp(rng.uniform(np.log(0.2), np.log(5), 2)).tolist())
        resampling = Resampling.of(height, width, factors)
        whole = predict(make_predictor(NETWORKS[padding]), image, resampling)
        tiled = make_predictor(NETWORKS[padding], int(rng.integers(16, 100)), halo=3)
        found = predict_in_windows(tiled, image, resampling)
        assert np.abs(found.astype(int) - whole).max() <= 1
        threshold = int(np.median(whole))  # many pixels are near it
        compared += whole.size
        differing += ((whole >= threshold) != (found >= threshold)).sum()
    assert differing <= 1e-6 * compared


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_without_a_change_of_size_results_are_those_of_the_predictor(padding: Padding) -> None:
    rng = np.random.default_rng(1)
    arrays = [draw_image(height, width, rng) for height, width in ((40, 50), (61, 30))]
    images = [Pixels(array, None) for array in arrays]
    predictor = make_predictor(NETWORKS[padding], tile=16, halo=2)
    same = [Resampling.of(*array.shape[:2], (1, 1.001)) for array in arrays]
    expected = predictor.predictor.predict(arrays)
    for found, prob_u8 in zip(predictor.predict_timed(images, same)[0], expected, strict=True):
        assert np.array_equal(found, prob_u8)
    plain = predictor.predictor
    for image, array, resampling in zip(images, arrays, same, strict=True):
        tiles = plain.tiles(*array.shape[:2])
        assert predictor.tiles(resampling) == tiles
        for tile in tiles:
            pixels = predictor.read_tile(image.cut, tile, resampling)
            read = plain.read_tile(
                lambda box, of=image: of.cut(box).samples, *array.shape[:2], tile
            )
            assert np.array_equal(pixels.samples, read)
            found = predictor.predict_tile(pixels, tile)
            assert np.array_equal(found, plain.predict_tile(read, tile))


def test_images_of_any_factor_share_a_call() -> None:
    rng = np.random.default_rng(2)
    images = [Pixels(draw_image(40, 50, rng), draw_rim(40, 50, rng)) for _ in range(4)]
    factors = ((0.5, 0.5), (1, 1), (2.0, 1.5), (0.5, 0.5))
    resamplings = [Resampling.of(40, 50, each) for each in factors]
    predictor = make_predictor(NETWORKS["same"], tile=16)
    together, seconds = predictor.predict_timed(images, resamplings)
    assert seconds > 0
    for image, resampling, found in zip(images, resamplings, together, strict=True):
        assert np.array_equal(predict(predictor, image, resampling), found)


def test_an_image_of_smaller_pixels_is_predicted_as_the_one_that_the_model_knows() -> None:
    def draw(pixels_per_side: int) -> NDArray[np.uint8]:
        """Return waves of 20 to 40 px in a field of 60×80 px of the model."""
        y, x = (np.mgrid[: 60 * pixels_per_side, : 80 * pixels_per_side] + 0.5) / pixels_per_side
        waves = np.sin(y / 4) + np.sin(x / 3) + np.sin((x + y) / 6)
        return np.uint8(128 + 40 * waves)[..., None]

    predictor = make_predictor(NETWORKS["same"])
    known = predict(predictor, Pixels(draw(1), None), Resampling.of(60, 80, (1, 1)))
    pillow = [
        Image.fromarray(plane).resize((240, 180), Image.Resampling.BILINEAR) for plane in known
    ]
    expected = np.stack(pillow).astype(int)
    assert expected.std() > 10
    errors = []
    for factor in (1 / 3, 1):
        resampling = Resampling.of(180, 240, (factor, factor))
        found = predict(predictor, Pixels(draw(3), None), resampling)
        errors.append(np.abs(found - expected)[:, 15:-15, 15:-15].mean())
    assert errors[0] < 1 < 5 < errors[1]


def test_nothing_depends_on_samples_that_are_not_there() -> None:
    rng = np.random.default_rng(4)
    image, resampling = draw_image(50, 60, rng), Resampling.of(50, 60, (0.4, 0.7))
    valid = np.ones((50, 60), bool)
    valid[:, 35:] = False
    predictor = make_predictor(NETWORKS["same"], tile=16)
    found = predict(predictor, Pixels(image, valid), resampling)
    poisoned = np.where(valid[:, :, None], image, 255 - image)
    assert np.array_equal(predict(predictor, Pixels(poisoned, valid), resampling), found)
    nothing = predict(predictor, Pixels(image, np.zeros((50, 60), bool)), resampling)
    assert not nothing.any()


def test_a_tile_of_a_coarser_image_takes_no_more_of_the_image() -> None:
    predictor = make_predictor(NETWORKS["same"], tile=256)
    sizes = []

    def read(box: Box) -> Pixels:
        sizes.append(box.height * box.width)
        return Pixels(np.zeros((box.height, box.width, 1), np.uint8), None)

    resampling = Resampling.of(40_000, 30_000, (1 / 16, 1 / 16))
    tiles = predictor.tiles(resampling)
    assert max(tile.core.height * tile.core.width for tile in tiles) == 256**2
    tile = tiles[len(tiles) // 2]
    predictor.read_tile(read, tile, resampling)
    # 16 px of the resampled image, 14 px of context and halo and 1 px of the filter on both sides
    assert sum(sizes) <= (16 * (16 + 2 * 15)) ** 2


@pytest.mark.gpu
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factor", [0.3, 1.7])
def test_a_gpu_resamples_as_a_cpu_does(padding: Padding, factor: float) -> None:
    """Images recur often enough for CUDA graphs, of rounded and of unrounded results."""
    torch.manual_seed(6)
    network = UNet(UNetConfig(1, 2, 8, 2, padding))
    rng = np.random.default_rng(6)
    images = [Pixels(draw_image(200, 300, rng), draw_rim(200, 300, rng)) for _ in range(6)]
    resamplings = [Resampling.of(200, 300, (factor,) * 2), Resampling.of(200, 300, (1, 1))] * 3
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
    cpu, gpu = (make_predictor(network, 128, device=device, threads=1) for device in devices)
    expected = cpu.predict_timed(images, resamplings)[0]
    for _ in range(12):
        found = gpu.predict_timed(images, resamplings)[0]
        for one, other in zip(found, expected, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 2
