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
