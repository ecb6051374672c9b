"""Encoded images to arrays: the type is decided by content, nothing is guessed and no value is lost.

Pillow reads the everyday formats; tifffile reads TIFF with its pages, bit depths and planes; imagecodecs reads
the two formats of which Pillow keeps only 8 bits (16-bit colour PNG, JPEG 2000). Decoders meet damaged files
with every kind of exception, so each is mapped to one `ImageError` here.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from unet_ray.errors import ImageError, one_line

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
IMAGE_SUFFIXES = TIFF_SUFFIXES | frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".j2k", ".pgm", ".ppm", ".pnm", ".pbm")
)

MAX_PIXELS = 2**27
"""Largest image that is decoded whole (px); 134 megapixels."""
MAX_PAGES = 2**16
"""Most pages of one TIFF stack."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")
"""What Pillow may open: formats whose decoders run no other program and open no other file."""

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs each bad tag; we raise one error

_EXIF_ORIENTATION = 274
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class _Raster:
    """Samples as the file holds them, before colours are made of them."""

    samples: NDArray[Any]
    """HWC; palette indices where there is a palette."""
    palette: NDArray[np.uint8] | None = None
    """(entries, 3 or 4) colours of the indices; the fourth is alpha."""
    has_alpha: bool = False
    """The last channel is alpha."""
    bits: int = 8
    """Bits per sample in the file."""
    inverted: bool = False
    """Zero is white."""
    orientation: int = 1
    """EXIF and TIFF tag 274."""


def decode_image(data: bytes, page: int | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode an encoded image.

    Args:
        data — the whole file.
        page — 1-based page of a TIFF stack; None for a file that holds one image.
        max_pixels — largest height × width that is decoded.

    Returns: HWC, contiguous, uint8, uint16 or float32, 1 to n channels; upright (EXIF), palettes and CMYK as RGB,
        samples of fewer than 8 bits scaled to 0..255, a constant alpha channel dropped.

    Raises: ImageError — `unreadable`, `too_large` or `unsupported`.

    """
    raster = _read(data, page, max_pixels)
    with _mapped_errors():
        image = _colours(raster)
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise ImageError("unsupported", f"samples of type {image.dtype}; uint8, uint16 and float32 are read")
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise ImageError("unsupported", "the image holds NaN or infinite samples; replace them")
    return _upright(image, raster.orientation)


def decode_label_image(data: bytes, page: int | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode a mask file to its values: palette indices and grey values as they are, never colours.

    Args: as `decode_image`.

    Returns: HW, an integer type.

    Raises: ImageError — as `decode_image`, and `unsupported` for colours and floats.
    """
    raster = _read(data, page, max_pixels)
    values = raster.samples
    if raster.has_alpha:
        values = _drop_alpha(values)
    if values.dtype.kind not in "iu":
        raise ImageError("unsupported", f"mask samples of type {values.dtype}; masks hold integers")
    if not (values == values[:, :, :1]).all():
        raise ImageError("unsupported", "a mask with colours; save class ids as grey values or palette indices")
    return _upright(values[:, :, 0], raster.orientation)


def count_pages(file: BinaryIO) -> int:
    """Return the number of images in an open TIFF; pyramid levels, thumbnails and masks are not counted.

    Raises: ImageError — `unreadable`.
    """
    with _mapped_errors(), tifffile.TiffFile(file) as tiff:
        return max(1, len(_image_pages(tiff, file)))


def match_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return an HWC image with the channels that a model wants, where that loses nothing.

    Grey is repeated to RGB; RGB becomes grey only where its channels are equal.

    Raises: ImageError — `unsupported`.
    """
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if channels == 1 and is_grey(image):
        return np.ascontiguousarray(image[:, :, :1])
    raise ImageError("unsupported", f"{found} channels, the model was trained on {channels}; convert the image")


def is_grey(image: NDArray[Any]) -> bool:
    """Tell whether all channels of an HWC image are equal."""
    return bool((image[:, :, 1:] == image[:, :, :1]).all())


def _read(data: bytes, page: int | None, max_pixels: int) -> _Raster:
    if not data:
        raise ImageError("unreadable", "the file is empty (0 bytes)")
    with _mapped_errors():
        if data[:4] in _TIFF_MAGIC:
            return _read_tiff(data, page, max_pixels)
        if page is not None:
            raise ImageError("unreadable", f"page {page} of a file that is no TIFF")
        return _read_with_pillow(data, max_pixels)


class _mapped_errors:  # noqa: N801 - reads as a statement: with _mapped_errors()
    """Map whatever a decoder raises to `ImageError`; decoders of damaged files raise anything."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if error is None or isinstance(error, ImageError) or not isinstance(error, Exception):
            return
        if isinstance(error, Image.DecompressionBombError):
            raise ImageError("too_large", one_line(error)) from error
        if isinstance(error, UnidentifiedImageError):
            raise ImageError("unreadable", f"no image of a known kind ({', '.join(_FORMATS)}, TIFF)") from error
        if isinstance(error, MemoryError):
            raise ImageError("out_of_memory", "not enough memory to decode the image") from error
        raise ImageError("unreadable", one_line(error)) from error


def _check_size(height: int, width: int, samples: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError("too_large", f"{width}×{height} px; images up to {max_pixels} px are decoded whole")
    if samples > 64:
        raise ImageError("unsupported", f"{samples} channels; up to 64 are read")


def _read_with_pillow(data: bytes, max_pixels: int) -> _Raster:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        _check_size(height, width, len(image.getbands()), max_pixels)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a photograph with its thumbnails
            raise ImageError("unsupported", f"{frames} frames of an animation; save them as single images")
        orientation = _exif_orientation(image)
        if image.format == "JPEG2000":
            return _from_array(imagecodecs.jpeg2k_decode(data), orientation)
        if image.format == "PNG" and data[24] == 16 and data[25] in (2, 4, 6):
            return _from_array(imagecodecs.png_decode(data), orientation)
        if image.format == "PPM" and image.mode == "RGB" and _pnm_maximum(data) > 255:
            raise ImageError("unsupported", "16-bit colour PPM; save the image as PNG or TIFF")
        image.load()
        return _from_pillow(image, orientation)


def _from_pillow(image: Image.Image, orientation: int) -> _Raster:
    if image.mode == "1":
        return _Raster(np.asarray(image)[:, :, None].astype(np.uint8), bits=1, orientation=orientation)
    if image.mode == "P":
        return _Raster(np.asarray(image)[:, :, None], _palette_of(image), orientation=orientation)
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "I", "F"):
        raise ImageError("unsupported", f"pixel format {image.mode}")
    samples = np.asarray(image)
    if image.mode.startswith("I"):
        samples = _narrowed(samples)
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    bits = samples.dtype.itemsize * 8
    return _Raster(samples, has_alpha=image.mode.endswith("A"), bits=bits, orientation=orientation)


def _palette_of(image: Image.Image) -> NDArray[np.uint8]:
    """Return the 256 colours of a palette image: what Pillow makes of each index."""
    ramp = image.resize((256, 1))
    ramp.info = image.info
    ramp.putdata(range(256))
    return np.asarray(ramp.convert("RGBA" if "transparency" in image.info else "RGB"))[0]


def _narrowed(samples: NDArray[Any]) -> NDArray[np.uint16]:
    """Return 32-bit integers, as Pillow holds 16-bit PNM, as uint16."""
    if samples.size and (samples.min() < 0 or samples.max() > 65535):
        raise ImageError("unsupported", f"values {samples.min()}..{samples.max()}; 8 and 16 bits are read")
    return samples.astype(np.uint16)


def _exif_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF: viewers show such an image as it is stored
        return 1


def _pnm_maximum(data: bytes) -> int:
    fields = [line.split(b"#")[0] for line in data[:4096].split(b"\n")]
    return int(b" ".join(fields).split()[3])


def _from_array(samples: NDArray[Any], orientation: int) -> _Raster:
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    bits = samples.dtype.itemsize * 8
    return _Raster(samples, has_alpha=samples.shape[2] in (2, 4), bits=bits, orientation=orientation)


def _image_pages(tiff: tifffile.TiffFile, file: BinaryIO) -> list[Any]:
    pages = [tiff.pages[index] for index in range(_count_directories(file))]
    return [p for p in pages if isinstance(p, tifffile.TiffPage) and not p.is_reduced and not p.is_mask]


def _count_directories(file: BinaryIO) -> int:
    """Return the length of a TIFF's chain of directories, up to where it loops: tifffile would follow it for ever."""
    file.seek(0)
    header = file.read(16)
    order: Literal["little", "big"] = "little" if header[:2] == b"II" else "big"
    big = header[2:4] in (b"+\0", b"\0+")
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if big else (2, 12, 4)
    offset = int.from_bytes(header[8:16] if big else header[4:8], order)
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) == MAX_PAGES:
            raise ImageError("too_large", f"more than {MAX_PAGES} pages; split the stack")
        seen.add(offset)
        file.seek(offset)
        entries = int.from_bytes(file.read(count_bytes), order)
        file.seek(offset + count_bytes + entries * entry_bytes)
        offset = int.from_bytes(file.read(offset_bytes), order)
    return len(seen)


def _read_tiff(data: bytes, page: int | None, max_pixels: int) -> _Raster:
    file = io.BytesIO(data)
    with tifffile.TiffFile(file) as tiff:
        pages = _image_pages(tiff, file) or [tiff.pages[0]]
        if page is None and len(pages) > 1:
            raise ImageError("unsupported", f"a stack of {len(pages)} pages where one image was expected")
        if (page or 1) > len(pages):
            raise ImageError("unreadable", f"page {page} of a stack of {len(pages)}")
        return _read_tiff_page(pages[(page or 1) - 1], max_pixels)


def _read_tiff_page(page: Any, max_pixels: int) -> _Raster:
    if page.imagedepth > 1:
        raise ImageError("unsupported", f"a volume of {page.imagedepth} planes in one page")
    _check_size(page.imagelength, page.imagewidth, page.samplesperpixel, max_pixels)
    samples = page.asarray()
    samples = samples.astype(np.uint8) if samples.dtype == np.bool_ else samples
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    samples = samples[:, :, None] if samples.ndim == 2 else samples
    if samples.dtype.kind == "f" and samples.dtype.itemsize != 4:
        samples = samples.astype(np.float32)
    kind = tifffile.PHOTOMETRIC(page.photometric)
    palette = None
    if kind == tifffile.PHOTOMETRIC.PALETTE:
        palette = (np.asarray(page.colormap).T >> 8).astype(np.uint8)
    elif kind == tifffile.PHOTOMETRIC.SEPARATED and samples.shape[2] == 4 and samples.dtype == np.uint8:
        samples = np.asarray(Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB"))
    elif kind not in _PLAIN_PHOTOMETRICS:
        raise ImageError("unsupported", f"TIFF colours {kind.name}; save the image as grey or RGB")
    alpha = any(int(extra) in (1, 2) for extra in page.extrasamples)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else page.bitspersample[0]
    inverted = kind == tifffile.PHOTOMETRIC.MINISWHITE
    orientation = int(page.tags.valueof(_EXIF_ORIENTATION, 1))
    return _Raster(samples, palette, alpha, bits, inverted, orientation)


_PLAIN_PHOTOMETRICS = (
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.YCBCR,  # tifffile decodes it to RGB, or refuses
)


def _colours(raster: _Raster) -> NDArray[Any]:
    """Return the image that a raster stands for: palette applied, full range, black at zero, no alpha."""
    image = raster.samples
    if raster.palette is not None:
        image = _apply_palette(image[:, :, 0], raster.palette)
        return _drop_alpha(image) if raster.palette.shape[1] == 4 else image
    if raster.bits < 8:
        image = (image.astype(np.uint16) * 255 // (2**raster.bits - 1)).astype(np.uint8)
    if raster.inverted:
        if image.dtype not in (np.uint8, np.uint16) or raster.bits not in (1, 2, 4, 8, 16):
            raise ImageError("unsupported", f"white-is-zero samples of {raster.bits} bits; save as 8 or 16 bits")
        image = np.iinfo(image.dtype).max - image
    return _drop_alpha(image) if raster.has_alpha else image


def _apply_palette(indices: NDArray[Any], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if indices.size and int(indices.max()) >= len(palette):
        raise ImageError("unreadable", f"palette index {int(indices.max())} of {len(palette)} colours")
    return palette[indices]


def _drop_alpha(image: NDArray[Any]) -> NDArray[Any]:
    alpha = image[:, :, -1]
    if alpha.size and alpha.min() != alpha.max():
        raise ImageError("unsupported", "transparency that varies over the image; flatten it")
    return image[:, :, :-1]


def _upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    orient = _ORIENT.get(orientation)
    return np.ascontiguousarray(orient(image) if orient else image)
