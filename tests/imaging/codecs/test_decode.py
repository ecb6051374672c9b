import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.builders import encode_pillow, encode_tiff, make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.decode import decode_image, decode_label_image, match_channels
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def make_bare_tiff(**tags: int) -> bytes:
    """Return an uncompressed grey TIFF with these numbers for tags; others are left out."""
    numbers = {"width": 256, "height": 257, "bits": 258, "samples": 277, "bytes": 279, "extra": 338}
    entries = {numbers[name]: value for name, value in tags.items()} | {262: 1, 273: 8}
    directory = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_is_kept(kind: str) -> None:
    assert np.array_equal(decode_image(encode_pillow(RGB, kind)).samples, RGB)


def test_grey_has_one_channel() -> None:
    assert np.array_equal(decode_image(encode_pillow(GREY)).samples, GREY[:, :, None])


def test_sixteen_bits_are_kept() -> None:
    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    assert np.array_equal(decode_image(encode_tiff(deep, photometric="rgb")).samples, deep)
    assert np.array_equal(
        decode_image(
            encode_tiff(np.moveaxis(deep, -1, 0), planarconfig="separate", photometric="rgb")
        ).samples,
        deep,
    )
    assert np.array_equal(
        decode_image(encode_pillow(Image.fromarray(deep[:, :, 0]))).samples[:, :, 0], deep[:, :, 0]
    )


def test_sixteen_bit_colour_png_is_not_cut_to_eight() -> None:
    import imagecodecs

    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    assert np.array_equal(decode_image(imagecodecs.png_encode(deep)).samples, deep)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown turned by 90° clockwise
    data = encode_pillow(RGB, "PNG", exif=exif)
    assert np.array_equal(decode_image(data).samples, np.rot90(RGB, -1))


def test_constant_alpha_is_dropped_and_varying_alpha_refused() -> None:
    constant = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    assert np.array_equal(decode_image(encode_pillow(Image.fromarray(constant))).samples, RGB)
    varying = np.dstack([RGB, GREY])
    with pytest.raises(ImageError, match="unsupported: varying transparency"):
        decode_image(encode_pillow(Image.fromarray(varying)))


def test_a_palette_gives_colours_in_images_and_indices_in_masks() -> None:
    indices = Image.fromarray(GREY % 3)
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image = decode_image(encode_pillow(indices)).samples
    assert np.array_equal(image, np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])[GREY % 3])
    assert np.array_equal(decode_label_image(encode_pillow(indices)), GREY % 3)


def test_one_bit_is_0_or_255_in_images_and_a_class_id_in_masks() -> None:
    bits = Image.fromarray(GREY > 100)
    assert np.array_equal(
        decode_image(encode_pillow(bits)).samples[:, :, 0], np.where(GREY > 100, 255, 0)
    )
    assert np.array_equal(decode_label_image(encode_pillow(bits)), GREY > 100)


def test_white_is_zero_is_inverted() -> None:
    assert np.array_equal(
        decode_image(encode_tiff(GREY, photometric="miniswhite")).samples[:, :, 0], 255 - GREY
    )


def test_mask_values_do_not_depend_on_how_the_file_stores_grey() -> None:
    ids = GREY % 4
    inverted = encode_tiff(255 - ids, photometric="miniswhite")
    assert np.array_equal(decode_label_image(inverted), ids)
    palette = Image.fromarray(ids)
    palette.putpalette([v for grey in (0, 85, 170, 255) for v in (grey, grey, grey)])
    assert np.array_equal(decode_label_image(encode_pillow(palette, bits=2)), ids)
    assert np.array_equal(decode_label_image(two_bit_png(ids)), ids)
    assert np.array_equal(decode_image(two_bit_png(ids)).samples[:, :, 0], ids * 85)


def two_bit_png(values: np.ndarray) -> bytes:
    """Encode values 0..3 as a grey PNG of two bits; Pillow writes none."""
    import zlib

    height, width = values.shape
    padded = np.zeros((height, -(-width // 4) * 4), np.uint8)
    padded[:, :width] = values
    packed = (
        (padded.reshape(height, -1, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(2).astype(np.uint8)
    )
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 2, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "unreadable: the file is empty"),
        (b"not an image at all", "unreadable: not an image of a known format"),
        (encode_pillow(RGB)[:60], "unreadable"),
        (encode_pillow(Image.fromarray(np.tile(RGB, (40, 40, 1))), "JPEG")[:900], "unreadable"),
        (encode_tiff(GREY)[:150], "unreadable"),
        (
            encode_pillow(
                Image.new("L", (3, 3)),
                "GIF",
                save_all=True,
                append_images=[Image.new("L", (3, 3), 9)],
            ),
            "unsupported",
        ),
        (encode_tiff(np.zeros((3, 3), np.complex64)), "unsupported: samples of type complex64"),
    ],
)
def test_bad_files_are_image_errors(data: bytes, error: str) -> None:
    with pytest.raises(ImageError, match=error):
        decode_image(data)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"width": 4},
        {"width": 0, "height": 4},
        {"width": 4, "height": 0},
        {"width": 1, "height": 1, "bits": 8, "bytes": 1, "extra": 1},  # nothing but alpha
    ],
)
def test_a_file_without_pixels_is_unreadable_as_image_mask_and_windows(
    tags: dict[str, int],
) -> None:
    data = make_bare_tiff(**tags)
    for decode in (decode_image, decode_label_image):
        with pytest.raises(ImageError, match="unreadable: samples of shape .* must be 1 or more"):
            decode(data)
    with pytest.raises(ImageError, match="unreadable: samples of shape"):
        open_windows(make_range_file(data)).read(Box(0, 0, 1, 1))


@pytest.mark.parametrize("sample", [-3.4e38, 3e38, 2e30])
def test_samples_that_mark_missing_data_are_unsupported(sample: float) -> None:
    image = np.zeros((3, 4), np.float32)
    image[1, 2] = 1e30
    assert decode_image(encode_tiff(image)).samples.max() == np.float32(1e30)
    image[1, 2] = sample
    with pytest.raises(ImageError, match=r"unsupported: a sample of .*; the limit is 1.3e\+30"):
        decode_image(encode_tiff(image))


def test_the_size_limit_is_checked_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"too_large: 7×5 px; images up to 34 px"):
        decode_image(encode_pillow(RGB), max_pixels=34)


def test_grey_becomes_rgb_and_grey_rgb_becomes_one_channel() -> None:
    assert match_channels(GREY[:, :, None], 3).shape == (5, 7, 3)
    assert match_channels(np.dstack([GREY] * 3), 1).shape == (5, 7, 1)
    with pytest.raises(ImageError, match="3 channels, the model was trained on 1"):
        match_channels(RGB, 1)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_colours_of_a_tiff_that_would_be_wrong_are_refused(compression: str) -> None:
    buffer = io.BytesIO()
    picture = Image.new("RGB", (16, 16), (200, 0, 0)).convert("YCbCr")
    picture.save(buffer, "TIFF", compression=compression)
    with pytest.raises(ImageError, match="unsupported: TIFF colours YCBCR without JPEG"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("shift", [0, 8])
def test_colour_maps_of_8_and_16_bits_give_the_same_colours(shift: int) -> None:
    colours = np.arange(256, dtype=np.uint16)
    buffer = io.BytesIO()
    indices = np.array([[0, 100, 255]], np.uint8)
    tifffile.imwrite(
        buffer, indices, photometric="palette", colormap=np.stack([colours << shift] * 3)
    )
    assert decode_image(buffer.getvalue()).samples[0, :, 0].tolist() == [0, 100, 255]


def test_a_thumbnail_is_not_taken_for_its_image() -> None:
    """As raw photographs have it: the image lies in a SubIFD."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(np.zeros((8, 8), np.uint8), subifds=1, subfiletype=1)
        writer.write(np.zeros((64, 64), np.uint8))
    with pytest.raises(ImageError, match="unsupported: a thumbnail whose image is in a SubIFD"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_that_does_not_begin_with_its_header_is_refused(bits: int) -> None:
    """Its depth is read from the header; Pillow would find it elsewhere."""
    data = imagecodecs.png_encode(np.zeros((8, 8, 3), f"uint{bits}"))
    chunk = b"tEXt" + b"a\0b"
    before = struct.pack(">I", 3) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(ImageError, match="unreadable"):
        decode_image(data[:8] + before + data[8:])
