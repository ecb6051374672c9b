"""Parquet files whose damage is found, by checksums of their pages and a digest of their footer.

The checksums of Parquet cover the data but not the footer, in which one changed bit may rename a
column or drop rows without an error. The SHA-256 of the footer is therefore stored right before it,
where nothing in the format points, so other readers ignore it. Files without checksums or digest
are read too, but their damage is found only where decoding fails.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from hashlib import sha256
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from unet_ray.storage.parquet_sizes import (
    check_batch_sizes,
    check_footer_sizes,
    check_row_sizes,
    find_risky_texts,
    limit_rows,
)
from unet_ray.storage.ranged_file import RangedFile

SeekableFile = BinaryIO | RangedFile
_MARK = b"unet_ray footer sha256: "
_TRAILER_BYTES = 8
"""Number of bytes after the footer of a Parquet file: its size, and `PAR1`."""
_DIGEST_BYTES = len(_MARK) + sha256().digest_size
_FAULTS = (OSError, ValueError, LookupError, TypeError, OverflowError, pa.ArrowException)
"""Exceptions that Arrow raises for damaged files."""


class DamagedFileError(Exception):
    """A file that is not Parquet, is damaged, or does not fit its schema; one line says how."""


def to_parquet(table: pa.Table) -> bytes:
    """Serialise a table to Parquet; the same table always gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", row_group_size=100_000, write_page_checksum=True
    )
    data = buffer.getvalue()
    start = len(data) - _TRAILER_BYTES - _footer_bytes(data)
    end = data[start:]
    return b"".join([data[:start], _MARK, sha256(end).digest(), end])


def read_parquet(
    file: SeekableFile, columns: pa.Schema | None = None, schema: pa.Schema | None = None
) -> pa.Table:
    """Read a Parquet file, and find its damage.

    Args:
        file: File that is open for reading and seeking.
        columns: Columns to read, and their types; a column that the file lacks is null. None: all
            columns, as the file has them.
        schema: All columns that a file of this kind may have; None: those of `columns`. They serve
            to tell a renamed column from a missing one.

    Returns:
        The columns; texts are valid UTF-8.

    Raises:
        DamagedFileError: The file is damaged, has none of the columns, has a column of Python
            objects, or its rows take too much memory for a file of its size.
        OSError: The store does not return the bytes of the file.
    """
    try:
        _check_digest(file)
        footer = pq.read_metadata(file)
        check_footer_sizes(footer, file.seek(0, io.SEEK_END))
        stored = footer.schema.to_arrow_schema()
        for field in stored:
            if _makes_objects(field.type):
                raise DamagedFileError(
                    f"its column {field.name!r} has the type {field.type}, which is not read"
                )
        if columns is None:
            columns = stored
        else:
            _check_names(stored.names, columns, schema or columns)
        found = _read_columns(file, footer, columns)
        found.validate(full=True)
        return found
    except _FAULTS as error:
        if isinstance(error, OSError) and not _is_of_arrow(error):
            raise  # the store did not return the bytes
        raise DamagedFileError(" ".join(str(error).split())[:300]) from error


def find_ranges(file: SeekableFile, names: Collection[str]) -> list[tuple[int, int]]:
    """Find where columns of a Parquet file lie, by reading only its end.

    Args:
        file: File that is open for reading and seeking.
        names: Names of columns.

    Returns:
        First byte of each part of a column, and the byte after its last one.

    Raises:
        DamagedFileError: The footer is damaged.
        OSError: The store does not return the bytes of the file.
    """
    chunks = []
    try:
        _check_digest(file)
        footer = pq.read_metadata(file)
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            chunks += [group.column(index) for index in range(group.num_columns)]
    except _FAULTS as error:
        if isinstance(error, OSError) and not _is_of_arrow(error):
            raise
        raise DamagedFileError(" ".join(str(error).split())[:300]) from error
    ranges = []
    for chunk in chunks:
        if chunk.path_in_schema.partition(".")[0] in names:
            first = chunk.data_page_offset
            if chunk.has_dictionary_page:
                first = min(first, chunk.dictionary_page_offset)
            ranges.append((first, first + chunk.total_compressed_size))
    return ranges


def _is_of_arrow(error: OSError) -> bool:
    """Tell whether an error is the bare OSError of Arrow for a file that does not parse."""
    return type(error) is OSError and error.errno is None


def _check_digest(file: SeekableFile) -> None:
    """Raise DamagedFileError if the footer of a file, or of its end, does not match its digest."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _TRAILER_BYTES))
    wanted = _DIGEST_BYTES + _footer_bytes(file.read()) + _TRAILER_BYTES
    if wanted > size:
        return  # too short for a digest
    file.seek(size - wanted)
    end = file.read()
    digest = end[len(_MARK) : _DIGEST_BYTES]
    footer = end[_DIGEST_BYTES:]
    if end.startswith(_MARK) and sha256(footer).digest() != digest:
        raise DamagedFileError("the footer does not match its digest")


def _footer_bytes(end: bytes) -> int:
    return int.from_bytes(end[-_TRAILER_BYTES:-4], "little")


def _makes_objects(kind: pa.DataType) -> bool:
    """Tell whether a Python library registered a type, or a part of it, and makes its values.

    Such values are refused: those of `ray.data.arrow_pickled_object` are unpickled, which runs any
    code that the file's writer chose.
    """
    if isinstance(kind, pa.ExtensionType):
        return True
    if pa.types.is_dictionary(kind):
        return _makes_objects(kind.value_type)
    return any(_makes_objects(kind.field(place).type) for place in range(kind.num_fields))


def _check_names(names: list[str], columns: pa.Schema, schema: pa.Schema) -> None:
    """Raise DamagedFileError if a file has none of the columns, or one under another name."""
    if set(names).isdisjoint(columns.names):
        raise DamagedFileError(f"it has none of the columns {', '.join(columns.names)}")
    unknown = sorted(set(names) - set(schema.names))
    missing = sorted(set(schema.names) - set(names))
    if unknown and missing:
        raise DamagedFileError(f"it has an unknown column {unknown[0]!r} and lacks {missing[0]!r}")


def _read_columns(file: SeekableFile, footer: pq.FileMetaData, columns: pa.Schema) -> pa.Table:
    """Read columns in no more memory than a file of that size may take."""
    risky = find_risky_texts(footer)
    parquet = pq.ParquetFile(
        file, metadata=footer, page_checksum_verification=True, read_dictionary=risky
    )
    names = set(parquet.schema_arrow.names) & set(columns.names)
    wanted = [field.name for field in columns if field.name in names]
    file_bytes = file.seek(0, io.SEEK_END)
    num_rows = limit_rows(footer, footer.num_rows)
    # no threads of Arrow: they call Python to read, and abort a process that exits meanwhile
    if num_rows < footer.num_rows:
        batches = parquet.iter_batches(num_rows, columns=wanted, use_threads=False)
        found = pa.Table.from_batches(check_batch_sizes(batches, file_bytes))
    else:
        found = parquet.read(wanted, use_threads=False)
    if risky:
        found.validate(full=True)  # the indices are about to be used
    check_row_sizes(found, file_bytes)
    arrays = []
    for field in columns:
        if field.name in names:
            arrays.append(found[field.name].cast(field.type))
        else:
            arrays.append(pa.nulls(len(found), field.type))
    return pa.Table.from_arrays(arrays, schema=columns)
