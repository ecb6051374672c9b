"""The pages of a TIFF become images, as the description in the file says about their axes.

Three kinds of descriptions are read: OME-XML (OME-TIFF 6.3), that of ImageJ's hyperstacks, and the
JSON that tifffile writes. Channels that are pages of their own form one image; each point in time,
each depth and each series is an image of its own. tifffile's series are not used, because they fill
missing pages with zeros, and open the other files of a set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from xml.etree import ElementTree

import tifffile

from unet_ray.imaging.codecs.image_place import ImageKey, clean_names
from unet_ray.limits import MAX_PAGES

_AXES = "TZC"
"""Axes that distinguish pages."""
_IMAGEJ_ORDERS = {"czt", "ctz", "zct", "ztc", "tcz", "tzc"}
"""Orders of the pages of ImageJ's hyperstacks, the axis that changes fastest first."""


@dataclass(frozen=True)
class ImagePages:
    """Pages of one image."""

    key: ImageKey
    pages: tuple[int | None, ...]
    """The page that holds the image, or the page of each channel, by their numbers in the file,
    from 0; None for a channel that the file lacks."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""
    series: int = 0
    """Number of its series in the description."""

    @property
    def present(self) -> ImagePages:
        """The image with the channels that the file has; other files of a set may have the rest."""
        numbers = [number for number, index in enumerate(self.pages) if index is not None]
        if len(numbers) == len(self.pages) or not self.channels:
            return self
        pages = tuple(self.pages[number] for number in numbers)
        channels = tuple(self.channels[number] for number in numbers)
        return replace(self, pages=pages, channels=channels)


def group_pages(tiff: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]) -> list[ImagePages]:
    """Return the images of a TIFF, as its description says; else each page is an image.

    Args:
        tiff: Open file.
        pages: Number of a page in the file, from 0 → page; pyramid levels, thumbnails and masks are
            not among them.
    """
    for read in (_read_shaped, _read_ome, _read_imagej):
        try:
            found = read(tiff, pages)
        except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, SyntaxError):
            continue  # a description may hold anything
        if not found:
            continue
        used = [index for image in found for index in image.pages if index is not None]
        keys = {image.key for image in found}
        # a description is believed if it has each page exactly once
        if sorted(used) == sorted(pages) and len(keys) == len(found):
            return found
    if len(pages) == 1:
        return [ImagePages(ImageKey(), tuple(pages))]
    return [ImagePages(ImageKey(page=n), (index,)) for n, index in enumerate(pages, 1)]


def _read_shaped(
    _: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]
) -> list[ImagePages] | None:
    """Return the images of a file whose series begin with tifffile's JSON."""
    numbers = list(pages)
    series = []
    at = 0
    while at < len(numbers):
        page = pages[numbers[at]]
        described = json.loads(page.shaped_description)
        axes = str(described["axes"])
        shape = [*map(int, described["shape"])]
        if len(shape) != len(axes) or min(shape) < 1 or prod(shape) % prod(page.shape):
            return None
        num_pages = prod(shape) // prod(page.shape)
        leading = next(k for k in range(len(shape)) if prod(shape[:k]) == num_pages)
        series_pages = numbers[at : at + num_pages]
        series.append(_Series(axes[:leading], shape[:leading], series_pages))
        at += num_pages
    return _number_series(series) if at == len(numbers) else None


def _read_imagej(
    tiff: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]
) -> list[ImagePages] | None:
    """Return the images of an ImageJ stack or hyperstack."""
    described = tiff.imagej_metadata if tiff.is_imagej else None
    if not described or not {"channels", "slices", "frames"} & set(described):
        return None
    sizes = {
        "C": int(described.get("channels", 1)),
        "Z": int(described.get("slices", 1)),
        "T": int(described.get("frames", 1)),
    }
    first = next(iter(pages.values()))
    if first.samplesperpixel == sizes["C"] and sizes["Z"] * sizes["T"] == len(pages):
        sizes["C"] = 1  # Bio-Formats counts the samples of a page as channels
    order = str(described.get("order", "czt")).lower()
    if order == "default":
        order = "czt"
    if order not in _IMAGEJ_ORDERS or prod(sizes.values()) != len(pages):
        return None
    axes = order[::-1].upper()
    return _number_series([_Series(axes, [sizes[axis] for axis in axes], list(pages))])


@dataclass(frozen=True)
class _Series:
    """Pages that vary along some axes."""

    axes: str
    """Axes, the one that changes slowest first."""
    sizes: Sequence[int]
    """Size of each axis."""
    pages: Sequence[int | None]
    """Pages in the order of the axes; None for one that the file lacks."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""

    @property
    def has_known_axes(self) -> bool:
        """True if each axis that distinguishes pages is one of `_AXES`."""
        pairs = zip(self.axes, self.sizes, strict=True)
        return all(size <= 1 or axis in _AXES for axis, size in pairs)


def _number_series(
    series: Sequence[_Series], numbers: Sequence[int] | None = None
) -> list[ImagePages] | None:
    """Return the images of series; None if an axis is not known.

    Args:
        series: Series of the file.
        numbers: Number of each series, by default their order.
    """
    found: list[ImagePages] = []
    for number, one in zip(numbers or range(len(series)), series, strict=True):
        if not one.has_known_axes:
            return None
        for key, pages in _split_series(one, number if len(series) > 1 else None):
            if any(index is not None for index in pages):
                image = ImagePages(key, pages, one.channels, number)
                found.append(image.present)
    return [replace(found[0], key=ImageKey())] if len(found) == 1 else found


def _split_series(
    series: _Series, number: int | None
) -> Iterator[tuple[ImageKey, tuple[int | None, ...]]]:
    """Yield each image of a series and the pages of its channels."""
    axes = series.axes
    if prod(series.sizes) > MAX_PAGES or len(axes) != len(set(axes) - {"_"}):
        raise ValueError(axes)
    of_axis = dict(zip(axes, series.sizes, strict=True))
    images: dict[tuple[int, int], list[int | None]] = {}
    places = product(*(range(size) for size in series.sizes))
    for place, page in zip(places, series.pages, strict=True):
        at = dict(zip(axes, place, strict=True))
        channels = images.setdefault((at.get("T", 0), at.get("Z", 0)), [])
        channels.append(page)
    for (t, z), channels in sorted(images.items()):
        key = ImageKey(
            series=number,
            t=t if of_axis.get("T", 1) > 1 else None,
            z=z if of_axis.get("Z", 1) > 1 else None,
        )
        yield key, tuple(channels)


def _read_ome(
    tiff: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]
) -> list[ImagePages] | None:
    """Return the images of an OME-TIFF that lie in this file."""
    text = tiff.ome_metadata
    if not text:
        return None
    if "<!" in text.replace("<!--", ""):
        raise ValueError("OME-XML with a document type, which may define entities")
    root = ElementTree.fromstring(text)  # noqa: S314 (nothing is defined in it)
    own_uuid = root.get("UUID")
    if not own_uuid:
        # Files of a set have the XML of the whole set. Without an own UUID, and with pages of
        # several files, it is not known which pages lie in this file.
        uuids = {element.text for element in root.iter() if element.tag.endswith("}UUID")}
        if len(uuids) > 1:
            raise ValueError("pages of several files")
        own_uuid = next(iter(uuids), None)
    series: list[_Series] = []
    numbers: list[int] = []
    for number, image in enumerate(root.iterfind("{*}Image")):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        described = _read_pixels(pixels, pages, own_uuid)
        if any(index is not None for index in described.pages):
            series.append(described)
            numbers.append(number)
    return _number_series(series, numbers)


def _read_pixels(
    pixels: ElementTree.Element, pages: dict[int, tifffile.TiffPage], own: str | None
) -> _Series:
    """Return the series that a Pixels element of OME-XML describes."""
    axes = pixels.attrib["DimensionOrder"][:1:-1]  # XYZCT: Z changes fastest
    channels = pixels.findall("{*}Channel")
    samples = {int(channel.get("SamplesPerPixel", 1)) for channel in channels} or {1}
    if len(samples) > 1 or sorted(axes) != ["C", "T", "Z"]:
        raise ValueError("channels of different kinds")
    sizes = [int(pixels.attrib[f"Size{axis}"]) for axis in axes]
    per_page = samples.pop()
    if per_page == 1:  # some writers do not state it
        per_page = max(1, int(next(iter(pages.values())).samplesperpixel))
    channel_axis = axes.index("C")
    if per_page > 1:
        sizes[channel_axis] = max(1, sizes[channel_axis] // per_page)
    num_planes = prod(sizes)
    if min(sizes) < 1 or num_planes > MAX_PAGES:
        raise ValueError(sizes)
    places: list[int | None] = [None] * num_planes
    num_steps = 0
    for data in pixels.iterfind("{*}TiffData"):
        uuid = data.find("{*}UUID")
        if uuid is not None and uuid.text != own:
            continue  # a page of another file
        start = 0
        for axis, size in zip(axes, sizes, strict=True):
            first_of_axis = int(data.get(f"First{axis}", 0))
            if axis == "C" and per_page > 1:
                first_of_axis //= per_page
            if not 0 <= first_of_axis < size:
                raise ValueError(first_of_axis)
            start = start * size + first_of_axis
        first_page = int(data.get("IFD", 0))
        num_stated = 1 if "IFD" in data.attrib else num_planes - start
        num_stated = int(data.get("PlaneCount", data.get("NumPlanes", num_stated)))
        num_steps += min(num_stated, num_planes - start)
        if num_steps > num_planes:
            # hostile files may state so many that the loop below would take hours
            raise ValueError("planes that stand in several places")
        for place in range(start, min(start + num_stated, num_planes)):
            page = first_page + place - start
            places[place] = page if page in pages else None
    names = clean_names(channel.get("Name", "") for channel in channels)
    if len(names) != sizes[channel_axis]:
        names = ()
    return _Series(axes, sizes, places, names)
