"""Pixels that are not there: in whole images and in any window of them, whatever says so."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.builders import encode_pillow, encode_tiff, make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import decode_image, decode_label_image
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box

HEIGHT, WIDTH = 70, 61
Mask = NDArray[np.bool_]
RNG = np.random.default_rng(0)
RGB = RNG.integers(1, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def wedge() -> Mask:
    """Return pixels that are there: all but a wedge at a corner and a hole."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    valid = x + 2 * y > 50
    valid[40:45, 20:50] = False
    return valid


def no_data(value: str) -> list[Any]:
    return [(42113, 2, 0, value, True)]


def with_alpha(valid: Mask, colours: NDArray[Any], opaque: int = 255) -> NDArray[Any]:
    return np.dstack([colours, np.where(valid, opaque, 0).astype(colours.dtype)])


def alpha_tiff(valid: Mask, dtype: str = "uint8", **options: Any) -> bytes:
    opaque = 1 if dtype == "float32" else np.iinfo(dtype).max
    image = with_alpha(valid, RGB.astype(dtype), opaque)
    image = np.moveaxis(image, 2, 0) if options.get("planarconfig") == "separate" else image
    options = {"extrasamples": ["unassalpha"], "photometric": "rgb"} | options
    return encode_tiff(image, **options)


def marked_tiff(
    valid: Mask, dtype: str, value: float, text: str, channels: int = 1, **options: Any
) -> bytes:
    image = RGB[:, :, :channels].astype(dtype)
    image[~valid] = value
    if channels == 1:
        image = image[:, :, 0]
    else:
        options |= {"planarconfig": "contig"}
    return encode_tiff(image, photometric="minisblack", extratags=no_data(text), **options)


def masked_tiff(valid: Mask, dtype: str = "bool", **options: Any) -> bytes:
    """Return a TIFF with a page that is its mask, as GDAL writes it."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(RGB, photometric="rgb", **options)
        if dtype == "bool":
            writer.write(valid, photometric="mask", subfiletype=4, **options)
        else:
            writer.write(np.where(valid, 255, 0).astype(dtype), subfiletype=2, **options)
    if dtype != "bool":  # tifffile writes masks of one bit only
        buffer.seek(0)
        with tifffile.TiffFile(buffer) as tiff:
            for code in (254, 262):
                tiff.pages[1].tags[code].overwrite(4)
    return buffer.getvalue()


def nan_tiff(valid: Mask, dtype: str, channels: int = 1) -> bytes:
    image = RGB[:, :, :channels].astype(dtype)
    rim = np.argwhere(~valid)
    bad = np.array([np.nan, np.inf, -np.inf])[np.arange(len(rim)) % 3]
    image[rim[:, 0], rim[:, 1], np.arange(len(rim)) % channels] = bad  # in any of the channels
    options: dict[str, Any] = {"planarconfig": "contig"} if channels > 1 else {}
    return encode_tiff(
        image if channels > 1 else image[:, :, 0],
        photometric="minisblack",
        tile=(32, 16),
        **options,
    )


def palette_png(valid: Mask) -> bytes:
    image = Image.fromarray(np.where(valid, GREY % 5, 5).astype(np.uint8))
    image.putpalette([*range(10, 28)])
    return encode_pillow(image, transparency=5)


def keyed_png(valid: Mask, bits: int) -> bytes:
    """Return a grey PNG whose tRNS chunk names the value of transparent pixels, 0 of one bit."""
    key = int(bits > 1)
    others = 1 if bits == 1 else GREY.astype(np.uint16) % 2 * (2**bits - 1)
    values = np.where(valid, others, key).astype(np.uint16)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        planes = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row.ravel()).tobytes() for row in planes]

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"tRNS", struct.pack(">H", key)),
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        ]
    )


def deep_png(valid: Mask) -> bytes:
    import imagecodecs

    return imagecodecs.png_encode(with_alpha(valid, RGB.astype(np.uint16) * 257, 65535))


FILES: dict[str, Callable[[Mask], bytes]] = {
    "alpha, TIFF": alpha_tiff,
    "alpha, TIFF, tiles": lambda valid: alpha_tiff(valid, tile=(16, 32), compression="zlib"),
    "alpha, TIFF, planar": lambda valid: alpha_tiff(valid, planarconfig="separate"),
    "alpha, TIFF, 16 bits": lambda valid: alpha_tiff(valid, "uint16", rowsperstrip=9),
    "alpha, TIFF, signed": lambda valid: alpha_tiff(valid, "int16"),
    "alpha, TIFF, floats": lambda valid: alpha_tiff(valid, "float32"),
    "alpha, TIFF, premultiplied": lambda valid: alpha_tiff(valid, extrasamples=["assocalpha"]),
    "alpha, PNG": lambda valid: encode_pillow(with_alpha(valid, RGB)),
    "alpha, PNG, grey": lambda valid: encode_pillow(Image.fromarray(with_alpha(valid, GREY), "LA")),
    "alpha, PNG, 16 bits": deep_png,
    "alpha, WebP": lambda valid: encode_pillow(
        Image.fromarray(with_alpha(valid, RGB)), "WEBP", lossless=True, exact=True
    ),
    "palette, PNG": palette_png,
    **{f"tRNS, PNG of {bits} bits": lambda v, b=bits: keyed_png(v, b) for bits in (1, 2, 4, 16)},
    "no data, uint8": lambda valid: marked_tiff(valid, "uint8", 0, "0"),
    "no data, uint8, colours": lambda valid: marked_tiff(valid, "uint8", 255, "255", 3),
    "no data, uint16": lambda valid: marked_tiff(valid, "uint16", 65535, "65535.0"),
    "no data, int16": lambda valid: marked_tiff(valid, "int16", -9999, "-9999", tile=(16, 16)),
    "no data, int32": lambda valid: marked_tiff(valid, "int32", -(2**31), "-2147483648"),
    "no data, uint32": lambda valid: marked_tiff(valid, "uint32", 2**32 - 1, "4294967295"),
    "no data, int64": lambda valid: marked_tiff(valid, "int64", -(2**63) + 1, str(1 - 2**63)),
    "no data, float32": lambda valid: marked_tiff(
        valid, "float32", -3.4028234663852886e38, "-3.4028234663852886e+38", 2
    ),
    "no data, float64": lambda valid: marked_tiff(valid, "float64", -1e300, "-1e+300"),
    "NaN and infinities": lambda valid: nan_tiff(valid, "float32"),
    "NaN and infinities, channels": lambda valid: nan_tiff(valid, "float32", 3),
    "NaN and infinities, float64": lambda valid: nan_tiff(valid, "float64", 2),
    "NaN and infinities, float16": lambda valid: nan_tiff(valid, "float16"),
    "mask page": masked_tiff,
    "mask page, 8 bits, tiles": lambda valid: masked_tiff(valid, "uint8", tile=(32, 32)),
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_left_out_that_the_file_leaves_out(kind: str) -> None:
    valid = wedge()
    found = decode_image(FILES[kind](valid))
    assert found.valid is not None
    assert np.array_equal(found.valid, valid)
    assert not found.samples[~valid].any()
    assert found.samples[valid].any()
    assert found.samples.shape[2] in (1, 2, 3)
    assert found.notes == ()


@pytest.mark.parametrize("kind", FILES)
def test_files_that_leave_out_nothing_have_all_pixels(kind: str) -> None:
    assert decode_image(FILES[kind](np.ones((HEIGHT, WIDTH), bool))).valid is None


boxes = st.tuples(
    st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), st.integers(1, 70), st.integers(1, 70)
).map(lambda b: Box(b[0], b[1], min(b[0] + b[2], HEIGHT), min(b[1] + b[3], WIDTH)))


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=25, deadline=None)
@given(asked=st.lists(boxes, min_size=1, max_size=4))
def test_any_window_is_that_part_of_the_whole_image(kind: str, asked: list[Box]) -> None:
    data = FILES[kind](wedge())
    whole, reader = decode_image(data), open_windows(make_range_file(data))
    for box in asked:
        window, part = reader.read(box), whole.cut(box)
        assert window.samples.dtype == part.samples.dtype
        assert np.array_equal(window.samples, part.samples)
        assert part.valid is not None
        assert (window.valid is None) == bool(part.valid.all())
        if window.valid is not None:
            assert np.array_equal(window.valid, part.valid)


def read_in_tiles(data: bytes, side: int, halo: int) -> DecodedImage:
    """Read an image as the predict stage does: alpha is counted in cores, and decides at the end.

    Raises:
        ImageError: As `decode_image`.
    """
    decoder, opaque, notes = Decoder(), False, tuple[str, ...]()
    try:
        while True:
            height, width = decoder.open(make_range_file(data), opaque)
            samples, valid, counts = None, np.ones((height, width), bool), []
            for top in range(0, height, side):
                for left in range(0, width, side):
                    core = Box(top, left, min(top + side, height), min(left + side, width))
                    box = core.grown(halo, height, width)
                    window = decoder.window(box, core)
                    if samples is None:
                        shape = height, width, window.samples.shape[2]
                        samples = np.zeros(shape, window.samples.dtype)
                    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
                    samples[rows, columns] = window.samples
                    valid[rows, columns] = True if window.valid is None else window.valid
                    counts += [window.alpha] if window.alpha else []
            assert samples is not None
            if counts:
                total = sum(counts[1:], counts[0])
                total.check()
                notes = total.notes
                if total.is_opaque and not valid.all():
                    opaque = True
                    continue
            return DecodedImage(samples, None if valid.all() else valid, notes=notes)
    finally:
        decoder.close()


def shade(alpha: NDArray[Any], colours: NDArray[Any] = RGB) -> bytes:
    return encode_pillow(np.dstack([colours, alpha.astype(np.uint8)]))


ALPHAS: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {
    "opaque": (np.full((HEIGHT, WIDTH), 255), RGB),
    "the same everywhere": (np.full((HEIGHT, WIDTH), 9), RGB),
    "0 everywhere, colours below": (np.zeros((HEIGHT, WIDTH)), RGB),
    "0 everywhere, white below": (np.zeros((HEIGHT, WIDTH)), np.full_like(RGB, 255)),
    "0 in a part": (np.where(wedge(), 255, 0), RGB),
    "127 and 128 in 4 %": (
        np.where(RNG.random((HEIGHT, WIDTH)) < 0.04, 127 + (GREY % 2), 255),
        RGB,
    ),
    "soft in a tenth": (np.where(np.mgrid[:HEIGHT, :WIDTH][0] < 7, 100, 255), RGB),
    "random": (RNG.integers(0, 256, (HEIGHT, WIDTH)), RGB),
}


@pytest.mark.parametrize("kind", ALPHAS)
@pytest.mark.parametrize(("side", "halo"), [(32, 8), (100, 0), (17, 3)])
def test_alpha_means_the_same_whatever_the_tiles(kind: str, side: int, halo: int) -> None:
    data, results = shade(*ALPHAS[kind]), []
    for read in (decode_image, lambda data: read_in_tiles(data, side, halo)):
        try:
            found = read(data)
            valid = np.ones((HEIGHT, WIDTH), bool) if found.valid is None else found.valid
            results.append((found.samples.tolist(), valid.tolist(), found.notes))
        except ImageError as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_alpha_that_is_the_same_everywhere_says_nothing() -> None:
    for kind in ("opaque", "the same everywhere", "0 everywhere, colours below"):
        found = decode_image(shade(*ALPHAS[kind]))
        assert found.valid is None
        assert np.array_equal(found.samples, RGB)
        notes = ("alpha 0 everywhere, taken as opaque",) if kind.startswith("0") else ()
        assert found.notes == notes


def test_an_image_without_alpha_and_without_colours_has_no_pixel() -> None:
    found = decode_image(shade(*ALPHAS["0 everywhere, white below"]))
    assert found.valid is not None
    assert not found.valid.any()


def test_half_transparent_pixels_are_left_out_below_half_and_too_many_refused() -> None:
    alpha = ALPHAS["127 and 128 in 4 %"][0]
    found = decode_image(shade(alpha))
    assert found.valid is not None
    assert np.array_equal(found.valid, alpha >= 128)
    for kind in ("soft in a tenth", "random"):
        with pytest.raises(ImageError, match=r"unsupported: varying transparency: .*% of the"):
            decode_image(shade(*ALPHAS[kind]))


def test_black_in_one_channel_is_no_missing_pixel_of_unsigned_colours() -> None:
    image = RGB.copy()
    image[3, 5] = 0, 7, 0
    image[4, 6] = 0
    found = decode_image(encode_tiff(image, photometric="rgb", extratags=no_data("0")))
    assert found.valid is not None
    assert np.argwhere(~found.valid).tolist() == [[4, 6]]


def test_a_value_in_one_channel_is_enough_of_signed_samples() -> None:
    image = RGB.astype(np.int16)
    image[3, 5, 1] = -9999
    data = encode_tiff(
        image, photometric="minisblack", planarconfig="contig", extratags=no_data("-9999")
    )
    found = decode_image(data)
    assert found.valid is not None
    assert np.argwhere(~found.valid).tolist() == [[3, 5]]
    assert not found.samples[3, 5].any()


def test_a_value_that_no_sample_can_have_leaves_out_nothing() -> None:
    for text in ("-9999", "256", "0.5", "nan", "1e300"):
        assert decode_image(encode_tiff(GREY, extratags=no_data(text))).valid is None


def test_a_value_that_is_no_number_is_refused_in_images_only() -> None:
    data = encode_tiff(GREY, extratags=no_data("none"))
    with pytest.raises(ImageError, match="unsupported: the no-data value 'none' is not a number"):
        decode_image(data)
    assert np.array_equal(decode_label_image(data), GREY)


def test_several_reasons_leave_out_the_pixels_of_all() -> None:
    valid, image = wedge(), RGB[:, :, :1].astype(np.float32)
    image[60, 3], image[61, 4] = np.nan, -9999
    stored = np.dstack([image, valid.astype(np.float32)])
    data = encode_tiff(
        stored,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
        extratags=no_data("-9999"),
    )
    valid[60, 3] = valid[61, 4] = False
    found = decode_image(data)
    assert found.valid is not None
    assert np.array_equal(found.valid, valid)


def test_the_alpha_of_an_image_with_more_channels_is_found_among_them() -> None:
    valid = wedge()
    near = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    for extras, order in ((["unspecified", "unassalpha"], 4), (["unassalpha", "unspecified"], 3)):
        alpha = np.where(valid, 255, 0).astype(np.uint8)
        planes = [RGB, alpha, near] if order == 3 else [RGB, near, alpha]
        data = encode_tiff(np.dstack(planes), photometric="rgb", extrasamples=extras)
        found = decode_image(data)
        assert found.valid is not None
        assert np.array_equal(found.valid, valid)
        assert np.array_equal(found.samples[valid], np.dstack([RGB, near])[valid])


def test_missing_pixels_are_turned_with_their_image() -> None:
    valid = wedge()
    data = alpha_tiff(valid, extratags=[(274, 3, 1, 6, True)])
    found = decode_image(data)
    assert found.valid is not None
    assert np.array_equal(found.valid, np.rot90(valid, -1))
    assert np.array_equal(found.samples[found.valid], np.rot90(RGB, -1)[found.valid])


def test_a_mask_file_ignores_what_leaves_out_pixels_of_images() -> None:
    ids = (GREY % 3).astype(np.uint8)
    assert np.array_equal(decode_label_image(encode_tiff(ids, extratags=no_data("0"))), ids)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(ids)
        writer.write(wedge(), photometric="mask", subfiletype=4)
    assert np.array_equal(decode_label_image(buffer.getvalue()), ids)
