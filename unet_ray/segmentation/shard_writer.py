"""The end of the segmentation chain: blocks of measured images become shards.

The driver collects references to the blocks; the rows themselves stay where they were measured,
until a task fetches those of a whole shard and writes it. The module does not import torch.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from unet_ray.cluster.ray_data import WRITE_CPUS
from unet_ray.errors import one_line
from unet_ray.imaging.codecs.pixel_size import SizeUm, differs, format_pixel_size
from unet_ray.segmentation.result import ShardSums
from unet_ray.segmentation.stages.columns import STAGES
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.shards import ShardName, write_shard

_logger = logging.getLogger("unet_ray")

_SHARD_BYTES = 2**26
"""Bytes of rows in memory at which a shard closes."""
_SHARD_AGE_S = 600.0
"""Time after which a shard closes, however few images it has."""
_MESSAGES = 10
"""Number of error messages that a shard reports."""
_WRITES = 8
"""Largest number of shards that are written at a time; further blocks wait."""
_DEATHS = 2
"""Number of process deaths after which a shard is given up."""
_LAST_WRITES_S = 60.0
"""Time for unfinished writes to end when the run fails (s)."""


@dataclass(frozen=True)
class Shards:
    """Place, date and run that all shards of a run share."""

    output: Storage
    """Root of the tables."""
    date: str
    """Partition, YYYY-MM-DD."""
    stamp: RunStamp
    """Columns of the run, the same in each row."""
    model_pixel_size_um: SizeUm | None = None
    """Pixel size that images are compared with (µm); None: no comparison."""

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.stamp.run_id

    def write(self, number: int, *blocks: pa.Table) -> ShardSums:
        """Write tables of measured images as one shard.

        Args:
            number: Number of the shard within the run, the same in every attempt.
            *blocks: Tables of ROWS.

        Returns:
            Sums over its images.
        """
        rows = pa.concat_tables(block for block in blocks if len(block))
        tables = split_into_tables(rows, self.stamp)
        self.store(number, tables)
        images = tables["images"]
        pixels = zip(images["height"].to_pylist(), images["width"].to_pylist(), strict=True)
        return ShardSums(
            number=number,
            images=len(images),
            error_types=Counter(images["error_type"].drop_null().to_pylist()),
            error_messages=Counter(
                dict(Counter(images["error"].drop_null().to_pylist()).most_common(_MESSAGES))
            ),
            batch_divisor=max(rows["batch_divisor"].to_pylist()),
            megapixels=sum(h * w for h, w in pixels if h) / 1e6,
            regions=Counter(tables["regions"]["class_name"].to_pylist()),
            stage_s=Counter({s: sum(rows[f"{s}_s"].to_pylist()) for s in STAGES}),
            other_pixel_sizes=self._count_other_sizes(images),
            notes=Counter(rows["note"].drop_null().to_pylist()),
        )

    def store(self, number: int, tables: dict[str, pa.Table]) -> None:
        """Store rows of the three tables as one shard, if this run still holds the output."""
        write_shard(
            self.output,
            self._name(number),
            tables,
            lambda: OutputLock.check(self.output, self.run_id),
        )

    def _count_other_sizes(self, images: pa.Table) -> Counter[str]:
        """Count the successful images whose pixel size differs from the model's, by pixel size."""
        expected_um = self.model_pixel_size_um
        if expected_um is None:
            return Counter()
        done = images.filter(pc.field("error_type").is_null())
        sides = (done[f"pixel_size_{axis}_um"].to_pylist() for axis in "xy")
        return Counter(
            format_pixel_size((x, y))
            for x, y in zip(*sides, strict=True)
            if x and y and differs((x, y), expected_um)
        )

    def is_committed(self, number: int) -> bool:
        """Tell whether a shard is committed."""
        return self.output.exists(self._name(number).path("images"))

    def remove(self, number: int) -> None:
        """Remove the files of a shard that is not committed."""
        for table in ("masks", "regions"):
            self.output.delete(self._name(number).path(table))

    def _name(self, number: int) -> ShardName:
        return ShardName(self.date, self.run_id, number)


_TASK = {"num_cpus": WRITE_CPUS, "max_retries": 0, "scheduling_strategy": "DEFAULT"}


def _write(shards: Shards, number: int, *blocks: pa.Table) -> ShardSums:
    return shards.write(number, *blocks)


@dataclass
class _Shard:
    """References to the blocks of one shard."""

    number: int
    blocks: list[ray.ObjectRef] = field(default_factory=list)
    images: int = 0
    size: int = 0
    """Bytes in memory."""
    opened_at: float = field(default_factory=time.monotonic)
    deaths: int = 0
    """Number of processes that died while they wrote it and whose nodes lived."""


class ShardWriter:
    """Closes shards and submits tasks that write them.

    A shard closes at its number of images, at 64 MiB of rows or after ten minutes, whichever comes
    first. A shard whose process dies twice is given up: its images count as not written.

    Args:
        shards: Output, date and run of the shards.
        shard_images: Largest number of images of a shard, unless one block has more.
        add: Function that is called with the sums of each committed shard.
        first_number: Number of the writer's first shard within the run.
    """

    def __init__(
        self,
        shards: Shards,
        shard_images: int,
        add: Callable[[ShardSums], None],
        first_number: int = 0,
    ) -> None:
        self._shards, self._shard_images, self._add = shards, shard_images, add
        self._open: _Shard | None = None
        self._under_way: dict[Any, _Shard] = {}
        self._next = first_number

    def next_number(self) -> int:
        """Return a number that no shard of the run has."""
        self._next += 1
        return self._next - 1

    def add(self, block: ray.ObjectRef, images: int, size: int) -> None:
        """Add a block of measured images.

        Args:
            block: Reference to a table of ROWS.
            images: Number of its rows.
            size: Its bytes in memory.
        """
        if self._open and self._open.images + images > self._shard_images:
            self._close()
        self._open = shard = self._open or _Shard(self.next_number())
        shard.blocks.append(block)
        shard.images += images
        shard.size += size
        if shard.images >= self._shard_images or shard.size >= _SHARD_BYTES:
            self._close()

    def poll(self, timeout_s: float) -> bool:
        """Close a shard that is due, and collect the results of writes that have ended.

        Args:
            timeout_s: Time to wait for a write to end if no other may begin (s).

        Returns:
            Whether the writer takes more blocks now.
        """
        if self._open and time.monotonic() - self._open.opened_at > _SHARD_AGE_S:
            self._close()
        if len(self._under_way) >= _WRITES:
            ray.wait(list(self._under_way), timeout=timeout_s)
        if self._under_way:
            ready, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
            for ref in ready:
                self._take(ref)
        return len(self._under_way) < _WRITES

    def close(self, timeout_s: float) -> bool:
        """Close the last shard; return whether all shards are written or given up.

        Args:
            timeout_s: Time to wait for a write to end (s).
        """
        self._close()
        if self._under_way:
            ray.wait(list(self._under_way), timeout=timeout_s)
        self.poll(0)
        return not self._under_way

    def salvage(self) -> None:
        """Commit the measured images when the run fails.

        The driver writes the open shard itself: a new process would take longer than
        `ray job stop` waits.
        """
        if shard := self._open:
            self._open = None
            try:
                blocks = ray.get(shard.blocks, timeout=_LAST_WRITES_S)
                self._add(self._shards.write(shard.number, *blocks))
            except Exception as error:
                _logger.warning(
                    f"{shard.images} measured images could not be committed: {one_line(error)}"
                )
        if not self._under_way:
            return
        ready, late = ray.wait(
            list(self._under_way), num_returns=len(self._under_way), timeout=_LAST_WRITES_S
        )
        for ref in ready:
            with suppress(Exception):
                self._add(ray.get(ref))
        self._under_way = {}
        if late:
            _logger.warning(f"{len(late)} shards were still being written")

    def _close(self) -> None:
        if self._open:
            self._submit(self._open)
        self._open = None

    def _submit(self, shard: _Shard) -> None:
        task = ray.remote(**_TASK)(_write)
        self._under_way[task.remote(self._shards, shard.number, *shard.blocks)] = shard

    def _take(self, ref: ray.ObjectRef) -> None:
        """Collect the sums of a shard; if its process died, write it again or give it up."""
        shard = self._under_way.pop(ref)
        try:
            self._add(ray.get(ref))
        except (NodeDiedError, LocalRayletDiedError):
            self._submit(shard)
        except (WorkerCrashedError, OutOfMemoryError):
            shard.deaths += 1
            if shard.deaths < _DEATHS:
                self._submit(shard)
            elif not self._shards.is_committed(shard.number):
                self._shards.remove(shard.number)
