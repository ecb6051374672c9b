"""Files that were read in two ways, and which of their rows are current.

The *naming* of an image consists of the keys in its name (`#page`, `#s,z`, none) and the number of
images of its file. A stack that an earlier version read as nine pages, and a later one as three
planes, has rows of two namings. Only one is current: the one with the largest share of successful
images or, if shares are equal, the latest.
"""

from __future__ import annotations

from unet_ray.image_sources.names import file_uri_sql, keys_sql
from unet_ray.tables.duckdb_workspace import Workspace


def find_superseded(database: Workspace, rows: str, by_date: bool = False) -> bool:
    """Create the table `superseded` (image_uri, run_id): rows of namings that are not current.

    Files with one image cost nothing unless they also have rows as files of several images.

    Args:
        database: Workspace with the rows.
        rows: Name of a table or view of successful rows: image_uri, run_id, pages, segmented_at.
        by_date: Whether each date has current rows of its own; the rows then have a column `date`.

    Returns:
        False where there are no such rows; then the table may not exist.
    """
    if database.value(f"SELECT count(*) FROM {rows} WHERE pages > 1") == 0:  # noqa: S608
        return False
    date = "date" if by_date else "NULL"
    file_uri = file_uri_sql("image_uri", "pages")
    keys = keys_sql("image_uri", "pages")
    named = (
        f"SELECT {date} AS part, image_uri, run_id, pages, segmented_at, {file_uri} AS file_uri, "  # noqa: S608
        f"{keys} AS keys FROM {rows}"
    )
    database.store("stacked", f"{named} WHERE pages > 1")
    database.store(
        "parts",
        "FROM stacked UNION ALL "  # noqa: S608
        f"{named} WHERE pages = 1 AND image_uri IN (SELECT file_uri FROM stacked)",
    )
    database.store(
        "namings",
        "SELECT part, file_uri, keys, pages, max(segmented_at) AS latest, "
        "count(DISTINCT image_uri) / any_value(pages) AS share "
        "FROM parts GROUP BY part, file_uri, keys, pages",
    )
    database.store(
        "superseded",
        "WITH ranked AS (SELECT *, row_number() OVER (PARTITION BY part, file_uri "
        "ORDER BY share DESC, latest DESC, pages, keys) AS place FROM namings) "
        "SELECT DISTINCT image_uri, run_id FROM parts SEMI JOIN (FROM ranked WHERE place > 1) AS r "
        "ON parts.file_uri = r.file_uri AND parts.keys = r.keys AND parts.pages = r.pages "
        "AND parts.part IS NOT DISTINCT FROM r.part",
    )
    return database.value("SELECT count(*) FROM superseded") > 0
