"""Images that a file holds: the file itself, or each plane or page of a TIFF stack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from unet_ray.image_sources.encoded import ImageFinder, find_places, is_stackable
from unet_ray.image_sources.names import image_uri
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey, ImagePlace
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.storage import Storage

_MOST_DECODERS = 8
"""Largest number of processes that read headers."""
_HEADER_S = 300.0
"""Longest time that reading the headers of a file may take (s); decoding reports the reason."""


@dataclass(frozen=True)
class ImageSource:
    """One image of an archive: a file, or an image in it."""

    file_uri: str
    key: ImageKey
    """Key of the image among those of the file."""
    etag: str
    size: int
    """Size of the file (bytes)."""
    pages: int = 1
    """Number of images in the file."""
    place: ImagePlace | None = None
    """Place of the image in its file; None if the file itself is the image."""

    @property
    def uri(self) -> str:
        """Name of the image in the tables."""
        return image_uri(self.file_uri, self.key)

    @property
    def stored_bytes(self) -> int:
        """Bytes that the image takes in its file."""
        return self.size if self.place is None else self.place.size

    @property
    def file(self) -> FileEntry:
        """File of the image as a listing entry, whose path is its URI."""
        return FileEntry(self.file_uri, self.file_uri, self.etag, self.size)


def header_decoders() -> DecoderPool:
    """Return decoders that read the headers of many files; a `with` block ends them."""
    return DecoderPool(min(os.cpu_count() or 1, _MOST_DECODERS), _HEADER_S)


def expand_stacks(
    finder: ImageFinder, access: Storage, entries: Iterable[FileEntry]
) -> Iterator[ImageSource]:
    """Yield one source per image; a TIFF file with several images gives several sources.

    Only the headers of TIFF files are read. A file whose header cannot be read becomes one source;
    decoding it will report the reason.
    """
    late = (_HEADER_S, lambda entry: [whole_file(entry)])
    with reading_pool(CONNECTIONS) as pool:
        read = partial(list_images, finder, access)
        for sources in ahead(pool, read, entries, CONNECTIONS, late):
            yield from sources


def list_images(finder: ImageFinder, access: Storage, entry: FileEntry) -> list[ImageSource]:
    """Return the images of a file."""
    places = find_places(finder, access, entry) if is_stackable(entry) else []
    if not places:
        return [whole_file(entry)]
    return [image_source(entry, place, len(places)) for place in places]


def whole_file(entry: FileEntry) -> ImageSource:
    """Return the source of a file with one image."""
    return ImageSource(entry.uri, WHOLE, entry.etag, entry.size)


def image_source(entry: FileEntry, place: ImagePlace, count: int) -> ImageSource:
    """Return the source of one of the `count` images of a file, from its place there."""
    return ImageSource(
        file_uri=entry.uri,
        key=place.key,
        etag=entry.etag,
        size=place.file_size,
        pages=count,
        place=place,
    )
