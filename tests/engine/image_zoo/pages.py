"""TIFF files of several pages, interleaved and planar samples, compressions and byte orders."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from tests.engine.image_zoo.cases import (
    Case,
    Image,
    case,
    channels_first,
    draw,
    draw_stack,
    first,
    one,
    paint,
    refused,
    several,
    tiff,
    tiff_of,
)


@case
def plain_pages() -> Case:
    marks = draw_stack(3, seed=201)
    data = tiff(*paint(first(marks)))
    images = {f"page={page}": marks[page - 1] for page in (1, 2, 3)}
    return several(data, images, note="axes")


@case
def colour_pages_of_different_sizes() -> Case:
    pages = [draw(202, 3), draw(203, 3, 30, 44)]
    data = tiff(*map(paint, pages), photometric="rgb")
    return several(data, {f"page={place}": marks for place, marks in enumerate(pages, 1)}, "rgb")


@case
def page_with_a_thumbnail() -> Case:
    marks = draw(204, 3)
    samples = paint(marks)
    data = tiff_of({"data": samples}, {"data": samples[::4, ::4], "subfiletype": 1}, photometric=2)
    return one(data, marks, "rgb")


@case
def fax_pages() -> Case:
    """Pages of 1 bit in which 0 is white, compressed by CCITT group 4."""
    marks = draw_stack(2, seed=205)
    bright = first(marks) == 1
    pages = [PillowImage.fromarray(page) for page in bright]
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compression": "group4", "tiffinfo": {262: 0}}
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], **options)
    two_levels = np.where(marks == 1, 1, -1).astype(np.int8)
    return several(buffer.getvalue(), {f"page={page}": two_levels[page - 1] for page in (1, 2)})


@case
def fax_page_compressed_by_group_3() -> Case:
    marks = draw(206)
    buffer = io.BytesIO()
    page = PillowImage.fromarray(first(marks) == 1)
    page.save(buffer, "TIFF", compression="group3")
    return one(buffer.getvalue(), np.where(marks == 1, 1, -1).astype(np.int8))


@case
def stack_with_the_suffix_of_another_format() -> Case:
    marks = draw_stack(2, seed=207)
    data = tiff(*paint(first(marks)))
    images = {f"image.png#page={page}": Image(marks[page - 1]) for page in (1, 2)}
    return Case({"image.png": data}, images, may_refuse=True)


# --- samples of a pixel


@case
def planar_samples() -> Case:
    marks = draw(210, 3)
    data = tiff(channels_first(paint(marks, "uint16")), planarconfig="separate")
    return one(data, marks, "u16x3")


@case
def planar_samples_in_tiles() -> Case:
    marks = draw(211, 5)
    data = tiff(channels_first(paint(marks)), planarconfig="separate", tile=(16, 16))
    return one(data, marks, "u8x5")


@case
def planar_colours() -> Case:
    marks = draw(212, 3)
    data = tiff(channels_first(paint(marks)), planarconfig="separate", photometric="rgb")
    return one(data, marks, "rgb")


@case
def two_interleaved_samples() -> Case:
    marks = draw(213, 2)
    options = {"planarconfig": "contig", "extrasamples": ("unspecified",)}
    return one(tiff(paint(marks, "uint16"), **options), marks, "u16x2")


@case
def three_interleaved_samples() -> Case:
    marks = draw(214, 3)
    options = {"planarconfig": "contig", "extrasamples": ("unspecified",) * 2}
    return one(tiff(paint(marks, "uint16"), **options), marks, "u16x3")


@case
def five_interleaved_samples_in_tiles() -> Case:
    marks = draw(215, 5)
    options = {"planarconfig": "contig", "extrasamples": ("unspecified",) * 4}
    data = tiff(paint(marks), tile=(16, 16), compression="lzw", **options)
    return one(data, marks, "u8x5")


@case
def colours_and_two_more_bands() -> Case:
    """A drone's red, green, blue, red edge and near infrared."""
    marks = draw(216, 5)
    data = tiff(paint(marks), photometric="rgb", extrasamples=("unspecified",) * 2)
    return one(data, marks, "u8x5")


@case
def colours_and_near_infrared_for_a_model_of_colours() -> Case:
    marks = draw(217, 4)
    data = tiff(paint(marks), photometric="rgb", extrasamples=("unspecified",))
    return refused(one(data, marks[:, :, :3]), "4 channels", "--channels", "0,1,2")


@case
def four_bands_of_gdal() -> Case:
    """Near infrared, red, green: a choice in another order."""
    marks = draw(218, 4)
    data = tiff(paint(marks, "uint16"), planarconfig="contig", extrasamples=("unspecified",) * 3)
    flags = ("--channels", "3,0,1")
    return one(data, marks[:, :, [3, 0, 1]], "u16x3", flags=flags)


@case
def channel_that_is_not_there() -> Case:
    marks = draw(219, 2)
    options = {"planarconfig": "contig", "extrasamples": ("unspecified",)}
    data = tiff(paint(marks, "uint16"), **options)
    right = {"image.tif": tiff(paint(marks[:, :, [0, 1, 1]], "uint16"), photometric="rgb")}
    images = one(data, marks[:, :, [0, 1, 1]], "u16x3", flags=("--channels", "0,1,2"))
    return refused(images, "2", files=right)


@case
def unnamed_channels_for_a_model_of_colours() -> Case:
    marks = draw(220, 3)
    data = tiff(channels_first(paint(marks)), planarconfig="separate")
    return refused(one(data, marks, "rgb"), "channels", "--channels", "0,1,2")


@case
def grey_for_a_model_of_colours() -> Case:
    marks = draw(221)
    return one(tiff(first(paint(marks))), marks, "rgb")


@case
def grey_for_a_model_of_five_channels() -> Case:
    """Grey stands for colours, not for five stains."""
    marks = draw(225, 5)
    right = {"image.tif": tiff(channels_first(paint(marks)), planarconfig="separate")}
    images = one(tiff(first(paint(marks[:, :, :1]))), marks, "u8x5")
    return refused(images, "channel", files=right)


@case
def equal_colours_for_a_model_of_grey() -> Case:
    marks = draw(222)
    data = tiff(np.repeat(paint(marks), 3, axis=2), photometric="rgb")
    return one(data, marks, "u8x1")


@case
def colours_for_a_model_of_grey() -> Case:
    marks = draw(223, 3)
    data = tiff(paint(marks), photometric="rgb")
    return refused(one(data, marks[:, :, 1:2], "u8x1"), "channel", "--channels", "G")


@case
def five_channels_for_a_model_of_grey() -> Case:
    marks = draw(224, 5)
    data = tiff(channels_first(paint(marks)), planarconfig="separate")
    return refused(one(data, marks[:, :, 4:], "u8x1"), "5", "--channels", "4")


# --- compressions, byte orders


@case
def jpeg_in_tiff() -> Case:
    marks = draw(230, 3)
    data = tiff(
        paint(marks),
        photometric="rgb",  # of which tifffile makes YCbCr
        compression="jpeg",
        compressionargs={"level": 98},
        subsampling=(1, 1),
        tile=(48, 64),
    )
    return one(data, marks, "rgb")


@case
def big_tiff() -> Case:
    marks = draw_stack(2, seed=231)
    data = tiff(*paint(first(marks), "uint16"), bigtiff=True)
    return several(data, {f"page={page}": marks[page - 1] for page in (1, 2)}, "u16x3")


@case
def big_endian() -> Case:
    marks = draw(232, 3)
    data = tiff(paint(marks, "uint16"), byteorder=">", photometric="rgb")
    return one(data, marks, "u16x3")


@case
def floats_with_a_predictor() -> Case:
    marks = draw(233, 3)
    data = tiff(
        channels_first(paint(marks, "float32")),
        planarconfig="separate",
        compression="zlib",
        predictor=True,
        tile=(16, 16),
    )
    return one(data, marks, "f32x3")


@case
def zstandard_of_int16_with_a_predictor() -> Case:
    marks = draw(234)
    data = tiff(first(paint(marks, "int16")), compression="zstd", predictor=True, tile=(16, 16))
    return one(data, marks, "i16x3")


@case
def lzw_in_strips() -> Case:
    marks = draw(235)
    data = tiff(first(paint(marks, "uint16")), compression="lzw", predictor=True, rowsperstrip=7)
    return one(data, marks, "u16x3")
