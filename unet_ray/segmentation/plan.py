"""The plan of a segmentation run: the images of an archive that the ledger does not have yet.

It is made by views and tables of a database, one from another:

    done, failed   images of the ledger (`tables.ledger`): successful, and failed
    valid          those of `done` that need not be read again
    failed_only    those of `failed` that are not in `valid`
    left_out       both; only `valid` with --retry-failed

    open_images    images of the archive that are not in `left_out` (module `open_images`)
    plan           the first of them, if there is a --limit
    remaining      without those whose rows were taken over, because their bytes are the same
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unet_ray.flags import EtagBy, Reread
from unet_ray.image_sources.names import file_uri_sql
from unet_ray.image_sources.reader_versions import (
    NO_DATA_SUFFIXES,
    has_suffix_sql,
    reader_version_sql,
)
from unet_ray.limits import OWN_BLOCK_BYTES
from unet_ray.segmentation.open_images import count_archived, find_open_images
from unet_ray.segmentation.stages.columns import PLAN
from unet_ray.storage.listing import FileScan, describe_links
from unet_ray.storage.storage import Storage
from unet_ray.tables.duckdb_workspace import Workspace, quote
from unet_ray.tables.ledger import open_contents, open_ledger, open_run
from unet_ray.tables.output_folder import Inventory

_HAS_OWN_BLOCK = f"stored_bytes > {OWN_BLOCK_BYTES}"
"""SQL condition of images that have a block of their own."""
_ORDER = "file_uri, series, t, z, page"
"""Columns by which images are ordered; those of a file stand together."""
_BLOCKS = 4096
"""Target number of blocks for a long run, for large and for small images each."""
_MOST_TIMES = 16
"""Largest factor by which a block of tiny files may exceed the usual number of rows, because sizes
in a manifest may be wrong."""
_FIRST_ROWS = 2
"""Rows of the first block of small files. Each block has at most twice as many rows as the one
before, so that no predictor waits long."""


@dataclass(frozen=True)
class Plan:
    """Images that a run has to do, and how many it leaves out.

    The images are the view `remaining` of the database, with the columns of `PLAN`.
    """

    database: Workspace
    access: Storage
    """Storage that opens the images' URIs."""
    etags_of_store: bool
    """True if the store gave the etags; a manifest may have others."""
    todo: int
    """Images to do."""
    listed: int
    """Images in the archive."""
    done: int
    """Images left out because they were successful before."""
    failed_before: int
    """Images left out because they failed before with the same content."""
    others: int
    """Files of other kinds."""
    changed: int
    """Images to do that the ledger knows with another content, model or configuration."""
    earlier: str = ""
    """Stacks that an earlier version read page by page, in words; empty if there are none."""
    changed_etags: str = ""
    """Images to do whose etag changed, in words; empty if there are none."""
    archived: int = 0
    """Images left out because they must be restored from an archive first."""
    etag_by_content: bool = False
    """True to compare the bytes of images whose etag changed."""
    left_out: str = ""
    """Files that the selection left out, and links, in words; empty if there are none."""

    def __str__(self) -> str:
        return (
            f"{self.listed} images listed: {self.todo - self.changed} new, "
            f"{self.changed} changed or to be redone, {self.done} done before, "
            f"{self.failed_before} failed before (--retry-failed); {self.others} other files"
            f"{self.left_out}"
        )

    def blocks(
        self, rows: int, stored_bytes: int, most: int, without: Collection[str] = ()
    ) -> list[pa.Table]:
        """Return the images as tables of `PLAN`: large ones first, then groups of small ones.

        Args:
            rows: Smallest number of rows of a block of small images.
            stored_bytes: File bytes up to which a block takes more rows than that, because Ray's
                own work per block would exceed the work for tiny images.
            most: Largest number of rows of a block.
            without: URIs of images to leave out.
        """
        large = self._rows(f"FROM remaining WHERE {_HAS_OWN_BLOCK} ORDER BY stored_bytes DESC")
        large = _leave_out(large, without)
        small = self._rows(f"FROM remaining WHERE NOT ({_HAS_OWN_BLOCK}) ORDER BY {_ORDER}")
        small = _leave_out(small, without)
        alone = max(1, len(large) // _BLOCKS)
        together = min(max(rows, len(small) // _BLOCKS), most)
        most = min(_MOST_TIMES * together, most)
        return [
            *_cut(large, first=alone, rows=alone, stored_bytes=0, most=alone),
            *_cut(small, first=_FIRST_ROWS, rows=together, stored_bytes=stored_bytes, most=most),
        ]

    def shards_of_known(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield earlier shards, each with the images to do whose bytes may equal those of its rows.

        Yields:
            Path of a shard below a table's folder, and a table of PLAN with `content_hash`.
        """
        if not self.etag_by_content:
            return
        shards = self.database.table("SELECT DISTINCT shard FROM known_contents ORDER BY shard")
        for shard in shards["shard"].to_pylist():
            rows = self.database.table(f"FROM known_contents WHERE shard = {quote(shard)}")
            hashes = rows["content_hash"]
            yield shard, rows.select(PLAN.names).cast(PLAN).append_column("content_hash", hashes)

    def leave_out_written(self, output: Storage, run_id: str) -> None:
        """Exclude from `blocks` the images that a run has written so far."""
        open_run(self.database, output, run_id)
        self.database.store("taken", "FROM written")
        self.database.view("remaining", "FROM plan ANTI JOIN taken USING (image_uri, image_etag)")

    def _rows(self, query: str) -> pa.Table:
        return self.database.table(query).select(PLAN.names).cast(PLAN)

    def unwritten_rows(self, output: Storage, run_id: str) -> pa.Table:
        """Return the planned images that a run did not write, as a table of `PLAN`."""
        open_run(self.database, output, run_id)
        return self._rows(
            f"FROM plan ANTI JOIN written USING (image_uri, image_etag) ORDER BY {_ORDER}"
        )

    def unwritten(self, output: Storage, run_id: str) -> tuple[int, int]:
        """Count the planned images that a run did not write, and the duplicate rows."""
        database = self.database
        open_run(database, output, run_id)
        missing = database.value(
            "SELECT count(*) FROM plan ANTI JOIN written USING (image_uri, image_etag)"
        )
        written = database.value("SELECT count(*) FROM written")
        return missing, written - (self.todo - missing)


def _leave_out(plan: pa.Table, uris: Collection[str]) -> pa.Table:
    if not uris:
        return plan
    return plan.filter(pc.invert(pc.is_in(plan["image_uri"], pa.array(uris, pa.string()))))


def _cut(plan: pa.Table, first: int, rows: int, stored_bytes: int, most: int) -> Iterator[pa.Table]:
    """Yield slices of a plan.

    A slice has at least `rows` rows, and takes up to `most` rows until it has `stored_bytes` bytes.
    The first has `first` rows. Each other slice has at most twice as many as the one before.
    """
    until = np.cumsum(np.clip(plan["stored_bytes"].to_numpy(), 0, stored_bytes))
    start, ramp = 0, first
    while start < len(plan):
        enough = np.searchsorted(until, (until[start - 1] if start else 0) + stored_bytes) + 1
        taken = min(max(rows, int(enough) - start), most, ramp)
        yield plan.slice(start, taken)
        start, ramp = start + taken, 2 * taken


def make_plan(
    database: Workspace,
    scan: FileScan,
    inventory: Inventory,
    digests: tuple[str, str],
    retry_failed: bool = False,
    limit: int | None = None,
    allow_empty: bool = False,
    reread: Reread | None = None,
    etag_by: EtagBy = "store",
) -> Plan:
    """Find the images of an archive that the ledger does not have, before any image is read.

    Only the headers of TIFF files that are not in the ledger are read.

    Args:
        database: Workspace that keeps the plan.
        scan: The archive.
        inventory: Inventory of the output; its images table is the ledger.
        digests: Digests of the model and of the configuration.
        retry_failed: Retry images whose own content made them fail before.
        limit: Largest number of images to do.
        allow_empty: Accept an archive without images, which is an error otherwise.
        reread: Kind of files that count as done only if their rows have a `reader_version`.
        etag_by: With `content`, bytes are compared to find images whose etag alone changed.

    Returns:
        The plan, kept in `database`.

    Raises:
        InputError: An error of the scan, a URI that is listed twice, or missing rows.
    """
    rows = open_ledger(database, inventory.output, inventory.images, *digests)
    inventory.check_rows(rows)
    file_uri = file_uri_sql("image_uri", "pages")
    must_be_reread = {
        None: "false",
        "stacks": "reader_version IS NULL AND pages > 1",
        "nodata": f"reader_version IS NULL AND {has_suffix_sql(file_uri, NO_DATA_SUFFIXES)}",
    }
    database.view("valid", f"FROM done WHERE NOT ({must_be_reread[reread]})")
    database.store(
        "failed_once",
        f"SELECT DISTINCT * FROM failed WHERE reader_version >= {reader_version_sql(file_uri)}",  # noqa: S608
    )
    database.store("failed_only", "FROM failed_once ANTI JOIN valid USING (image_uri, image_etag)")
    database.view(
        "left_out", "FROM valid" if retry_failed else "FROM valid UNION ALL FROM failed_only"
    )
    listed = find_open_images(database, scan, allow_empty)
    archived = count_archived(database)
    first = "" if limit is None else f"ORDER BY {_ORDER} LIMIT {limit:d}"
    database.view("plan", f"FROM open_images {first}")
    database.view("remaining", "FROM plan")
    if etag_by == "content":
        open_contents(database, inventory.output, inventory.images, *digests)
        database.store("known_contents", "FROM plan JOIN contents USING (image_uri, image_bytes)")
    failed = 0 if retry_failed else _count_failed(database)
    return Plan(
        database,
        scan.root,
        scan.etags_of_store,
        todo=database.value("SELECT count(*) FROM plan"),
        listed=listed,
        done=listed - failed - archived - database.value("SELECT count(*) FROM open_images"),
        failed_before=failed,
        others=scan.others,
        changed=database.value("SELECT count(*) FROM plan SEMI JOIN known USING (image_uri)"),
        earlier=_describe_earlier(database),
        changed_etags=_describe_changed_etags(database, etag_by),
        archived=archived,
        etag_by_content=etag_by == "content",
        left_out=_describe_left_out(scan),
    )


def _describe_earlier(database: Workspace) -> str:
    """Say how many stacks are left out because an earlier version read them page by page."""
    (row,) = database.table(
        "SELECT count(*) AS files, coalesce(sum(pages), 0)::BIGINT AS images FROM left_out_stacks "
        "WHERE reader_version IS NULL"
    ).to_pylist()
    if not row["files"]:
        return ""
    return (
        f"note: {row['files']} files of several pages ({row['images']} images) were read page by "
        "page by an earlier version and stay as they are; --reread stacks reads them again by the "
        "axes that the files state"
    )


def _describe_changed_etags(database: Workspace, etag_by: EtagBy) -> str:
    """Say how many images must be done again because their etags changed, and what may help."""
    (row,) = database.table(
        "SELECT count(*) AS images, count(*) FILTER (same) AS same FROM ("
        "SELECT bool_or(done.image_bytes = plan.image_bytes) AS same FROM plan "
        "JOIN done USING (image_uri) WHERE done.image_etag <> plan.image_etag GROUP BY image_uri)"
    ).to_pylist()
    images, same = row["images"], row["same"]
    if not images:
        return ""
    said = f"{same} of them"
    if same in (0, images):
        said = "all" if same else "none"
    line = f"{images} changed by etag, {said} of the same size"
    if etag_by == "content":
        known = database.value("SELECT count(*) FROM known_contents")
        return f"{line}; {known} have a content hash, and are read before they are done again"
    return f"{line}; --etag-by content tells those of the same bytes" if same else line


def _describe_left_out(scan: FileScan) -> str:
    """Say how many files and links were left out, and by which flag, for the end of a line."""
    said = ""
    if scan.selection.include or scan.selection.exclude:
        said += f", {scan.excluded} left out by --include/--exclude"
    if scan.selection.min_age_s is not None:
        said += f", {scan.young} younger than --min-age"
    if scan.links.left_out:
        said += f"; {describe_links(scan.links.left_out)}"
    return said


def _count_failed(database: Workspace) -> int:
    """Count the images of the archive that are left out because they failed before."""
    database.view(
        "named",
        "SELECT image_uri, image_etag FROM archive "
        "UNION ALL SELECT image_uri, image_etag FROM pages "
        "UNION ALL SELECT image_uri, image_etag FROM left_out_pages "
        "SEMI JOIN left_out_stacks USING (file_uri, image_etag, keys, pages)",
    )
    return int(
        database.value(
            "SELECT count(*) FROM named SEMI JOIN failed_only USING (image_uri, image_etag)"
        )
    )
