"""The memory that the rows of a Parquet file would take, estimated before they are read.

A megabyte can encode billions of equal numbers, or one long text a million times. The footer states
the number of values. Texts that could exceed the memory are read as indices into the file's
distinct texts, and their lengths are summed before they are expanded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SMALL_BYTES = 2**27
"""Size of rows that are read from any file, however small it is (bytes)."""
_MOST_TIMES = 128
"""Largest number of bytes in memory per byte of a larger file. Tables of equal rows, such as the
empty tiles of a slide, reach 50."""
_SAFE_TEXT_BYTES = 2**30
"""Largest size of texts that are read directly, which takes half the time (bytes)."""
_SMALL_TEXT_BYTES = 2**24
"""Size of the texts of a row group that are read whatever their lengths (bytes)."""
_DELTAS = {"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"}
"""Encodings of texts that Arrow cannot read as indices. In the first, texts may share a beginning,
so that many long texts take little space."""
_DELTA_BYTES = 2**28
"""Largest size of such texts in the rows that are read at once (bytes). A million names in a row
group, read a few at a time, take some seconds."""
_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
"""Size of a value by physical type (bytes)."""
_INDEX_BYTES = 4
"""Size of a text as an index (bytes)."""


class OversizedRowsError(ValueError):
    """Rows take more memory than those of a file of that size can need."""


def check_footer_sizes(footer: pq.FileMetaData, file_bytes: int) -> None:
    """Check the memory that the rows of a file take without its texts, as stated by its footer.

    Args:
        footer: Metadata of the file.
        file_bytes: Size of the file.

    Raises:
        OversizedRowsError: The rows take too much for a file of that size; or its texts in lists
            and structs, which cannot be read as indices, could take too much.
    """
    widths = []
    for column in _list_columns(footer):
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            widths.append(int(column.length))
        else:  # a text is an index
            widths.append(_VALUE_BYTES.get(column.physical_type, _INDEX_BYTES))
    num_bytes = footer.num_rows
    for group in _iterate_groups(footer):
        chunks = _list_chunks(group)
        values = sum(c.num_values * width for c, width in zip(chunks, widths, strict=True))
        num_bytes += max(values, group.total_byte_size)
    _check_bytes(num_bytes, footer.num_rows, file_bytes)
    num_nested = _sum_texts(footer, is_nested=True)
    if num_nested > _SAFE_TEXT_BYTES:
        raise OversizedRowsError(
            f"texts in lists or structs may take {num_nested / 2**20:.0f} MB of memory; at most "
            f"{_SAFE_TEXT_BYTES / 2**20:.0f} MB of them are read"
        )


def check_row_sizes(rows: pa.Table, file_bytes: int) -> None:
    """Check the memory that rows take once all their texts are expanded.

    Args:
        rows: Rows with texts as they are, or as dictionaries with valid indices.
        file_bytes: Size of their file.

    Raises:
        OversizedRowsError: The rows take too much for a file of that size.
    """
    num_bytes = rows.nbytes
    for column in rows.columns:
        for chunk in column.chunks:
            if pa.types.is_dictionary(chunk.type):
                lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
                num_bytes += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    _check_bytes(num_bytes, len(rows), file_bytes)


def find_risky_texts(footer: pq.FileMetaData) -> list[str]:
    """Return the columns of texts or bytes that may take far more memory than they do in the file.

    Args:
        footer: Metadata of the file.

    Returns:
        Names for `read_dictionary` of Arrow's reader; empty if no texts can become large. Columns
        that `limit_rows` handles are left out.
    """
    if _sum_texts(footer) <= _SAFE_TEXT_BYTES:
        return []
    deltas = {chunk.path_in_schema for chunk in _list_deltas(footer)}
    return [
        column.name
        for column in _list_columns(footer)
        if _is_text(column) and column.path not in deltas
    ]


def limit_rows(footer: pq.FileMetaData, most_rows: int) -> int:
    """Return the number of rows to read at once, so that their texts fit in memory.

    Args:
        footer: Metadata of the file.
        most_rows: Number of rows to read of a file without large texts.
    """
    if _sum_texts(footer) <= _SAFE_TEXT_BYTES:
        return most_rows
    sizes = [chunk.total_uncompressed_size for chunk in _list_deltas(footer)]
    rows_that_fit = _DELTA_BYTES // max([1, *sizes])
    return max(1, min(most_rows, rows_that_fit))


def check_batch_sizes(
    batches: Iterable[pa.RecordBatch], file_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield batches of a file; raise OversizedRowsError if their total size is too large."""
    num_bytes = num_rows = 0
    for batch in batches:
        num_bytes += batch.nbytes
        num_rows += len(batch)
        _check_bytes(num_bytes, num_rows, file_bytes)
        yield batch


def _sum_texts(footer: pq.FileMetaData, is_nested: bool = False) -> int:
    """Return an upper bound of the size of all texts in plain columns (bytes).

    With `is_nested` the bound is for texts in lists and structs instead.
    """
    texts = [
        index
        for index, column in enumerate(_list_columns(footer))
        if column.physical_type == "BYTE_ARRAY" and _is_text(column) != is_nested
    ]
    num_bytes = 0
    for group in _iterate_groups(footer):
        for index in texts:
            chunk = group.column(index)
            num_bytes += chunk.num_values * chunk.total_uncompressed_size
    return num_bytes


def _list_deltas(footer: pq.FileMetaData) -> list[pq.ColumnChunkMetaData]:
    """Return the chunks of columns whose texts cannot be read as indices."""
    return [
        chunk
        for group in _iterate_groups(footer)
        for chunk in _list_chunks(group)
        if chunk.physical_type == "BYTE_ARRAY" and _DELTAS & set(chunk.encodings)
    ]


def _list_columns(footer: pq.FileMetaData) -> list[pq.ColumnSchema]:
    return [footer.schema.column(index) for index in range(footer.num_columns)]


def _iterate_groups(footer: pq.FileMetaData) -> Iterator[pq.RowGroupMetaData]:
    return map(footer.row_group, range(footer.num_row_groups))


def _list_chunks(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(index) for index in range(group.num_columns)]


def _is_text(column: pq.ColumnSchema) -> bool:
    """Tell whether a column holds texts or bytes, not in lists or structs."""
    return column.physical_type == "BYTE_ARRAY" and column.path == column.name


def check_text_lengths(footer: pq.FileMetaData, name: str, most_bytes: int) -> None:
    """Check that the texts of a column are not too long on average, as stated by the footer.

    Args:
        footer: Metadata of the file.
        name: Name of the column.
        most_bytes: Largest average length in a row group that has more than a few megabytes of
            texts.

    Raises:
        OversizedRowsError: The texts are longer.
    """
    index = [column.path for column in _list_columns(footer)].index(name)
    for group in _iterate_groups(footer):
        found = group.column(index).total_uncompressed_size
        if found > max(_SMALL_TEXT_BYTES, group.num_rows * most_bytes):
            raise OversizedRowsError(
                f"the column {name} has {found} bytes in {group.num_rows} rows; at most "
                f"{most_bytes} bytes per row are read"
            )


def drop_long_texts(column: pa.Array, most_bytes: int) -> pa.Array:
    """Return a column of texts as bytes; null where a text is longer than `most_bytes`.

    Long texts of a dictionary become null before any text is expanded.
    """
    if pa.types.is_dictionary(column.type):
        texts = drop_long_texts(column.dictionary, most_bytes)
        return pa.DictionaryArray.from_arrays(column.indices, texts).cast(pa.binary())
    encoded = column.cast(pa.binary())
    return pc.if_else(pc.greater(pc.binary_length(encoded), most_bytes), None, encoded)


def _check_bytes(num_bytes: int, num_rows: int, file_bytes: int) -> None:
    most = max(_SMALL_BYTES, _MOST_TIMES * file_bytes)
    if num_bytes > most:
        raise OversizedRowsError(
            f"{num_rows} rows take at least {num_bytes / 2**20:.0f} MB of memory; those of a file "
            f"of {file_bytes} bytes may take at most {most / 2**20:.0f} MB"
        )
