"""Images whose etag changed while their bytes did not: their rows are taken over, not made again.

plan (driver) ─▶ images with a row of the same size and a content hash, by the shard of that row
              ─▶ a task per shard reads the images, and copies the rows of those that are the same

The three tables get whole rows under the new etag and run, in shards that are committed like all
others, so that nothing that reads the tables needs to know. All other images go through the chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from unet_ray.cluster.ray_data import WRITE_CPUS
from unet_ray.errors import ImageError
from unet_ray.image_sources.content_hash import hash_stored
from unet_ray.imaging.channels import ChannelSelection, take_pages
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.segmentation.result import ShardSums
from unet_ray.segmentation.shard_writer import Shards
from unet_ray.segmentation.stages.columns import PLAN, read_records
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import read_whole_files, shard_run_id

KNOWN = pa.schema([*PLAN, ("content_hash", pa.string())])
"""Columns of images whose bytes are compared with those of an earlier row."""
_READS = 16
"""Images that a task reads side by side."""
_READ_S = 3600.0
"""Longest time that the bytes of an image may take (s)."""
_IN_FLIGHT = 64
"""Tasks that are submitted ahead."""


@dataclass(frozen=True)
class TakeOver:
    """Compares images with earlier rows, and copies the rows of those that are the same."""

    access: Storage
    """Storage that opens the images' URIs."""
    check_etags: bool
    """True if the plan's etags are the store's: a file with another etag has changed since."""
    channels: ChannelSelection
    """Channels that the network takes of each image."""
    shards: Shards
    """Settings that the shards of the run share."""
    at: datetime
    """Time that the copied rows have as theirs, the same in every attempt."""

    def __call__(self, number: int, path: str, known: pa.Table) -> ShardSums | None:
        """Copy the rows of one earlier shard.

        Args:
            number: Number of the new shard within the run; every attempt has the same.
            path: Path of the earlier shard, below a table's folder.
            known: Images with their hashes, a table of KNOWN.

        Returns:
            Sums over the new shard; None where no image is the same, so that there is none.
        """
        etags = self._find_same(read_records(known))
        if not etags:
            return None
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

    def _find_same(self, records: list[ImageRecord]) -> dict[str, str]:
        """Return the new etags of the images whose bytes are the same, by URI."""
        with reading_pool(_READS) as pool:
            late = (_READ_S, lambda _: False)
            same = [*ahead(pool, self._is_same, records, _READS, late)]
        return {
            record.source.uri: record.source.etag
            for record, is_same in zip(records, same, strict=True)
            if is_same
        }

    def _is_same(self, record: ImageRecord) -> bool:
        source = record.source
        try:
            place = take_pages(source.place, self.channels)
            etag = source.etag if self.check_etags or not source.etag else None
            found = hash_stored(self.access, source.file_uri, place, etag)
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


def _fill(rows: pa.Table, column: str, value: Any) -> pa.Table:
    """Return a table with one value in all of a column."""
    index = rows.schema.get_field_index(column)
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.repeat(pa.scalar(value, field.type), len(rows)))


def _take_over(take: TakeOver, number: int, path: str, known: pa.Table) -> ShardSums | None:
    return take(number, path, known)


def take_over_unchanged(
    take: TakeOver, known: Iterator[tuple[str, pa.Table]]
) -> Iterator[ShardSums | None]:
    """Take over the rows of images that are the same, many shards at a time.

    A process that dies is started again by Ray: every attempt writes the same files.

    Args:
        take: What the tasks do.
        known: Path of an earlier shard, and its images as a table of KNOWN.

    Yields:
        Sums over each new shard, in the order of their ends; None for one that has no image.
    """
    task = ray.remote(num_cpus=WRITE_CPUS, max_retries=3, scheduling_strategy="DEFAULT")(_take_over)
    shared, pending = ray.put(take), list[Any]()
    for number, (path, rows) in enumerate(known):
        pending.append(task.remote(shared, number, path, rows))
        if len(pending) >= _IN_FLIGHT:
            (done,), pending = ray.wait(pending)
            yield ray.get(done)
    while pending:
        (done,), pending = ray.wait(pending)
        yield ray.get(done)
