"""The images of an archive that are not left out: what `plan` and `verify` count as open.

They are views and tables of a database, one from another:

    files          files of the archive, as listed
    archive        the same, with the columns of PLAN
    open_files     without those of `left_out` and `left_out_stacks`, and without archived ones
    open_images    with the pages of a TIFF stack (`pages`) in place of its file
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from unet_ray.errors import InputError
from unet_ray.image_sources.names import file_uri_sql, keys_sql
from unet_ray.image_sources.sources import expand_stacks, header_decoders
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.segmentation.stages.columns import (
    PLAN,
    PLAN_OF_FILES_SQL,
    plan_table,
    read_records,
)
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FILES
from unet_ray.storage.listing import FileScan, listed_twice
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import Workspace, quote

_logger = logging.getLogger("unet_ray")
_TIFF = "|".join(re.escape(suffix) for suffix in sorted(TIFF_SUFFIXES))
_ARCHIVED = pa.schema([("file_uri", pa.string())])
_HEADERS = 1024
"""Number of TIFF files whose headers are read together."""


def find_open_images(database: Workspace, scan: FileScan, allow_empty: bool = False) -> int:
    """Create the view `open_images`: images of an archive whose keys are not in `left_out`.

    The view has the columns of `PLAN`. Each page of a stack is an image, so the headers of the
    remaining TIFF files are read. A stack whose pages are all in `left_out` is not touched.
    Archived files, which cannot be read, are not in the view but in the table `archived`.

    Args:
        database: Workspace with the views of `open_ledger`, and `left_out`.
        scan: The archive.
        allow_empty: Accept an archive without any image.

    Returns:
        Number of images of the archive.

    Raises:
        InputError: An error of the scan, no image, or a URI that is listed twice.
    """
    database.write("files", FILES, scan)
    if scan.note:
        _logger.warning(scan.note)
    if scan.emptiness and not allow_empty:
        raise InputError(scan.emptiness + _describe_known(database, scan))
    _refuse_twice(database, scan.named)
    database.view("archive", f"{PLAN_OF_FILES_SQL} FROM files")
    _name_left_out_stacks(database)
    is_open = (
        "ANTI JOIN left_out USING (image_uri, image_etag) "
        "ANTI JOIN left_out_stacks USING (file_uri, image_etag)"
    )
    database.store(
        "maybe_archived",
        "SELECT file_uri, is_archived FROM (SELECT uri AS image_uri, uri AS file_uri, "  # noqa: S608
        f"etag AS image_etag, is_archived FROM files WHERE coalesce(is_archived, true)) {is_open}",
    )
    database.write("archived", _ARCHIVED, _find_archived(database, scan.root))
    database.store("open_files", f"FROM archive {is_open} ANTI JOIN archived USING (file_uri)")
    database.write("pages", PLAN, _pages_of_stacks(database, scan.root))
    _refuse_pages_as_files(database, scan.named)
    unclear = database.value("SELECT count(DISTINCT file_uri) FROM pages WHERE page IS NOT NULL")
    if unclear:
        _logger.info(
            f"{unclear} files of several pages do not say what the axes of their pages are: each "
            "page is an image of its own"
        )
    database.store("open_pages", "FROM pages ANTI JOIN left_out USING (image_uri, image_etag)")
    database.view(
        "open_images", "FROM open_files ANTI JOIN pages USING (file_uri) UNION ALL FROM open_pages"
    )
    more = database.value("SELECT count(*) - count(DISTINCT file_uri) FROM pages")
    more_left_out = database.value("SELECT coalesce(sum(pages - 1), 0) FROM left_out_stacks")
    return int(scan.known + more + more_left_out)


def _refuse_twice(database: Workspace, named: str) -> None:
    """Refuse a manifest that lists a URI twice.

    Hashes are compared first: they take a tenth of the memory of URIs.
    """
    if database.value("SELECT count(*) - count(DISTINCT hash(uri)) FROM files") == 0:
        return
    database.store("twice", "SELECT uri FROM files GROUP BY uri HAVING count(*) > 1")
    count = database.value("SELECT count(*) FROM twice")
    if count:
        raise listed_twice(named, count, database.text("SELECT min(uri) FROM twice"))


def _name_left_out_stacks(database: Workspace) -> None:
    """Create the table `left_out_stacks`: stacks of the archive whose pages are all in `left_out`.

    The number of pages comes from the ledger. An earlier version may have named the images of a
    file differently: a stack is left out if all images of one naming are. If two namings qualify,
    the one with the newest `reader_version` counts.

    Columns: file_uri, image_etag, keys, pages, reader_version (the lowest of its images; null if
    one has none).
    """
    database.store(
        "left_out_pages",
        f"SELECT image_uri, {file_uri_sql('image_uri', 'pages')} AS file_uri, image_etag, "  # noqa: S608
        f"{keys_sql('image_uri', 'pages')} AS keys, pages, "
        "max(coalesce(reader_version, 0)) AS version FROM left_out WHERE pages > 1 "
        "GROUP BY image_uri, image_etag, pages",
    )
    database.store(
        "left_out_stacks",
        "SELECT file_uri, image_etag, keys, pages, "
        "nullif(min(version), 0) AS reader_version FROM left_out_pages "
        "SEMI JOIN archive USING (file_uri, image_etag) "
        "GROUP BY file_uri, image_etag, keys, pages HAVING count(*) = pages "
        "QUALIFY row_number() OVER (PARTITION BY file_uri, image_etag "
        "ORDER BY min(version) DESC, pages, keys) = 1",
    )


def _find_archived(database: Workspace, access: Storage) -> Iterator[Any]:
    """Yield the files that must be restored before they can be read, as batches of `_ARCHIVED`.

    If the listing does not say, the store is asked file by file.
    """

    def is_archived(row: dict[str, Any]) -> bool:
        """Tell whether a file is archived; if the store does not say, reading it reports why."""
        if row["is_archived"] is not None:
            return bool(row["is_archived"])
        try:
            return access.at(row["file_uri"]).is_archived()
        except OSError:
            return False

    with reading_pool(CONNECTIONS) as pool:
        for batch in database.batches("FROM maybe_archived", _HEADERS):
            mask = [*ahead(pool, is_archived, batch.to_pylist(), CONNECTIONS)]
            yield batch.select(_ARCHIVED.names).filter(pa.array(mask, pa.bool_()))


def _pages_of_stacks(database: Workspace, access: Storage) -> Iterator[Any]:
    """Yield the pages of files with several pages, as tables of PLAN."""
    database.view("tiffs", f"FROM open_files WHERE regexp_matches(lower(file_uri), '({_TIFF})$')")
    with header_decoders() as decoders:
        for batch in database.batches("FROM tiffs", _HEADERS):
            files = [record.source.file for record in read_records(batch)]
            images = expand_stacks(decoders, access, files)
            pages = [image for image in images if image.place is not None]
            if pages:
                yield plan_table(pages)


def _refuse_pages_as_files(database: Workspace, named: str) -> None:
    """Refuse a file whose name is that of an image in a listed stack: both would have one row key.

    A file that holds one image of several pages has the name of that image itself.
    """
    database.store(
        "twice",
        "SELECT image_uri FROM (FROM pages WHERE image_uri <> file_uri) "
        "SEMI JOIN archive USING (image_uri)",
    )
    count = database.value("SELECT count(*) FROM twice")
    if count:
        raise listed_twice(named, count, database.text("SELECT min(image_uri) FROM twice"))


def _describe_known(database: Workspace, scan: FileScan) -> str:
    """Say, for a message, how many images the ledger has of an archive that seems to be empty."""
    if scan.excluded:
        return ""  # the images exist
    prefix = quote(f"{scan.root.uri.rstrip('/')}/")
    known = database.value(
        f"SELECT count(DISTINCT image_uri) FROM known WHERE starts_with(image_uri, {prefix})"  # noqa: S608
    )
    if not known:
        return ""
    return (
        f": 0 images listed, but the tables have rows of {known} of its images; is a disk not "
        "mounted? --allow-empty goes on"
    )


def count_archived(database: Workspace) -> int:
    """Count the archived files that `find_open_images` left out."""
    return int(database.value("SELECT count(*) FROM archived"))
