"""Shards close at their images, bytes or age, and are committed however a run ends."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import ray

from unet_ray.errors import ImageError
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.image_place import WHOLE
from unet_ray.segmentation import shard_writer
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.shard_writer import Shards, ShardWriter
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_local")]


def make_block(first: int, images: int) -> pa.Table:
    """Return rows of failed images, which have all columns that a shard needs."""
    damaged = ImageError("unreadable", "damaged")
    sources = [
        ImageSource(f"/archive/{first + index}.png", WHOLE, etag="1", size=1)
        for index in range(images)
    ]
    return Measure.join(
        [Measure.failed(ImageRecord(source).fail(damaged, "decode")) for source in sources]
    )


def start(tmp_path: Path, shard_images: int) -> tuple[ShardWriter, SegmentResult]:
    shards = Shards(Storage.of(f"{tmp_path}/tables"), "2026-01-01", RunStamp("run", "x", "x"))
    result = SegmentResult("run")
    return ShardWriter(shards, shard_images, result.add), result


def add(writer: ShardWriter, first: int, images: int, size: int = 1) -> None:
    writer.add(ray.put(make_block(first, images)), images, size)


def test_shards_close_at_images_bytes_and_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, result = start(tmp_path, 10)
    with OutputLock(Storage.of(f"{tmp_path}/tables"), "run"):
        for first in (0, 4, 8):  # the third would be beyond ten images
            add(writer, first, 4)
        add(writer, 12, 4, shard_writer._SHARD_BYTES)  # full of bytes
        add(writer, 16, 4)
        monkeypatch.setattr(shard_writer, "_SHARD_AGE_S", 0.0)
        writer.poll(0)  # too old
        add(writer, 20, 1)
        while not writer.close(1):
            pass
    assert result.images_failed == 21
    assert result.shards == [0, 1, 2, 3]
    assert result.error_types == {"unreadable": 21}


def test_what_was_measured_is_committed_when_a_run_ends_badly(tmp_path: Path) -> None:
    writer, result = start(tmp_path, 10)
    with OutputLock(Storage.of(f"{tmp_path}/tables"), "run"):
        add(writer, 0, 10)
        add(writer, 10, 3)
        writer.salvage()
        writer.salvage()  # a second time there is nothing left
    assert (result.images_failed, result.shards) == (13, [0, 1])
