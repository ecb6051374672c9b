"""Storage: a folder at a URI, on any store.

A backend makes single attempts. This module repeats attempts whose error may pass, and maps errors
to built-in ones (`storage.retry`). A new store needs a file in `backends/` and a line in
`_BACKENDS`, which also lists the allowed stores: URIs come from manifests, label files and tables,
whose authors must not choose what this process connects to.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow.fs

from unet_ray.errors import InputError, ListingError, UnetRayError, is_disk_full, one_line
from unet_ray.storage.backends import s3
from unet_ray.storage.backends.azure import AzureBackend
from unet_ray.storage.backends.base import Backend, FileInfo, Links
from unet_ray.storage.backends.gcs import GcsBackend
from unet_ray.storage.backends.local import LocalBackend, delete_tree
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.retry import Result, mapped_errors, retry
from unet_ray.storage.uris import normalise_uri, redact, uri_scheme
from unet_ray.store_options import StoreOptions

_BACKENDS: dict[str, type[Backend]] = {
    "file": LocalBackend,
    "s3": s3.S3Backend,
    "gs": GcsBackend,
    "az": AzureBackend,
}
"""Backends by scheme; no other scheme is opened."""
_TEST_BYTES = 2**20
"""Size of the file that is written to test whether a place is writable (bytes)."""
_PACKAGES = {"gs": "gcsfs", "az": "adlfs"}


def _to_entry(path: str, uri: str, info: FileInfo) -> FileEntry:
    return FileEntry(
        path=path,
        uri=uri,
        etag=info.etag,
        size=info.size or 0,
        modified_s=info.modified_s,
        is_archived=info.is_archived,
    )


@dataclass(frozen=True)
class Content:
    """Bytes of a file, and the version of its content that they come from."""

    data: bytes
    etag: str
    """Etag of the whole file, as in its entry."""
    size: int
    """Size of the whole file in bytes."""


@dataclass(frozen=True)
class Storage:
    """A folder on some store. It travels to workers with the credentials that it needs.

    Args:
        uri: URI of the folder (or of one file), without a trailing slash.
        options: Storage options of fsspec; never shown.
        within: Real paths of the folders in which a file of this machine must really lie to be
            opened for reading; None: anywhere.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    within: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of(uri: str, options: StoreOptions | None = None) -> Storage:
        """Return the folder at a URI, with the standard AWS_* variables of this process.

        Args:
            uri: Path or URI.
            options: Options of its store, which override the variables; None: no options.

        Raises:
            InputError: The scheme is not allowed, its package is not installed, the URI is not
                valid, or the store takes no options.
        """
        if not uri:
            raise InputError("an empty URI; name a folder (. is the current one)")
        uri = normalise_uri(uri, _BACKENDS)
        scheme = uri_scheme(uri)
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            remedy = f"pip install {package}" if package else str(error)
            raise InputError(
                f"{uri}: {scheme}:// needs a package that is not installed: {remedy}"
            ) from None
        options = options or StoreOptions()
        if scheme == "s3":
            return Storage(uri, s3.options(options))
        if options != StoreOptions():
            raise InputError(f"{uri}: only stores at s3:// have options; leave them out")
        return Storage(uri)

    @property
    def _backend(self) -> Backend:
        scheme = uri_scheme(self.uri)
        if scheme not in _BACKENDS:
            raise InputError(f"{redact(self.uri)}: {scheme}:// is not supported")
        if scheme == "file":
            if self.uri.startswith("file://"):  # a name in data that is not a path: say why
                normalise_uri(self.uri, _BACKENDS)
            return LocalBackend(scheme, self.options, self.within)
        return _BACKENDS[scheme](scheme, self.options)

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine."""
        return uri_scheme(self.uri) == "file"

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system."""
        with mapped_errors(self.uri):
            return self._backend.filesystem

    @property
    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """The same store for Arrow and Ray Train; files appear whole or not at all."""
        return pyarrow.fs.PyFileSystem(self._backend.arrow_handler)

    @property
    def path(self) -> str:
        """The folder as its file system names it."""
        return str(self.filesystem._strip_protocol(self.uri))

    def uri_of(self, path: str) -> str:
        """Return the URI of a path below this folder; raise InputError where it would leave it."""
        if not path:
            return self.uri
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise InputError(f"{path} leaves the folder {self.uri}")
        return f"{self.uri}/{path}"

    def name_of(self, uri: str) -> str:
        """Return the path of a URI in this folder; its last part for this folder's own URI.

        A URI outside this folder is its own name.
        """
        if uri == self.uri:
            return uri.rpartition("/")[2]
        return uri.removeprefix(f"{self.uri}/")

    def join(self, path: str) -> Storage:
        """Return a folder below this one."""
        return self.at(self.uri_of(path))

    def at(self, uri: str) -> Storage:
        """Return the file or folder at a URI of the same store, with the same rights."""
        return Storage(uri, self.options, self.within)

    def confine(self, uris: Iterable[str]) -> Storage:
        """Return this storage limited to files that really lie below some URIs.

        This matters because a file may be replaced by a link after it was listed. Remote
        storage is returned unchanged.
        """
        if not self.is_local:
            return self
        return replace(self, within=tuple(os.path.realpath(uri) for uri in uris))

    def read(self, path: str = "", limit: int | None = None) -> bytes:
        """Return the content of a file.

        Args:
            path: Path of the file.
            limit: Largest size of the file (bytes); None: no limit.

        Raises:
            FileTooLargeError: The store says that the file is longer than `limit`.
        """
        uri = self.uri_of(path)
        return self._retry(uri, lambda: self._backend.read(uri, limit=limit))[0]

    def read_range(self, offset: int, size: int) -> bytes:
        """Return bytes of the one file that this is, fewer at its end."""
        return self._retry(self.uri, lambda: self._backend.read(self.uri, offset, size))[0]

    def read_content(
        self, offset: int = 0, size: int | None = None, limit: int | None = None
    ) -> Content:
        """Return the bytes of the one file that this is, or a range of them, and the file's etag.

        A store that does not return the etag with the bytes is asked for it afterwards.

        Args:
            offset: First byte.
            size: Number of bytes; None: all that are left.
            limit: Largest size of a file that is read whole (bytes); None: no limit.

        Raises:
            FileTooLargeError: The store says that the file is longer than `limit`.
        """
        data, info = self._retry(
            self.uri, lambda: self._backend.read(self.uri, offset, size, limit)
        )
        if info is None or info.size is None:
            entry = self.entry()
            return Content(data, entry.etag, entry.size)
        return Content(data, info.etag, info.size)

    @contextmanager
    def open(self, path: str = "") -> Iterator[BinaryIO]:
        """Open a file for seeking reads."""
        uri = self.uri_of(path)
        with mapped_errors(uri), self._backend.open(uri) as file:
            yield file

    def write(self, path: str, data: bytes, may_write: Callable[[], None] = lambda: None) -> None:
        """Store a file as one whole object: it exists with all its bytes, or not at all.

        Args:
            path: Path of the file.
            data: Content of the file.
            may_write: Called right before each attempt; an exception that it raises ends the write.
        """
        uri = self.uri_of(path)

        def write_once() -> None:
            """Make one attempt."""
            may_write()
            self._backend.write(uri, data)

        self._retry(uri, write_once)

    def put(self, path: str, file: Path) -> None:
        """Store a file of this machine, which may be larger than memory, as one whole object."""
        uri = self.uri_of(path)
        self._retry(uri, lambda: self._backend.put(uri, file))

    def create(self, path: str, data: bytes) -> bool:
        """Store a file as one whole object where there is none yet.

        Returns:
            True if the store guarantees that only one of several writers succeeds: local file
            systems, Google Cloud Storage, Azure, and S3 stores with conditional PUT do. Otherwise
            the file may have replaced another one.

        Raises:
            FileExistsError: There is a file already.
        """
        uri = self.uri_of(path)
        return self._retry(uri, lambda: self._backend.create(uri, data))

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is not an error."""
        uri = self.uri_of(path)
        with suppress(FileNotFoundError):
            self._retry(uri, lambda: self._backend.delete(uri))

    def delete_all(self, paths: Iterable[str]) -> None:
        """Remove files in parallel, in no particular order; missing ones are not an error.

        Each takes a request, because stores differ on requests that delete many objects at once.
        """
        with ThreadPoolExecutor(s3.CONNECTIONS) as pool:
            for _ in pool.map(self.delete, paths):
                pass

    def delete_folder(self, path: str) -> None:
        """Remove all files below a folder; a missing folder is not an error.

        A link is removed, but not the file or folder that it leads to.
        """
        if self.is_local:
            delete_tree(self.uri_of(path))
            return
        for entry in self.entries(path, missing_ok=True):
            self.delete(f"{path}/{entry.path}")

    def exists(self, path: str = "") -> bool:
        """Tell whether a file or folder exists.

        Raises:
            OSError: This cannot be determined, for instance behind a link to nothing.
        """
        uri = self.uri_of(path)
        return self._retry(uri, lambda: self._backend.info(uri)) is not None

    def is_file(self) -> bool:
        """Tell whether this is one file."""
        info = self._retry(self.uri, lambda: self._backend.info(self.uri))
        return info is not None and info.is_file

    def entry(self) -> FileEntry:
        """Return the entry of the one file that this is.

        Raises:
            FileNotFoundError: There is none.
        """
        info = self._retry(self.uri, lambda: self._backend.info(self.uri))
        if info is None:
            raise FileNotFoundError(self.uri)
        return _to_entry(self.uri.rpartition("/")[2], self.uri, info)

    def is_archived(self) -> bool:
        """Tell whether the one file that this is must be restored before it can be read."""
        return self._retry(self.uri, lambda: self._backend.is_archived(self.uri))

    def entries(self, path: str = "", missing_ok: bool = False) -> list[FileEntry]:
        """Return all files below a folder, sorted by path.

        Hidden files (with a part of their path that starts with a dot) are left out.

        Args:
            path: Path of the folder.
            missing_ok: Whether a missing folder counts as empty; otherwise it is an error on stores
                that know folders.

        Raises:
            ListingError: A folder cannot be listed to its end, or a link leads to nothing.
        """
        with self.listing(path):
            if missing_ok and not self.exists(path):
                return []
        entries = []
        for entry in self.walk(path):
            if not entry.etag:
                raise dangling_link(entry.uri)
            entries.append(entry)
        return sorted(entries, key=lambda entry: entry.path)

    def walk(self, path: str = "", links: Links | None = None) -> Iterator[FileEntry]:
        """Yield files in the order of the store, in the memory of one page or one folder.

        Args:
            path: Path of the folder.
            links: Rule for symbolic links that lead out of the folder; None: they are followed.

        Yields:
            The files of `entries`, and links to nothing, whose etag is empty.

        Raises:
            ListingError: A folder cannot be listed to its end.
        """
        uri = self.uri_of(path)
        with self.listing(path):
            for info in self._backend.list_files(uri, partial(self._retry, uri), links):
                is_hidden = any(part.startswith(".") for part in info.path.split("/"))
                if not is_hidden:
                    yield _to_entry(info.path, f"{uri}/{info.path}", info)

    @contextmanager
    def listing(self, path: str = "") -> Iterator[None]:
        """Turn an error of the store in the `with` block into a ListingError.

        Args:
            path: Folder that is listed, in case the error names none.

        Raises:
            ListingError: A folder cannot be listed to its end.
        """
        try:
            yield
        except OSError as error:
            named = error.filename if isinstance(error.filename, str) else self.uri_of(path)
            reason = error.strerror or str(error)
            raise ListingError(
                f"{named}: this folder cannot be listed completely ({reason}); files that were "
                "not listed do not count as deleted; make the folder readable or mount it, and run "
                "again"
            ) from error

    def check_writable(self, size: int = _TEST_BYTES) -> None:
        """Write and remove a file.

        Args:
            size: Size of the file (bytes), since a small file may fit even on a nearly full disk. 0
                accepts a full disk, for commands that free space.

        Raises:
            InputError: The place cannot be written to.
            UnetRayError: The disk is full.
        """
        name = f"_write_test_{os.getpid()}_{threading.get_ident()}"
        try:
            self.write(name, bytes(size))
            self.delete(name)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise InputError(
                f"{self.uri}: no permission to write here ({error}); choose another place"
            ) from None
        except OSError as error:
            if is_disk_full(error):
                raise UnetRayError(one_line(error)) from error
            raise InputError(
                f"{self.uri}: cannot be written to ({error}); check the URI and the credentials"
            ) from None

    def _retry(self, uri: str, operation: Callable[[], Result]) -> Result:
        return retry(uri, operation, attempts=1 if self._backend.attempts_once else None)


def dangling_link(uri: str) -> ListingError:
    """Return the error for a link to nothing: a file or a whole folder may be missing."""
    return ListingError(f"{uri}: a link to nothing; mount its target or remove the link")


def is_allowed(uri: str) -> bool:
    """Tell whether a URI may be opened; this does not load the package of its store."""
    try:
        normalise_uri(uri, _BACKENDS)
    except InputError:
        return False
    return True
