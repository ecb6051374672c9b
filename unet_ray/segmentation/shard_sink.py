"""The end of the segmentation chain: measured images become shards, and their sums the result.

The module does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from ray.data import Datasink

from unet_ray.cluster.ray_internals import (
    BundlingStrategy,
    ExecutionCallback,
    set_write_bundling,
)
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.stages.columns import STAGES
from unet_ray.segmentation.stages.measure import split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.shards import ShardName, write_shard

_SHARD_BYTES = 2**26
"""Bytes of rows in memory at which a shard closes: at most a fifth of what may wait for it in the
object store."""
_MESSAGES = 10
"""Number of error messages in a run record."""


class ShardSink(Datasink[dict[str, Any]]):
    """Writes measured images as shard triples, and adds their sums to the run's result.

    Args:
        output: Root of the tables.
        result: Result of the run, which receives the sums on the driver.
        shard_images: Number of images at which a shard closes.
    """

    def __init__(self, output: Storage, result: SegmentResult, shard_images: int) -> None:
        self._output, self._date, self._result = output, result.date, result
        self._run_id, self._shard_images = result.run_id, shard_images

    @property
    def min_rows_per_write(self) -> int:
        """Images per write task, unless `ShardBundles` closes the shard sooner."""
        return self._shard_images

    def write(self, blocks: Iterable[Any], ctx: Any) -> dict[str, Any]:
        """Write one shard and return its sums."""
        rows = pa.concat_tables(list(_drop_empty(blocks)))
        tables = split_into_tables(rows)
        name = ShardName(self._date, self._run_id, ctx.task_idx)
        write_shard(
            self._output, name, tables, lambda: OutputLock.check(self._output, self._run_id)
        )
        images = tables["images"]
        failed = Counter(images["error_type"].drop_null().to_pylist())
        pixels = zip(images["height"].to_pylist(), images["width"].to_pylist(), strict=True)
        return {
            "shard": ctx.task_idx,
            "done": len(images) - failed.total(),
            "failed": failed.total(),
            "error_types": dict(failed),
            "error_messages": dict(
                Counter(images["error"].drop_null().to_pylist()).most_common(_MESSAGES)
            ),
            "batch_divisor": max(rows["batch_divisor"].to_pylist()),
            "megapixels": sum(h * w for h, w in pixels if h) / 1e6,
            "regions": dict(Counter(tables["regions"]["class_name"].to_pylist())),
            "stage_s": {s: sum(rows[f"{s}_s"].to_pylist()) for s in STAGES},
        }

    def on_write_complete(self, write_result: Any) -> None:
        """Add up the sums of all shards."""
        by_name = {
            name: Counter[str]() for name in ("stage_s", "regions", "error_types", "error_messages")
        }
        result = self._result
        result.shards = sorted(sums["shard"] for sums in write_result.write_returns)
        for sums in write_result.write_returns:
            result.images_done += sums["done"]
            result.images_failed += sums["failed"]
            result.megapixels += sums["megapixels"]
            result.batch_divisor = max(result.batch_divisor, sums["batch_divisor"])
            for name, counts in by_name.items():
                counts.update(sums[name])
        for name, counts in by_name.items():
            setattr(
                result,
                name,
                dict(counts.most_common(_MESSAGES if name == "error_messages" else None)),
            )


class ShardBundles(ExecutionCallback):
    """Closes a shard at its number of images or its bytes of rows, whichever comes first.

    Ray Data's own bundlers know one of the two limits. Rows that wait for their shard count as
    output of the measure stage. Once they exceed its limit, nothing is measured any more until Ray
    Data notices a standstill: with 300 KB of regions per image, the rate fell from 39 images/s to
    1.6.
    """

    def before_execution_starts(self, executor: Any) -> None:
        """Give the write operator its bundler."""
        set_write_bundling(
            executor, ShardSink, lambda sink: _ImagesOrBytes(sink.min_rows_per_write)
        )


class _ImagesOrBytes(BundlingStrategy):
    def can_build_ready_bundle(self, state: Any) -> bool:
        is_full = state.num_rows > 0 and state.size_bytes >= _SHARD_BYTES
        return is_full or bool(super().can_build_ready_bundle(state))


def _drop_empty(blocks: Iterable[Any]) -> Iterator[Any]:
    return (block for block in blocks if block.num_rows)
