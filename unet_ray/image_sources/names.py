"""Names of images inside files, as they appear in the tables: `stack.tif#page=3`."""

from __future__ import annotations

import re

_PAGE = re.compile(r"#page=([1-9][0-9]{0,8})\Z")


def page_uri(file_uri: str, page: int | None) -> str:
    """Return the name of an image in the tables; the inverse of `split_page`."""
    return file_uri if page is None else f"{file_uri}#page={page}"


def split_page(uri: str) -> tuple[str, int | None]:
    """Split the name of an image in the tables into its file and its page, or None.

    Example:
        `stack.tif#page=3` gives `stack.tif`, 3.
    """
    page = _PAGE.search(uri)
    return (uri[: page.start()], int(page[1])) if page else (uri, None)


_KEYS = "#(page|frame|well|s|t|z)=[^#]*$"
"""Pattern of the keys at the end of the name of one of several images in a file."""


def file_uri_sql(image_uri: str, pages: str) -> str:
    """Return an SQL expression for the file of an image.

    Args:
        image_uri: Column with the name of the image.
        pages: Column with the number of images in its file; the name of a file with one image is
            never split, whatever it looks like.
    """
    return (
        f"CASE WHEN {pages} > 1 THEN regexp_replace({image_uri}, '{_KEYS}', '') "
        f"ELSE {image_uri} END"
    )


def keys_sql(image_uri: str, pages: str) -> str:
    """Return an SQL expression for the keys in the name of an image: `#s,z`, or `` without any.

    The keys, and the number of images in the file, are the *naming* of the image. A file that is
    read in another way than before gets another naming.
    """
    return (
        f"CASE WHEN {pages} > 1 THEN "
        f"regexp_replace(regexp_extract({image_uri}, '{_KEYS}'), '=[^,]*', '', 'g') ELSE '' END"
    )
