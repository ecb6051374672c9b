"""Which images a file holds: the file itself, or each page of a TIFF stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from unet_ray.image_sources.encoded import find_places, is_stackable
from unet_ray.image_sources.names import page_uri
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.storage.backends.s3_requests import CONNECTIONS
from unet_ray.storage.storage import FileEntry, Storage


@dataclass(frozen=True)
class ImageSource:
    """One image of an archive: a file, or a page of a stack."""

    file_uri: str
    page: int | None
    """1-based page of a stack, or None."""
    etag: str
    size: int
    """Bytes of the file."""
    pages: int = 1
    """Images in the file."""
    place: PagePlace | None = None
    """Where the page of a stack lies in it."""

    @property
    def uri(self) -> str:
        """The image's name in the tables."""
        return page_uri(self.file_uri, self.page)


def expand_stacks(access: Storage, entries: Iterable[FileEntry]) -> Iterator[ImageSource]:
    """Yield a source per image: TIFF files of several pages become one per page.

    Only the headers of TIFF files are read. A header that cannot be read makes one source: decoding it will tell why.
    """
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        yield from (
            source
            for sources in pool.map(lambda e: list_pages(access, e), entries)
            for source in sources
        )


def list_pages(access: Storage, entry: FileEntry) -> list[ImageSource]:
    places = find_places(access, entry) if is_stackable(entry) else []
    if len(places) < 2:
        return [whole_file(entry)]
    return [page_source(entry, number, places) for number in range(1, len(places) + 1)]


def whole_file(entry: FileEntry) -> ImageSource:
    return ImageSource(entry.uri, None, entry.etag, entry.size)


def page_source(entry: FileEntry, number: int, places: list[PagePlace]) -> ImageSource:
    return ImageSource(entry.uri, number, entry.etag, entry.size, len(places), places[number - 1])
