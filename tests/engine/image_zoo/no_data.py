"""Pixels that are not there: GDAL's value and mask, NaN, alpha of TIFF files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.engine.image_zoo.cases import (
    Case,
    Marks,
    RawTiff,
    case,
    channels_first,
    draw,
    draw_stack,
    first,
    one,
    paint,
    plain_tags,
    refused,
    several,
    tiff,
    tiff_of,
    wedge,
)
from tests.engine.image_zoo.colours import add_alpha, hide

SMALLEST = np.finfo(np.float32).min


def gdal_value(text: str) -> list[Any]:
    """Return the tag GDAL_NODATA."""
    return [(42113, "s", 0, text, True)]


def with_value(
    seed: int, dtype: str, value: float, text: str, model: str, channels: int = 1, **options: Any
) -> Case:
    """Return a TIFF file whose rim has a value, and a tag with a text."""
    marks, valid = draw(seed, channels), wedge()
    samples = paint(marks, dtype)
    samples[~valid] = value
    if channels == 1:
        samples = first(samples)
    data = tiff(samples, extratags=gdal_value(text), **options)
    return one(data, marks, model, valid=valid)


# --- GDAL's value


@case
def nodata_int16() -> Case:
    return with_value(501, "int16", -9999, "-9999", "i16x3")


@case
def nodata_int16_smallest() -> Case:
    return with_value(502, "int16", -32768, "-32768", "i16x3", compression="zlib", tile=(16, 16))


@case
def nodata_uint8_0() -> Case:
    return with_value(503, "uint8", 0, "0", "u8x3")


@case
def nodata_uint8_255() -> Case:
    return with_value(504, "uint8", 255, "255", "u8x3")


@case
def nodata_uint16_65535() -> Case:
    return with_value(505, "uint16", 65535, "65535", "u16x3")


@case
def nodata_uint16_with_a_space_behind() -> Case:
    return with_value(506, "uint16", 0, "0 ", "u16x3")


@case
def nodata_float32_nan() -> Case:
    return with_value(507, "float32", np.nan, "nan", "f32x3")


@case
def nodata_float32() -> Case:
    return with_value(508, "float32", -9999, "-9999", "f32x3", compression="zstd", predictor=True)


@case
def nodata_float32_smallest() -> Case:
    text = "-3.4028234663852886e+38"
    return with_value(509, "float32", SMALLEST, text, "f32x3")


@case
def nodata_float32_smallest_in_few_digits() -> Case:
    """Older tools round the text; GDAL takes the value as the same."""
    found = with_value(510, "float32", SMALLEST, "-3.40282e+38", "f32x3")
    return replace(found, may_refuse=True)


@case
def nodata_float32_smallest_in_fifteen_digits() -> Case:
    return with_value(511, "float32", SMALLEST, "-3.40282346638529e+38", "f32x3")


@case
def nodata_float64_smallest() -> Case:
    value = np.finfo(np.float64).min
    return with_value(512, "float64", value, "-1.7976931348623157e+308", "f32x3")


@case
def nodata_uint32_largest() -> Case:
    return with_value(513, "uint32", 4294967295, "4294967295", "f32x3")


@case
def nodata_int32_smallest() -> Case:
    return with_value(514, "int32", -2147483647, "-2147483647", "f32x3")


@case
def nodata_int8() -> Case:
    return with_value(515, "int8", -128, "-128", "i8x1")


@case
def nodata_0_of_colours() -> Case:
    """Black is not there; a pixel whose red alone is 0 is."""
    marks, valid = draw(520, 3), wedge()
    samples = paint(marks)
    samples[marks[:, :, 0] == -1, 0] = 0
    samples[~valid] = 0
    data = tiff(samples, photometric="rgb", extratags=gdal_value("0"))
    return one(data, marks, "rgb", valid=valid)


@case
def nodata_of_any_channel_of_int16() -> Case:
    marks, valid = draw(521, 3), wedge()
    samples = paint(marks, "int16")
    samples[~valid, 1] = -9999
    data = tiff(samples, photometric="rgb", extratags=gdal_value("-9999"))
    return one(data, marks, "i16x3", valid=valid)


@case
def nodata_of_any_plane_of_float32() -> Case:
    marks, valid = draw(522, 3), wedge()
    samples = paint(marks, "float32")
    samples[~valid, 2] = -9999
    options = {"planarconfig": "separate", "extratags": gdal_value("-9999")}
    return one(tiff(channels_first(samples), **options), marks, "f32x3", valid=valid)


@case
def nodata_of_five_planes() -> Case:
    marks, valid = draw(523, 5), wedge()
    samples = paint(marks)
    samples[~valid] = 0
    options = {"planarconfig": "separate", "extratags": gdal_value("0"), "tile": (16, 16)}
    return one(tiff(channels_first(samples), **options), marks, "u8x5", valid=valid)


@case
def nodata_that_the_type_does_not_have() -> Case:
    """−9999 is no value of uint8: all pixels are there."""
    marks = draw(524)
    return one(tiff(first(paint(marks)), extratags=gdal_value("-9999")), marks)


@case
def nodata_fraction_that_the_type_does_not_have() -> Case:
    marks = draw(525)
    return one(tiff(first(paint(marks)), extratags=gdal_value("100.5")), marks)


@case
def nodata_nan_of_uint8() -> Case:
    marks = draw(526)
    return one(tiff(first(paint(marks)), extratags=gdal_value("nan")), marks)


@case
def nodata_that_is_no_number() -> Case:
    marks = draw(527)
    samples = first(paint(marks))
    right = {"image.tif": tiff(samples)}
    return refused(one(tiff(samples, extratags=gdal_value("none")), marks), "none", files=right)


# --- NaN and infinities


def with_rim(seed: int, value: float, dtype: str = "float32") -> Case:
    """Return a float image whose rim has a value that is no number."""
    marks, valid = draw(seed), wedge()
    samples = first(paint(marks, dtype))
    samples[~valid] = value
    return one(tiff(samples), marks, "f32x3", valid=valid)


@case
def rim_of_nan() -> Case:
    return with_rim(530, np.nan)


@case
def rim_of_infinity() -> Case:
    return with_rim(531, np.inf)


@case
def rim_of_minus_infinity_of_float64() -> Case:
    return with_rim(532, -np.inf, "float64")


@case
def rim_of_nan_of_float16() -> Case:
    return with_rim(533, np.nan, "float16")


@case
def nan_in_one_of_three_channels() -> Case:
    marks, valid = draw(534, 3), wedge()
    samples = paint(marks, "float32")
    samples[~valid, 1] = np.nan
    data = tiff(channels_first(samples), planarconfig="separate")
    return one(data, marks, "f32x3", valid=valid)


@case
def nothing_but_nan() -> Case:
    marks = draw(535)
    samples = np.full(marks.shape[:2], np.nan, np.float32)
    return one(tiff(samples), marks, "f32x3", valid=np.zeros(marks.shape[:2], bool))


@case
def nothing_but_the_value() -> Case:
    marks = draw(536)
    samples = np.full(marks.shape[:2], -9999, np.int16)
    data = tiff(samples, extratags=gdal_value("-9999"))
    return one(data, marks, "i16x3", valid=np.zeros(marks.shape[:2], bool))


@case
def nan_and_another_value_that_is_not_there() -> Case:
    marks, valid = draw(537), wedge()
    samples = first(paint(marks, "float32"))
    samples[~valid] = -9999
    samples[:3] = np.nan
    there = valid.copy()
    there[:3] = False
    return one(tiff(samples, extratags=gdal_value("-9999")), marks, "f32x3", valid=there)


@case
def value_that_nothing_says_is_missing() -> Case:
    """−3.4e38 without a tag: not a sample that any model knows, and not silently a hole."""
    marks, valid = draw(538), wedge()
    samples = first(paint(marks, "float32"))
    samples[~valid] = SMALLEST
    said = {"image.tif": tiff(samples, extratags=gdal_value(str(SMALLEST)))}
    return refused(one(tiff(samples), marks, "f32x3", valid=valid), "missing", files=said)


# --- alpha of TIFF files


def with_alpha(
    seed: int,
    kind: str,
    dtype: str = "uint8",
    model: str = "rgb",
    channels: int = 3,
    **options: Any,
) -> Case:
    """Return a TIFF file whose last sample is an alpha, 0 in the corner."""
    marks, valid = draw(seed, channels), wedge()
    samples = paint(marks, dtype)
    if kind == "assocalpha":
        samples[~valid] = 0
    else:
        samples = hide(samples, valid)
    pixels = add_alpha(samples, valid)
    colours = 3 if options.get("photometric") == "rgb" else 1
    extra = ("unspecified",) * (channels - colours)
    options = {"planarconfig": "contig"} | options
    data = tiff(pixels, extrasamples=(*extra, kind), **options)
    return one(data, marks, model, valid=valid)


@case
def alpha_of_an_orthomosaic() -> Case:
    return with_alpha(540, "unassalpha", photometric="rgb", tile=(16, 16), compression="zlib")


@case
def alpha_that_is_premultiplied() -> Case:
    return with_alpha(541, "assocalpha", photometric="rgb")


@case
def alpha_of_16_bits() -> Case:
    return with_alpha(542, "unassalpha", "uint16", "u16x3", photometric="rgb")


@case
def alpha_of_16_bits_that_is_premultiplied() -> Case:
    return with_alpha(543, "assocalpha", "uint16", "u16x3", photometric="rgb")


@case
def alpha_of_grey() -> Case:
    return with_alpha(544, "unassalpha", model="u8x3", channels=1)


@case
def alpha_behind_five_bands() -> Case:
    return with_alpha(545, "unassalpha", model="u8x5", channels=5)


@case
def alpha_in_a_plane_of_its_own() -> Case:
    marks, valid = draw(546, 3), wedge()
    pixels = channels_first(add_alpha(hide(paint(marks), valid), valid))
    options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ("unassalpha",)}
    data = tiff(pixels, planarconfig="separate", **options)
    return one(data, marks, "rgb", valid=valid)


@case
def alpha_of_tiff_that_is_0_above_colours() -> Case:
    marks = draw(547, 3)
    pixels = add_alpha(paint(marks), np.zeros(marks.shape[:2], bool))
    data = tiff(pixels, photometric="rgb", extrasamples=("unassalpha",))
    return one(data, marks, "rgb", note="opaque")


@case
def alpha_of_tiff_that_is_constant() -> Case:
    marks = draw(548, 3)
    pixels = add_alpha(paint(marks), np.full(marks.shape[:2], 1))
    data = tiff(pixels, photometric="rgb", extrasamples=("unassalpha",))
    return one(data, marks, "rgb")


@case
def alpha_of_shadows_in_tiff() -> Case:
    marks = draw(549, 3)
    alpha = np.broadcast_to(np.linspace(2, 253, 52), (40, 52))
    data = tiff(add_alpha(paint(marks), alpha), photometric="rgb", extrasamples=("unassalpha",))
    right = {"image.tif": tiff(paint(marks), photometric="rgb")}
    return refused(one(data, marks, "rgb"), "half transparent", files=right)


@case
def alpha_and_a_value() -> Case:
    """What either of the two says is missing is not there."""
    marks, valid = draw(550, 3), wedge()
    samples = hide(paint(marks), valid)
    samples[:4] = 0
    there = valid.copy()
    there[:4] = False
    data = tiff(
        add_alpha(samples, valid),
        photometric="rgb",
        extrasamples=("unassalpha",),
        extratags=gdal_value("0"),
    )
    return one(data, marks, "rgb", valid=there, may_refuse=True)


@case
def alpha_of_each_page() -> Case:
    marks, valid = draw_stack(2, channels=3, seed=551), wedge()
    masks = [valid, valid[::-1]]
    pages = [add_alpha(hide(paint(marks[p]), masks[p]), masks[p]) for p in range(2)]
    data = tiff(*pages, photometric="rgb", extrasamples=("unassalpha",))
    images = {f"page={p + 1}": marks[p] for p in range(2)}
    return several(data, images, "rgb", valid={f"page={p + 1}": masks[p] for p in range(2)})


@case
def alpha_of_an_image_that_is_turned() -> Case:
    """Orientation 6: stored on its left side, and so is its alpha."""
    marks, valid = draw(552, 3), wedge()
    pixels = np.rot90(add_alpha(hide(paint(marks), valid), valid))
    orientation = [(274, "H", 1, 6, True)]
    options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ("unassalpha",)}
    return one(tiff(pixels, extratags=orientation, **options), marks, "rgb", valid=valid)


# --- GDAL's mask


def mask_page(valid: NDArray[np.bool_], subfiletype: int = 4, **options: Any) -> dict[str, Any]:
    """Return GDAL's internal mask: 1 where a pixel is there."""
    options = {"compression": "zlib", "photometric": "mask"} | options
    return {"data": valid, "subfiletype": subfiletype, **options}


def with_mask(marks: Marks, *masks: dict[str, Any], **options: Any) -> bytes:
    """Return a file of colours whose rim is bright below the mask."""
    samples = hide(paint(marks), wedge(*marks.shape[:2]))
    return tiff_of({"data": samples, "photometric": "rgb", **options}, *masks)


@case
def mask_of_gdal() -> Case:
    marks = draw(560, 3)
    return one(with_mask(marks, mask_page(wedge())), marks, "rgb", valid=wedge())


@case
def mask_of_gdal_of_8_bits() -> Case:
    marks, valid = draw(561), wedge()
    file = RawTiff()
    file.add(hide(paint(marks), valid).tobytes(), plain_tags())
    mask = (valid * 255).astype(np.uint8)
    file.add(mask.tobytes(), plain_tags(photometric=4) | {254: ("I", [4])})
    return one(file.to_bytes(), marks, valid=valid)


@case
def mask_of_a_cloud_optimised_geotiff() -> Case:
    """Image, mask, and smaller ones of both."""
    marks, valid = draw(562, 3, 64, 80), wedge(64, 80)
    small = {"data": hide(paint(marks), valid)[::2, ::2], "photometric": "rgb", "subfiletype": 1}
    tiles = {"tile": (16, 16)}
    data = with_mask(
        marks,
        mask_page(valid, **tiles),
        small | tiles,
        mask_page(np.ascontiguousarray(valid[::2, ::2]), 5, **tiles),
        **tiles,
    )
    return one(data, marks, "rgb", valid=valid)


@case
def mask_behind_the_smaller_images() -> Case:
    marks, valid = draw(563, 3), wedge()
    small = {"data": paint(marks)[::2, ::2], "photometric": "rgb", "subfiletype": 1}
    data = with_mask(marks, small, mask_page(valid))
    return one(data, marks, "rgb", valid=valid)


@case
def mask_of_jpeg_in_tiff() -> Case:
    """What COGs of aerial photographs are: YCbCr, and a mask, for JPEG has no alpha."""
    marks, valid = draw(564, 3), wedge()
    options: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 98}}
    page = {"data": hide(paint(marks), valid), "photometric": "rgb", "subsampling": (1, 1)}
    data = tiff_of(page | options | {"tile": (48, 64)}, mask_page(valid))
    return one(data, marks, "rgb", valid=valid)


@case
def mask_that_hides_nothing() -> Case:
    marks = draw(565)
    data = tiff_of({"data": first(paint(marks))}, mask_page(np.ones(marks.shape[:2], bool)))
    return one(data, marks)


@case
def mask_that_hides_everything() -> Case:
    marks = draw(566)
    missing = np.zeros(marks.shape[:2], bool)
    data = tiff_of({"data": first(paint(marks))}, mask_page(missing))
    return one(data, marks, valid=missing)


@case
def mask_of_int16() -> Case:
    marks, valid = draw(567), wedge()
    samples = first(paint(marks, "int16"))
    samples[~valid] = 2000
    return one(tiff_of({"data": samples}, mask_page(valid)), marks, "i16x3", valid=valid)
