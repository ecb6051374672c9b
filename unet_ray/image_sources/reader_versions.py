"""Versions of the image readers, stored in the images table as `reader_version`.

Raise the number of a family by hand when its reader reads more than before: its files that failed
under an older version are tried once more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES, TIFF_SUFFIXES
from unet_ray.storage.listing import path_suffix

READER_VERSIONS: Mapping[frozenset[str], int] = {
    TIFF_SUFFIXES: 1,
    IMAGE_SUFFIXES - TIFF_SUFFIXES: 1,
}
"""Version by the suffixes of a family of formats."""
_OTHER_FILES = 1
"""Version for names without a known suffix, which a manifest may list."""
NO_DATA_SUFFIXES = TIFF_SUFFIXES | {".png", ".webp"}
"""Formats that can mark pixels without data. Rows without a version took such pixels as values."""


def reader_version(file_uri: str) -> int:
    """Return the version of the reader of a file, by the file's suffix."""
    suffix = path_suffix(file_uri)
    return next(
        (version for suffixes, version in READER_VERSIONS.items() if suffix in suffixes),
        _OTHER_FILES,
    )


def has_suffix_sql(column: str, suffixes: Collection[str]) -> str:
    """Return an SQL condition that the URI in a column ends with one of some suffixes."""
    listed = ", ".join(f"'{suffix}'" for suffix in sorted(suffixes))
    return f"regexp_extract(lower({column}), '\\.[^./]*$') IN ({listed})"


def reader_version_sql(column: str) -> str:
    """Return `reader_version` of the file URI in a column as an SQL expression."""
    cases = " ".join(
        f"WHEN {has_suffix_sql(column, suffixes)} THEN {version}"
        for suffixes, version in READER_VERSIONS.items()
    )
    return f"CASE {cases} ELSE {_OTHER_FILES} END"
