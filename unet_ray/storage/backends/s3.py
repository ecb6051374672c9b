"""S3 behind s3fs: one request, or one page at a time, where its general calls take several."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from fsspec.asyn import sync

from unet_ray.flags import StoreOptions
from unet_ray.storage.backends.base import FileInfo, Links, check_size
from unet_ray.storage.backends.fsspec import FsspecBackend, to_file_info

_TRIES = 3
"""Tries of one request within s3fs, 20 s each; retries of botocore are off, they would multiply."""
CONNECTIONS = 64
"""Largest number of connections of a process to one store. With botocore's ten, no more than ten
requests await their answers at a time."""


def options(wanted: StoreOptions = StoreOptions()) -> dict[str, Any]:  # noqa: B008 (it is frozen)
    """Return options of s3fs from the AWS_* variables, the shared files, and options of a flag.

    Args:
        wanted: Options of a flag, which come before what variables and files say.

    Raises:
        InputError: A profile that is not there, or certificates that cannot be read.
    """
    from unet_ray.storage.backends.s3_settings import find_settings  # which loads the SDK

    found = find_settings(wanted)
    config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": CONNECTIONS}
    return found | {"config_kwargs": config | found["config_kwargs"]}


class S3Backend(FsspecBackend):
    """S3 and stores that speak its protocol.

    Args:
        scheme: `s3`.
        options: Storage options of s3fs.
        page_keys: Objects in a page of a listing; None: as many as the store likes.
    """

    def __init__(self, scheme: str, options: dict[str, Any], page_keys: int | None = None) -> None:
        super().__init__(scheme, options)
        self._page_keys = page_keys

    @property
    def filesystem(self) -> Any:
        """The s3fs file system; s3fs keeps one per process and set of options."""
        from unet_ray.storage.backends.s3_filesystem import PlainS3FileSystem

        filesystem = PlainS3FileSystem(use_listings_cache=False, **self._options)
        filesystem.retries = _TRIES
        return filesystem

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of an object by one GET, whose answer describes the object as well.

        `cat_file` of s3fs asks for the size first and tells no etag.
        """
        filesystem = self.filesystem
        data, fields = sync(filesystem.loop, _get, filesystem, uri, offset, size, limit)
        return data, to_file_info("", fields)

    def create(self, uri: str, data: bytes) -> bool:
        """Store an object where there is none, by a conditional PUT.

        The second PUT tells whether the store honours the condition: then it is refused.
        """
        if self.info(uri) is not None:
            raise FileExistsError(uri)
        self._put_if_absent(uri, data)
        try:
            self._put_if_absent(uri, data)
        except FileExistsError:
            return True
        return False

    def _put_if_absent(self, uri: str, data: bytes) -> None:
        """PUT with If-None-Match; stores that do not know the condition ignore it."""
        try:
            self.filesystem.pipe_file(uri, data, mode="create")
        except OSError as error:
            if error.errno == errno.EINVAL:  # 412 without the words that s3fs looks for
                raise FileExistsError(uri) from error
            raise

    def list_files(
        self,
        uri: str,
        retry: Callable[[Callable[[], Any]], Any],
        links: Links | None = None,  # noqa: ARG002 (there are none)
    ) -> Iterator[FileInfo]:
        """Yield the objects below a prefix, page by page; `find` of s3fs holds all of them."""
        filesystem = self.filesystem
        root = str(filesystem._strip_protocol(uri)).rstrip("/") + "/"
        bucket, _, prefix = root.partition("/")
        wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if self._page_keys is not None:
            wanted["MaxKeys"] = self._page_keys
        while True:
            page = retry(partial(filesystem.call_s3, "list_objects_v2", **wanted))
            for found in page.get("Contents", []):
                if not found["Key"].endswith("/"):  # the marker object of a folder
                    below = f"{bucket}/{found['Key']}".removeprefix(root)
                    yield to_file_info(below, {**found, "size": found["Size"]})
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise OSError(f"{uri}: the store does not say how to go on with its listing")
            wanted["ContinuationToken"] = page["NextContinuationToken"]


async def _get(
    filesystem: Any, uri: str, offset: int, size: int | None, limit: int | None
) -> tuple[bytes, dict[str, Any]]:
    """Return bytes of an object and its fields as in a listing; an unknown size is None."""
    bucket, key, _ = filesystem.split_path(uri)
    piece = {} if size is None else {"Range": f"bytes={offset}-{offset + size - 1}"}
    answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, **piece)
    async with answer["Body"] as body:
        if not piece:
            check_size(uri, answer.get("ContentLength"), limit)  # before a byte of it is read
        data = await body.read()
    # bytes 0-99/1000, bytes 0-99/*
    whole = answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2]
    fields = {name: answer.get(name) for name in ("ETag", "LastModified")}
    if piece and "ContentRange" not in answer:  # a store that knows no ranges
        data = data[offset : offset + cast(int, size)]
    return data, fields | {"size": int(whole) if whole.isdigit() else None}
