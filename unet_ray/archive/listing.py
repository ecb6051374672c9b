"""What images there are: a folder, a glob or a Parquet manifest becomes one list of files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unet_ray.archive.storage import FileEntry, Storage
from unet_ray.errors import InputError


@dataclass(frozen=True)
class Listing:
    """Files of known kinds, sorted, and how many others lie among them."""

    root: Storage
    """What opens the entries' URIs."""
    entries: tuple[FileEntry, ...]
    others: int
    """Files left out for their suffix."""


def list_files(uri: str, suffixes: Collection[str], flag: str) -> Listing:
    """List the files of a folder (recursively), a glob or a Parquet manifest.

    A manifest has `image_uri` and, if it likes, `image_etag` and `image_bytes`; relative URIs start at its folder.

    Args:
        suffixes — known ones, lower case, with the dot; for a manifest all of its rows count.
        flag — that named the URI, for messages.

    Raises: InputError — nothing there, nothing of a known kind, a URI that is listed twice, no permission.
    """
    try:
        root, found = _found(uri)
    except FileNotFoundError:
        raise InputError(f"{flag} {uri}: there is no such folder or file") from None
    except OSError as error:
        raise InputError(f"{flag} {uri}: cannot be listed: {error}") from None
    _refuse_names_beyond_utf8(found)
    known = found if uri.endswith(".parquet") else [e for e in found if suffix_of(e.path) in suffixes]
    if not known:
        what = f"{len(found)} files, none with a known image suffix" if found else "no files"
        raise InputError(f"{flag} {uri}: {what} ({', '.join(sorted(suffixes))})")
    return Listing(root, tuple(known), len(found) - len(known))


def _refuse_names_beyond_utf8(entries: Iterable[FileEntry]) -> None:
    """Tables hold text: a name of other bytes (surrogates, as Python reads them) has no place in them."""
    for entry in entries:
        try:
            entry.uri.encode()
        except UnicodeEncodeError:
            raise InputError(f"{entry.path!r}: a file name that is not UTF-8; rename it") from None


def suffix_of(path: str) -> str:
    """Return a path's suffix, lower case, with the dot."""
    return PurePosixPath(path).suffix.lower()


def _found(uri: str) -> tuple[Storage, list[FileEntry]]:
    if uri.endswith(".parquet"):
        return _manifest(uri)
    root = Storage.of(uri)
    if root.is_file():
        return Storage(root.uri.rpartition("/")[0] or "/", root.options), [root.entry()]
    if root.exists():
        return root, root.entries()
    if any(c in uri for c in "*?["):
        return _glob(uri)
    raise FileNotFoundError(uri)


def _glob(uri: str) -> tuple[Storage, list[FileEntry]]:
    fixed = uri[: min(uri.find(c) for c in "*?[" if c in uri)].rpartition("/")[0]
    root = Storage.of(fixed or ".")
    if not root.exists():
        raise FileNotFoundError(uri)
    pattern = root.uri + uri[len(fixed) :] if fixed else f"{root.uri}/{uri}"
    wanted = set(root.filesystem.glob(pattern))
    base = root.path.rstrip("/") + "/"
    return root, [entry for entry in root.entries() if base + entry.path in wanted]


def _manifest(uri: str) -> tuple[Storage, list[FileEntry]]:
    file = Storage.of(uri)
    try:
        table = pq.read_table(io.BytesIO(file.read()))
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{uri}: not a Parquet manifest: {error}") from None
    if "image_uri" not in table.column_names:
        raise InputError(f"{uri}: the manifest has no column image_uri (it has {', '.join(table.column_names)})")
    folder = Storage.of(uri.rpartition("/")[0] or ".")
    rows = table.to_pylist()
    twice = [name for name, times in Counter(row["image_uri"] for row in rows).items() if times > 1]
    if twice:
        raise InputError(f"{uri}: {len(twice)} URIs are listed twice, the first is {twice[0]}; list each once")
    if not rows:
        return folder, []
    first = str(rows[0]["image_uri"])
    root = Storage.of(first) if "://" in first else folder
    with ThreadPoolExecutor(16) as pool:
        return root, list(pool.map(lambda row: _manifest_entry(row, folder, root), rows))


def _manifest_entry(row: dict[str, Any], folder: Storage, root: Storage) -> FileEntry:
    name = str(row["image_uri"])
    name = Storage.of(name).uri if name.startswith("file://") else name
    uri = name if "://" in name or (folder.is_local and name.startswith("/")) else folder.uri_of(name)
    if not folder.is_local and "://" in uri and uri.partition("://")[0] != folder.uri.partition("://")[0]:
        raise InputError(f"{name}: a manifest on {folder.uri} may only name files of the same store")
    if uri.partition("://")[:2] != root.uri.partition("://")[:2] and "://" in uri + root.uri:
        raise InputError(f"{name}: a manifest names files of one store only, this one began with {root.uri}")
    etag, size = row.get("image_etag"), row.get("image_bytes")
    if etag is None or size is None:
        try:
            entry = Storage(uri, root.options).entry()
        except FileNotFoundError:
            entry = FileEntry(name, uri, "", 0)  # becomes an error row when it is read
        etag, size = etag or entry.etag, entry.size if size is None else size
    return FileEntry(name, uri, str(etag).strip('"'), int(size))
