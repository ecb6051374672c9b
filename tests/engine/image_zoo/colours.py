"""PNG, JPEG, WebP, GIF and others: colours, palettes, transparency."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from tests.builders import encode_pillow
from tests.engine.image_zoo.cases import (
    Case,
    case,
    draw,
    first,
    one,
    paint,
    refused,
    tiff,
    wedge,
)

UNDER = {np.dtype(np.uint8): 250, np.dtype(np.uint16): 60000}
"""What the samples of pixels that are not there are set to: a bright disc, were it read."""


def hide(samples: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    """Fill pixels that are not there with something bright."""
    hidden = samples.copy()
    hidden[~valid] = UNDER[samples.dtype]
    return hidden


def add_alpha(samples: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Append an alpha channel; a mask becomes 0 and the largest value."""
    if alpha.dtype == bool:
        alpha = alpha * np.iinfo(samples.dtype).max
    return np.dstack([samples, alpha.astype(samples.dtype)])


@case
def png_of_colours() -> Case:
    marks = draw(401, 3)
    return one(encode_pillow(paint(marks)), marks, "rgb", suffix="png")


@case
def png_of_16_bits() -> Case:
    marks = draw(402)
    data = imagecodecs.png_encode(first(paint(marks, "uint16")))
    return one(data, marks, "u16x3", suffix="png")


@case
def png_of_16_bit_colours() -> Case:
    marks = draw(403, 3)
    return one(imagecodecs.png_encode(paint(marks, "uint16")), marks, "u16x3", suffix="png")


@case
def png_of_one_bit() -> Case:
    marks = draw(404)
    data = encode_pillow(PillowImage.fromarray(first(marks) == 1))
    two_levels = np.where(marks == 1, 1, -1).astype(np.int8)
    return one(data, two_levels, suffix="png")


@case
def png_with_alpha() -> Case:
    marks, valid = draw(405, 3), wedge()
    data = encode_pillow(add_alpha(hide(paint(marks), valid), valid))
    return one(data, marks, "rgb", valid=valid, suffix="png")


@case
def png_of_grey_with_alpha() -> Case:
    marks, valid = draw(406), wedge()
    pixels = add_alpha(hide(paint(marks), valid), valid)
    return one(encode_pillow(PillowImage.fromarray(pixels)), marks, valid=valid, suffix="png")


@case
def png_of_16_bits_with_alpha() -> Case:
    marks, valid = draw(407, 3), wedge()
    data = imagecodecs.png_encode(add_alpha(hide(paint(marks, "uint16"), valid), valid))
    return one(data, marks, "u16x3", valid=valid, suffix="png")


@case
def png_of_16_bit_grey_with_alpha() -> Case:
    marks, valid = draw(408), wedge()
    data = imagecodecs.png_encode(add_alpha(hide(paint(marks, "uint16"), valid), valid))
    return one(data, marks, "u16x3", valid=valid, suffix="png")


@case
def png_of_a_palette() -> Case:
    marks = draw(409)
    image = PillowImage.fromarray((first(marks) + 1).astype(np.uint8), "P")
    image.putpalette([200, 10, 100, 100, 100, 100, 10, 200, 100])
    shown = np.dstack([-first(marks), first(marks), np.zeros_like(first(marks))])
    return one(encode_pillow(image), shown, "rgb", suffix="png")


@case
def png_of_a_palette_with_a_transparent_colour() -> Case:
    marks, valid = draw(410), wedge()
    index = np.where(valid, first(marks) + 1, 3).astype(np.uint8)
    image = PillowImage.fromarray(index, "P")
    image.putpalette([10] * 3 + [100] * 3 + [200] * 3 + [250] * 3)
    data = encode_pillow(image, transparency=3)
    return one(data, marks, valid=valid, suffix="png")


@case
def png_with_a_transparent_colour() -> Case:
    """A tRNS chunk that names the white of the rim."""
    marks, valid = draw(411, 3), wedge()
    samples = paint(marks)
    samples[~valid] = 255
    data = encode_pillow(samples, transparency=(255, 255, 255))
    return one(data, marks, "rgb", valid=valid, suffix="png")


@case
def png_of_grey_with_a_transparent_level() -> Case:
    marks, valid = draw(412), wedge()
    samples = first(paint(marks))
    samples[~valid] = 255
    return one(encode_pillow(samples, transparency=255), marks, valid=valid, suffix="png")


def add_chunk(png: bytes, content: bytes) -> bytes:
    """Insert a chunk behind the first one; the content begins with its name."""
    size, checksum = len(content) - 4, zlib.crc32(content)
    return png[:33] + struct.pack(">I", size) + content + struct.pack(">I", checksum) + png[33:]


@case
def png_of_16_bit_grey_with_a_transparent_level() -> Case:
    marks, valid = draw(427), wedge()
    samples = first(paint(marks, "uint16"))
    samples[~valid] = 65535
    data = add_chunk(imagecodecs.png_encode(samples), b"tRNS" + struct.pack(">H", 65535))
    return one(data, marks, "u16x3", valid=valid, suffix="png")


@case
def png_with_a_transparent_colour_of_16_bits() -> Case:
    """The upper bytes of a bright pixel are those of the transparent colour: it is there."""
    marks, valid = draw(428, 3), wedge()
    samples = paint(marks, "uint16")
    samples[~valid] = 4001
    samples[valid & (samples == 4001).all(axis=2)] = 4000
    data = add_chunk(imagecodecs.png_encode(samples), b"tRNS" + struct.pack(">HHH", *[4001] * 3))
    return one(data, marks, "u16x3", valid=valid, suffix="png")


@case
def png_of_a_palette_with_soft_colours() -> Case:
    """Of a palette's alphas, those below 128 are not there; few pixels are half transparent."""
    marks, valid = draw(429), wedge()
    index = np.where(valid, first(marks) + 1, 3).astype(np.uint8)
    index[0, 45:] = 4
    index[39, 45:] = 5
    there = valid.copy()
    there[0, 45:] = False
    image = PillowImage.fromarray(index, "P")
    image.putpalette([10] * 3 + [100] * 3 + [200] * 3 + [250] * 3 + [250] * 3 + [100] * 3)
    data = encode_pillow(image, transparency=bytes([255, 255, 255, 0, 90, 200]))
    return one(data, marks, valid=there, suffix="png")


@case
def png_of_constant_alpha() -> Case:
    marks = draw(413, 3)
    data = encode_pillow(add_alpha(paint(marks), np.full(marks.shape[:2], 77)))
    return one(data, marks, "rgb", suffix="png")


@case
def png_of_opaque_alpha() -> Case:
    marks = draw(414, 3)
    data = encode_pillow(add_alpha(paint(marks), np.ones(marks.shape[:2], bool)))
    return one(data, marks, "rgb", suffix="png")


@case
def png_whose_alpha_is_0_above_colours() -> Case:
    marks = draw(415, 3)
    data = encode_pillow(add_alpha(paint(marks), np.zeros(marks.shape[:2], bool)))
    return one(data, marks, "rgb", suffix="png", note="opaque")


@case
def png_tile_without_a_pixel() -> Case:
    """A tile of a web map that lies outside: all is 0, alpha too."""
    marks = np.zeros((40, 52, 3), np.int8)
    data = encode_pillow(np.zeros((40, 52, 4), np.uint8))
    return one(data, marks, "rgb", valid=np.zeros((40, 52), bool), suffix="png")


@case
def png_with_a_soft_rim() -> Case:
    """Fewer than 5 % of the pixels are half transparent; half of those are not there."""
    marks, valid = draw(416, 3), wedge()
    alpha = valid * 255
    rim = valid & ~np.roll(valid, 1, axis=1) & (np.arange(52) > 0)
    rows = np.arange(40)[:, None] % 2 == 0
    alpha = np.where(rim & rows, 100, np.where(rim, 180, alpha))
    there = alpha >= 128
    assert 0 < rim.mean() < 0.05
    data = encode_pillow(add_alpha(hide(paint(marks), valid), alpha))
    return one(data, marks, "rgb", valid=there, suffix="png")


@case
def png_with_shadows() -> Case:
    marks = draw(417, 3)
    alpha = np.broadcast_to(np.linspace(40, 250, 52), (40, 52))
    data = encode_pillow(add_alpha(paint(marks), alpha))
    right = {"image.png": encode_pillow(paint(marks))}
    return refused(one(data, marks, "rgb", suffix="png"), "half transparent", files=right)


@case
def webp_with_alpha() -> Case:
    marks, valid = draw(418, 3), wedge()
    pixels = add_alpha(hide(paint(marks), valid), valid)
    data = encode_pillow(pixels, "WEBP", lossless=True, exact=True)
    return one(data, marks, "rgb", valid=valid, suffix="webp")


@case
def gif_with_a_transparent_colour() -> Case:
    marks, valid = draw(419), wedge()
    index = np.where(valid, first(marks) + 1, 3).astype(np.uint8)
    image = PillowImage.fromarray(index, "P")
    image.putpalette([10] * 3 + [100] * 3 + [200] * 3 + [250] * 3)
    return one(encode_pillow(image, "GIF", transparency=3), marks, valid=valid, suffix="gif")


@case
def jpeg_of_colours() -> Case:
    marks = draw(420, 3)
    data = encode_pillow(paint(marks), "JPEG", quality=98, subsampling=0)
    return one(data, marks, "rgb", suffix="jpg")


@case
def jpeg_of_grey_turned_by_exif() -> Case:
    marks = draw(421)
    image = PillowImage.fromarray(np.rot90(first(paint(marks))))
    exif = PillowImage.Exif()
    exif[274] = 6  # has to be turned to the right to be seen
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=98, exif=exif)
    return one(buffer.getvalue(), marks, suffix="jpg")


@case
def jpeg_2000_of_16_bits() -> Case:
    marks = draw(422)
    data = imagecodecs.jpeg2k_encode(first(paint(marks, "uint16")), reversible=True)
    return one(data, marks, "u16x3", suffix="jp2")


@case
def bmp_of_colours() -> Case:
    marks = draw(423, 3)
    return one(encode_pillow(paint(marks), "BMP"), marks, "rgb", suffix="bmp")


@case
def pgm_of_16_bits() -> Case:
    marks = draw(424)
    samples = first(paint(marks, "uint16"))
    data = b"P5 52 40 65535\n" + samples.astype(">u2").tobytes()
    return one(data, marks, "u16x3", suffix="pgm")


@case
def tiff_of_a_palette() -> Case:
    marks = draw(425)
    table = np.zeros((3, 256), np.uint16)
    table[:, :3] = np.array([[200, 100, 10], [10, 100, 200], [100] * 3]) * 257
    data = tiff((first(marks) + 1).astype(np.uint8), photometric="palette", colormap=table)
    shown = np.dstack([-first(marks), first(marks), np.zeros_like(first(marks))])
    return one(data, shown, "rgb")


@case
def tiff_of_cmyk() -> Case:
    marks = draw(426, 3)
    inks = np.dstack([255 - paint(marks), np.zeros(marks.shape[:2], np.uint8)])
    return one(tiff(inks, photometric="separated"), marks, "rgb")
