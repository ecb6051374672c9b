"""Names of images inside files, as they appear in the tables: `cells.tif#t=2,z=5`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey

_FIELDS = {"page": "page", "s": "series", "t": "t", "z": "z"}
"""Key in a name → field of `ImageKey`, in the order of names."""
_NUMBER = "0|[1-9][0-9]{0,8}"
_NAME = re.compile(
    rf"#(?:page=(?P<page>[1-9][0-9]{{0,8}})"
    rf"|(?=[stz]=)(?:s=(?P<series>{_NUMBER}))?(?:(?:(?<=#)|,)t=(?P<t>{_NUMBER}))?"
    rf"(?:(?:(?<=#)|,)z=(?P<z>{_NUMBER}))?)\Z"
)


def image_uri(file_uri: str, key: ImageKey) -> str:
    """Return the name of an image in the tables; the inverse of `split_uri`."""
    parts = [
        f"{name}={value}"
        for name, field in _FIELDS.items()
        if (value := getattr(key, field)) is not None
    ]
    return f"{file_uri}#{','.join(parts)}" if parts else file_uri


def is_among(key: ImageKey, axes: Mapping[str, int]) -> bool:
    """Tell whether an image has all of the given values of the axes `s`, `t` and `z`."""
    return all(getattr(key, _FIELDS[axis]) == value for axis, value in axes.items())


def split_uri(uri: str) -> tuple[str, ImageKey]:
    """Split the name of an image in the tables into its file and its place there.

    Example:
        `stack.tif#t=2,z=5` gives `stack.tif` and `ImageKey(t=2, z=5)`.
    """
    found = _NAME.search(uri)
    if not found:
        return uri, WHOLE
    values = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    return uri[: found.start()], ImageKey(**values)


_KEYS = "#(page|frame|well|s|t|z)=[^#]*$"
"""Pattern of the keys at the end of the name of one of several images in a file."""


def file_uri_sql(image_uri: str, pages: str) -> str:
    """Return an SQL expression for the file of an image.

    Args:
        image_uri: Column with the name of the image.
        pages: Column with the number of images in its file; the name of a file with one image is
            never split, even if it seems to have keys.
    """
    return (
        f"CASE WHEN {pages} > 1 THEN regexp_replace({image_uri}, '{_KEYS}', '') "
        f"ELSE {image_uri} END"
    )


def keys_sql(image_uri: str, pages: str) -> str:
    """Return an SQL expression for the keys in the name of an image: `#s,z`, or `` without any.

    The keys and the number of images in the file are the *naming* of the image. A file that is now
    read differently gets another naming.
    """
    return (
        f"CASE WHEN {pages} > 1 THEN "
        f"regexp_replace(regexp_extract({image_uri}, '{_KEYS}'), '=[^,]*', '', 'g') ELSE '' END"
    )
