"""S3 behind s3fs: one request, or one page at a time, where its general calls take several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync

from unet_ray.storage.backends.base import FileInfo, Links, Retry, check_size
from unet_ray.storage.backends.fsspec import FsspecBackend, to_file_info
from unet_ray.storage.backends.s3_answers import find_answer
from unet_ray.storage.backends.s3_archive import ARCHIVE_CLASSES, ArchiveListing, is_restored
from unet_ray.store_options import StoreOptions

if TYPE_CHECKING:
    from unet_ray.storage.backends.s3_filesystem import PlainS3FileSystem

_logger = logging.getLogger("unet_ray")

_UNKNOWN = (HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
"""Answers to a PUT with a condition from stores that know no conditions."""
_ATTEMPTS = 3
"""Attempts of a request in s3fs, 20 s each. Retries of botocore are off: they would multiply."""
CONNECTIONS = 64
"""Largest number of connections of a process to one store. With botocore's default of ten, only ten
requests could wait for answers at a time."""


def options(wanted: StoreOptions = StoreOptions()) -> dict[str, Any]:  # noqa: B008 (it is frozen)
    """Return options of s3fs from the AWS_* variables, the shared files, and options of a flag.

    Args:
        wanted: Options of a flag, which override the variables and files.

    Raises:
        InputError: A profile does not exist, or certificates cannot be read.
    """
    from unet_ray.storage.backends.s3_settings import find_settings  # loads the SDK

    found = find_settings(wanted)
    config = {"retries": {"total_max_attempts": 1}, "max_pool_connections": CONNECTIONS}
    return found | {"config_kwargs": config | found["config_kwargs"]}


class _UnknownConditionError(Exception):
    """A store refuses any PUT with a condition; the message is its status and code."""


class S3Backend(FsspecBackend):
    """S3 and stores that speak its protocol.

    Args:
        scheme: `s3`.
        options: Storage options of s3fs.
        page_keys: Number of objects in a page of a listing; None: the store decides.
    """

    refusal = "412 to a PUT with If-None-Match"

    def __init__(self, scheme: str, options: dict[str, Any], page_keys: int | None = None) -> None:
        super().__init__(scheme, options)
        self._page_keys = page_keys

    @property
    def filesystem(self) -> PlainS3FileSystem:
        """The s3fs file system; s3fs keeps one per process and set of options."""
        from unet_ray.storage.backends.s3_filesystem import PlainS3FileSystem

        filesystem = PlainS3FileSystem(use_listings_cache=False, **self._options)
        filesystem.retries = _ATTEMPTS
        return filesystem

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of an object by one GET, whose answer also describes the object.

        `cat_file` of s3fs asks for the size first and does not return the etag.
        """
        filesystem = self.filesystem
        data, fields = sync(filesystem.loop, _get, filesystem, uri, offset, size, limit)
        return data, to_file_info("", fields)

    def create(self, uri: str, data: bytes) -> bool:
        """Store an object that must not exist, by a conditional PUT.

        If a store refuses every PUT that has a condition, the object is stored without one.
        """
        try:
            return super().create(uri, data)
        except _UnknownConditionError as error:
            self.write(uri, data)
            _logger.info(
                f"note: the store of {uri} answers {error} to If-None-Match, so it does not keep "
                "runs apart by itself; each run reads the lock again after a moment"
            )
            return False

    def _put_if_absent(self, uri: str, data: bytes) -> None:
        """Store an object by a PUT with If-None-Match, which some stores ignore.

        Raises:
            FileExistsError: The object exists.
            _UnknownConditionError: The store refuses the condition, or this PUT in any form.
        """
        try:
            super()._put_if_absent(uri, data)
        except OSError as error:
            status, code = find_answer(error)
            if status == HTTPStatus.PRECONDITION_FAILED:
                raise FileExistsError(uri) from error
            if status in _UNKNOWN:
                raise _UnknownConditionError(f"{status} {code}") from error
            raise

    def is_archived(self, uri: str) -> bool:
        """Tell whether an object must be restored before it can be read, by one HEAD."""
        bucket, key, _ = self.filesystem.split_path(uri)
        head = self.filesystem.call_s3("head_object", Bucket=bucket, Key=key)
        return head.get("StorageClass") in ARCHIVE_CLASSES and not is_restored(head)

    def list_files(
        self,
        uri: str,
        retry: Retry,
        links: Links | None = None,  # noqa: ARG002 (there are none)
    ) -> Iterator[FileInfo]:
        """Yield the objects below a prefix, page by page; `find` of s3fs would hold all of them."""
        filesystem = self.filesystem
        root = str(filesystem._strip_protocol(uri)).rstrip("/") + "/"
        bucket, _, prefix = root.partition("/")
        wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
        if self._page_keys is not None:
            wanted["MaxKeys"] = self._page_keys
        listing = ArchiveListing(filesystem, retry)
        while True:
            page = listing.fetch(wanted)
            for found in page["Contents"]:
                if not found["Key"].endswith("/"):  # the marker object of a folder
                    below = f"{bucket}/{found['Key']}".removeprefix(root)
                    info = to_file_info(below, {**found, "size": found["Size"]})
                    yield replace(info, is_archived=listing.is_archived(found))
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise OSError(f"{uri}: the store returned no token to continue its listing")
            wanted["ContinuationToken"] = page["NextContinuationToken"]


async def _get(
    filesystem: PlainS3FileSystem, uri: str, offset: int, size: int | None, limit: int | None
) -> tuple[bytes, dict[str, Any]]:
    """Return bytes of an object and its fields as in a listing; an unknown size is None."""
    bucket, key, _ = filesystem.split_path(uri)
    wanted = {"Bucket": bucket, "Key": key}
    if size is not None:
        wanted["Range"] = f"bytes={offset}-{offset + size - 1}"
    answer = await filesystem._call_s3("get_object", **wanted)
    async with answer["Body"] as body:
        if size is None:
            check_size(uri, answer.get("ContentLength"), limit)  # before a byte of it is read
        data = await body.read()
    # bytes 0-99/1000, or bytes 0-99/* if the store does not state the whole size
    whole = answer.get("ContentRange", f"/{len(data)}").rpartition("/")[2]
    if size is not None and "ContentRange" not in answer:  # a store that knows no ranges
        data = data[offset : offset + size]
    fields = {
        "ETag": answer.get("ETag"),
        "LastModified": answer.get("LastModified"),
        "size": int(whole) if whole.isdigit() else None,
    }
    return data, fields
