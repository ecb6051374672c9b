"""Columns of large binary values, written and read without a copy of each value."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def table_with(rows: list[dict[str, Any]], schema: pa.Schema, samples: str) -> pa.Table:
    """Return rows as a table whose column of samples is filled in one piece.

    NumPy copies the samples, which lets other threads run meanwhile.

    Args:
        rows: One dict per image; its samples are a C-contiguous array or None.
        schema: Schema of the table.
        samples: Name of the `large_binary` column that holds the samples.
    """
    arrays = [row[samples] for row in rows]
    is_valid = [array is not None for array in arrays]
    sizes = [0 if array is None else array.nbytes for array in arrays]
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    joined = np.empty(offsets[-1], np.uint8)
    for array, first, end in zip(arrays, offsets, offsets[1:], strict=False):
        if array is not None:
            joined[first:end] = array.reshape(-1).view(np.uint8)
    buffers = [
        pa.array(is_valid, pa.bool_()).buffers()[1],
        pa.py_buffer(offsets),
        pa.py_buffer(joined),
    ]
    column = pa.Array.from_buffers(
        pa.large_binary(), len(rows), buffers, null_count=is_valid.count(False)
    )
    place = schema.get_field_index(samples)
    others = pa.Table.from_pylist(rows, schema=schema.remove(place))
    return others.add_column(place, schema.field(place), column)


def join_bytes(values: Collection[bytes]) -> pa.BinaryArray:
    """Return byte strings as a `binary` array.

    Its memory is allocated once in the right size; Arrow's builder would double it as it grows.

    Args:
        values: Byte strings of less than 2 GiB together, which is what the array's offsets address.
    """
    sizes = [len(value) for value in values]
    offsets = np.cumsum([0, *sizes], dtype=np.int64)
    assert offsets[-1] < 2**31, "32-bit offsets"
    data = pa.py_buffer(b"".join(values))
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), data]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers, null_count=0)


def view_samples(column: pa.ChunkedArray) -> list[NDArray[np.uint8] | None]:
    """Return the bytes of each row of a `large_binary` column without copying them.

    The arrays are views of the column's buffers; Arrow's own scalars would be copies.

    Args:
        column: The column.

    Returns:
        One uint8 array per row, None for a null.
    """
    views: list[NDArray[np.uint8] | None] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        all_offsets = np.frombuffer(ends, np.int64)
        offsets = all_offsets[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        joined = np.frombuffer(data, np.uint8)
        validity = chunk.is_valid().to_pylist()
        for is_valid, first, end in zip(validity, offsets, offsets[1:], strict=False):
            views.append(joined[first:end] if is_valid else None)
    return views


def unpack_bits(packed: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask, (H, W), that `np.packbits` packed."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=height * width)
    return bits.view(np.bool_).reshape(height, width)
