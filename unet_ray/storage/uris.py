"""URIs as texts: scheme, store, and normalised form. Nothing is opened here."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from urllib.parse import unquote

from unet_ray.errors import InputError
from unet_ray.text import escape_controls, is_utf8

_SPELLINGS = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Other schemes of the same stores, and the scheme to write instead. They are refused, because an
image with two URIs would be two images."""
_SHOWN = 200
"""Largest number of characters of a URI in a message."""


def uri_scheme(uri: str) -> str:
    """Return the scheme of a URI, or `file` for a path."""
    before, mark, _ = uri.partition("://")
    return before if mark and "/" not in before else "file"


def uri_store(uri: str) -> str:
    """Return the store of a URI: its scheme and bucket (or container), or `file` for a path."""
    scheme = uri_scheme(uri)
    return "file" if scheme == "file" else f"{scheme}://{_bucket(uri)}"


def is_below(uri: str, folder: str) -> bool:
    """Tell whether a normalised URI is that of a folder, or of something in it."""
    return uri == folder or uri.startswith(folder.rstrip("/") + "/")


def redact(uri: str) -> str:
    """Return a URI for a message: without credentials, and shortened."""
    scheme, _, rest = uri.partition("://")
    if uri_scheme(uri) == "file" or not rest:
        return _shorten(uri)
    place, mark, query = rest.partition("?")
    bucket = _bucket(uri)
    if "@" in place and ("@" in bucket or ":" in bucket):
        place = f"***@{place.rpartition('@')[2]}"
    # a signed URL has its signature in the query; in a store's key, ? is an ordinary character
    if mark and "=" in query:
        query = "***"
    return _shorten(f"{scheme}://{place}{mark}{query}")


def normalise_uri(uri: str, schemes: Collection[str]) -> str:
    """Return the normalised form of a URI: an absolute path, or a URI without a slash at its end.

    Args:
        uri: Path or URI.
        schemes: Schemes that are allowed.

    Raises:
        InputError: The URI has another scheme, no bucket, credentials in it, a path that can be
            read in two ways, or a name that is not UTF-8.
    """
    if not is_utf8(uri):
        raise InputError(f"{escape_controls(_shorten(uri))}: the name is not UTF-8; rename it")
    scheme = uri_scheme(uri)
    if scheme == "file":
        return _normalise_path(uri)
    if scheme in _SPELLINGS:
        raise InputError(f"{redact(uri)}: write {_SPELLINGS[scheme]}:// instead of {scheme}://")
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in schemes if name != "file")
        raise InputError(f"{redact(uri)}: {scheme}:// is not supported; give a path, {known}")
    bucket = _bucket(uri)
    if not bucket:
        raise InputError(f"{uri}: names no bucket; write {scheme}://BUCKET/PATH")
    if "@" in bucket or ":" in bucket:
        raise InputError(
            f"{redact(uri)}: not a bucket; credentials come from the environment, never from a URI"
        )
    return uri.rstrip("/")


def _bucket(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[0]


def _normalise_path(uri: str) -> str:
    path = uri
    if uri.startswith("file://"):
        path = unquote(uri.removeprefix("file://"), errors="surrogateescape")
        if not is_utf8(path):
            raise InputError(f"{_shorten(uri)}: the name is not UTF-8; rename it")
        if not path.startswith("/"):
            raise InputError(f"{_shorten(uri)}: names another machine; write file:///PATH")
    if path.startswith("~"):
        raise InputError(
            f"{_shorten(uri)}: ~ is not expanded here; write the whole path, or ./~ for that name"
        )
    if "\0" in path:
        raise InputError(f"{_shorten(uri)!r}: a path cannot contain a NUL character")
    return re.sub("^//", "/", os.path.abspath(path))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
