"""Take over the rows of images whose etag changed while their bytes did not.

plan (driver) ─▶ images with a row of the same size and a content hash, by the shard of that row
              ─▶ a task per shard reads the images, and copies the rows of those that are the same

The three tables get full rows with the new etag and run. Their shards are committed like all others
and need no care from readers of the tables. All other images go through the chain.

Tasks report each compared image to the driver. If no report comes for `--stall-minutes`, the run
ends, as in the chain.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from unet_ray.cluster.progress_board import ProgressBoard
from unet_ray.cluster.ray_data import WRITE_CPUS
from unet_ray.errors import ImageError
from unet_ray.image_sources.content_hash import hash_stored
from unet_ray.imaging.channels import take_pages
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.segmentation.monitoring import StallWatch
from unet_ray.segmentation.result import ShardSums
from unet_ray.segmentation.shard_writer import Shards
from unet_ray.segmentation.stages.columns import PLAN, read_records
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.work_done import WorkDone
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_whole_files, shard_run_id

KNOWN = pa.schema([*PLAN, ("content_hash", pa.string())])
"""Columns of images whose bytes are compared with those of an earlier row."""
_READS = 16
"""Number of images that a task reads concurrently."""
_IN_FLIGHT = 64
"""Largest number of tasks that are submitted at a time."""
_TELL_S = 1.0
"""Shortest time between two messages of a task to the driver (s)."""
_POLL_S = 0.5
"""Longest wait for a task to end between two checks for a stall (s)."""


@dataclass(frozen=True)
class TakeOver:
    """Compares images with earlier rows, and copies the rows of those that are the same."""

    reading: ImageReading
    """Settings by which images are read."""
    shards: Shards
    """Output, date and run of the shards."""
    at: datetime
    """`segmented_at` of the copied rows, the same in every attempt."""
    read_s: float
    """Longest time for reading the bytes of an image (s); slower images go through the chain."""

    def __call__(
        self, number: int, path: str, known: pa.Table, tell: Callable[[], None]
    ) -> ShardSums | None:
        """Copy the rows of one earlier shard.

        Args:
            number: Number of the new shard within the run, the same in every attempt.
            path: Path of the earlier shard, below a table's folder.
            known: Images with their hashes, a table of KNOWN.
            tell: Function that is called after each comparison, and before the rows are copied.

        Returns:
            Sums over the new shard; None if no image is the same, so that there is no shard.
        """
        etags = self._find_same(read_records(known), tell)
        if not etags:
            return None
        tell()
        tables = self._copy_rows(path, etags)
        self.shards.store(number, tables)
        return ShardSums(
            number=number,
            images=len(tables["images"]),
            error_types=Counter(),
            error_messages=Counter(),
            batch_divisor=1,
            megapixels=0.0,
            regions=Counter(tables["regions"]["class_name"].to_pylist()),
            stage_s=Counter(),
            taken_over=len(tables["images"]),
        )

    def _find_same(self, records: list[ImageRecord], tell: Callable[[], None]) -> dict[str, str]:
        """Return the new etags of the images whose bytes are the same, by URI."""
        etags = {}
        with reading_pool(_READS) as pool:
            late = (self.read_s, lambda _: False)
            same = ahead(pool, self._is_same, records, _READS, late)
            for record, is_same in zip(records, same, strict=True):
                if is_same:
                    etags[record.source.uri] = record.source.etag
                tell()
        return etags

    def _is_same(self, record: ImageRecord) -> bool:
        source = record.source
        try:
            place = take_pages(source.place, self.reading.channels)
            etag = source.etag if self.reading.check_etags or not source.etag else None
            found = hash_stored(self.reading.access, source.file_uri, place, etag)
        except ImageError:  # the chain reports it
            return False
        return found == record.content_hash

    def _copy_rows(self, path: str, etags: dict[str, str]) -> dict[str, pa.Table]:
        """Return the rows of some images in an earlier shard as rows of this run."""
        files = [(f"{table}/{path}", 0) for table in SCHEMAS]
        is_ours = pc.field("image_uri").isin([*etags]) & (pc.field("run_id") == shard_run_id(path))
        tables = {}
        for name, rows in read_whole_files(self.shards.output, files, SCHEMAS):
            table = name.partition("/")[0]
            rows = rows.filter(is_ours)
            tables[table] = _fill(rows, "run_id", self.shards.run_id)
        images = tables["images"]
        images = images.filter(pc.field("error_type").is_null())
        images = _fill(images, "segmented_at", self.at)
        new = pa.array([etags[uri] for uri in images["image_uri"].to_pylist()], pa.string())
        index = images.schema.get_field_index("image_etag")
        tables["images"] = images.set_column(index, images.schema.field(index), new)
        return tables


def _fill(rows: pa.Table, column: str, value: str | datetime) -> pa.Table:
    """Return a table with one value in all of a column."""
    index = rows.schema.get_field_index(column)
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.repeat(pa.scalar(value, field.type), len(rows)))


def _take_over(
    take: TakeOver, number: int, path: str, known: pa.Table, post: Callable[[WorkDone], None]
) -> ShardSums | None:
    told_at = -_TELL_S

    def tell() -> None:
        """Report progress to the driver, unless the last report was a moment ago."""
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_S:
            told_at = time.monotonic()
            post(WorkDone())

    tell()
    return take(number, path, known, tell)


def take_over_unchanged(
    take: TakeOver, known: Iterator[tuple[str, pa.Table]], stall_minutes: float
) -> Iterator[ShardSums | None]:
    """Take over the rows of images that are the same, many shards at a time.

    Ray restarts a process that dies; every attempt writes the same files.

    Args:
        take: The work of the tasks.
        known: Path of each earlier shard, and its images as a table of KNOWN.
        stall_minutes: Longest time without a report of any task (min).

    Yields:
        Sums over each new shard in the order in which the tasks end; None for an empty one.

    Raises:
        UnetRayError: No task reported for `stall_minutes`.
    """
    first = next(known, None)
    if first is None:
        return
    watch = StallWatch(stall_minutes)
    with ProgressBoard(lambda _: watch.hear()) as board:
        yield from _run_tasks(take, chain([first], known), watch, board.post)


def _run_tasks(
    take: TakeOver,
    known: Iterable[tuple[str, pa.Table]],
    watch: StallWatch,
    post: Callable[[WorkDone], None],
) -> Iterator[ShardSums | None]:
    task = ray.remote(num_cpus=WRITE_CPUS, max_retries=3, scheduling_strategy="DEFAULT")(_take_over)
    shared, numbered, num_taken_over = ray.put(take), enumerate(known), 0
    pending: list[Any] = []
    try:
        while True:
            for number, (path, rows) in islice(numbered, _IN_FLIGHT - len(pending)):
                pending.append(task.remote(shared, number, path, rows, post))
            if not pending:
                return
            done, pending = ray.wait(pending, timeout=_POLL_S)
            for sums in ray.get(done):
                watch.hear()
                num_taken_over += sums.images if sums else 0
                yield sums
            watch.check("taken over", f"{num_taken_over}")
    finally:
        for ref in pending:  # none unless the run ends badly
            ray.cancel(ref, force=True)
