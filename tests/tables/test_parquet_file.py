"""Damage of a Parquet file is found, in whatever part; other readers see nothing unusual."""

from __future__ import annotations

import io
import random
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unet_ray.tables.parquet_file import DamagedFileError, read_parquet, to_parquet
from unet_ray.tables.schemas import MASKS

ROWS = {
    "image_uri": [f"s3://b/{index}.png" for index in range(40)],
    "run_id": ["run"] * 40,
    "class_id": [1, 2] * 20,
    "class_name": ["cell", "fibre"] * 20,
    **dict.fromkeys(("top", "left", "height", "width"), [7] * 40),
    "counts": [b"0123"] * 40,
    "area": list(range(40)),
}
TABLE = pa.Table.from_pydict(ROWS, MASKS)


def write_plainly(table: pa.Table) -> bytes:
    """Return a file as versions without checksums wrote it."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@pytest.mark.parametrize("columns", [None, MASKS, MASKS.remove(0)])
def test_no_changed_bit_gives_other_rows(columns: pa.Schema | None) -> None:
    data, rng, found = to_parquet(TABLE), random.Random(0), 0
    expected = TABLE if columns is None else TABLE.select(columns.names)
    for _ in range(2000):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            rows = read_parquet(io.BytesIO(damaged), columns, MASKS)
        except DamagedFileError:
            found += 1
        else:
            assert rows.equals(expected)
    assert found > 1500  # the others hit the mark of the digest, or columns that are not read


@pytest.mark.parametrize("length", [0, 1, 8, 11, 12, 100, -1, -60])
def test_a_file_that_was_cut_is_damaged(length: int) -> None:
    with pytest.raises(DamagedFileError):
        read_parquet(io.BytesIO(to_parquet(TABLE)[:length]))


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "masks.parquet"
    path.write_bytes(to_parquet(TABLE))
    assert to_parquet(TABLE) == path.read_bytes()
    assert pq.read_table(path).equals(TABLE)
    assert polars.read_parquet(path).rows() == duckdb.sql(f"FROM '{path}'").fetchall()
    assert len(polars.read_parquet(path)) == 40


def test_files_without_checksums_are_read() -> None:
    assert read_parquet(io.BytesIO(write_plainly(TABLE)), MASKS, MASKS).equals(TABLE)


def test_a_column_that_was_renamed_is_not_taken_for_one_that_lacks() -> None:
    """One changed bit of a footer does that, and old files have no digest of theirs."""
    renamed = TABLE.rename_columns([name.replace("area", "arda") for name in MASKS.names])
    with pytest.raises(DamagedFileError, match="an unknown column 'arda' and lacks 'area'"):
        read_parquet(io.BytesIO(write_plainly(renamed)), pa.schema([MASKS.field(0)]), MASKS)
    lacking = write_plainly(TABLE.drop_columns(["area"]))
    assert read_parquet(io.BytesIO(lacking), MASKS)["area"].null_count == 40
    newer = write_plainly(TABLE.append_column("more", TABLE["area"]))
    assert read_parquet(io.BytesIO(newer), MASKS, MASKS).equals(TABLE)


def test_rows_that_take_far_more_memory_than_their_file_are_refused() -> None:
    """The footer tells it of numbers; texts are added up before they are written out."""
    some, many = TABLE.take([0] * 100_000), io.BytesIO()
    with pq.ParquetWriter(many, MASKS, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(some)
    length = many.tell()
    wanted = (
        "4000000 rows take at least 172 MB of memory; those of a file of "
        f"{length} bytes may take at most 128 MB"
    )
    for columns in (None, MASKS, pa.schema([MASKS.field("class_id")])):
        with pytest.raises(DamagedFileError, match=wanted):
            read_parquet(many, columns, MASKS)
    names = pa.DictionaryArray.from_arrays([0] * 1000, ["y" * 2**22])
    long = pa.table({"image_uri": names, "area": range(1000)})
    with pytest.raises(DamagedFileError, match="1000 rows take at least 4[0-9]{3} MB of memory"):
        read_parquet(io.BytesIO(write_plainly(long)), pa.schema([MASKS.field("image_uri")]), MASKS)


@pytest.mark.parametrize("columns", [None, MASKS])
@pytest.mark.parametrize("is_nested", [True, False])
def test_texts_that_no_index_can_stand_for_are_bounded(
    columns: pa.Schema | None, is_nested: bool
) -> None:
    """A kilobyte can hold one text of a megabyte 5000 times, in a struct or encoded as a delta."""
    data = io.BytesIO()
    if is_nested:
        texts = pa.DictionaryArray.from_arrays([0] * 5000, ["y" * 2**20])
        rows = pa.table({"counts": pa.StructArray.from_arrays([texts], ["text"])})
        pq.write_table(rows, data, compression="zstd", store_schema=False)
    else:
        schema = pa.schema([MASKS.field("class_name")])
        text = pa.record_batch([["y" * 2**20] * 100], schema=schema)
        encodings = {"class_name": "DELTA_BYTE_ARRAY"}
        with pq.ParquetWriter(
            data, schema, compression="zstd", use_dictionary=False, column_encoding=encodings
        ) as writer:
            for _ in range(50):
                writer.write_batch(text, row_group_size=10**6)
    with pytest.raises(DamagedFileError, match="MB of memory"):
        read_parquet(data, columns, MASKS)


def test_rows_in_any_encoding_are_read() -> None:
    rows, data = TABLE.take(np.arange(20_000) % 40), io.BytesIO()
    encodings = {"image_uri": "DELTA_BYTE_ARRAY", "class_name": "DELTA_LENGTH_BYTE_ARRAY"}
    pq.write_table(rows, data, use_dictionary=False, column_encoding=encodings)
    assert read_parquet(data, MASKS, MASKS).equals(rows)


@pytest.mark.parametrize("columns", [None, MASKS])
def test_long_texts_of_an_honest_file_are_read(columns: pa.Schema | None) -> None:
    rng = np.random.default_rng(0)
    counts = [rng.bytes(2**16) for _ in range(300)]
    rows = TABLE.take([0] * 300).set_column(8, MASKS.field("counts"), pa.array(counts))
    read = read_parquet(io.BytesIO(to_parquet(rows)), columns, MASKS)
    assert read.schema.equals(MASKS)
    assert read.equals(rows)


def test_texts_that_are_not_utf_8_are_damage() -> None:
    texts = pa.array([b"\xff\xfe"] * 40).view(pa.string())
    table = TABLE.set_column(0, MASKS.field(0), texts)
    with pytest.raises(DamagedFileError, match="UTF8"):
        read_parquet(io.BytesIO(write_plainly(table)))


def test_the_error_of_a_store_is_not_taken_for_damage() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError(104, "reset")

    with pytest.raises(ConnectionResetError):
        read_parquet(Broken(to_parquet(TABLE)))
