"""Names of images inside files, as the tables have them: `stack.tif#page=3`."""

from __future__ import annotations

import re

_PAGE = re.compile(r"#page=(\d+)$")


def page_uri(file_uri: str, page: int | None) -> str:
    """Return what the tables call an image, `split_page` the other way round."""
    return file_uri if page is None else f"{file_uri}#page={page}"


def split_page(uri: str) -> tuple[str, int | None]:
    """Return the file of an image of the tables, and its page: `stack.tif#page=3` → `stack.tif`, 3."""
    page = _PAGE.search(uri)
    return (uri[: page.start()], int(page[1])) if page else (uri, None)
