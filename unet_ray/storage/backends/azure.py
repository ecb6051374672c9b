"""Azure Blob Storage by single requests over the connection of adlfs.

The general calls of adlfs list a folder for each blob that they describe, ignore tiers, and return
no etag with the bytes of a blob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fsspec.asyn import sync

from unet_ray.storage.backends.azure_errors import is_there
from unet_ray.storage.backends.base import FileInfo, Links, check_size
from unet_ray.storage.backends.fsspec import FsspecBackend, to_file_info

if TYPE_CHECKING:
    from azure.storage.blob import BlobProperties
    from azure.storage.blob.aio import BlobServiceClient

_FOLDER = "hdi_isfolder"
"""Name of the metadata that marks a blob as a folder."""


class AzureBackend(FsspecBackend):
    """Azure Blob Storage, which has an archive tier. Its SDK repeats requests by itself."""

    attempts_once = True
    refusal = "409 to a PUT with If-None-Match"

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of a blob and its description, both from one answer."""
        data, fields = self._ask(_download, uri, offset, size, limit)
        return data, to_file_info("", fields)

    def write(self, uri: str, data: bytes) -> None:
        """Store a blob."""
        self._ask(_upload, uri, data)

    def put(self, uri: str, file: Path) -> None:
        """Store a file of this machine as one blob, which appears when all of it has arrived."""
        with file.open("rb") as data:
            self._ask(_upload, uri, data)

    def _put_if_absent(self, uri: str, data: bytes) -> None:
        """PUT with If-None-Match; raise FileExistsError where there is a blob."""
        try:
            self._ask(_upload, uri, data, overwrite=False)
        except Exception as error:
            if is_there(error):
                raise FileExistsError(uri) from error
            raise

    def delete(self, uri: str) -> None:
        """Remove a blob."""
        self._ask(_delete, uri)

    def info(self, uri: str) -> FileInfo | None:
        """Describe a blob, or a folder if blobs are below it; None where there is none."""
        fields = self._ask(_describe, uri)
        return None if fields is None else to_file_info("", fields)

    def list_files(
        self,
        uri: str,
        retry: Callable[[Callable[[], Any]], Any],
        links: Links | None = None,  # noqa: ARG002 (there are none)
    ) -> Iterator[FileInfo]:
        """Yield the blobs below a prefix, page by page."""
        name = _split(uri)[1]
        prefix = f"{name}/" if name else ""
        token = None
        while True:
            blobs, token = retry(partial(self._ask, _fetch_page, uri, prefix, token))
            for blob in blobs:
                if not _is_folder(blob):
                    yield to_file_info(blob.name.removeprefix(prefix), _to_fields(blob))
            if not token:
                return

    def _ask(self, request: Callable[..., Any], uri: str, *more: Any, **named: Any) -> Any:
        """Make a request on the event loop of the file system.

        Raises:
            FileNotFoundError: There is no such blob or container.
        """
        from azure.core.exceptions import ResourceNotFoundError

        filesystem = self.filesystem
        try:
            return sync(filesystem.loop, request, filesystem.service_client, uri, *more, **named)
        except ResourceNotFoundError as error:
            raise FileNotFoundError(uri) from error


def _split(uri: str) -> tuple[str, str]:
    """Return the container and the name of a blob."""
    container, _, name = uri.partition("://")[2].partition("/")
    return container, name


def _is_folder(blob: BlobProperties) -> bool:
    return blob.name.endswith("/") or (blob.metadata or {}).get(_FOLDER) == "true"


def _to_fields(blob: BlobProperties) -> dict[str, Any]:
    return {
        "size": blob.size,
        "etag": blob.etag,
        "last_modified": blob.last_modified,
        "blob_tier": blob.blob_tier,
    }


async def _download(
    client: BlobServiceClient, uri: str, offset: int, size: int | None, limit: int | None
) -> tuple[bytes, dict[str, Any]]:
    """Return bytes of a blob and its fields; a large blob comes in parts of one version."""
    piece = (None, None) if size is None else (offset, size)
    stream = await client.get_blob_client(*_split(uri)).download_blob(*piece)
    blob = stream.properties
    if size is None:
        check_size(uri, blob.size, limit)
    data = await stream.readall()
    whole = (blob.content_range or f"/{len(data)}").rpartition("/")[2]  # bytes 0-99/1000
    return data, _to_fields(blob) | {"size": int(whole)}


async def _upload(
    client: BlobServiceClient, uri: str, data: bytes | BinaryIO, overwrite: bool = True
) -> None:
    await client.get_blob_client(*_split(uri)).upload_blob(data, overwrite=overwrite)


async def _delete(client: BlobServiceClient, uri: str) -> None:
    await client.get_blob_client(*_split(uri)).delete_blob()


async def _describe(client: BlobServiceClient, uri: str) -> dict[str, Any] | None:
    """Return the fields of a blob or folder; None where there is none."""
    from azure.core.exceptions import ResourceNotFoundError

    container, name = _split(uri)
    if name:
        with suppress(ResourceNotFoundError):
            blob = await client.get_blob_client(container, name).get_blob_properties()
            if not _is_folder(blob):
                return _to_fields(blob)
    try:
        blobs, _ = await _fetch_page(client, uri, f"{name}/" if name else "", None, size=1)
    except ResourceNotFoundError:  # there is no such container
        return None
    return {"size": 0, "type": "directory"} if blobs or not name else None


async def _fetch_page(
    client: BlobServiceClient, uri: str, prefix: str, token: str | None, size: int | None = None
) -> tuple[list[BlobProperties], str | None]:
    """Return the blobs of a page of a listing, and the token of the next page, if there is one."""
    blobs = client.get_container_client(_split(uri)[0]).list_blobs(
        name_starts_with=prefix or None, include=["metadata"], results_per_page=size
    )
    pages = blobs.by_page(token)
    async for page in pages:
        return [blob async for blob in page], pages.continuation_token
    return [], None
