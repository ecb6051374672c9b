"""Memory that the rows of a Parquet file take, found out before they do.

A megabyte can stand for billions of equal numbers, or for one long text a million times. The footer
tells how many values there are. Where texts could come to more than memory, they are read as
indices into those that differ, which the file has, and added up before each is written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SMALL_BYTES = 2**27
"""Rows of this size are read from any file, however small it is."""
_MOST_TIMES = 128
"""Largest number of bytes in memory per byte of a larger file. Tables of equal rows, such as the
tiles without anything in them of a slide, come to 50."""
_SAFE_TEXT_BYTES = 2**30
"""Texts that cannot come to more are read as they are, in half the time."""
_SMALL_TEXT_BYTES = 2**24
"""Texts of a row group that are read whatever their lengths."""
_DELTAS = {"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"}
"""Encodings of texts that Arrow cannot read as indices. In the first, each text may begin as the
one before it, so that a long one is stored once."""
_DELTA_BYTES = 2**28
"""Size to which such texts may come in the rows that are read at once. A million names in a row
group, read a few at a time, take some seconds."""
_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
"""Size of a value by physical type; of texts it is that of the index."""
_INDEX_BYTES = 4


class OversizedRowsError(ValueError):
    """Rows that take more memory than those of a file of that size can need."""


def check_footer_sizes(footer: pq.FileMetaData, file_bytes: int) -> None:
    """Check what the rows of a file take, but for its texts, by what its footer says.

    Args:
        footer: Metadata of the file.
        file_bytes: Size of the file.

    Raises:
        OversizedRowsError: It is too much for a file of that size, or texts in lists or structs,
            which cannot be read as indices, could be.
    """
    widths = [_value_bytes(footer.schema.column(i)) for i in range(footer.num_columns)]
    total = footer.num_rows
    for group in map(footer.row_group, range(footer.num_row_groups)):
        columns = map(group.column, range(footer.num_columns))
        values = sum(c.num_values * w for c, w in zip(columns, widths, strict=True))
        total += max(values, group.total_byte_size)
    _check_bytes(total, footer.num_rows, file_bytes)
    nested = _sum_texts(footer, is_nested=True)
    if nested > _SAFE_TEXT_BYTES:
        raise OversizedRowsError(
            f"texts in lists or structs may take {nested / 2**20:.0f} MB of memory; at most "
            f"{_SAFE_TEXT_BYTES / 2**20:.0f} MB of such texts are read"
        )


def check_row_sizes(rows: pa.Table, file_bytes: int) -> None:
    """Check what rows take when each of their texts is written out.

    Args:
        rows: Rows with texts as they are, or as dictionaries with valid indices.
        file_bytes: Size of their file.

    Raises:
        OversizedRowsError: It is too much for a file of that size.
    """
    total = rows.nbytes
    chunks = (chunk for column in rows.columns for chunk in column.chunks)
    for chunk in chunks:
        if pa.types.is_dictionary(chunk.type):
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    _check_bytes(total, len(rows), file_bytes)


def find_risky_texts(footer: pq.FileMetaData) -> list[str]:
    """Return the columns of texts or bytes that may come to far more than the file has of them.

    Args:
        footer: Metadata of the file.

    Returns:
        Names for `read_dictionary` of Arrow's reader; none where no texts can become large. Those
        of which `limit_rows` takes care are left out.
    """
    if _sum_texts(footer) <= _SAFE_TEXT_BYTES:
        return []
    deltas = {chunk.path_in_schema for chunk in _list_deltas(footer)}
    columns = map(footer.schema.column, range(footer.num_columns))
    return [each.name for each in columns if _is_text(each) and each.path not in deltas]


def limit_rows(footer: pq.FileMetaData, most_rows: int) -> int:
    """Return the number of rows to read at once, so that texts cannot come to far more than memory.

    Args:
        footer: Metadata of the file.
        most_rows: Number of rows of a file without such texts.
    """
    if _sum_texts(footer) <= _SAFE_TEXT_BYTES:
        return most_rows
    longest = max((each.total_uncompressed_size for each in _list_deltas(footer)), default=0)
    return max(1, min(most_rows, _DELTA_BYTES // max(1, longest)))


def check_batch_sizes(
    batches: Iterable[pa.RecordBatch], file_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield batches of a file; raise OversizedRowsError where they come to too much together."""
    total = rows = 0
    for batch in batches:
        total, rows = total + batch.nbytes, rows + len(batch)
        _check_bytes(total, rows, file_bytes)
        yield batch


def _sum_texts(footer: pq.FileMetaData, is_nested: bool = False) -> int:
    """Return what texts of columns, or those in lists and structs, come to at most (bytes)."""
    columns = enumerate(map(footer.schema.column, range(footer.num_columns)))
    texts = [
        index
        for index, each in columns
        if each.physical_type == "BYTE_ARRAY" and _is_text(each) != is_nested
    ]
    return sum(
        chunk.num_values * chunk.total_uncompressed_size
        for group in map(footer.row_group, range(footer.num_row_groups))
        for chunk in map(group.column, texts)
    )


def _list_deltas(footer: pq.FileMetaData) -> list[Any]:
    """Return the chunks of columns whose texts cannot be read as indices."""
    return [
        chunk
        for group in map(footer.row_group, range(footer.num_row_groups))
        for chunk in map(group.column, range(footer.num_columns))
        if chunk.physical_type == "BYTE_ARRAY" and _DELTAS & set(chunk.encodings)
    ]


def _is_text(column: Any) -> bool:
    """Tell whether a column holds texts or bytes, not in lists or structs."""
    return column.physical_type == "BYTE_ARRAY" and column.path == column.name


def check_text_lengths(footer: pq.FileMetaData, name: str, most_bytes: int) -> None:
    """Check that the texts of a column are not long on average, by what the footer says.

    Args:
        footer: Metadata of the file.
        name: Name of the column.
        most_bytes: Largest average of a row group that has more than a few megabytes of texts.

    Raises:
        OversizedRowsError: They are longer.
    """
    index = [footer.schema.column(i).path for i in range(footer.num_columns)].index(name)
    for group in map(footer.row_group, range(footer.num_row_groups)):
        found = group.column(index).total_uncompressed_size
        if found > max(_SMALL_TEXT_BYTES, group.num_rows * most_bytes):
            raise OversizedRowsError(
                f"the column {name} has {found} bytes in {group.num_rows} rows; at most "
                f"{most_bytes} bytes in each are read"
            )


def drop_long_texts(column: pa.Array, most_bytes: int) -> pa.Array:
    """Return a column of texts as bytes, null where one is longer (bytes).

    Those of a dictionary are left out before any is written out.
    """
    if pa.types.is_dictionary(column.type):
        texts = drop_long_texts(column.dictionary, most_bytes)
        return pa.DictionaryArray.from_arrays(column.indices, texts).cast(pa.binary())
    encoded = column.cast(pa.binary())
    return pc.if_else(pc.greater(pc.binary_length(encoded), most_bytes), None, encoded)


def _value_bytes(column: Any) -> int:
    if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return int(column.length)
    return _VALUE_BYTES.get(column.physical_type, _INDEX_BYTES)


def _check_bytes(found: int, rows: int, file_bytes: int) -> None:
    most = max(_SMALL_BYTES, _MOST_TIMES * file_bytes)
    if found > most:
        raise OversizedRowsError(
            f"{rows} rows take {found / 2**20:.0f} MB of memory or more; of a file of "
            f"{file_bytes} bytes at most {most / 2**20:.0f} MB are read"
        )
