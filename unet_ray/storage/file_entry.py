"""A file that a listing or a manifest names, as an object; many of them as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

FILES = pa.schema(
    [
        ("path", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("is_archived", pa.bool_()),
    ]
)
"""Columns of many files: the fields of `FileEntry` that a plan needs."""
BATCH = 10_000
"""Number of files that are handed on together."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a listing."""

    path: str
    """Path relative to the listed folder, with `/`."""
    uri: str
    """Whole URI."""
    etag: str
    """Changes with the content: the store's etag without quotes, or `size-mtime_ns`; empty for a
    link to nothing."""
    size: int
    """Size in bytes."""
    modified_s: float | None = field(default=None, compare=False)
    """Time of the last change (s since 1970); None if the store does not state it."""
    is_archived: bool | None = field(default=False, compare=False)
    """True if it must be restored before it can be read; None: `Storage.is_archived` tells."""
