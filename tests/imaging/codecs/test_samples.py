"""Sample types of files, and the types that images have; whole and in windows."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.builders import encode_pillow, encode_tiff, make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import decode_image, decode_label_image
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box

HEIGHT, WIDTH = 19, 23
TYPES = {
    "uint8": "uint8",
    "uint16": "uint16",
    "int8": "int8",
    "int16": "int16",
    "uint32": "float32",
    "int32": "float32",
    "uint64": "float32",
    "int64": "float32",
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
}
"""Type in the file → type of the image."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 4},
    "tiles": {"tile": (16, 16)},
    "deflate": {"tile": (16, 16), "compression": "zlib"},
    "big endian": {"byteorder": ">"},
}


def samples(dtype: str) -> NDArray[Any]:
    """Return samples that reach the ends of small types, and stay exact in float32."""
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    low = -2000 if limits is None else max(limits.min, -(2**24))
    high = 2000 if limits is None else min(limits.max, 2**24)
    values = np.random.default_rng(0).integers(low, high + 1, (HEIGHT, WIDTH))
    values.flat[:2] = low, high
    return values.astype(dtype)


def read_in_windows(data: bytes, **options: Any) -> NDArray[Any]:
    """Return the samples of an image put together from windows."""
    reader = open_windows(make_range_file(data), **options)
    rows = [
        [
            reader.read(Box(y, x, min(y + 7, reader.height), min(x + 9, reader.width))).samples
            for x in range(0, reader.width, 9)
        ]
        for y in range(0, reader.height, 7)
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize(("stored", "read"), TYPES.items())
def test_each_sample_type_is_read_with_its_values(
    stored: str, read: str, layout: dict[str, Any]
) -> None:
    values = samples(stored)
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="minisblack", **layout)
    data = file.getvalue()
    for found in (decode_image(data).samples, read_in_windows(data)):
        assert found.dtype == read
        np.testing.assert_array_equal(found[:, :, 0], values.astype(read))


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 4, "compression": "zlib"}])
def test_booleans_are_black_and_white(layout: dict[str, Any]) -> None:
    drawn = samples("uint8") > 100
    data = encode_tiff(drawn, photometric="minisblack", **layout)
    for found in (decode_image(data).samples, read_in_windows(data)):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found[:, :, 0], np.where(drawn, 255, 0))
    assert np.array_equal(decode_label_image(data), drawn)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16"])
def test_white_is_zero_is_turned_in_the_range_of_its_type(dtype: str) -> None:
    """White is the smallest number, so that the smallest and the largest change places."""
    values, limits = samples(dtype), np.iinfo(dtype)
    data = encode_tiff(values, photometric="miniswhite")
    expected = (limits.min + limits.max - values.astype(np.int64)).astype(dtype)
    for found in (decode_image(data).samples, read_in_windows(data)):
        np.testing.assert_array_equal(found[:, :, 0], expected)


def test_white_is_zero_of_twelve_bits_and_of_one() -> None:
    values = samples("uint16") % 4096
    data = encode_tiff(values, photometric="miniswhite", bitspersample=12)
    assert np.array_equal(decode_image(data).samples[:, :, 0], 4095 - values)
    drawn = samples("uint8") > 100
    data = encode_tiff(drawn, photometric="miniswhite")
    assert np.array_equal(decode_image(data).samples[:, :, 0], np.where(drawn, 0, 255))


def test_white_is_zero_leaves_alpha_as_it_is() -> None:
    values = np.dstack([samples("uint8"), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    values[:9, :, 1] = 0
    data = encode_tiff(
        values, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"]
    )
    found = decode_image(data)
    assert found.valid is not None
    assert np.array_equal(found.valid, values[:, :, 1] > 0)
    assert np.array_equal(found.samples[9:, :, 0], 255 - values[9:, :, 0])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 2**24 + 1),
        ("int32", -(2**24) - 1),
        ("uint32", 2**32 - 1),
        ("int64", 2**62 + 1),
        ("int64", -(2**63) + 1),
        ("uint64", 2**64 - 1),
        ("float64", 2.0**24 + 1),
    ],
)
def test_whole_numbers_that_would_change_are_refused_unless_rounding_is_asked_for(
    dtype: str, value: float
) -> None:
    values = np.zeros((HEIGHT, WIDTH), dtype)
    values[3, 5] = value
    data = encode_tiff(values, photometric="minisblack")
    message = f"unsupported: a sample of {int(value)} .{dtype}., .* --lossy-samples rounds"
    for read in (decode_image, read_in_windows):
        with pytest.raises(ImageError, match=message):
            read(data)
    for found in (
        decode_image(data, lossy_samples=True).samples,
        read_in_windows(data, lossy_samples=True),
    ):
        assert found[3, 5, 0] == np.float32(value)
    decoder = Decoder()
    try:
        assert decoder.decode(data, lossy_samples=True).samples[3, 5, 0] == np.float32(value)
        decoder.open(make_range_file(data), lossy_samples=True)
        assert decoder.window(Box(3, 5, 4, 6)).samples.item() == np.float32(value)
        with pytest.raises(ImageError, match=message):
            decoder.decode(data)
    finally:
        decoder.close()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", -(2**31)),
        ("uint32", 2**31),
        ("int64", -(2**63)),
        ("uint64", 2**63),
        ("float64", 2.0**24 + 2),
        ("float64", 1e18),  # beyond 2^53 all floats are whole numbers: this is no count
        ("float64", 0.1),
    ],
)
def test_numbers_that_float32_holds_are_read(dtype: str, value: float) -> None:
    values = np.zeros((HEIGHT, WIDTH), dtype)
    values[3, 5] = value
    assert decode_image(encode_tiff(values)).samples[3, 5, 0] == np.float32(value)


def test_floats_beyond_measurements_are_refused_even_if_rounding_is_asked_for() -> None:
    data = encode_tiff(np.full((HEIGHT, WIDTH), 1e300))
    with pytest.raises(ImageError, match=r"unsupported: a sample of 1e\+300; the limit is"):
        decode_image(data, lossy_samples=True)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "int32", "float32"])
def test_masks_keep_their_integers(dtype: str) -> None:
    ids = np.abs(samples("int16").astype(np.int64)).astype(dtype) % 200
    extra = [(42113, 2, 0, "0", True)]
    assert np.array_equal(decode_label_image(encode_tiff(ids, extratags=extra)), ids)
    assert np.array_equal(decode_label_image(encode_pillow((ids % 7).astype(np.uint8))), ids % 7)


def test_complex_samples_are_refused() -> None:
    with pytest.raises(ImageError, match="unsupported: samples of type complex64"):
        decode_image(encode_tiff(np.zeros((4, 4), np.complex64)))


def test_a_tile_that_was_never_written_holds_the_no_data_value() -> None:
    image = np.full((32, 32), 7, np.int16)
    data = encode_tiff(image, tile=(16, 16), extratags=[(42113, 2, 0, "-5", True)])
    with tifffile.TiffFile(make_range_file(data)) as tiff:  # type: ignore[arg-type]
        offsets = tiff.pages.first.tags[324].valueoffset
    sparse = bytearray(data)
    sparse[offsets : offsets + 4] = bytes(4)
    whole = decode_image(bytes(sparse))
    assert whole.valid is not None
    assert not whole.valid[:16, :16].any()
    assert whole.valid.sum() == 3 * 256
    window = open_windows(make_range_file(bytes(sparse))).read(Box(8, 8, 24, 24))
    assert window.valid is not None
    assert np.array_equal(window.valid, whole.valid[8:24, 8:24])
