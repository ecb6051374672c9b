"""Ranges of a remote file: the same bytes as those of the file, by few requests."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.storage.ranged_file import RangedFile
from unet_ray.storage.storage import Storage
from unet_ray.tables import shards
from unet_ray.tables.shards import fetch_columns

CONTENT = bytes(range(256)) * 8192  # 2 MiB


def test_all_reads_are_those_of_a_file_in_memory(root: str) -> None:
    Storage.of(root).write("file", CONTENT)
    file = RangedFile(Storage.of(f"{root}/file"), len(CONTENT))
    file.fetch([(10, 20), (30, 40), (-5, 3), (len(CONTENT) - 7, 2 * len(CONTENT))])
    memory = io.BytesIO(CONTENT)
    moves = [(12, 0, 8), (-4, 2, 10), (0, 0, 2), (5, 1, 100_000), (10**7, 0, 4), (1000, 0, -1)]
    for offset, whence, size in moves:
        file.seek(offset, whence)
        memory.seek(offset, whence)
        assert file.read(size) == memory.read(size)
    assert file.tell() == memory.tell()


def test_a_column_of_a_large_shard_takes_three_requests(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_WHOLE_BYTES", 0)
    rows = pa.table({"a": range(200_000), "b": [index * 7919 for index in range(200_000)]})
    data = io.BytesIO()
    pq.write_table(rows, data, row_group_size=50_000, use_dictionary=False, compression="none")
    bucket = new_bucket(request)
    Storage.of(bucket).write("file", data.getvalue())
    with faulty_store(s3_server) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        file = Storage.of(f"{bucket}/file")
        ranged = fetch_columns(file, data.tell(), pa.schema([rows.field("b")]), rows.schema)
        assert store.requests <= 3  # the end, and parts of columns that lie close together
        before = store.requests
        assert pq.ParquetFile(ranged).read(["b"], use_threads=False).equals(rows.select(["b"]))
        assert store.requests == before
