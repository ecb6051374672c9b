import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.border_weights import border_weights
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.crops import LabelledCrops, count_crops
from unet_ray.imaging.labels.label_planes import compute_planes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.markers import find_markers
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.imaging.regions.components import label_image

LABELLING = Labelling("classes", (ClassSpec(1, "a"), ClassSpec(2, "b")), 0, 255)


def ramp(height: int, width: int) -> np.ndarray:
    """Return an image whose two channels name each pixel's row and column."""
    return np.stack(np.mgrid[:height, :width], axis=2).astype(np.uint16)


def crops_of(
    image: np.ndarray, mask: np.ndarray, labelling: Labelling, config: CropConfig
) -> LabelledCrops:
    planes = compute_planes([mask], labelling, config)
    return LabelledCrops(image, [mask], labelling, config, planes)


def test_there_are_as_many_crops_as_cover_the_image_once() -> None:
    assert [
        count_crops(*size, 256) for size in ((256, 256), (100, 100), (1024, 2048), (300, 300))
    ] == [1, 1, 32, 1]


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([8, 16]),
    st.sampled_from([0, 5]),
    st.integers(0, 1000),
)
def test_a_crop_is_the_image_and_its_mask(
    height: int, width: int, side: int, margin: int, seed: int
) -> None:
    """Targets are those of their pixels; beyond its edges the image is mirrored and not counted."""
    image = ramp(height, width)
    mask = np.random.default_rng(seed).choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
    crop = crops_of(image, mask, LABELLING, CropConfig(side, margin)).draw(
        np.random.default_rng(seed)
    )
    size = side + 2 * margin
    assert crop["image"].shape == (size, size, 2)
    assert crop["targets"].shape == (2, size, size)
    rows, columns = crop["image"][..., 0], crop["image"][..., 1]
    assert np.array_equal(rows, rows[:, :1].repeat(size, 1))
    inside = crop["targets"][0] != IGNORED
    expected = LABELLING.targets([mask])[:, rows, columns]
    assert np.array_equal(crop["targets"][:, inside], expected[:, inside])
    if height >= size and width >= size and margin == 0:
        assert np.array_equal(crop["targets"], expected)
    middle = crop["targets"][:, margin : margin + side, margin : margin + side]
    assert (
        middle[0].size
        - (expected[0, margin : margin + side, margin : margin + side] != IGNORED).sum()
        >= 0
    )
    assert (crop["targets"][0] == IGNORED).sum() >= size * size - height * width


def test_rare_classes_are_drawn_as_often_as_others() -> None:
    mask = np.ones((400, 400), np.uint8)
    mask[333, 20] = 2
    rng = np.random.default_rng(0)
    image = np.zeros((400, 400, 1), np.uint8)

    def share(foreground: float) -> float:
        source = crops_of(image, mask, LABELLING, CropConfig(32, 0, foreground))
        return float(np.mean([(source.draw(rng)["targets"][1] == 1).any() for _ in range(400)]))

    assert share(0.0) < 0.05  # a crop of 32 px rarely meets one pixel of 400×400
    assert share(1.0) == pytest.approx(0.5, abs=0.08)  # half of the crops, as there are two classes


@pytest.mark.parametrize("kind", ["instances", "binary"])
def test_border_weights_know_what_lies_beyond_the_crop(kind: str) -> None:
    mask = np.zeros((80, 80), np.uint16)
    mask[30:50, 10:38], mask[30:50, 41:70] = 3, 9
    if kind == "binary":
        mask = (mask > 0).astype(np.uint8)
    labelling = Labelling(kind, (ClassSpec(1, "a"),), 0, None)  # type: ignore[arg-type]
    source = crops_of(ramp(80, 80), mask, labelling, CropConfig(16, 4, 0.0, 10.0, 5.0))
    whole = border_weights(mask if kind == "instances" else label_image(mask > 0), 10.0, 5.0)
    for seed in range(20):
        crop = source.draw(np.random.default_rng(seed))
        rows, columns = crop["image"][..., 0], crop["image"][..., 1]
        inside = crop["targets"][0] != IGNORED
        assert np.allclose(crop["weights"][0][inside], whole[rows, columns][inside], rtol=2e-3)
        assert (crop["weights"][0][~inside] == 1).all()


@pytest.mark.parametrize("border_weight", [0.0, 10.0])
def test_markers_are_those_of_the_whole_image(border_weight: float) -> None:
    """Markers follow the planes of the classes, and are ignored where those are.

    Each plane has weights.
    """
    labels = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((20, 20), int)).astype(np.uint16)
    labels[:, 38:43], labels[5, 5] = 0, 255
    labelling = Labelling("instances", (ClassSpec(1, "a"),), 0, 255)
    config = CropConfig(24, 4, border_weight=border_weight, markers=True)
    source = crops_of(ramp(80, 80), labels, labelling, config)
    whole = find_markers(labelling.objects([labels], 0))
    for seed in range(20):
        crop = source.draw(np.random.default_rng(seed))
        rows, columns = crop["image"][..., 0], crop["image"][..., 1]
        classes, markers = crop["targets"]
        counted = classes != IGNORED
        assert np.array_equal(counted, markers != IGNORED)
        assert np.array_equal(markers[counted], whole[rows, columns][counted])
        if border_weight:
            assert crop["weights"].shape == crop["targets"].shape
