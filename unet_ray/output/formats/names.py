"""Names of exported files and images: the path of the image if it is a safe name.

The URIs in the tables are keys of any store, written by anyone. A path is escaped, and ends in a
digest of the URI, if it leaves its folder, has characters that no terminal should see, is too long,
or would be the name of two images. Two images never have the same name, and each name depends on
the URIs alone, so that exports of the same tables agree.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.image_sources.names import image_uri, split_uri
from unet_ray.imaging.codecs.image_place import WHOLE

_MAX_PART_BYTES = 255
"""Longest name of a file or folder on common file systems (UTF-8 bytes)."""
_TEMPORARY_BYTES = 48
"""Number of extra bytes in a file's name while it is written (`storage.temporary`)."""
_MAX_PATH_BYTES = 800
"""Longest path of an exported file (bytes). Keys of S3 have at most 1024, with the folder."""
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Separators of Windows, control characters, and characters that reverse the direction of text."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names of devices on Windows."""
_DIGEST_DIGITS = 16
_DIGESTED = re.compile(rf"~[0-9a-f]{{{_DIGEST_DIGITS}}}$")
"""End of the names that this module makes."""
_PLANE = re.compile(r"\.(?:page\d+|[stz]\d+(?:_[tz]\d+)*)$")
"""End of the names of images inside files."""


class ImageNames:
    """Names of images relative to the deepest folder that holds them all.

    Args:
        keys: Arrow table with the column `image_uri` of all images.

    Attributes:
        root: That folder (URI); empty where there is none.
        changed: Number of names so far that are not the image's own path.
    """

    def __init__(self, keys: pa.Table) -> None:
        uris = keys["image_uri"]
        ends = pc.min_max(uris).as_py()
        prefix = os.path.commonprefix(list(ends.values()))  # noqa: RUF071 (URIs, cut at the last /)
        self.root = prefix.rpartition("/")[0]
        self.changed = 0
        # file systems may ignore case or normalise letters, so that these URIs would collide
        folded = pc.utf8_normalize(pc.utf8_lower(uris), "NFC")
        counts = pc.value_counts(folded)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        self._alike = set(uris.filter(pc.is_in(folded, value_set=repeated)).to_pylist())

    def of(self, uri: str) -> str:
        """Return the relative path of an image, for a file that lists images."""
        path = self._path(uri)
        if path is not None and _is_safe(path):
            return path
        return self._escape(uri, path or uri)

    def with_suffix(self, uri: str, suffix: str) -> str:
        """Return the relative path of an image's own output file; each plane of a stack has one."""
        path = self._path(uri)
        file, key = split_uri(uri)
        if key != WHOLE:
            file_path = self._path(file)
            marks = {ord("#"): None, ord("="): None, ord(","): "_"}
            part = image_uri("", key).translate(marks)
            path = None if file_path is None else f"{file_path}.{part}"
        elif path is not None and _PLANE.search(path):
            path = None  # the name of a plane of a stack
        longest = _MAX_PART_BYTES - _TEMPORARY_BYTES - len(suffix)
        is_ordinary = (
            path is not None
            and _is_safe(path)
            and uri not in self._alike
            and len(path.encode()) <= _MAX_PATH_BYTES
            and all(len(part.encode()) <= _MAX_PART_BYTES for part in path.split("/"))
            and len(path.rpartition("/")[2].encode()) <= longest
        )
        if is_ordinary:
            return f"{path}{suffix}"
        escaped = self._escape(uri, path or self._path(uri) or uri)
        return f"{escaped}{suffix}"

    def _path(self, uri: str) -> str | None:
        """Return the path of a URI below the root; None if it is not below it."""
        prefix = f"{self.root}/"
        return uri.removeprefix(prefix) if uri.startswith(prefix) else None

    def _escape(self, uri: str, path: str) -> str:
        """Return a safe path that ends in the digest of a URI, so it is unique to that URI."""
        self.changed += 1
        digest = f"~{sha256(uri.encode()).hexdigest()[:_DIGEST_DIGITS]}"
        # a digest, a suffix and a temporary name must still fit after each part
        longest = _MAX_PART_BYTES - _TEMPORARY_BYTES - len(digest) - len(".geojson")
        parts = []
        for part in path.split("/"):
            shortened = _escape_unsafe(part).encode()[:longest]
            parts.append(shortened.decode(errors="ignore"))
        parts[-1] += digest
        whole = "/".join(parts)
        return whole if len(whole.encode()) <= _MAX_PATH_BYTES else parts[-1]


def _is_safe(path: str) -> bool:
    if _DIGESTED.search(path):
        return False
    return all(part == _escape_unsafe(part) for part in path.split("/"))


def _escape_unsafe(part: str) -> str:
    """Return a part of a path with everything unsafe in it written as %XX."""
    if not part.strip("."):  # empty, this folder, the folder above
        return part.replace(".", "%2E") or "%2F"
    if _RESERVED.fullmatch(part):
        return f"%{ord(part[0]):02X}{part[1:]}"
    return _UNSAFE.sub(lambda found: quote(found[0], safe=""), part)
