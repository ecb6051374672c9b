"""Places of images in files that hold several: the key of an image, and its byte ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np

from unet_ray.flags import MAX_CHANNELS
from unet_ray.limits import MAX_PAGES

MOST_RANGES = 16
"""Largest number of ranges of a page. A page that has more is fetched piecewise while decoding."""
_INTEGERS = (int, np.integer)
_LONGEST_NAME = 256
"""Largest number of characters of a channel's name; longer ones are cut."""


@dataclass(frozen=True, order=True)
class ImageKey:
    """Key of an image among those of its file; an axis that the file does not have is None."""

    page: int | None = None
    """Page of a TIFF whose axes are not known, from 1, as TIFF viewers count."""
    series: int | None = None
    """Series, from 0, as OME counts."""
    t: int | None = None
    """Point in time, from 0."""
    z: int | None = None
    """Depth, from 0."""

    def to_json(self) -> list[int | None]:
        """Return the key as values that JSON can hold."""
        return [self.page, self.series, self.t, self.z]

    @staticmethod
    def from_json(found: Sequence[int | None]) -> ImageKey:
        """Make a key from the JSON of another process.

        Raises:
            ValueError: It is not a key; TypeError too.
        """
        page, series, t, z = (None if value is None else int(value) for value in found)
        for value in (page, series, t, z):
            if value is not None and not 0 <= value < 2**31:
                raise ValueError(found)
        return ImageKey(page, series, t, z)


WHOLE = ImageKey()
"""Key of the only image of a file."""


@dataclass(frozen=True)
class PagePlace:
    """Place of a page of a TIFF, which is enough to read it without other pages."""

    header: bytes
    """TIFF header that the reader is shown, 8 or 16 bytes; it points to the page's directory."""
    index: int
    """Index of the page in the chain that the header points to.

    It is more than 0 only if tifffile needs the first page, which describes the whole file, to
    read the others.
    """
    size: int
    """Size of the stored samples of the page (bytes)."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Ranges that hold the page's directory and samples, (offset, size) each.

    There are none if they are scattered over the file.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the place as values that JSON can hold."""
        return vars(self) | {"header": self.header.hex()}

    @staticmethod
    def from_json(found: dict[str, Any], file_size: int) -> PagePlace:
        """Make a place from the JSON of another process, which an attacker may control.

        Args:
            found: Result of `to_json`.
            file_size: Size of the file (bytes).

        Raises:
            ValueError: The place is not one of a file of that size; TypeError and KeyError too.
        """
        header = bytes.fromhex(found["header"])
        index = int(found["index"])
        ranges = tuple((int(offset), int(size)) for offset, size in found["ranges"])
        if len(header) not in (8, 16) or not 0 <= index < MAX_PAGES:
            raise ValueError(found)
        if len(ranges) > MOST_RANGES or filter_valid(ranges, file_size) != list(ranges):
            raise ValueError(found)
        return PagePlace(header, index, min(int(found["size"]), file_size), ranges)


@dataclass(frozen=True)
class ImagePlace:
    """Place of an image in a TIFF of several directories."""

    key: ImageKey
    file_size: int
    """Size of the file (bytes)."""
    pages: tuple[PagePlace, ...]
    """The page that holds the image, or the page of each channel."""
    mask: PagePlace | None = None
    """Page with the mask of valid pixels; None: all are valid."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty if the file has none."""
    pixel_size_um: tuple[float, float] | None = None
    """Width and height of a pixel (µm), if the description of the whole file states it."""
    error: str = ""
    """Reason why the image cannot be read; empty: it can."""

    @property
    def size(self) -> int:
        """Size of the stored samples (bytes)."""
        return sum(page.size for page in self.all_pages)

    @property
    def all_pages(self) -> tuple[PagePlace, ...]:
        """Pages of the image, and that of its mask."""
        return self.pages if self.mask is None else (*self.pages, self.mask)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Ranges of all its pages, (offset, size) each; none if those of a page are scattered."""
        scattered = any(not page.ranges for page in self.all_pages)
        return [] if scattered else [each for page in self.all_pages for each in page.ranges]

    def with_channels(self, indices: Iterable[int]) -> ImagePlace:
        """Return the place with some of the channels, each of which is a page of its own."""
        chosen = [*indices]
        return replace(
            self,
            pages=tuple(self.pages[index] for index in chosen),
            channels=tuple(self.channels[index] for index in chosen) if self.channels else (),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the place as values that JSON can hold; the file's size is not among them."""
        return {
            "key": self.key.to_json(),
            "pages": [page.to_json() for page in self.pages],
            "mask": self.mask and self.mask.to_json(),
            "channels": self.channels,
            "pixel_size_um": self.pixel_size_um,
            "error": self.error,
        }

    @staticmethod
    def from_json(found: dict[str, Any], file_size: int) -> ImagePlace:
        """Make a place from the JSON of another process, which an attacker may control.

        Args:
            found: Result of `to_json`.
            file_size: Size of the file (bytes).

        Raises:
            ValueError: The place is not one of a file of that size; TypeError and KeyError too.
        """
        pages = tuple(PagePlace.from_json(page, file_size) for page in found["pages"])
        mask = found["mask"] and PagePlace.from_json(found["mask"], file_size)
        channels = clean_names(found["channels"])
        if not 1 <= len(pages) <= MAX_CHANNELS and not found["error"]:
            raise ValueError(found)
        return ImagePlace(
            key=ImageKey.from_json(found["key"]),
            file_size=file_size,
            pages=pages,
            mask=mask,
            channels=channels,
            pixel_size_um=parse_pixel_size(found["pixel_size_um"]),
            error=str(found["error"])[:_LONGEST_NAME],
        )


def clean_names(names: Iterable[Any]) -> tuple[str, ...]:
    """Return the names of channels, without spaces around them and not too long.

    There are none if a channel has no name, or if there are more than an image has channels.
    """
    cleaned = tuple(str(name).strip()[:_LONGEST_NAME] for name in names)
    return cleaned if all(cleaned) and len(cleaned) <= MAX_CHANNELS else ()


def parse_pixel_size(found: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the width and height of a pixel (µm) that another process reports; None for none.

    Raises:
        ValueError: They are not two numbers above 0.
    """
    if found is None:
        return None
    width, height = map(float, found)
    if not (isfinite(width) and isfinite(height) and min(width, height) > 0):
        raise ValueError(found)
    return width, height


def filter_valid(ranges: Iterable[tuple[Any, Any]], file_size: int) -> list[tuple[int, int]]:
    """Return the ranges, (offset, size), that are not empty and lie in the file.

    Numbers in the input may be of any type; ranges whose numbers are not integers are left out.
    """
    whole = (
        (int(at), int(size))
        for at, size in ranges
        if isinstance(at, _INTEGERS) and isinstance(size, _INTEGERS)
    )
    return [(at, size) for at, size in whole if at > 0 and size > 0 and at + size <= file_size]
