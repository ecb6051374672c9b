"""Split rows of measured images into the three tables, and add the columns of the run."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from unet_ray.segmentation.stages.columns import RUN_COLUMNS
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS


@dataclass(frozen=True)
class RunStamp:
    """Values of the run's columns, which rows of measured images lack."""

    run_id: str
    model_digest: str
    config_digest: str

    def put_on(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return the rows of a table with the columns of the run added.

        Args:
            rows: All other columns of the table.
            schema: Schema of the table.
        """
        columns = [
            pa.repeat(getattr(self, name), len(rows)) if name in RUN_COLUMNS else rows.column(name)
            for name in schema.names
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def split_into_tables(rows: pa.Table, stamp: RunStamp) -> dict[str, pa.Table]:
    """Split measured images into the three tables of a run.

    Args:
        rows: Table of ROWS.
        stamp: Values of the run's columns.

    Returns:
        Rows of `images`, `masks` and `regions` by these names.
    """
    images = rows.select([name for name in IMAGES.names if name not in RUN_COLUMNS])
    stamped = [stamp.put_on(batch, IMAGES) for batch in images.to_batches()]
    return {
        "images": pa.Table.from_batches(stamped, IMAGES),
        "masks": _unnest(rows["masks"], MASKS, stamp),
        "regions": _unnest(rows["regions"], REGIONS, stamp),
    }


def _unnest(column: pa.ChunkedArray, schema: pa.Schema, stamp: RunStamp) -> pa.Table:
    # chunk by chunk: one array of all outlines of a shard could exceed the 2 GiB that its 32-bit
    # offsets can address
    batches = [pa.RecordBatch.from_struct_array(chunk.flatten()) for chunk in column.chunks]
    return pa.Table.from_batches([stamp.put_on(batch, schema) for batch in batches], schema)
