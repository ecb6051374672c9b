"""Images that the pages of a TIFF make up, by what its own description says of its axes.

Three kinds of descriptions are read: OME-XML (OME-TIFF 6.3), that of ImageJ's hyperstacks, and the
JSON that tifffile writes. Channels that are pages of their own are one image; each point in time,
each depth and each series is another. tifffile's own series are not used, because they fill pages
that a file lacks with zeros, and open the other files of a set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any
from xml.etree import ElementTree

import tifffile

from unet_ray.imaging.codecs.image_place import ImageKey, clean_names
from unet_ray.limits import MAX_PAGES

_AXES = "TZC"
"""Axes along which pages are told apart."""
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
    """Names of the channels; empty where the file has none."""
    series: int = 0
    """Number of its series in the description."""

    @property
    def present(self) -> ImagePages:
        """The image with the channels that the file has; other files of a set may have the rest."""
        numbers = [number for number, index in enumerate(self.pages) if index is not None]
        if len(numbers) == len(self.pages) or not self.channels:
            return self
        pages = tuple(self.pages[number] for number in numbers)
        return replace(self, pages=pages, channels=tuple(self.channels[n] for n in numbers))


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
        if found and _covers(found, pages):
            return found
    if len(pages) == 1:
        return [ImagePages(ImageKey(), tuple(pages))]
    return [ImagePages(ImageKey(page=n), (index,)) for n, index in enumerate(pages, 1)]


def _covers(found: Sequence[ImagePages], pages: dict[int, tifffile.TiffPage]) -> bool:
    """Tell whether images have each page once, and names of their own."""
    used = [index for image in found for index in image.pages if index is not None]
    keys = {image.key for image in found}
    return sorted(used) == sorted(pages) and len(keys) == len(found)


def _read_shaped(
    _: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]
) -> list[ImagePages] | None:
    """Return the images of a file whose series begin with tifffile's JSON."""
    numbers, series, at = [*pages], [], 0
    while at < len(numbers):
        page = pages[numbers[at]]
        described = json.loads(page.shaped_description)
        shape, axes = [*map(int, described["shape"])], str(described["axes"])
        if len(shape) != len(axes) or min(shape) < 1 or prod(shape) % prod(page.shape):
            return None
        count = prod(shape) // prod(page.shape)
        leading = next(k for k in range(len(shape)) if prod(shape[:k]) == count)
        series.append((axes[:leading], shape[:leading], numbers[at : at + count], ()))
        at += count
    return _number_series(series) if at == len(numbers) else None


def _read_imagej(
    tiff: tifffile.TiffFile, pages: dict[int, tifffile.TiffPage]
) -> list[ImagePages] | None:
    """Return the images of an ImageJ stack or hyperstack."""
    described = tiff.imagej_metadata if tiff.is_imagej else None
    if not described or not {"channels", "slices", "frames"} & set(described):
        return None
    sizes = {
        axis: int(described.get(name, 1))
        for axis, name in (("C", "channels"), ("Z", "slices"), ("T", "frames"))
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
    return _number_series([(axes, [sizes[axis] for axis in axes], [*pages], ())])


_Series = tuple[str, Sequence[int], Sequence[int | None], tuple[str, ...]]
"""Axes, the one that changes slowest first; their sizes; pages in that order; names of channels."""


def _number_series(
    series: Sequence[_Series], numbers: Sequence[int] | None = None
) -> list[ImagePages] | None:
    """Return the images of series; None if an axis is not known.

    Args:
        series: Series of the file.
        numbers: Number of each series, by default their order.
    """
    found = list[ImagePages]()
    for number, (axes, sizes, pages, names) in zip(
        numbers or range(len(series)), series, strict=True
    ):
        if any(size > 1 and axis not in _AXES for axis, size in zip(axes, sizes, strict=True)):
            return None
        for key, some in _split_series(axes, sizes, pages, number if len(series) > 1 else None):
            if any(index is not None for index in some):
                found.append(ImagePages(key, some, names, number).present)
    return [ImagePages(ImageKey(), *_rest(found[0]))] if len(found) == 1 else found


def _rest(image: ImagePages) -> tuple[Any, ...]:
    return image.pages, image.channels, image.series


def _split_series(
    axes: str, sizes: Sequence[int], pages: Sequence[int | None], series: int | None
) -> Iterator[tuple[ImageKey, tuple[int | None, ...]]]:
    """Yield each image of a series and the pages of its channels."""
    if prod(sizes) > MAX_PAGES or len(axes) != len(set(axes) - {"_"}):
        raise ValueError(axes)
    of_axis = dict(zip(axes, sizes, strict=True))
    images: dict[tuple[int, int], list[int | None]] = {}
    places = product(*(range(size) for size in sizes))
    for place, page in zip(places, pages, strict=True):
        at = dict(zip(axes, place, strict=True))
        channels = images.setdefault((at.get("T", 0), at.get("Z", 0)), [])
        channels.append(page)
    for (t, z), channels in sorted(images.items()):
        key = ImageKey(
            series=series,
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
    series, numbers = list[_Series](), list[int]()
    for number, image in enumerate(root.iterfind("{*}Image")):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        described = _read_pixels(pixels, pages, _own_uuid(root))
        if any(index is not None for index in described[2]):
            series.append(described)
            numbers.append(number)
    return _number_series(series, numbers)


def _own_uuid(root: Any) -> str | None:
    """Return the UUID by which OME-XML means its own file.

    Files of a set have the XML of the whole set. Where such a file does not tell its own UUID, and
    pages of several are listed, which pages lie in it is not known.
    """
    if root.get("UUID"):
        return str(root.get("UUID"))
    others = {element.text for element in root.iter() if element.tag.endswith("}UUID")}
    if len(others) > 1:
        raise ValueError("pages of several files")
    return next(iter(others), None)


def _read_pixels(pixels: Any, pages: dict[int, tifffile.TiffPage], own: str | None) -> _Series:
    """Return the series that a Pixels element of OME-XML describes."""
    axes = pixels.attrib["DimensionOrder"][:1:-1]  # XYZCT: Z changes fastest
    channels = pixels.findall("{*}Channel")
    samples = {int(channel.get("SamplesPerPixel", 1)) for channel in channels} or {1}
    if len(samples) > 1 or sorted(axes) != ["C", "T", "Z"]:
        raise ValueError("channels of different kinds")
    sizes = [int(pixels.attrib[f"Size{axis}"]) for axis in axes]
    per_page = samples.pop()
    if per_page == 1 and (first := next(iter(pages.values()))).samplesperpixel > 1:
        per_page = int(first.samplesperpixel)  # some writers do not tell it
    if per_page > 1:
        sizes[axes.index("C")] = max(1, sizes[axes.index("C")] // per_page)
    count = prod(sizes)
    if min(sizes) < 1 or count > MAX_PAGES:
        raise ValueError(sizes)
    places: list[int | None] = [None] * count
    steps = 0
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
        index = int(data.get("IFD", 0))
        number = 1 if "IFD" in data.attrib else count - start
        number = int(data.get("PlaneCount", data.get("NumPlanes", number)))
        steps += min(number, count - start)
        if steps > count:
            raise ValueError("planes that stand in several places")  # or hostile: no end of work
        for place in range(start, min(start + number, count)):
            page = index + place - start
            places[place] = page if page in pages else None
    names = clean_names(channel.get("Name", "") for channel in channels)
    return axes, sizes, places, names if len(names) == sizes[axes.index("C")] else ()
