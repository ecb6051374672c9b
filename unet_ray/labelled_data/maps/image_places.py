"""Images of a listing, and their positions on Earth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from unet_ray.errors import ImageError, InputError
from unet_ray.image_sources.encoded import open_encoded
from unet_ray.image_sources.names import image_uri
from unet_ray.image_sources.sources import ImageSource, header_decoders, list_images
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey
from unet_ray.imaging.codecs.sandbox import DecoderPool
from unet_ray.imaging.georeference import Georeference
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing, path_suffix
from unet_ray.storage.storage import Storage


@dataclass(frozen=True)
class LocatedImage:
    """An image of a listing, and its position on Earth."""

    entry: FileEntry
    """File of the image."""
    key: ImageKey = WHOLE
    """Key of the image among those of its file."""
    georeference: Georeference | None = None
    """Position of the image; None if its file has none with an EPSG code."""
    width: int = 0
    """Width (px); 0 without a georeference."""
    height: int = 0
    """Height (px); 0 without a georeference."""

    @property
    def name(self) -> str:
        """Its path in the folder of the images, with the plane of a stack."""
        return image_uri(self.entry.path, self.key)


def locate_images(images: Listing) -> list[LocatedImage]:
    """Return the positions of images on Earth, from the tags of TIFF files.

    An image whose tags cannot be read has no position; decoding it will report the reason.

    Args:
        images: Listing of the images.

    Returns:
        One entry per image, or per plane of a stack, in the order of the listing.
    """
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        located = list[LocatedImage]()
        for of_file in pool.map(partial(_locate_file, decoders, images.root), images.entries):
            located += of_file
        return located


def _locate_file(decoders: DecoderPool, access: Storage, entry: FileEntry) -> list[LocatedImage]:
    sources = list_images(decoders, access, entry)
    return [_locate_image(decoders, access, entry, source) for source in sources]


def _locate_image(
    decoders: DecoderPool, access: Storage, entry: FileEntry, source: ImageSource
) -> LocatedImage:
    unlocated = LocatedImage(entry, source.key)
    if path_suffix(entry.path) not in TIFF_SUFFIXES:
        return unlocated
    try:
        file = open_encoded(access.at(entry.uri), entry.uri, source.place)
        tags = decoders.read_geo_tags(file)
    except (OSError, ImageError, InputError):
        return unlocated
    georeference = Georeference.from_tags(tags)
    if tags is None or georeference is None:
        return unlocated
    return replace(unlocated, georeference=georeference, width=tags.width, height=tags.height)
