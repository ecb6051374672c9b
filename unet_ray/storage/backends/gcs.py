"""Google Cloud Storage behind gcsfs: single requests, and one page of a listing at a time.

The general calls of gcsfs list twice for each object that they describe, and lose objects whose
names have a folder without a name (`a//b.png`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from unet_ray.storage.backends.base import FileInfo, Links, check_size
from unet_ray.storage.backends.fsspec import FsspecBackend, to_file_info

if TYPE_CHECKING:
    from gcsfs.core import GCSFileSystem

_FIELDS = "name,size,etag,updated,generation"
"""Fields of an object that are asked for; all of them take a kilobyte."""
_ATTEMPTS = 3
"""Largest number of attempts, if an object is replaced between the two requests of a read."""


class GcsBackend(FsspecBackend):
    """Google Cloud Storage. gcsfs repeats a request up to six times by itself."""

    attempts_once = True
    refusal = "412 to an upload with ifGenerationMatch=0"

    @property
    def filesystem(self) -> GCSFileSystem:
        """The file system of gcsfs, which keeps one per process and set of options.

        This one uses only HTTP. The other file system of gcsfs asks by gRPC for the kind of a
        bucket before each request, and waits half a minute if that is forbidden.
        """
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(use_listings_cache=False, **self._options)

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of an object, and its description.

        Both are of the same generation.
        """
        filesystem = self.filesystem
        headers = {}
        if size is not None:
            headers["Range"] = f"bytes={offset}-{offset + size - 1}"
        for _ in range(_ATTEMPTS):
            found = self._fetch_object(uri)
            check_size(uri, int(found["size"]), limit)
            get = partial(filesystem.call, "GET", filesystem.url(uri), headers=headers)
            try:
                _, data = get(generation=found["generation"])
            except FileNotFoundError:
                continue  # replaced or deleted meanwhile; the next attempt shows which
            return bytes(data), _to_info("", found)
        raise FileNotFoundError(uri)

    def info(self, uri: str) -> FileInfo | None:
        """Describe an object, or a folder if objects are below it; None where there is none."""
        bucket, name = _split(uri)
        try:
            if name:
                return _to_info("", self._fetch_object(uri))
        except FileNotFoundError:
            pass
        try:
            page = self._fetch_page(bucket, prefix=f"{name}/" if name else None, maxResults=1)
        except FileNotFoundError:  # there is no such bucket
            return None
        if name and not page.get("items"):
            return None
        return to_file_info("", {"size": 0, "type": "directory"})

    def list_files(
        self,
        uri: str,
        retry: Callable[[Callable[[], Any]], Any],
        links: Links | None = None,  # noqa: ARG002 (there are none)
    ) -> Iterator[FileInfo]:
        """Yield the objects below a prefix, page by page."""
        bucket, name = _split(uri)
        prefix = f"{name}/" if name else ""
        token = None
        while True:
            fetch = partial(self._fetch_page, bucket, prefix=prefix or None, pageToken=token)
            page = retry(fetch)
            for found in page.get("items", []):
                if not found["name"].endswith("/"):  # the marker object of a folder
                    yield _to_info(found["name"].removeprefix(prefix), found)
            token = page.get("nextPageToken")
            if not token:
                return

    def _fetch_object(self, uri: str) -> dict[str, Any]:
        found: dict[str, Any] = self.filesystem.call(
            "GET", "b/{}/o/{}", *_split(uri), json_out=True, fields=_FIELDS
        )
        return found

    def _fetch_page(self, bucket: str, **wanted: str | int | None) -> dict[str, Any]:
        """Return a page of a listing; arguments that are None are not sent."""
        page: dict[str, Any] = self.filesystem.call(
            "GET",
            "b/{}/o",
            bucket,
            json_out=True,
            fields=f"items({_FIELDS}),nextPageToken",
            **wanted,
        )
        return page


def _split(uri: str) -> tuple[str, str]:
    """Return the bucket and the name of an object."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


def _to_info(path: str, found: dict[str, Any]) -> FileInfo:
    """Convert an object's resource."""
    fields = {
        "size": int(found["size"]),
        "etag": found["etag"],
        "mtime": datetime.fromisoformat(found["updated"]),
    }
    return to_file_info(path, fields)
