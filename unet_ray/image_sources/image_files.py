"""Bytes of image files; every failure becomes the error of one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from unet_ray.errors import ImageError, InputError
from unet_ray.storage.backends.base import (
    ArchivedFileError,
    FileTooLargeError,
    IrregularFileError,
)
from unet_ray.storage.storage import Content, Storage

_RANGES_AT_ONCE = 16
"""Ranges of one file that are fetched in parallel."""


def read_file(
    access: Storage, uri: str, etag: str | None = None, limit: int | None = None
) -> bytes:
    """Return the bytes of a file.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        etag: ETag of the file when it was listed; None accepts any content.
        limit: Largest size of the file (bytes), as its store states it; None: no limit.

    Raises:
        ImageError: `missing`, `denied`, `archived`, `network`, `changed` or `unreadable`;
            `too_large` for a file above the limit.
    """
    file = access.at(uri)
    with _map_to_image_errors():
        if etag is None:
            return file.read(limit=limit)
        return _check_content(file.read_content(limit=limit), etag)


def open_ranges(
    access: Storage, uri: str, etag: str | None = None
) -> Callable[[Sequence[tuple[int, int]]], list[bytes]]:
    """Return a function that fetches ranges of a file, (offset, size) each.

    The function raises the same errors as `read_file`.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        etag: ETag of the file when it was listed; None accepts any content.
    """
    file = access.at(uri)

    def fetch_one(offset_size: tuple[int, int]) -> bytes:
        with _map_to_image_errors():
            if etag is None:
                return file.read_range(*offset_size)
            return _check_content(file.read_content(*offset_size), etag)

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if file.is_local or len(ranges) < 2:
            return [*map(fetch_one, ranges)]
        with ThreadPoolExecutor(min(len(ranges), _RANGES_AT_ONCE)) as pool:
            return [*pool.map(fetch_one, ranges)]

    return fetch


def find_size(access: Storage, uri: str, etag: str | None = None) -> int:
    """Return the size of a file (bytes) as its store knows it.

    Args:
        access: Storage that opens the URI.
        uri: URI of the file.
        etag: ETag of the file when it was listed; None accepts any content.

    Raises:
        ImageError: Same as `read_file`.
    """
    with _map_to_image_errors():
        entry = access.at(uri).entry()
    if etag is not None:
        _compare_etags(entry.etag, etag)
    return entry.size


def check_unchanged(access: Storage, uri: str, etag: str) -> None:
    """Check that a file is still the one that was listed.

    Raises:
        ImageError: `changed` if it is not, or the same errors as `read_file`.
    """
    find_size(access, uri, etag)


def _check_content(content: Content, etag: str) -> bytes:
    _compare_etags(content.etag, etag)
    return content.data


def _compare_etags(found: str, listed: str) -> None:
    if found != listed:
        raise ImageError(
            "changed", "the file changed after it was listed; the next run reads the new content"
        )


@contextmanager
def _map_to_image_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ImageError(
            "missing", "no such file: it was deleted after it was listed, or never existed"
        ) from None
    except ArchivedFileError:
        raise ImageError(
            "archived", "the store has archived the file; restore it and run again"
        ) from None
    except PermissionError as error:
        raise ImageError("denied", f"no permission to read the file: {error}") from None
    except IsADirectoryError:
        raise ImageError("unreadable", "a folder, not a file") from None
    except FileTooLargeError as error:
        raise ImageError("too_large", str(error)) from None
    except IrregularFileError:
        raise ImageError("unreadable", "a pipe, a socket or a device, not a file") from None
    except OSError as error:
        raise ImageError("network", f"reading failed: {error}") from None
    except InputError as error:  # a name that its store does not allow
        raise ImageError("unreadable", str(error)) from None
