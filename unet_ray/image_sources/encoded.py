"""Encoded images of an archive: files, whole or in ranges, and single pages of TIFF stacks."""

from __future__ import annotations

from typing import Protocol

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.image_files import find_size, open_ranges, read_file
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.range_file import PageFile, RangeFile
from unet_ray.imaging.codecs.tiff import PagePlace, fetch_directories
from unet_ray.storage.listing import path_suffix
from unet_ray.storage.storage import FileEntry, Storage

_HEADER_BYTES = 2**16
"""Bytes fetched at once when only the TIFF directories are needed."""


def open_encoded(
    access: Storage, uri: str, place: PagePlace | None = None, etag: str | None = None
) -> RangeFile:
    """Open an image whose bytes are fetched only when they are read.

    Its size is what the store says: a manifest may state another one. Reading raises the same
    errors as `read_encoded`.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the page of a stack; None for a file with one image.
        etag: ETag of the file when it was listed; None accepts any content.

    Raises:
        ImageError: `missing`, `denied`, `network`, `changed` or `unreadable`.
    """
    fetch = open_ranges(access, uri)
    if place is None:
        return RangeFile(fetch, find_size(access, uri, etag))
    return PageFile(fetch, place.file_size, [(0, place.header)], place.index)


def read_encoded(
    access: Storage,
    uri: str,
    place: PagePlace | None = None,
    etag: str | None = None,
    limit: int | None = None,
) -> bytes | PageFile:
    """Read the bytes of an image.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the page of a stack; None for a file with one image.
        etag: ETag of the file when it was listed; None accepts any content.
        limit: Largest size of a file with one image (bytes), by what its store says; None: there
            is none.

    Returns:
        Whole content of the file, or the page of a stack with its bytes already fetched.

    Raises:
        ImageError: `missing`, `denied`, `network`, `changed` or `unreadable`; `too_large` for a
            file above the limit.
    """
    if place is None:
        return read_file(access, uri, etag, limit)
    fetch = open_ranges(access, uri, etag)
    starts = [start for start, _ in place.ranges]
    pieces = zip(starts, fetch(place.ranges), strict=True)
    return PageFile(fetch, place.file_size, [(0, place.header), *pieces], place.index)


def is_stackable(entry: FileEntry) -> bool:
    """Tell from the name of a file whether it may hold several images."""
    return path_suffix(entry.path) in TIFF_SUFFIXES


class PageFinder(Protocol):
    """Finds the pages of TIFF files: a decoder, or a pool of them."""

    def find_pages(self, file: RangeFile) -> list[PagePlace]:
        """Return the places of all pages; raise ImageError if the headers cannot be read."""


def find_places(finder: PageFinder, access: Storage, entry: FileEntry) -> list[PagePlace]:
    """Return the places of the pages of a TIFF with several directories.

    The list is empty for other files, and if the headers cannot be read; decoding the file will
    report the reason.

    Args:
        finder: Reads the headers, in a process of its own.
        access: Storage that opens the URI.
        entry: The file.
    """
    file = access.at(entry.uri)
    try:
        # the content gives the true size of the file; a manifest may state a wrong one
        first = file.read_content(0, _HEADER_BYTES)
        fetch, pieces = open_ranges(access, entry.uri), [(0, first.data)]
        held, directories = fetch_directories(RangeFile(fetch, first.size, pieces))
        return finder.find_pages(held) if directories > 1 else []
    except (ImageError, InputError, OSError):
        return []


def find_place(
    finder: PageFinder, access: Storage, entry: FileEntry, page: int | None
) -> PagePlace | None:
    """Return the place of a page, given its number from 1; None if `page` is None.

    Raises:
        ImageError: There is no such page.
    """
    if page is None:
        return None
    places = find_places(finder, access, entry)
    if not 1 <= page <= len(places):
        raise ImageError("unreadable", f"no page {page} in a file of {len(places)} pages")
    return places[page - 1]
