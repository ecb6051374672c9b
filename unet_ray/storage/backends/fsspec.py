"""Stores behind fsspec's general interface, and what remote stores have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow
import pyarrow.fs

from unet_ray.storage.backends.base import Backend, FileInfo, Links, Retry, check_size
from unet_ray.storage.backends.local import FileBeside
from unet_ray.storage.backends.s3_archive import ARCHIVE_CLASSES

_BLOCK_BYTES = 2**16
"""Number of bytes fetched at once while a file is read with seeks."""
_ATTEMPTS = 3
"""Number of times that a store may report a file that no longer exists: runs come and go."""


class _WholeObjects(pyarrow.fs.FSSpecHandler):
    """Stores each file as one whole object, and deletes the objects of a folder one by one.

    Clients and stores of S3 differ on the checksum of a request that deletes many objects: boto
    sends CRC32, MinIO wants MD5.
    """

    def open_output_stream(
        self,
        path: str,
        metadata: dict[str, str] | None,  # noqa: ARG002 (there is none)
    ) -> pyarrow.PythonFile:
        """Return a file that stores everything written to it when it is closed."""
        file = FileBeside(path, lambda local: self.fs.put_file(local, path))
        return pyarrow.PythonFile(file, mode="w")

    def delete_dir(self, path: str) -> None:
        """Delete all objects below a folder."""
        for name in self.fs.find(path):
            self.fs.rm_file(name)


class FsspecBackend(Backend):
    """A store behind fsspec's general interface."""

    refusal = "that the file exists"
    """Answer to a conditional write if the file exists, for messages."""

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system; fsspec keeps one per process and set of options."""
        return fsspec.filesystem(self._scheme, use_listings_cache=False, **self._options)

    def read(
        self, uri: str, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> tuple[bytes, FileInfo | None]:
        """Return bytes of a file; the general interface sends no description with them.

        With a limit, the store is asked for the size first.
        """
        if limit is not None:
            check_size(uri, self.filesystem.info(uri).get("size"), limit)
        end = None if size is None else offset + size
        data = self.filesystem.cat_file(uri, start=offset or None, end=end)
        return bytes(data), None

    def open(self, uri: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for seeking reads, fetched in small ranges."""
        file: AbstractContextManager[BinaryIO] = self.filesystem.open(
            uri, "rb", block_size=_BLOCK_BYTES, cache_type="readahead"
        )
        return file

    def write(self, uri: str, data: bytes) -> None:
        """Store a file as one whole object."""
        self.filesystem.pipe_file(uri, data)

    def put(self, uri: str, file: Path) -> None:
        """Store a file of this machine as one whole object."""
        self.filesystem.put_file(str(file), uri)

    def create(self, uri: str, data: bytes) -> bool:
        """Store a file that must not exist, by a conditional write.

        A second write shows whether the store honours the condition: then it is refused.
        """
        self._create_checked(uri, data)
        try:
            self._put_if_absent(uri, data)
        except FileExistsError:
            return True
        return False

    def _create_checked(self, uri: str, data: bytes) -> None:
        """Store a file that must not exist; check before the write, and by its condition."""
        for _ in range(_ATTEMPTS):
            if self.info(uri) is not None:
                raise FileExistsError(uri)
            try:
                self._put_if_absent(uri, data)
            except FileExistsError:
                continue  # another writer was faster; the next check finds its file
            return
        raise OSError(
            f"the store answers {self.refusal} although there is no file; choose another "
            "store, or have this one repaired"
        )

    def _put_if_absent(self, uri: str, data: bytes) -> None:
        """Store a file on the condition that none exists; some stores ignore the condition.

        Raises:
            FileExistsError: The file exists.
        """
        self.filesystem.pipe_file(uri, data, mode="create")

    def delete(self, uri: str) -> None:
        """Remove a file."""
        self.filesystem.rm_file(uri)

    def info(self, uri: str) -> FileInfo | None:
        """Describe a file or folder by `info`; fsspec's `exists` would turn errors into False."""
        try:
            return to_file_info("", self.filesystem.info(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list_files(
        self,
        uri: str,
        retry: Retry,
        links: Links | None = None,  # noqa: ARG002 (there are none)
    ) -> Iterator[FileInfo]:
        """Yield all files below a folder.

        fsspec's own `walk` would treat a folder that cannot be listed as an empty one.
        """
        root = str(self.filesystem._strip_protocol(uri)).rstrip("/")
        folders = [root]
        while folders:
            folder = folders.pop()
            for found in retry(partial(self.filesystem.ls, folder, detail=True)):
                name = str(found["name"]).rstrip("/")
                if found["type"] != "directory":
                    yield to_file_info(name.removeprefix(f"{root}/"), found)
                elif name != folder:
                    folders.append(name)

    @property
    def arrow_handler(self) -> pyarrow.fs.FSSpecHandler:
        """Handler that stores whole objects only."""
        return _WholeObjects(self.filesystem)


def to_file_info(path: str, found: dict[str, Any]) -> FileInfo:
    """Convert a file system's dictionary about a file or folder."""
    size = found.get("size")
    names = ("LastModified", "mtime", "last_modified", "created")
    modified = next((found[name] for name in names if found.get(name)), None)
    modified_s = None
    if isinstance(modified, datetime):
        modified_s = modified.timestamp()
    elif isinstance(modified, int | float):
        modified_s = float(modified)
    etag = str(found.get("ETag") or found.get("etag") or "").strip('"')
    if not etag:
        known_s = modified_s or 0.0
        if found.get("LastModified"):
            # listings of S3 have fractions of seconds, answers to requests have none
            known_s = int(known_s)
        etag = f"{int(size or 0)}-{int(known_s * 1e9)}"
    is_archived: bool | None = found.get("blob_tier") == "Archive"  # Azure restores to another tier
    if found.get("StorageClass") in ARCHIVE_CLASSES:
        is_archived = None  # a copy may have been restored
    return FileInfo(
        path=path,
        size=size,
        etag=etag,
        is_file=found.get("type", "file") == "file",
        modified_s=modified_s,
        is_archived=is_archived,
    )
