"""Names of images inside files, as they appear in the tables: `cells.tif#t=2,z=5`."""

from __future__ import annotations

import re

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
