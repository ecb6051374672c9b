"""Encoded images of an archive: files, whole or in ranges, and single images of TIFF stacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.image_files import find_size, open_ranges, read_file
from unet_ray.image_sources.names import image_uri
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey, ImagePlace
from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.tiff_directories import fetch_directories
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import path_suffix
from unet_ray.storage.storage import Storage

_HEADER_BYTES = 2**16
"""Bytes fetched at once when only the TIFF directories are needed."""


def open_encoded(
    access: Storage, uri: str, place: ImagePlace | None = None, etag: str | None = None
) -> RangeFile:
    """Open an image whose bytes are fetched only when they are read.

    Its size comes from the store, because a manifest may state a wrong one. Reading raises the same
    errors as `read_encoded`.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the image in a file of several pages; None for a file with one.
        etag: ETag of the file when it was listed; None accepts any content.

    Raises:
        ImageError: `missing`, `denied`, `archived`, `network`, `changed` or `unreadable`.
    """
    fetch = open_ranges(access, uri)
    if place is None:
        return RangeFile(fetch, find_size(access, uri, etag))
    return PlaneFile(fetch, [], place)


def open_header(access: Storage, uri: str, place: ImagePlace | None = None) -> RangeFile:
    """Open an image to read only its header, which is fetched here for most files.

    A decoder, which reads one file at a time, then does not wait for a store.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the image in a file of several pages; None for a file with one.

    Raises:
        OSError: The file cannot be read.
        ImageError: Same as `open_encoded`.
    """
    if place is not None:
        return open_encoded(access, uri, place)
    return _fetch_header(access, uri)[0]


def _fetch_header(access: Storage, uri: str) -> tuple[RangeFile, int]:
    """Return a file with the bytes of its header, and its number of TIFF directories."""
    # the content gives the true size of the file; a manifest may state a wrong one
    first = access.at(uri).read_content(0, _HEADER_BYTES)
    return fetch_directories(RangeFile(open_ranges(access, uri), first.size, [(0, first.data)]))


def read_encoded(
    access: Storage,
    uri: str,
    place: ImagePlace | None = None,
    etag: str | None = None,
    limit: int | None = None,
) -> bytes | PlaneFile:
    """Read the bytes of an image.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the image in a file of several pages; None for a file with one.
        etag: ETag of the file when it was listed; None accepts any content.
        limit: Largest size of a file with one image (bytes), as its store states it; None: no
            limit.

    Returns:
        Whole content of the file, or the image in it with its bytes already fetched.

    Raises:
        ImageError: `missing`, `denied`, `archived`, `network`, `changed` or `unreadable`;
            `too_large` for a file above the limit.
    """
    if place is None:
        return read_file(access, uri, etag, limit)
    fetch = open_ranges(access, uri, etag)
    starts = [start for start, _ in place.ranges]
    return PlaneFile(fetch, [*zip(starts, fetch(place.ranges), strict=True)], place)


def is_stackable(entry: FileEntry) -> bool:
    """Tell from the name of a file whether it may hold several images."""
    return path_suffix(entry.path) in TIFF_SUFFIXES


class ImageFinder(Protocol):
    """Finds the images of TIFF files: a decoder, or a pool of them."""

    def find_images(self, file: RangeFile) -> list[ImagePlace]:
        """Return the places of all images; raise ImageError if the headers cannot be read."""


def find_places(finder: ImageFinder, access: Storage, entry: FileEntry) -> list[ImagePlace]:
    """Return the places of the images of a TIFF with several directories.

    The list is empty for other files, for a TIFF whose only image is its first page, and if the
    headers cannot be read; decoding the file will report the reason.

    Args:
        finder: Reads the headers, in a process of its own.
        access: Storage that opens the URI.
        entry: The file.
    """
    try:
        held, directories = _fetch_header(access, entry.uri)
        places = finder.find_images(held) if directories > 1 else []
    except (ImageError, InputError, OSError):
        return []
    if len(places) == 1 and len(places[0].all_pages) == 1 and not places[0].error:
        return []
    return places


def find_place(
    finder: ImageFinder, access: Storage, entry: FileEntry, key: ImageKey
) -> ImagePlace | None:
    """Return the place of an image in its file; None if the file itself is the image.

    Raises:
        ImageError: There is no such image.
    """
    places = find_places(finder, access, entry) if is_stackable(entry) else []
    if not places and key == WHOLE:
        return None
    for place in places:
        if place.key == key:
            return place
    raise ImageError("unreadable", describe_absent(entry.path, key, places))


def describe_absent(path: str, key: ImageKey, places: Sequence[ImagePlace]) -> str:
    """Return a message that a file does not hold the image that is asked for."""
    asked = image_uri("", key).removeprefix("#")
    if len(places) < 2:
        return f"{path} has no image {asked}; it holds a single image"
    lacking = f"has no image {asked}" if asked else "is not a single image"
    first = image_uri("", places[0].key).removeprefix("#")
    last = image_uri("", places[-1].key).removeprefix("#")
    return f"{path} {lacking}; it holds {len(places)} images, {first} to {last}"
