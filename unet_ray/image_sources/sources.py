"""Images that a file holds: the file itself, or each page of a TIFF stack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from unet_ray.image_sources.encoded import PageFinder, find_places, is_stackable
from unet_ray.image_sources.names import page_uri
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage

_MOST_DECODERS = 8
"""Largest number of processes that read headers."""
_HEADER_S = 300.0
"""Longest time that the headers of a file may take (s); decoding it will report the reason."""


@dataclass(frozen=True)
class ImageSource:
    """One image of an archive: a file, or a page of a stack."""

    file_uri: str
    page: int | None
    """Number of the page in a stack, from 1; None for a file with one image."""
    etag: str
    size: int
    """Size of the file (bytes)."""
    pages: int = 1
    """Number of images in the file."""
    place: PagePlace | None = None
    """Place of the page in its stack."""

    @property
    def uri(self) -> str:
        """Name of the image in the tables."""
        return page_uri(self.file_uri, self.page)


def header_decoders() -> DecoderPool:
    """Return decoders that read the headers of many files; a `with` block ends them."""
    return DecoderPool(min(os.cpu_count() or 1, _MOST_DECODERS), _HEADER_S)


def expand_stacks(
    finder: PageFinder, access: Storage, entries: Iterable[FileEntry]
) -> Iterator[ImageSource]:
    """Yield one source per image: a TIFF file of several pages becomes one source per page.

    Only the headers of TIFF files are read. A file whose header cannot be read becomes one source;
    decoding it will report the reason.
    """
    late = (_HEADER_S, lambda entry: [whole_file(entry)])
    with reading_pool(CONNECTIONS) as pool:
        read = partial(list_pages, finder, access)
        for sources in ahead(pool, read, entries, CONNECTIONS, late):
            yield from sources


def list_pages(finder: PageFinder, access: Storage, entry: FileEntry) -> list[ImageSource]:
    """Return the images of a file: each page of a TIFF stack, or the whole file."""
    places = find_places(finder, access, entry) if is_stackable(entry) else []
    if len(places) < 2:
        return [whole_file(entry)]
    return [page_source(entry, number, places) for number in range(1, len(places) + 1)]


def whole_file(entry: FileEntry) -> ImageSource:
    """Return the source of a file with one image."""
    return ImageSource(entry.uri, None, entry.etag, entry.size)


def page_source(entry: FileEntry, number: int, places: list[PagePlace]) -> ImageSource:
    """Return the source of a page of a stack, from its number (1 for the first) and all places."""
    place = places[number - 1]
    return ImageSource(entry.uri, number, entry.etag, place.file_size, len(places), place)
