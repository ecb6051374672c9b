import numpy as np
import pytest
import torch

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, check_metric
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.metrics.metrics import count_pixels
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.network.config import PredictorConfig, UNetConfig
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.training.validation import Validation


class Arrays:
    """A reader of seven images of several sizes; the mask of the last one is all ignored."""

    def read(self, index: int) -> LabelledPixels:
        rng = np.random.default_rng(index)
        size = 20 + 3 * index, 31 - index
        mask = (
            rng.integers(0, 3, size, dtype=np.uint8) if index < 6 else np.full(size, 255, np.uint8)
        )
        return LabelledPixels(rng.integers(0, 256, (*size, 3), dtype=np.uint8), [mask])


LABELLING = Labelling("classes", (ClassSpec(1, "a"), ClassSpec(2, "b")), 0, 255)
PREPROCESSING = Preprocessing("uint8", (128.0,) * 3, (60.0,) * 3)


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(3, 2, 4, 2))


@pytest.fixture
def validation() -> Validation:
    return Validation(
        Arrays(), PREPROCESSING, LABELLING, tuple((i, f"s3://b/{i}.png") for i in range(7))
    )


@pytest.mark.parametrize("world", [2, 3, 10])
def test_every_image_is_counted_once_by_any_number_of_workers(
    validation: Validation, network: UNet, world: int
) -> None:
    whole = validation.run(network, 0, 1, lambda counts: counts)
    parts = [validation.run(network, rank, world, lambda counts: counts) for rank in range(world)]
    assert np.array_equal(sum(part.histograms for part in parts), whole.histograms)
    assert np.allclose(sum(part.image_dice for part in parts), whole.image_dice)


def test_counts_are_those_of_the_predictor_for_inference(
    validation: Validation, network: UNet
) -> None:
    found = validation.run(network, 0, 1, lambda counts: counts)
    predictor = Predictor(network, PREPROCESSING, PredictorConfig())
    total = 0
    for index in range(7):
        image, masks, _ = Arrays().read(index)
        (prob_u8,) = predictor.predict([image])
        levels = np.ceil(255 * np.array(found.thresholds))[:, None, None]
        total = total + count_pixels(prob_u8 >= levels, LABELLING.targets(masks)).as_array()
    assert np.array_equal(found.counts.as_array(), total)
    worst = found.worst(3)
    assert [dice for _, dice in worst] == sorted(found.image_dice)[:3]
    # nothing is counted in the last image, so it is not among the worst
    assert 6 not in [index for index, _ in worst]
    (row,) = validation.compare(network, worst[:1], found.thresholds)
    assert row.name == f"{worst[0][0]}.png"
    assert row.masks_khw.shape == row.targets_khw.shape


def test_output_that_is_not_finite_is_seen_by_all_workers(
    validation: Validation, network: UNet
) -> None:
    assert validation.run(network, 0, 1, lambda counts: counts).is_finite
    with torch.no_grad():
        network.head.weight.fill_(torch.inf)
    parts: list[np.ndarray] = []
    validation.run(network, 0, 2, lambda counts: parts.append(counts) or counts)
    found = validation.run(network, 1, 2, lambda counts: counts + parts[counts.ndim == 1])
    assert not found.is_finite


def test_a_score_is_a_metric_by_name(validation: Validation, network: UNet) -> None:
    found = validation.run(network, 0, 1, lambda counts: counts)
    dice, iou = found.counts.dice, found.counts.iou
    assert found.score("dice") == pytest.approx(dice.mean(), abs=1e-6)
    assert found.score("iou:b") == pytest.approx(iou[1], abs=1e-6)
    empty = Validation(Arrays(), PREPROCESSING, LABELLING, ()).run(
        network, 0, 1, lambda counts: counts
    )
    assert empty.score("dice") is None
    for metric in ("f1", "dice:c"):
        with pytest.raises(InputError, match="--best-by"):
            check_metric(metric, ["a", "b"])
