"""URIs to bytes: local paths, s3:// and whatever fsspec knows; errors as `archive.attempts` maps them."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from unet_ray.errors import InputError, ListingError
from unet_ray.storage.backends import s3_requests as s3
from unet_ray.storage.backends.local_files import (
    FileBeside,
    link,
    read_local,
    walk_local,
    whole_file,
)
from unet_ray.storage.retry import ATTEMPTS, Result, mapped_errors, retry

_PACKAGES = {
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
    "adl": "adlfs",
}


class _ArrowHandler(pyarrow.fs.FSSpecHandler):
    """Writes each file whole or not at all, and deletes a folder's objects one by one.

    What Ray Train keeps of a training is written by it. Deleting many objects at once needs a checksum on which S3
    clients and stores differ: boto sends CRC32, MinIO wants MD5.
    """

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.PythonFile:  # noqa: ARG002
        """Return what stores all that is written to it when it is closed."""
        if isinstance(self.fs, LocalFileSystem):
            return pyarrow.PythonFile(FileBeside(path), mode="w")
        return pyarrow.PythonFile(
            FileBeside(path, lambda file: self.fs.put_file(file, path)), mode="w"
        )

    def delete_dir(self, path: str) -> None:
        """Delete all objects below a folder."""
        if isinstance(self.fs, LocalFileSystem):
            super().delete_dir(path)
            return
        for name in self.fs.find(path):
            self.fs.rm_file(name)


@dataclass(frozen=True)
class FileEntry:
    """One object of a listing."""

    path: str
    """Relative to the listed folder, with `/`."""
    uri: str
    """Whole URI."""
    etag: str
    """What changes when the content does: the store's etag without quotes, or `size-mtime_ns`; empty for what is not
    there, a link to nothing."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Content:
    """Bytes of a file, and of which one."""

    data: bytes
    etag: str
    """Of the whole file, as that of its entry."""
    size: int
    """Of the whole file (bytes)."""


@dataclass(frozen=True)
class Storage:
    """A folder on some store; travels to workers with the credentials that it needs, shown to nobody.

    Args:
        uri — of the folder (or of one file), without a trailing slash.
        options — fsspec storage options.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(uri: str) -> Storage:
        """Return the folder at a URI, with the standard AWS_* variables of this process.

        Raises: InputError — an unknown scheme, or one whose package is not installed.
        """
        if not uri:
            raise InputError("an empty URI; name a folder (. is the current one)")
        scheme = uri_scheme(uri)
        if scheme == "file":
            return Storage(os.path.abspath(_local_path(uri)))
        try:
            fsspec.get_filesystem_class(scheme)
        except ValueError:
            raise InputError(f"{uri}: no store with the scheme {scheme}:// is known") from None
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            remedy = f"pip install {package}" if package else str(error)
            raise InputError(
                f"{uri}: {scheme}:// needs a package that is not installed: {remedy}"
            ) from None
        return Storage(uri.rstrip("/"), s3.options() if scheme == "s3" else {})

    @property
    def filesystem(self) -> Any:
        """The fsspec file system; fsspec keeps one per process and set of options. Listings are never remembered."""
        with mapped_errors(self.uri):
            filesystem = fsspec.filesystem(
                uri_scheme(self.uri), use_listings_cache=False, **self.options
            )
        if self.is_s3:
            filesystem.retries = s3.TRIES
        return filesystem

    @property
    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """The same file system for Arrow and Ray Train."""
        return pyarrow.fs.PyFileSystem(_ArrowHandler(self.filesystem))

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

    def join(self, path: str) -> Storage:
        """Return a folder below this one."""
        return Storage(self.uri_of(path), self.options)

    def read(self, path: str = "") -> bytes:
        """Return the content of a file."""
        uri = self.uri_of(path)
        return self._retry(uri, lambda: self._read(uri))[0]

    def read_range(self, offset: int, size: int) -> bytes:
        """Return bytes of the one file that this is, fewer at its end."""
        return self._retry(self.uri, lambda: self._read(self.uri, offset, size))[0]

    def read_content(self, offset: int = 0, size: int | None = None) -> Content:
        """Return bytes of the one file that this is, or a range of them, and of which content they are.

        A store that does not say so with the bytes is asked after them.
        """
        data, info = self._retry(self.uri, lambda: self._read(self.uri, offset, size))
        if info is None or info["size"] is None:
            entry = self.entry()
            return Content(data, entry.etag, entry.size)
        return Content(data, _etag_of(info), info["size"])

    def _read(
        self, uri: str, offset: int = 0, size: int | None = None
    ) -> tuple[bytes, dict[str, Any] | None]:
        """Return bytes, and what the store says with them of their file."""
        if self.is_local:
            return read_local(uri, offset, size)
        if self.is_s3:
            return s3.get(self.filesystem, uri, offset, size)
        end = None if size is None else offset + size
        return bytes(self.filesystem.cat_file(uri, start=offset or None, end=end)), None

    @contextmanager
    def open(self, path: str = "") -> Iterator[BinaryIO]:
        """Open a file for seeking reads; remote ones are fetched in small ranges."""
        uri = self.uri_of(path)
        remote = {} if self.is_local else {"block_size": 2**16, "cache_type": "readahead"}
        with mapped_errors(uri), self.filesystem.open(uri, "rb", **remote) as file:
            yield file

    def write(self, path: str, data: bytes, may_write: Callable[[], None] = lambda: None) -> None:
        """Store a file as one whole object: it is there with all its bytes, or not at all.

        Args:
            may_write — called right before each attempt; what it raises is raised.
        """
        uri = self.uri_of(path)

        def put() -> None:
            """Make one attempt."""
            may_write()
            if self.is_local:
                with whole_file(uri, data) as temporary:
                    os.replace(temporary, uri)
            else:
                self.filesystem.pipe_file(uri, data)

        self._retry(uri, put)

    def put(self, path: str, file: Path) -> None:
        """Store a file of this machine, which may be larger than memory, as one whole object."""
        uri = self.uri_of(path)
        if self.is_local:
            with whole_file(uri, b"") as temporary:
                shutil.copyfile(file, temporary)
                os.replace(temporary, uri)
        else:
            self._retry(uri, lambda: self.filesystem.put_file(str(file), uri))

    def create(self, path: str, data: bytes) -> bool:
        """Store a file as one whole object where there is none yet; raise FileExistsError where there is one.

        Returns: whether the store itself kept others from doing the same at the same moment: a local file system
            does, S3 where it knows conditional PUT; elsewhere the file may have replaced another one.
        """
        uri = self.uri_of(path)
        if self.is_local:
            with whole_file(uri, data) as temporary:
                return link(temporary, uri)
        if self.exists(path):
            raise FileExistsError(uri)
        if not self.is_s3:
            self.write(path, data)
            return False
        self._retry(uri, lambda: s3.put_if_absent(self.filesystem, uri, data))
        try:  # again: whether it is refused tells whether the store honours the condition
            self._retry(uri, lambda: s3.put_if_absent(self.filesystem, uri, data))
        except FileExistsError:
            return True
        return False

    def delete(self, path: str) -> None:
        """Remove a file; it is no error if it is not there."""
        uri = self.uri_of(path)
        with suppress(FileNotFoundError):
            self._retry(uri, lambda: self.filesystem.rm_file(uri))

    def delete_folder(self, path: str) -> None:
        """Remove a folder with all that is in it; it is no error if it is not there."""
        if self.is_local:
            shutil.rmtree(self.uri_of(path), ignore_errors=True)
            return
        for entry in self.entries(path):
            self.delete(f"{path}/{entry.path}")

    def exists(self, path: str = "") -> bool:
        """Tell whether a file or folder is there; raise OSError where that cannot be told, as of a link to nothing."""
        return self._info(self.uri_of(path)) is not None

    def entries(self, path: str = "", missing_ok: bool = False) -> list[FileEntry]:
        """Return all files below a folder, sorted by path; hidden ones (a part that starts with a dot) left out.

        Args:
            path — of the folder.
            missing_ok — whether a folder that is not there has no files, or is an error.

        Raises: ListingError — a folder that cannot be listed to its end, a link to nothing.
        """
        with self._listing(path):
            if missing_ok and not self.exists(path):
                return []
        entries = []
        for entry in self.walk(path):
            if not entry.etag:
                raise dangling_link(entry.uri)
            entries.append(entry)
        return sorted(entries, key=lambda entry: entry.path)

    def walk(self, path: str = "") -> Iterator[FileEntry]:
        """Yield files as the store lists them: the memory is that of one page, or of one folder.

        They are those of `entries`, and links to nothing, whose etag is empty.

        Raises: ListingError — a folder that cannot be listed to its end.
        """
        uri = self.uri_of(path)
        with self._listing(path):
            root = str(self.filesystem._strip_protocol(uri)).rstrip("/") + "/"
            for info in self._infos(uri, root):
                below = str(info["name"]).removeprefix(root)
                if not _is_hidden(below):
                    yield self._entry(below, uri, info)

    @contextmanager
    def _listing(self, path: str) -> Iterator[None]:
        """Make an error of the store one of a listing: to its caller a folder listed by half must not look whole."""
        uri = self.uri_of(path)
        try:
            yield
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else uri
            raise ListingError(
                f"{where}: not everything in this folder can be listed ({error.strerror or error}); nothing was "
                "concluded from what is absent: make it readable, or mount it, and run again"
            ) from error

    def _infos(self, uri: str, root: str) -> Iterator[dict[str, Any]]:
        if self.is_local:
            yield from walk_local(uri)
        elif self.is_s3:
            list_page = partial(self.filesystem.call_s3, "list_objects_v2")
            yield from s3.pages(
                root, lambda **wanted: self._retry(uri, lambda: list_page(**wanted))
            )
        else:
            folders = [
                root.rstrip("/")
            ]  # `walk` of fsspec takes a folder below that cannot be listed for an empty one
            while folders:
                folder = folders.pop()
                for info in self._retry(uri, partial(self.filesystem.ls, folder, detail=True)):
                    if info["type"] != "directory":
                        yield info
                    elif str(info["name"]).rstrip("/") != folder:
                        folders.append(str(info["name"]).rstrip("/"))

    def _info(self, uri: str) -> dict[str, Any] | None:
        """Return what the store says of a file or folder, None where there is none.

        `exists` and `isfile` of fsspec make False of every error, and nothing of a disk that is not mounted.
        """
        try:
            return dict(self._retry(uri, lambda: self.filesystem.info(uri)))
        except NotADirectoryError:
            return None
        except FileNotFoundError:
            if self.is_local and os.path.islink(uri):
                raise OSError(f"{uri} is a link to nothing ({os.readlink(uri)})") from None
            return None

    def is_file(self) -> bool:
        """Tell whether this is one file."""
        info = self._info(self.uri)
        return info is not None and info["type"] == "file"

    def entry(self) -> FileEntry:
        """Return the entry of the one file that this is; raise FileNotFoundError where there is none."""
        info = self._retry(self.uri, lambda: self.filesystem.info(self.uri))
        name = self.uri.rpartition("/")
        return self._entry(name[2], name[0], info)

    def check_writable(self) -> None:
        """Write and remove a small file; raise InputError where that is not allowed."""
        name = f"_write_test_{os.getpid()}_{threading.get_ident()}"
        try:
            self.write(name, b"")
            self.delete(name)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise InputError(
                f"{self.uri}: no permission to write here ({error}); choose another place"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.uri}: cannot be written ({error}); check the URI and the credentials"
            ) from None

    @property
    def is_s3(self) -> bool:
        """Whether s3fs opens it."""
        return uri_scheme(self.uri) in ("s3", "s3a")

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine."""
        return uri_scheme(self.uri) == "file"

    def _retry(self, uri: str, operation: Callable[[], Result]) -> Result:
        return retry(uri, operation, attempts=1 if self.is_local else ATTEMPTS)

    def _entry(self, path: str, folder: str, info: dict[str, Any]) -> FileEntry:
        if self.is_local and info["size"] is None:
            return FileEntry(path, f"{folder}/{path}", "", 0)
        if self.is_local and "mtime_ns" not in info:  # fsspec rounds it
            info = info | {"mtime_ns": os.stat(info["name"]).st_mtime_ns}
        return FileEntry(path, f"{folder}/{path}", _etag_of(info), int(info.get("size") or 0))


def dangling_link(uri: str) -> ListingError:
    """Return the error of a link to nothing, behind which a file or a whole folder may be missing."""
    return ListingError(f"{uri}: a link to nothing; mount what it leads to, or remove the link")


def uri_scheme(uri: str) -> str:
    """Return the scheme of a URI; that of a path is `file`."""
    return uri.partition("://")[0] if "://" in uri else "file"


def _local_path(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri


def _etag_of(info: dict[str, Any]) -> str:
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    return etag or f"{int(info.get('size') or 0)}-{_modified_ns(info)}"


def _modified_ns(info: dict[str, Any]) -> int:
    if "mtime_ns" in info:
        return int(info["mtime_ns"])
    if info.get(
        "LastModified"
    ):  # of S3: listings have fractions of seconds, answers to requests have none
        return 10**9 * int(info["LastModified"].timestamp())
    modified = info.get("mtime") or info.get("last_modified") or 0
    return int((modified.timestamp() if hasattr(modified, "timestamp") else float(modified)) * 1e9)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
