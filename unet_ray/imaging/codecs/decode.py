"""Decode encoded images to arrays.

The format is decided by the content of the file; nothing is guessed and no value is lost.

Pillow reads the everyday formats. tifffile reads TIFF with its pages, bit depths and planes.
imagecodecs reads the two formats that Pillow cuts to 8 bits (16-bit colour PNG and
JPEG 2000). Decoders raise every kind of exception on damaged files, so this module maps each of
them to one `ImageError`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.alpha import Alpha
from unet_ray.imaging.codecs.decoded_image import COLOURS, DecodedImage, join_channels
from unet_ray.imaging.codecs.mask_samples import ColourTable, read_mask_values
from unet_ray.imaging.codecs.pixel_size import PNG_MAGIC, PixelSize, read_png_pixel_size
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.raster import (
    ORIENTATION_TAG,
    PILLOW_FORMATS,
    Raster,
    check_not_empty,
    check_size,
    mapped_errors,
)
from unet_ray.imaging.codecs.samples import (
    check_magnitude,
    convert_samples,
    find_finite,
    find_no_data,
)
from unet_ray.imaging.codecs.tiff import open_image, read_page
from unet_ray.imaging.codecs.tiff_directories import TIFF_MAGIC
from unet_ray.limits import MAX_ARRAY_PIXELS

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
IMAGE_SUFFIXES = TIFF_SUFFIXES | frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".gif",
        ".webp",
        ".avif",
        ".jp2",
        ".j2k",
        ".pgm",
        ".ppm",
        ".pnm",
        ".pbm",
    )
)

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""
_ORIENT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def decode_image(
    data: bytes | PlaneFile, max_pixels: int = MAX_ARRAY_PIXELS, lossy_samples: bool = False
) -> DecodedImage:
    """Decode an encoded image.

    Args:
        data: Whole content of a file that holds one image, or one image of a TIFF.
        max_pixels: Largest height × width that is decoded (px).
        lossy_samples: True to round whole numbers that float32 does not hold.

    Returns:
        The image; samples are of one of `SAMPLE_TYPES`, converted as the module `samples` says. It
        is upright (the EXIF orientation is applied), palettes and CMYK become RGB, samples of fewer
        than 8 bits are scaled to 0..255. A pixel is invalid if its alpha is below half, if the
        file's mask leaves it out, or if it holds the no-data value or a float that is not finite.

    Raises:
        ImageError: `unreadable`, `too_large` or `unsupported`.
    """
    encoded = _read(data, max_pixels)
    with mapped_errors():
        image, alpha = compose_image(encoded)
        if alpha is not None:
            counts = alpha.count(image.samples)
            counts.check()
            if counts.is_opaque:
                image = replace(image, notes=counts.notes)
                alpha = None
        image = finish_image(image, alpha, lossy_samples)
    return turn_image(image, encoded.rasters[0].orientation)


def compose_image(read: ReadImage) -> tuple[DecodedImage, Alpha | None]:
    """Convert the samples read from an image, or from a window of it, to colours.

    Returns:
        The image before it is turned, with the samples of its file, and `valid` as the file's mask
        and no-data value say. Then its alpha; None if it has none.

    Raises:
        ImageError: `unsupported` samples or channels.
    """
    parts: list[DecodedImage] = []
    alphas: list[Alpha] = []
    no_data: list[NDArray[np.bool_] | None] = []
    for raster in read.rasters:
        samples, alpha = to_colours(raster)
        is_colour = raster.is_colour and samples.shape[2] == len(COLOURS)
        parts.append(DecodedImage(samples, channels=COLOURS if is_colour else ()))
        if alpha:
            alphas.append(alpha)
        no_data.append(find_no_data(raster))
    image = join_channels(parts, read.channels)
    # unsigned samples are pictures: a pixel is invalid only if all its pages have the no-data value
    needs_all_pages = read.rasters[0].samples.dtype.kind == "u"
    combine = np.logical_and if needs_all_pages else np.logical_or
    known = [pixels for pixels in no_data if pixels is not None]
    valid = None
    if known and not (needs_all_pages and len(known) < len(no_data)):
        valid = ~combine.reduce(known)
    if read.mask is not None:
        valid = _leave_out(valid, read.mask != 0)
    image = replace(image, valid=valid, pixel_size=read.pixel_size)
    if len(alphas) < 2:
        return image, alphas[0] if alphas else None
    values = np.minimum.reduce([alpha.values for alpha in alphas])
    return image, Alpha(values, alphas[0].opaque)


def _leave_out(
    valid: NDArray[np.bool_] | None, more: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Return the pixels that are valid in both; None stands for all pixels."""
    if valid is None or more is None:
        return more if valid is None else valid
    return valid & more


def finish_image(image: DecodedImage, alpha: Alpha | None, lossy_samples: bool) -> DecodedImage:
    """Return an image with samples that models take, 0 in invalid pixels.

    Args:
        image: Result of `compose_image`.
        alpha: Alpha that decides which pixels are valid; None: it leaves out no pixel.
        lossy_samples: True to round whole numbers that float32 does not hold.

    Raises:
        ImageError: `unsupported` samples.
    """
    samples, valid = image.samples, image.valid
    check_not_empty(samples.shape)
    valid = _leave_out(valid, None if alpha is None else alpha.shown)
    valid = _leave_out(valid, find_finite(samples))
    if valid is not None and valid.all():
        valid = None
    if valid is not None:
        samples = np.where(valid[:, :, None], samples, samples.dtype.type(0))
    samples = convert_samples(samples, lossy_samples)
    if samples.dtype == np.float32:
        check_magnitude(samples.min(), samples.max())
    return replace(image, samples=samples, valid=valid)


def turn_image(image: DecodedImage, orientation: int) -> DecodedImage:
    """Return an image turned upright; cameras write the orientation 0 if they know none."""
    if orientation not in _ORIENT:
        return replace(image, samples=np.ascontiguousarray(image.samples))
    valid = None if image.valid is None else turn_upright(image.valid, orientation)
    return replace(
        image,
        samples=turn_upright(image.samples, orientation),
        valid=valid,
        pixel_size=image.pixel_size and image.pixel_size.turn(orientation),
        orientation=orientation,
    )


def decode_label_image(
    data: bytes | PlaneFile, max_pixels: int = MAX_ARRAY_PIXELS, table: ColourTable | None = None
) -> NDArray[Any]:
    """Decode a mask file as `decode_oriented_label` does, without the orientation."""
    return decode_oriented_label(data, max_pixels, table)[0]


def decode_oriented_label(
    data: bytes | PlaneFile, max_pixels: int = MAX_ARRAY_PIXELS, table: ColourTable | None = None
) -> tuple[NDArray[Any], int]:
    """Decode a mask file to its values: ids as they are, colours as `mask_samples` describes.

    Args:
        data: Whole content of a file that holds one mask, or one image of a TIFF.
        max_pixels: Largest height × width that is decoded (px).
        table: Meaning of the colours; None: it is not known.

    Returns:
        HW mask of an integer type, with at least one pixel; and the orientation of the file, as
        EXIF encodes it.

    Raises:
        ImageError: Same as `decode_image`, and `unsupported` for samples that are not ids and for
            more colours than a mask can have.
    """
    rasters = _read(data, max_pixels).rasters
    if len(rasters) > 1:
        raise ImageError(
            "unsupported", f"a mask with {len(rasters)} pages, one per channel; save a single page"
        )
    with mapped_errors():
        values = read_mask_values(rasters[0], table)
    orientation = rasters[0].orientation
    return turn_upright(values, orientation), orientation if orientation in _ORIENT else 1


def match_channels(image: NDArray[Any], num_channels: int) -> NDArray[Any]:
    """Return an HWC image with the number of channels that a model needs, if that loses nothing.

    Grey is repeated to RGB; RGB becomes grey only if its channels are equal.

    Raises:
        ImageError: `unsupported`.
    """
    found = image.shape[2]
    if found == num_channels:
        return image
    if found == 1 and num_channels == len(COLOURS):
        return np.repeat(image, num_channels, axis=2)
    if num_channels == 1 and is_grey(image):
        return np.ascontiguousarray(image[:, :, :1])
    remedy = "convert the image"
    if found > num_channels:
        example = ",".join(str(index) for index in range(num_channels))
        remedy = f"choose which to use, for instance --channels {example}"
    raise ImageError(
        "unsupported", f"{found} channels, the model was trained on {num_channels}; {remedy}"
    )


def is_grey(image: NDArray[Any]) -> bool:
    """Tell whether all channels of an HWC image are equal."""
    return bool((image[:, :, 1:] == image[:, :, :1]).all())


@dataclass(frozen=True)
class ReadImage:
    """Samples of an image, or of a window of it, before they become colours."""

    rasters: tuple[Raster, ...]
    """Its samples, or those of each channel."""
    mask: NDArray[Any] | None = None
    """Mask of the file, 0 in invalid pixels, HW; None: all are valid."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""
    pixel_size: PixelSize | None = None
    """Size of a pixel as the file states it, of the stored samples; None if it does not."""


def _read(data: bytes | PlaneFile, max_pixels: int) -> ReadImage:
    if isinstance(data, bytes) and not data:
        raise ImageError("unreadable", "the file is empty (0 bytes)")
    with mapped_errors():
        if isinstance(data, PlaneFile):
            read = _read_tiff(data, max_pixels)
        elif data[:4] in TIFF_MAGIC:
            read = _read_tiff(io.BytesIO(data), max_pixels)
        else:
            is_png = data.startswith(PNG_MAGIC)
            size = read_png_pixel_size(io.BytesIO(data)) if is_png else None
            read = ReadImage((_read_with_pillow(data, max_pixels),), pixel_size=size)
    for raster in read.rasters:
        check_not_empty(raster.samples.shape)
    return read


def _read_tiff(file: BinaryIO | PlaneFile, max_pixels: int) -> ReadImage:
    image = open_image(file)
    first = image.pages[0]
    check_size(first.imagelength, first.imagewidth, len(image.pages), max_pixels)
    rasters = tuple(read_page(page, max_pixels) for page in image.pages)
    mask = None if image.mask is None else read_page(image.mask, max_pixels).samples[:, :, 0]
    return ReadImage(rasters, mask, image.channels, image.pixel_size)


def _read_with_pillow(data: bytes, max_pixels: int) -> Raster:
    with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
        width, height = image.size
        check_size(height, width, len(image.getbands()), max_pixels)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a photograph with its thumbnails
            raise ImageError(
                "unsupported", f"an animation of {frames} frames; save them as single images"
            )
        if image.format == "PNG" and data[12:16] != b"IHDR":  # bit depths are read from there
            raise ImageError("unreadable", "a PNG that does not begin with its IHDR chunk")
        try:
            orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
        except Exception:  # broken EXIF: viewers show such an image as it is stored
            orientation = 1
        if image.format == "JPEG2000":
            return _make_raster(imagecodecs.jpeg2k_decode(data), orientation)
        if image.format == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):
            return _make_raster(imagecodecs.png_decode(data), orientation)
        if image.format == "PPM" and image.mode == "RGB":
            lines = [line.split(b"#")[0] for line in data[:4096].split(b"\n")]
            maximum = int(b" ".join(lines).split()[3])  # after the magic, width and height
            if maximum > 255:
                raise ImageError("unsupported", "16-bit colour PPM; save the image as PNG or TIFF")
        image.load()
        bits = data[24] if image.format == "PNG" else 0
        if bits in (2, 4) and data[25] == 0:  # Pillow scales these greys to 0..255
            scaled = np.asarray(image.convert("L"))[:, :, None]
            samples = scaled // (255 // (2**bits - 1))
            no_data = str(image.info.get("transparency", ""))
            return Raster(samples, bits=bits, orientation=orientation, no_data=no_data)
        return _convert_from_pillow(image, orientation)


def _convert_from_pillow(image: Image.Image, orientation: int) -> Raster:
    key = image.info.get("transparency") if image.format == "PNG" else None
    if image.mode == "1":
        drawn = np.asarray(image)[:, :, None].astype(np.uint8)
        no_data = "" if key is None else str(key // 255)
        return Raster(drawn, bits=1, orientation=orientation, no_data=no_data)
    if image.mode == "P" and image.format == "GIF":
        # programs renumber the colours of a GIF when they save it, so its indices mean nothing
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "P":
        # the 256 colours of the palette, as Pillow converts each index
        ramp = image.resize((256, 1))
        ramp.info = image.info
        ramp.putdata(range(256))
        colours = ramp.convert("RGBA" if "transparency" in image.info else "RGB")
        palette = np.asarray(colours)[0]
        return Raster(np.asarray(image)[:, :, None], palette, orientation=orientation)
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I", "F"):
        raise ImageError(
            "unsupported", f"the pixel format {image.mode}; save the image as grey or RGB"
        )
    samples = np.asarray(image)
    if image.mode.startswith("I"):
        # Pillow holds 16-bit PNM in 32-bit integers
        if samples.size and (samples.min() < 0 or samples.max() > 65535):
            raise ImageError(
                "unsupported",
                f"samples from {samples.min()} to {samples.max()}; only 8 and 16 bits can be read",
            )
        samples = samples.astype(np.uint16)
    if samples.ndim == 2:
        samples = samples[:, :, None]
    return Raster(
        samples,
        has_alpha=image.mode.endswith("A"),
        bits=samples.dtype.itemsize * 8,
        orientation=orientation,
        no_data="" if key is None or image.mode != "I;16" else str(key),
    )


def _make_raster(samples: NDArray[Any], orientation: int) -> Raster:
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    bits = samples.dtype.itemsize * 8
    return Raster(samples, has_alpha=samples.shape[2] in (2, 4), bits=bits, orientation=orientation)


def to_colours(raster: Raster) -> tuple[NDArray[Any], Alpha | None]:
    """Convert a raster to the image that it represents.

    Returns:
        HWC image with the palette applied, samples in their full range and black at zero, and its
        alpha, or None if it has no alpha.

    Raises:
        ImageError: The samples cannot be inverted.
    """
    image = raster.samples
    if raster.palette is not None:
        indices = image[:, :, 0]
        num_colours = len(raster.palette)
        if indices.size and int(indices.max()) >= num_colours:
            raise ImageError(
                "unreadable",
                f"palette index {int(indices.max())}, but the palette has {num_colours} colours",
            )
        image = raster.palette[indices]
        if raster.palette.shape[1] == 4:
            return image[:, :, :3], Alpha(image[:, :, 3], opaque=255)
        return image, None
    if raster.bits < 8:
        stretched = image.astype(np.uint16) * 255 // (2**raster.bits - 1)
        image = stretched.astype(np.uint8)
    alpha = None
    if raster.has_alpha:
        # alpha of opaque pixels: the largest number of the file's bits, or 1 for floats
        if image.dtype.kind == "f":
            opaque = 1
        elif raster.bits <= 8:
            opaque = int(np.iinfo(image.dtype).max)
        else:
            sign_bits = 1 if image.dtype.kind == "i" else 0
            opaque = int(2 ** (raster.bits - sign_bits) - 1)
        alpha = Alpha(image[:, :, -1], opaque)
        image = image[:, :, :-1]
    if raster.inverted:
        image = _invert(image, raster.bits)
    return image, alpha


def _invert(image: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return white-is-zero samples as if zero were black."""
    if image.dtype.kind not in "iu":
        raise ImageError(
            "unsupported", f"white-is-zero samples of type {image.dtype}; save them as integers"
        )
    if image.dtype.kind == "i":
        return np.invert(image)
    largest = image.dtype.type(255 if bits < 8 else 2**bits - 1)
    return np.asarray(largest - image)


def turn_upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image (HW or HWC) turned as its EXIF orientation says; 1 leaves it as it is."""
    orient = _ORIENT.get(orientation)
    return np.ascontiguousarray(orient(image) if orient else image)
