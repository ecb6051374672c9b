from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.resampling import Axis, Pixels, Resampling, find_factors

AXES = st.builds(Axis, st.integers(1, 60), st.integers(1, 60))


def whole(resampling: Resampling) -> Box:
    """Return the box of the whole resampled image."""
    return Box(0, 0, *resampling.resampled_size)


@pytest.mark.parametrize(
    "factors", [(0.3, 0.4), (2.7, 0.4), (5, 5), (0.2, 0.2), (0.01, 0.01), (1, 1), (1, 1.5)]
)
def test_resampling_is_the_antialiased_one_of_pillow(factors: tuple[float, float]) -> None:
    image = np.random.default_rng(0).random((50, 70, 2), dtype=np.float32)
    resampling = Resampling.of(50, 70, factors)
    height, width = resampling.resampled_size
    found = resampling.resample(Pixels(image, None), whole(resampling))
    assert found.valid is None
    for channel in range(2):
        pillow = Image.fromarray(image[:, :, channel])
        expected = np.asarray(pillow.resize((width, height), Image.Resampling.BILINEAR))
        assert np.abs(found.samples[:, :, channel] - expected).max() < 1e-6


def test_weights_of_the_docstring_example() -> None:
    axis = Axis(6, 3)
    assert axis.needed(1, 2) == (1, 5)
    assert axis.weights(1, 2).toarray().tolist() == [[1 / 8, 3 / 8, 3 / 8, 1 / 8]]


@given(AXES)
def test_each_pixel_belongs_to_the_span_that_holds_its_centre(axis: Axis) -> None:
    for pixel in range(axis.resampled):
        centres = [
            index
            for index in range(axis.size)
            if pixel <= Fraction(2 * index + 1, 2) * axis.resampled / axis.size < pixel + 1
        ]
        first, end = axis.centred(pixel, pixel + 1)
        assert list(range(first, end)) == centres


@given(AXES, st.integers(0, 20), st.data())
def test_the_halo_covers_what_the_way_back_reads(
    axis: Axis, around: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, axis.resampled - 1))
    stop = data.draw(st.integers(start + 1, axis.resampled))
    first, end = axis.centred(start, stop)
    if first == end:
        return
    read = axis.inverse.needed(max(0, first - around), min(axis.size, end + around))
    halo = axis.halo(around)
    assert read[0] >= max(0, start - halo)
    assert read[1] <= min(axis.resampled, stop + halo)


@st.composite
def images(draw: st.DrawFn) -> tuple[Pixels, Resampling]:
    """Draw an image of which pixels may be missing, and a resampling of it."""
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    factors = draw(st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples = rng.integers(0, 65536, (height, width, 2), dtype=np.uint16)
    share = draw(st.sampled_from([None, 0.0, 0.05, 0.5, 0.95, 1.0]))
    valid = None if share is None else rng.random((height, width)) >= share
    return Pixels(samples, valid), Resampling.of(height, width, factors)


@given(images(), st.data())
def test_a_window_is_bitwise_that_of_the_whole(
    drawn: tuple[Pixels, Resampling], data: st.DataObject
) -> None:
    """A window without missing pixels does not know that others miss some."""
    pixels, resampling = drawn
    height, width = resampling.resampled_size
    expected = resampling.resample(pixels, whole(resampling))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(
        top,
        left,
        data.draw(st.integers(top + 1, height)),
        data.draw(st.integers(left + 1, width)),
    )
    part = pixels.cut(resampling.needed(box))
    if part.valid is not None and part.valid.all():
        part = Pixels(part.samples, None)
    found = resampling.resample(part, box)
    assert np.array_equal(found.samples, expected.cut(box).samples)
    if found.valid is not None:
        assert np.array_equal(found.valid, expected.cut(box).valid)
    elif expected.valid is not None:
        assert expected.cut(box).valid.all()
    bands = list(resampling.bands(box, most_pixels=200))
    assert [band.top for band in bands[1:]] == [band.bottom for band in bands[:-1]]
    assert (bands[0].top, bands[-1].bottom) == (box.top, box.bottom)


def weigh_slowly(axis: Axis, pixel: int) -> NDArray[np.float64]:
    """Return the weight of each pixel of an axis in one of the resampled image."""
    scale = axis.size / axis.resampled
    apart = np.abs(np.arange(axis.size) + 0.5 - (pixel + 0.5) * scale) / max(1, scale)
    weight = np.maximum(0, 1 - apart)
    return weight / weight.sum()


@given(images())
def test_missing_pixels_have_no_weight(drawn: tuple[Pixels, Resampling]) -> None:
    pixels, resampling = drawn
    valid = np.ones(pixels.samples.shape[:2], bool) if pixels.valid is None else pixels.valid
    found = resampling.resample(Pixels(pixels.samples, valid), whole(resampling))
    assert found.valid is not None
    height, width = resampling.resampled_size
    for y, x in {(0, 0), (height // 2, width // 3), (height - 1, width - 1)}:
        weight = np.outer(weigh_slowly(resampling.rows, y), weigh_slowly(resampling.columns, x))
        present = weight[valid].sum()
        if abs(present - 0.5) > 1e-5:  # a tie may be rounded to either side
            assert found.valid[y, x] == (present > 0.5)
        mean = (weight[valid] @ pixels.samples[valid]) / present if found.valid[y, x] else 0.0
        assert np.allclose(found.samples[y, x], mean, rtol=1e-5, atol=1e-2)
    poisoned = pixels.samples.copy()
    poisoned[~valid] = 65535
    again = resampling.resample(Pixels(poisoned, valid), whole(resampling))
    assert np.array_equal(again.samples, found.samples)


def test_the_resampled_image_has_at_least_one_pixel() -> None:
    assert Resampling.of(1, 700, (0.2, 0.2)).resampled_size == (1, 140)


def test_factors_are_quotients_of_pixel_sizes() -> None:
    assert find_factors((0.25, 0.5), (0.5, 0.5)) == (1.0, 0.5)  # down, across
    assert find_factors((8.0, 8.0), (0.5, 0.5)) == (16, 16)


@pytest.mark.parametrize(
    ("own_um", "message"),
    [
        (None, "does not state its pixel size"),
        (
            (0.5, 8.1),
            "pixels of 0.5×8.1 µm cannot be resampled to 0.5×0.5 µm: .* up to 16;",
        ),
        ((0.03, 0.5), "pixels of 0.03×0.5 µm"),
    ],
)
def test_images_that_cannot_be_resampled_are_refused(
    own_um: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        find_factors(own_um, (0.5, 0.5))
    assert caught.value.error_type == "unsupported"
