"""Encoded images of an archive: files that are read whole or in ranges, and pages of TIFF stacks without the others."""

from __future__ import annotations

from unet_ray.errors import ImageError
from unet_ray.image_sources.image_files import open_ranges, read_file
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.range_file import PageFile, RangeFile
from unet_ray.imaging.codecs.tiff import PagePlace, find_pages
from unet_ray.storage.listing import path_suffix
from unet_ray.storage.storage import FileEntry, Storage

_HEADER_BYTES = 2**16
"""That are fetched at once of a file of which only directories are read."""


def open_encoded(access: Storage, uri: str, size: int, place: PagePlace | None = None) -> RangeFile:
    """Return an image whose bytes are fetched when they are asked for, which raises as `read_encoded`.

    Args:
        access — opens the URI.
        uri, size — of the file (bytes).
        place — of the page of a stack; None for a file with one image.
    """
    fetch = open_ranges(access, uri)
    if place is None:
        return RangeFile(fetch, size)
    return PageFile(fetch, place.file_size, [(0, place.header)], place.index)


def read_encoded(
    access: Storage, uri: str, place: PagePlace | None = None, etag: str | None = None
) -> bytes | PageFile:
    """Return an image with its bytes.

    Args:
        access, uri, place — as `open_encoded`.
        etag — the store's, as listed; None: any content will do.

    Raises: ImageError — `missing`, `denied`, `network`, `changed`.
    """
    if place is None:
        return read_file(access, uri, etag)
    fetch = open_ranges(access, uri, etag)
    starts = [start for start, _ in place.ranges]
    pieces = zip(starts, fetch(place.ranges), strict=True)
    return PageFile(fetch, place.file_size, [(0, place.header), *pieces], place.index)


def is_stackable(entry: FileEntry) -> bool:
    """Tell whether a file may hold several images, by its name."""
    return path_suffix(entry.path) in TIFF_SUFFIXES


def find_places(access: Storage, entry: FileEntry) -> list[PagePlace]:
    """Return where the pages of a TIFF lie; none where its headers cannot be read: decoding it will tell why."""
    file = Storage(entry.uri, access.options)
    try:
        first = file.read_content(
            0, _HEADER_BYTES
        )  # with the size, of which a manifest may say anything
        pieces = [(0, first.data)]
        return find_pages(
            RangeFile(open_ranges(access, entry.uri), first.size, pieces, _HEADER_BYTES)
        )
    except (ImageError, OSError):
        return []


def find_place(access: Storage, entry: FileEntry, page: int | None) -> PagePlace | None:
    """Return where a page lies, by its number from 1; raise ImageError where there is no such page."""
    if page is None:
        return None
    places = find_places(access, entry)
    if not 1 <= page <= len(places):
        raise ImageError("unreadable", f"page {page} of a file with {len(places)}")
    return places[page - 1]
