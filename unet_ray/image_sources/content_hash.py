"""Hashes of the bytes that an image is decoded from; they do not depend on a store's etags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256

from unet_ray.image_sources.image_files import find_size, open_ranges
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.storage.storage import Storage

_CHUNK_BYTES = 2**22
_CHUNKS = 4
"""Chunks of a file that are fetched in parallel."""


def hash_read(data: bytes | PlaneFile) -> str | None:
    """Return the hash of an image as `read_encoded` returned it.

    Returns:
        The sha256 that `hash_stored` returns, in hexadecimal; None if only part of it was read.
    """
    if isinstance(data, bytes):
        return sha256(data).hexdigest()
    if not data.place.ranges:
        return None
    digest = sha256(_describe(data.place))
    for _, piece in data.pieces:
        digest.update(piece)
    return digest.hexdigest()


def hash_stored(
    access: Storage, uri: str, place: ImagePlace | None = None, etag: str | None = None
) -> str:
    """Read the bytes of an image once, piece by piece, and return their hash.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        place: Place of the image in a file of several pages; None for a file with one.
        etag: ETag of the file when it was listed; None accepts any content.

    Returns:
        The sha256 in hexadecimal: of the file or, for one of several images in it, of the image's
        place and the bytes of its pages.

    Raises:
        ImageError: Same as `read_encoded`.
    """
    fetch = open_ranges(access, uri, etag)
    digest = sha256() if place is None else sha256(_describe(place))
    if place is None:
        whole = [(0, find_size(access, uri, etag))]
    else:
        whole = place.ranges or [(0, place.file_size)]
    chunks = [*_cut(whole)]
    for first in range(0, len(chunks), _CHUNKS):
        for piece in fetch(chunks[first : first + _CHUNKS]):
            digest.update(piece)
    return digest.hexdigest()


def _describe(place: ImagePlace) -> bytes:
    """Return the place of an image, as bytes to hash with those of its pages."""
    return json.dumps([place.file_size, place.to_json()], sort_keys=True).encode()


def _cut(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges, (offset, size), in pieces of at most _CHUNK_BYTES."""
    for offset, size in ranges:
        for start in range(0, size, _CHUNK_BYTES):
            yield offset + start, min(_CHUNK_BYTES, size - start)
