"""Mask files as programs write them, decoded in the child process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from tests.builders import encode_pillow, encode_tiff
from unet_ray.errors import ImageError
from unet_ray.flags import COLOUR
from unet_ray.imaging.codecs.decode import decode_image, decode_label_image
from unet_ray.imaging.codecs.mask_samples import ColourTable
from unet_ray.imaging.codecs.sandbox import Decoder

IDS = np.array([[0, 1, 2, 3], [3, 3, 0, 1]], np.uint8)
RED, GREEN, GREY, WHITE, BLACK = (
    (192, 48, 48),
    (48, 112, 32),
    (128, 128, 128),
    (255, 255, 255),
    (0, 0, 0),
)
TABLE = ColourTable({0xC03030: 1, 0x307020: 2, 0x808080: 3})


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def paint(ids: NDArray[Any], *colours: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an image in which each id has its colour."""
    return np.array(colours, np.uint8)[ids]


def make_palette(ids: NDArray[Any], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def colour(red: int, green: int, blue: int) -> int:
    return COLOUR + (red << 16 | green << 8 | blue)


# --- ids


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool"])
def test_whole_floats_and_booleans_are_ids(decoder: Decoder, dtype: str) -> None:
    ids = IDS > 1 if dtype == "bool" else IDS
    found = decoder.decode_label(encode_tiff(ids.astype(dtype)))
    assert found.dtype.kind in "iu"
    assert np.array_equal(found, ids)


def test_float64_ids_beyond_the_precision_of_float32_are_kept(decoder: Decoder) -> None:
    ids = np.array([[0, 2**24 + 1, 2**31 - 1]], np.float64)
    assert decoder.decode_label(encode_tiff(ids)).tolist() == [[0, 2**24 + 1, 2**31 - 1]]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0.5, "mask value 0.5 at row 1, column 2 .from 0.; .* to 2147483647: save ids as integers"),
        (-1.0, "mask value -1 at row 1, column 2"),
        (2.0**31, "mask value 2147483648 at row 1, column 2"),
        (np.nan, "mask value nan at row 1, column 2"),
        (np.inf, "mask value inf at row 1, column 2"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_float_that_is_no_id_is_named(
    decoder: Decoder, value: float, error: str, dtype: str
) -> None:
    mask = IDS.astype(dtype)
    mask[1, 2:] = value
    with pytest.raises(ImageError, match=f"unsupported: the {error}"):
        decoder.decode_label(encode_tiff(mask))


def test_the_place_of_a_value_is_found_in_large_masks() -> None:
    mask = np.zeros((1500, 1500), np.float32)
    mask[1400, 7] = 0.25
    with pytest.raises(ImageError, match=r"0.25 at row 1400, column 7 .*threshold probabilities"):
        decode_label_image(encode_tiff(mask, compression="zlib"))


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64", "int32", "int16", "int8"])
def test_integers_of_any_type_are_ids(decoder: Decoder, dtype: str) -> None:
    ids = IDS.astype(dtype)
    ids[0, 0] = np.iinfo(dtype).max if np.iinfo(dtype).max < 2**31 else 2**31 - 1
    found = decoder.decode_label(encode_tiff(ids))
    assert np.array_equal(found, ids)


@pytest.mark.parametrize("dtype", ["uint32", "int64", "uint64"])
def test_ids_that_tables_cannot_hold_are_named(decoder: Decoder, dtype: str) -> None:
    ids = IDS.astype(dtype)
    ids[1, 1] = 2**31
    with pytest.raises(ImageError, match="mask value 2147483648 at row 1, column 1"):
        decoder.decode_label(encode_tiff(ids))


def test_negative_values_are_kept_for_the_set_to_judge(decoder: Decoder) -> None:
    ids = np.array([[-1, 0, 1]], np.int16)
    assert decoder.decode_label(encode_tiff(ids)).tolist() == [[-1, 0, 1]]


def test_white_is_zero_is_inverted_for_8_bits_and_refused_for_floats(decoder: Decoder) -> None:
    assert np.array_equal(
        decoder.decode_label(encode_tiff(255 - IDS, photometric="miniswhite")), IDS
    )
    with pytest.raises(ImageError, match="white-is-zero samples of type float32"):
        decoder.decode_label(encode_tiff(IDS.astype(np.float32), photometric="miniswhite"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_0_or_1(decoder: Decoder, kind: str) -> None:
    data = encode_pillow(Image.fromarray(IDS > 1), kind)
    assert np.array_equal(decoder.decode_label(data), IDS > 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "PPM"])
def test_equal_channels_are_grey(decoder: Decoder, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode_pillow(np.dstack([IDS * 80] * 3), kind, **options)
    found = decoder.decode_label(data)
    assert found.dtype == np.uint8
    assert np.array_equal(found, IDS * 80)


def test_16_bit_png_keeps_its_values(decoder: Decoder) -> None:
    ids = IDS.astype(np.uint16) * 257
    assert np.array_equal(decoder.decode_label(imagecodecs.png_encode(ids)), ids)


@pytest.mark.parametrize("alpha", [255, 128, 0])
def test_constant_alpha_is_dropped(decoder: Decoder, alpha: int) -> None:
    opaque = np.full(IDS.shape, alpha, np.uint8)
    for mask in (np.dstack([IDS, opaque]), np.dstack([IDS, IDS, IDS, opaque])):
        mode = "LA" if mask.shape[2] == 2 else "RGBA"
        data = encode_pillow(Image.fromarray(mask, mode))
        assert np.array_equal(decoder.decode_label(data), IDS)


# --- colours of unknown meaning


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_colours_are_numbers_that_no_id_has_and_greys_stay(decoder: Decoder, kind: str) -> None:
    image = Image.fromarray(paint(IDS, BLACK, RED, GREEN, GREY))
    found = decoder.decode_label(encode_pillow(image, kind))
    values = np.array([0, colour(*RED), colour(*GREEN), 128])
    assert np.array_equal(found, values[IDS])


def test_a_single_used_channel_is_a_colour(decoder: Decoder) -> None:
    found = decoder.decode_label(encode_pillow(np.dstack([IDS * 0, IDS * 0, IDS])))
    assert np.array_equal(found, np.array([0, COLOUR + 1, COLOUR + 2, COLOUR + 3])[IDS])


def test_16_bit_colours_are_read_if_they_are_8_bit_ones(decoder: Decoder) -> None:
    deep = paint(IDS, BLACK, RED, GREEN, GREY).astype(np.uint16)
    for data in (imagecodecs.png_encode(deep * 257), encode_tiff(deep)):
        assert decoder.decode_label(data)[0, 1] == colour(*RED)
    with pytest.raises(ImageError, match="samples from 0 to 49151, but colours in masks"):
        decoder.decode_label(imagecodecs.png_encode(deep * 256 - (deep > 0)))


def test_a_palette_keeps_its_indices_without_a_table(decoder: Decoder) -> None:
    ids = IDS.copy()
    ids[0, 0] = 255
    image = make_palette(ids, BLACK, RED, GREEN, *[GREY] * 253)
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(decoder.decode_label(encode_pillow(image, kind)), ids)


def test_a_gif_has_the_values_that_were_saved_although_it_numbers_them_anew(
    decoder: Decoder,
) -> None:
    """Pillow leaves unused colours out, so that 2 becomes index 1 where 1 does not occur."""
    for ids in (IDS, IDS // 2 * 2, np.full_like(IDS, 255), IDS * 0):
        assert np.array_equal(decoder.decode_label(encode_pillow(ids, "GIF")), ids)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_several_channels_that_are_no_colours_are_refused(decoder: Decoder, channels: int) -> None:
    mask = np.dstack([IDS + index for index in range(channels)])
    data = encode_tiff(
        mask, photometric="minisblack", planarconfig="contig", extrasamples=[0] * (channels - 1)
    )
    with pytest.raises(ImageError, match=f"a mask of {channels} channels; save one id per pixel"):
        decoder.decode_label(data)


def test_a_photograph_is_no_mask(decoder: Decoder) -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    for table in (None, TABLE):
        with pytest.raises(ImageError, match="a mask of more than 4096 colours: it was"):
            decoder.decode_label(encode_pillow(photograph), table=table)


# --- alpha


def make_drawing(drawn: NDArray[np.bool_], *channels: int, alpha: int = 255) -> bytes:
    """Return a PNG in which something of one colour is drawn on a transparent background."""
    mask = np.zeros((*drawn.shape, len(channels) + 1), np.uint8)
    mask[drawn] = (*channels, alpha)
    return encode_pillow(Image.fromarray(mask, "LA" if len(channels) == 1 else "RGBA"))


DRAWN = IDS > 1


@pytest.mark.parametrize(
    ("channels", "value"),
    [
        ((255,), 255),
        ((7,), 7),
        (WHITE, 255),
        (RED, colour(*RED)),
        (BLACK, COLOUR),
        ((0,), COLOUR),
    ],
)
@pytest.mark.parametrize("alpha", [255, 90])
def test_what_is_drawn_on_a_transparent_background_is_the_class(
    decoder: Decoder, channels: tuple[int, ...], value: int, alpha: int
) -> None:
    found = decoder.decode_label(make_drawing(DRAWN, *channels, alpha=alpha))
    assert np.array_equal(found, np.where(DRAWN, value, 0))


def test_colours_below_transparent_pixels_do_not_count(decoder: Decoder) -> None:
    mask = np.full((*IDS.shape, 4), 255, np.uint8)
    mask[:, :, 3] = np.where(DRAWN, 255, 0)
    found = decoder.decode_label(encode_pillow(Image.fromarray(mask)))
    assert np.array_equal(found, np.where(DRAWN, 255, 0))


def test_soft_edges_of_alpha_are_cut_in_the_middle(decoder: Decoder) -> None:
    mask = np.dstack([np.full((1, 5), 255), [[0, 99, 100, 150, 200]]]).astype(np.uint8)
    found = decoder.decode_label(encode_pillow(Image.fromarray(mask, "LA")))
    assert found.tolist() == [[0, 0, 255, 255, 255]]


def test_a_drawing_without_anything_drawn_is_background(decoder: Decoder) -> None:
    empty = np.full((3, 4, 4), 255, np.uint8)
    empty[:, :, 3] = 0
    assert not decoder.decode_label(encode_pillow(Image.fromarray(empty))).any()


@pytest.mark.parametrize("transparent", [0, 1, 2])
def test_a_transparent_palette_colour_is_background_whatever_its_index(
    decoder: Decoder, transparent: int
) -> None:
    ids = IDS % 3
    image = make_palette(ids, RED, GREEN, GREY)
    found = decoder.decode_label(encode_pillow(image, transparency=transparent))
    drawn = ids != transparent
    colours = np.array([colour(*RED), colour(*GREEN), 128])
    values = ids if transparent == 0 else colours[ids]  # indices stay where 0 is not drawn
    assert np.array_equal(found, np.where(drawn, values, 0))


def test_grey_png_with_a_transparent_value(decoder: Decoder) -> None:
    data = encode_pillow(Image.fromarray(IDS), transparency=0)
    assert np.array_equal(decoder.decode_label(data), IDS)


# --- colours of known meaning


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_known_colours_become_ids(decoder: Decoder, kind: str) -> None:
    image = Image.fromarray(paint(IDS, BLACK, RED, GREEN, GREY))
    found = decoder.decode_label(encode_pillow(image, kind), table=TABLE)
    assert found.dtype == np.uint8
    assert np.array_equal(found, IDS)


def test_unknown_colours_stay_colours_and_so_do_greys(decoder: Decoder) -> None:
    image = paint(IDS, BLACK, RED, (1, 2, 3), WHITE)
    found = decoder.decode_label(encode_pillow(image), table=TABLE)
    assert np.array_equal(found, np.array([0, 1, colour(1, 2, 3), colour(*WHITE)])[IDS])


def test_all_files_of_a_set_are_read_by_their_colours(decoder: Decoder) -> None:
    """A mask without coloured objects is often saved as grey; 128 is a colour of the table."""
    ids = IDS // 3 * 3
    grey = np.where(ids == 3, 128, 0).astype(np.uint8)
    for mask in (grey, np.dstack([grey] * 3), Image.fromarray(grey).convert("P")):
        assert np.array_equal(decoder.decode_label(encode_pillow(mask), table=TABLE), ids)
    one_bit = Image.fromarray(ids > 0)
    white = ColourTable({0xFFFFFF: 9}, {1: 1})
    assert np.array_equal(decoder.decode_label(encode_pillow(one_bit), table=white), ids * 3)


def test_palettes_are_translated_by_their_colours(decoder: Decoder) -> None:
    ids = np.array([[0, 1, 2, 3, 255]], np.uint8)
    image = make_palette(ids, BLACK, GREEN, RED, (9, 9, 8), *[(224, 224, 192)] * 252)
    found = decoder.decode_label(encode_pillow(image), table=TABLE)
    assert found.tolist() == [[0, 2, 1, colour(9, 9, 8), 255]]
    void = ColourTable({**TABLE.colours, 0xE0E0C0: colour(224, 224, 192)})
    found = decoder.decode_label(encode_pillow(image), table=void)
    assert found[0, 4] == colour(224, 224, 192)


def test_black_may_be_a_class(decoder: Decoder) -> None:
    table = ColourTable({0: 4, 0xC03030: 1})
    found = decoder.decode_label(encode_pillow(paint(IDS // 2, BLACK, RED)), table=table)
    assert np.array_equal(found, np.where(IDS > 1, 1, 4))


def test_drawings_are_read_by_their_colours(decoder: Decoder) -> None:
    found = decoder.decode_label(make_drawing(DRAWN, *RED), table=TABLE)
    assert np.array_equal(found, DRAWN)
    found = decoder.decode_label(make_drawing(DRAWN, *BLACK), table=TABLE)
    assert not found.any()
    found = decoder.decode_label(make_drawing(DRAWN, *BLACK), table=ColourTable({0: 5}))
    assert np.array_equal(found, np.where(DRAWN, 5, 0))


def test_grey_files_may_hold_line_numbers(decoder: Decoder) -> None:
    table = ColourTable(TABLE.colours, {0: 0, 1: 1, 2: 2, 255: 255})
    ids = np.array([[0, 1, 2, 255, 128, 7]], np.uint8)
    found = decoder.decode_label(encode_pillow(ids), table=table)
    assert found.tolist() == [[0, 1, 2, 255, 3, colour(7, 7, 7)]]
    found = decoder.decode_label(encode_pillow(np.dstack([ids] * 3)), table=table)
    assert found[0, 1] == colour(1, 1, 1), "three channels hold colours"


def test_the_largest_table_fits_into_a_request(decoder: Decoder) -> None:
    table = ColourTable({256 * index: index % 255 for index in range(2**16)})
    mask = np.array([[[0, 1, 0], [255, 255, 0]]], np.uint8)
    assert decoder.decode_label(encode_pillow(mask), table=table).tolist() == [[1, 65535 % 255]]


CHANNEL = st.sampled_from([0, 1, 128, 254, 255])
COLOURS = st.lists(st.tuples(CHANNEL, CHANNEL, CHANNEL), min_size=1, max_size=6, unique=True)


@settings(deadline=None)
@given(COLOURS, st.data())
def test_every_pixel_has_the_value_of_its_colour(
    colours: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """The oracle looks each pixel up by itself."""
    shape = st.tuples(st.integers(1, 6), st.integers(1, 6))
    ids = data.draw(arrays(np.uint8, shape, elements=st.integers(0, len(colours) - 1)))
    known = data.draw(st.integers(0, len(colours)))
    table = ColourTable({r << 16 | g << 8 | b: n for n, (r, g, b) in enumerate(colours[:known], 7)})
    pixels = paint(ids, *colours)
    png = encode_pillow(pixels)
    with_table = decode_label_image(png, table=table)
    without = decode_label_image(png)
    palette = decode_label_image(encode_pillow(make_palette(ids, *colours)), table=table)
    for place in np.ndindex(ids.shape):
        red, green, blue = pixels[place].tolist()
        rgb = red << 16 | green << 8 | blue
        assert without[place] == (red if red == green == blue else COLOUR + rgb)
        expected = table.colours.get(rgb, COLOUR + rgb if rgb else 0)
        assert with_table[place] == palette[place] == expected


def test_images_with_float64_and_palettes_are_as_before() -> None:
    deep = IDS.astype(np.float64) + 0.5
    assert decode_image(encode_tiff(deep)).samples.dtype == np.float32
    gif = encode_pillow(Image.fromarray(paint(IDS, BLACK, RED, GREEN, GREY)), "GIF")
    assert np.array_equal(decode_image(gif).samples, paint(IDS, BLACK, RED, GREEN, GREY))
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, IDS, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    assert np.array_equal(decode_label_image(buffer.getvalue()), IDS)


def test_samples_of_imagej_are_kept_where_a_table_shows_them_inverted(decoder: Decoder) -> None:
    data = encode_tiff(IDS, photometric="miniswhite", description="ImageJ=1.53t\n", metadata=None)
    assert np.array_equal(decoder.decode_label(data), IDS)


def test_black_as_the_second_of_two_colours_is_the_background(decoder: Decoder) -> None:
    drawn = (IDS > 1).astype(np.uint8)
    picture = Image.fromarray(1 - drawn)
    picture.putpalette([255, 0, 0, 0, 0, 0])
    assert np.array_equal(decoder.decode_label(encode_pillow(picture, "PNG")), drawn)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    assert np.array_equal(decoder.decode_label(encode_pillow(picture, "PNG")), 1 - drawn)
