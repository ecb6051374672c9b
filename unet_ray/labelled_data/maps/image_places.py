"""Images of a listing, and where they lie on Earth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import open_encoded
from unet_ray.image_sources.names import page_uri
from unet_ray.image_sources.sources import header_decoders, list_pages
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.imaging.georeference import Georeference
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.listing import Listing, path_suffix
from unet_ray.storage.storage import FileEntry, Storage


@dataclass(frozen=True)
class ImagePlace:
    """An image of a listing, and its position on Earth."""

    entry: FileEntry
    """Its file."""
    page: int | None = None
    """Page of a stack, from 1; None for a file with one image."""
    georeference: Georeference | None = None
    """Its position; None if its file has none with an EPSG code."""
    width: int = 0
    """Width (px); 0 where there is no georeference."""
    height: int = 0
    """Height (px); 0 where there is no georeference."""

    @property
    def name(self) -> str:
        """Its path in the folder of the images, with the page of a stack."""
        return page_uri(self.entry.path, self.page)


def locate_images(images: Listing) -> list[ImagePlace]:
    """Return where images lie on Earth, from the tags of those that are TIFF files.

    An image whose tags cannot be read has no position; decoding it will report the reason.

    Args:
        images: Images; each page of a stack is one.
    """
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        some = pool.map(partial(_locate_pages, decoders, images.root), images.entries)
        return [image for pages in some for image in pages]


def _locate_pages(decoders: DecoderPool, access: Storage, entry: FileEntry) -> list[ImagePlace]:
    pages = [source.page for source in list_pages(decoders, access, entry)]
    return [_locate_page(decoders, access, entry, page) for page in pages]


def _locate_page(
    decoders: DecoderPool, access: Storage, entry: FileEntry, page: int | None
) -> ImagePlace:
    if path_suffix(entry.path) not in TIFF_SUFFIXES:
        return ImagePlace(entry, page)
    try:
        file = open_encoded(access.at(entry.uri), entry.uri)
        tags = decoders.read_geo_tags(file, page)
    except (OSError, ImageError, InputError):
        return ImagePlace(entry, page)
    georeference = Georeference.from_tags(tags)
    if tags is None or georeference is None:
        return ImagePlace(entry, page)
    return ImagePlace(entry, page, georeference, tags.width, tags.height)
