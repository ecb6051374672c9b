"""Images are compared with the hashes of their last rows, without Ray."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest

from tests.builders import write_tables
from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.imaging.channels import ChosenChannels
from unet_ray.segmentation.shard_writer import Shards
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.run_tables import RunStamp
from unet_ray.segmentation.unchanged import KNOWN, TakeOver
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.output_folder import take_inventory
from unet_ray.tables.shards import read_shard

EARLIER, RUN = "20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb"
NAMES = ("same.png", "other.png", "slow.png", "gone.png")


@pytest.mark.usefixtures("locks_settle_at_once")
def test_an_image_that_cannot_be_read_in_time_is_left_and_each_one_is_told(
    request: pytest.FixtureRequest,
    s3_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, output = Storage.of(new_bucket(request)), Storage.of(f"{tmp_path}/tables")
    for name in NAMES[:3]:
        archive.write(name, name.encode())
    uris = [f"{archive.uri}/{name}" for name in NAMES]
    write_tables(output, [uris], EARLIER, "2026-01-01")
    (entry,) = take_inventory(output).images
    rows = [
        {"image_uri": uri, "file_uri": uri, "image_etag": "new", "pages": 1}
        | {"content_hash": sha256(b"x" if name == "other.png" else name.encode()).hexdigest()}
        for uri, name in zip(uris, NAMES, strict=True)
    ]
    answered = threading.Event()

    def wait(_: str, path: str) -> None:
        if "slow" in path:
            answered.wait(60)

    told: list[int] = []
    with faulty_store(s3_server, refuse=wait) as store, OutputLock(output, RUN):
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        access = Storage.of(archive.uri)
        access.read(NAMES[0])  # loads the SDK, which takes a while on a busy machine
        take = TakeOver(
            reading=ImageReading(access, False, ChosenChannels(("0",))),
            shards=Shards(output, "2026-01-02", RunStamp(RUN, "m" * 64, "c")),
            at=datetime.now(UTC),
            read_s=8.0,
        )
        known = pa.Table.from_pylist(rows, schema=KNOWN)
        sums = take(0, entry.path, known, lambda: told.append(len(told)))
        answered.set()
    assert sums is not None
    assert (sums.images, sums.taken_over, len(told)) == (1, 1, len(NAMES) + 1)
    (written,) = [e for e in take_inventory(output).images if e.path != entry.path]
    images = read_shard(Storage.of(written.uri))
    assert images.select(["image_uri", "image_etag", "run_id"]).to_pylist() == [
        {"image_uri": uris[0], "image_etag": "new", "run_id": RUN}
    ]
