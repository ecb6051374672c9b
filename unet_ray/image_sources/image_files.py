"""Bytes of image files; what goes wrong is the error of one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from unet_ray.errors import ImageError
from unet_ray.storage.storage import Content, Storage

_RANGES_AT_ONCE = 16
"""Of one file."""


def read_file(access: Storage, uri: str, etag: str | None = None) -> bytes:
    """Return a file's bytes.

    Args:
        access — opens the URI.
        etag — the store's, as listed; None: any content will do.

    Raises: ImageError — `missing`, `denied`, `network`, `changed`.
    """
    file = Storage(uri, access.options)
    with _as_image_errors():
        return file.read() if etag is None else _unchanged(file.read_content(), etag)


def open_ranges(
    access: Storage, uri: str, etag: str | None = None
) -> Callable[[Sequence[tuple[int, int]]], list[bytes]]:
    """Return what fetches ranges of a file, (offset, size) each; arguments and errors as of `read_file`."""
    file = Storage(uri, access.options)

    def fetch_one(offset_size: tuple[int, int]) -> bytes:
        with _as_image_errors():
            if etag is None:
                return file.read_range(*offset_size)
            return _unchanged(file.read_content(*offset_size), etag)

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        if file.is_local or len(ranges) < 2:
            return [*map(fetch_one, ranges)]
        with ThreadPoolExecutor(min(len(ranges), _RANGES_AT_ONCE)) as pool:
            return [*pool.map(fetch_one, ranges)]

    return fetch


def check_unchanged(access: Storage, uri: str, etag: str) -> None:
    """Raise ImageError (`changed`, or as `read_file`) where a file is no longer what was listed."""
    with _as_image_errors():
        _compare(Storage(uri, access.options).entry().etag, etag)


def _unchanged(content: Content, etag: str) -> bytes:
    _compare(content.etag, etag)
    return content.data


def _compare(found: str, listed: str) -> None:
    if found != listed:
        raise ImageError(
            "changed", "its content changed since it was listed; the next run takes the new one"
        )


@contextmanager
def _as_image_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ImageError("missing", "the file is gone since it was listed") from None
    except PermissionError as error:
        raise ImageError("denied", f"no permission to read it: {error}") from None
    except IsADirectoryError:
        raise ImageError("unreadable", "a folder, not a file") from None
    except OSError as error:
        raise ImageError("network", f"reading failed: {error}") from None
