import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.crops import LabelledCrops
from unet_ray.imaging.labels.label_planes import compute_planes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import Normalisation, PredictorConfig, UNetConfig
from unet_ray.network.learner import Learner, LearnerConfig
from unet_ray.network.model_folder import Model, load_model, save_model, state_bytes
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import ChannelStatistics, Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.storage.storage import Storage

SIDE = 24
KINDS = ("mean", "percentile", "range")
LABELLING = Labelling("classes", (ClassSpec(1, "a"),))


def make_image(dtype: str, channels: int, seed: int = 0) -> np.ndarray:
    """Return an image whose samples use the range of their type; no two channels are alike."""
    rng = np.random.default_rng(seed)
    most = 255.0 if dtype == "float32" else float(np.iinfo(dtype).max)
    image = rng.beta(1, 3, (SIDE, SIDE, channels)) * most * np.linspace(1, 0.2, channels)
    shift = {"float32": 40.5, "int16": 9000, "int8": 40}.get(dtype, 0)  # some are negative
    return (image - shift).astype(dtype)


def compute_statistics(samples: np.ndarray) -> ChannelStatistics:
    """Return the statistics of pixels, (n, channels)."""
    wide = samples.astype(np.float64)
    return ChannelStatistics(
        wide.mean(0),
        wide.std(0),
        wide.min(0),
        wide.max(0),
        ChannelStatistics.percentiles_of(samples),
    )


def make_constants(kind: str, dtype: str, channels: int) -> Preprocessing:
    """Return constants from other images than the one under test."""
    samples = np.concatenate(
        [make_image(dtype, channels, seed).reshape(-1, channels) for seed in (1, 2)]
    )
    return Preprocessing.of(kind, dtype, compute_statistics(samples))  # type: ignore[arg-type]


def only_input(calls: list[Tensor]) -> Tensor:
    """Return the input of a network that was called once."""
    (seen,) = calls
    return seen


def capture_training_input(
    image: np.ndarray, network: UNet, preprocessing: Preprocessing
) -> Tensor:
    """Return the network's input in training: the one crop of an image of its size."""
    config = CropConfig(SIDE, network.config.margin)
    masks = [np.ones(image.shape[:2], np.uint8)]
    planes = compute_planes(masks, LABELLING, config)
    crop = LabelledCrops(image, masks, LABELLING, config, planes).draw(np.random.default_rng(0))
    calls: list[Tensor] = []
    hook = network.register_forward_pre_hook(
        lambda _, inputs: calls.append(inputs[0].detach().clone())
    )
    learner = Learner(network, preprocessing, LearnerConfig(1e-3), torch.Generator())
    checked = torch.from_numpy(preprocessing.check(crop["image"])[None].copy())
    learner.step(checked, torch.from_numpy(crop["targets"][None]), None, 0.5)
    hook.remove()
    return only_input(calls)


def capture_inference_input(
    image: np.ndarray, network: UNet, preprocessing: Preprocessing
) -> Tensor:
    """Return the network's input in inference: the one tile of an image."""
    calls: list[Tensor] = []
    predictor = Predictor(network, preprocessing, PredictorConfig(tile=64))
    forward = UNet.forward

    def spy(module: UNet, images: Tensor, wanted: Box | None = None) -> Tensor:
        calls.append(images.clone())
        return forward(module, images, wanted)

    with mock.patch.object(UNet, "forward", spy):
        predictor.predict([preprocessing.check(image)])
    return only_input(calls)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_training_and_inference_see_the_same_input(
    dtype: str, channels: int, kind: str, padding: str, tmp_path: Path
) -> None:
    """Bit by bit, also after a model folder stored the constants; margins are mirrored alike."""
    torch.manual_seed(0)
    config = UNetConfig(channels, 1, 2, 1, padding, "none")  # type: ignore[arg-type]
    preprocessing, image = make_constants(kind, dtype, channels), make_image(dtype, channels)
    learnt = capture_training_input(image, UNet(config), preprocessing)
    assert learnt.shape == (1, channels, SIDE + 2 * config.margin, SIDE + 2 * config.margin)
    assert learnt.dtype == torch.float32
    assert float(learnt.std()) > 0.1
    network = UNet(config)
    rules = Postprocessing((ObjectRule(),))
    model = Model(config, state_bytes(network), LABELLING.classes, preprocessing, rules)
    save_model(model, Storage.of(str(tmp_path)))
    loaded = load_model(Storage.of(str(tmp_path)))
    assert loaded.preprocessing == preprocessing
    assert torch.equal(capture_inference_input(image, network, preprocessing), learnt)
    assert torch.equal(capture_inference_input(image, loaded.build(), loaded.preprocessing), learnt)
    inner = slice(config.margin, SIDE + config.margin)
    scaled = (image - np.array(preprocessing.offset)) / np.array(preprocessing.scale)
    expected = scaled.clip(-2, 2) if kind == "percentile" else scaled
    assert np.allclose(learnt[0, :, inner, inner].permute(1, 2, 0), expected, rtol=1e-4, atol=1e-5)


def test_grey_images_of_a_colour_model_are_seen_alike() -> None:
    preprocessing, grey = make_constants("mean", "uint8", 3), make_image("uint8", 1)
    network = UNet(UNetConfig(3, 1, 2, 1, "same", "none"))
    learnt = capture_training_input(grey, network, preprocessing)
    assert torch.equal(capture_inference_input(grey, network, preprocessing), learnt)
    assert torch.equal(
        capture_inference_input(grey.repeat(3, axis=2), network, preprocessing), learnt
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_training_set_has_the_range_that_its_normalisation_names(
    kind: Normalisation, dtype: str
) -> None:
    image = make_image(dtype, 3)
    samples = image.reshape(-1, 3)
    found = Preprocessing.of(kind, dtype, compute_statistics(samples))
    result = (
        found.apply(torch.from_numpy(image).permute(2, 0, 1)[None])[0].flatten(1).double().numpy()
    )
    if kind == "mean":
        assert np.allclose(result.mean(1), 0, atol=1e-5)
        assert np.allclose(result.std(1), 1, atol=1e-5)
        assert found.limits is None
    elif kind == "range":
        assert np.allclose(result.min(1), -1, atol=1e-5)
        assert np.allclose(result.max(1), 1, atol=1e-5)
        assert found.limits is None
    else:
        assert np.allclose(
            np.percentile(result, (0.5, 99.5), axis=1), [[-1] * 3, [1] * 3], atol=1e-4
        )
        assert found.limits == (-2, 2)


def test_percentiles_clip_hot_and_dead_pixels() -> None:
    samples = np.tile(np.linspace(1000, 3000, 1001), 10)[:, None]
    samples[[0, 1], 0] = 0, 65535
    found = Preprocessing.of("percentile", "uint16", compute_statistics(samples))
    values = torch.tensor([0, 1010, 2000, 2990, 5000, 65535], dtype=torch.int32).view(1, 1, 1, -1)
    assert found.apply(values).flatten().tolist() == pytest.approx([-2, -1, 0, 1, 2, 2], abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 7.0, 60000.0, 0.1])
def test_a_constant_channel_becomes_zero(kind: Normalisation, value: float) -> None:
    """The deviation of a constant is a rounding error, and must not be a divisor."""
    samples = np.random.default_rng(0).normal(500, 20, (5000, 2)).astype(np.float32)
    samples[:, 0] = value
    found = Preprocessing.of(kind, "float32", compute_statistics(samples))
    result = found.apply(torch.from_numpy(samples).view(1, 50, 100, 2).permute(0, 3, 1, 2))
    assert result[:, 0].abs().max() < 1e-4
    assert result[:, 1].std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6])
def test_the_unit_of_the_samples_does_not_matter(kind: Normalisation, unit: float) -> None:
    """Heights in metres are as good as heights in nanometres."""
    image = make_image("float32", 2)
    plain, other = (
        Preprocessing.of(kind, "float32", compute_statistics(i.reshape(-1, 2))).apply(
            torch.from_numpy(i).permute(2, 0, 1)[None]
        )
        for i in (image, image * np.float32(unit))
    )
    assert torch.allclose(plain, other, atol=1e-4)


def test_uint16_is_not_read_as_signed() -> None:
    values = torch.from_numpy(np.array([0, 32767, 32768, 65535], np.uint16)).view(1, 1, 2, 2)
    assert Preprocessing("uint16", (0.0,), (1.0,)).apply(values).flatten().tolist() == [
        0,
        32767,
        32768,
        65535,
    ]


def test_applying_leaves_the_images_as_they_are() -> None:
    images = torch.randn(2, 1, 3, 3)
    before = images.clone()
    Preprocessing("float32", (0.0,), (0.1,), (-2.0, 2.0)).apply(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("dtype", "offset", "scale", "message"),
    [
        (
            "int32",
            (0.0,),
            (1.0,),
            "preprocessing dtype int32: choose one of uint8, uint16, int8, int16, float32",
        ),
        ("int16", (32767.0,), (1e-8,), "sample -32768 after preprocessing -6553500000000"),
        ("uint8", (0.0,), (0.0,), "preprocessing scale 0.0: choose 1.2e-38 to 3.4e+38"),
        ("uint8", (0.0,), (-1.0,), "preprocessing scale -1.0: choose"),
        ("uint8", (0.0,), (float("nan"),), "preprocessing scale nan: choose"),
        ("uint8", (float("inf"),), (1.0,), "preprocessing offset inf: choose -3.4e+38 to 3.4e+38"),
        ("uint8", (0.0,), (1e-20,), "sample 255 after preprocessing 2.55e+22: choose"),
        ("uint16", (-1e15,), (1.0,), "sample 0 after preprocessing 1000000000000000.0: choose"),
        ("uint8", (0.0, 1.0), (1.0,), "preprocessing has 2 offsets and 1 scales: there must be"),
    ],
)
def test_constants_that_make_no_sense_are_refused(
    dtype: str, offset: tuple[float, ...], scale: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Preprocessing(dtype, offset, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_that_would_overflow_the_network_is_unsupported(kind: str) -> None:
    """The limit is relative to the training set: heights may be of any unit."""
    preprocessing = make_constants(kind, "float32", 3)
    image = make_image("float32", 3)
    image[5, 6, 1] = preprocessing.offset[1] + 0.9e6 * preprocessing.scale[1]
    assert preprocessing.check(image) is image
    for sample in (2e6 * preprocessing.scale[1], -3.4e38, 3e38, np.inf, np.nan):
        image[5, 6, 1] = sample
        message = "unsupported: a sample of .* in channel 2, .* the limit is 1e\\+06 times"
        with pytest.raises(ImageError, match=message):
            preprocessing.check(image)


def test_grey_float_images_of_a_colour_model_have_the_limit_of_each_channel() -> None:
    preprocessing = Preprocessing("float32", (0.0,) * 3, (1.0, 1.0, 1e-3))
    grey = np.full((4, 5, 1), 900, np.float32)
    assert preprocessing.check(grey).shape == (4, 5, 3)
    with pytest.raises(ImageError, match="a sample of 1100 in channel 3"):
        preprocessing.check(grey + 200)


def test_an_array_without_pixels_is_refused() -> None:
    for shape in ((0, 5, 3), (5, 0, 3), (5, 5), (3,)):
        with pytest.raises(ImageError, match="samples of shape"):
            Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3).check(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((2.0, -2.0), "preprocessing limits 2.0 and -2.0: the second must be larger"),
        ((1.0, 1.0), "preprocessing limits 1.0 and 1.0: the second must be larger"),
        ((float("nan"), 1.0), "preprocessing limits nan: choose"),
        ((-2.0, float("inf")), "preprocessing limits inf: choose"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: tuple[float, float], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Preprocessing("uint8", (0.0,), (1.0,), limits)


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e9, 1e30])
def test_samples_may_come_in_any_unit(unit: float) -> None:
    Preprocessing("float32", (3.0 * unit,), (unit,))


def test_images_that_do_not_fit_are_refused() -> None:
    preprocessing = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ImageError, match="float32 samples, but the model was trained on uint8"):
        preprocessing.check(make_image("float32", 3))
    with pytest.raises(ImageError, match="5 channels, the model was trained on 3"):
        preprocessing.check(make_image("uint8", 5))
