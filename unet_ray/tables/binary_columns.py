"""Columns of large binary values, written and read without copies of single values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def table_with(rows: list[dict[str, Any]], schema: Any, samples: str) -> Any:
    """Return rows as a table; its column of samples is written in one piece, while other threads go on.

    Args:
        rows — one image each; samples a C-contiguous array or None.
        schema — of the table.
        samples — name of a `large_binary` column.
    """
    found = [row[samples] for row in rows]
    is_there = [each is not None for each in found]
    offsets = np.cumsum(
        [0, *(0 if each is None else each.nbytes for each in found)], dtype=np.int64
    )
    joined = np.empty(offsets[-1], np.uint8)
    for each, first, end in zip(found, offsets, offsets[1:], strict=False):
        if each is not None:
            joined[first:end] = each.reshape(-1).view(np.uint8)
    buffers = [
        pa.array(is_there, pa.bool_()).buffers()[1],
        pa.py_buffer(offsets),
        pa.py_buffer(joined),
    ]
    column = pa.Array.from_buffers(
        pa.large_binary(), len(rows), buffers, null_count=is_there.count(False)
    )
    place = schema.get_field_index(samples)
    others = pa.Table.from_pylist(rows, schema=schema.remove(place))
    return others.add_column(place, schema.field(place), column)


def view_samples(column: Any) -> list[NDArray[np.uint8] | None]:
    """Return the bytes of each row of a `large_binary` column, where they lie: a scalar of Arrow's would be a copy."""
    found: list[NDArray[np.uint8] | None] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        offsets = np.frombuffer(ends, np.int64)[
            chunk.offset : chunk.offset + len(chunk) + 1
        ].tolist()
        joined = np.frombuffer(data, np.uint8)
        there = chunk.is_valid().to_pylist()
        pieces = zip(there, offsets, offsets[1:], strict=False)
        found += [joined[first:end] if is_there else None for is_there, first, end in pieces]
    return found
