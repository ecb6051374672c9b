"""What is measured knows no run; what writes its rows puts the run into each of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tests.builders import make_record
from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.segmentation.stages.columns import (
    MASK_ROWS,
    REGION_ROWS,
    ROWS,
    RUN_COLUMNS,
    nested_list,
    probability_table,
    with_measured,
)
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.tables.schemas import SCHEMAS

STAMP = RunStamp("run", "model", "config")
MEASURE = Measure(
    (ClassSpec(1, "cell"), ClassSpec(2, "fibre")), Postprocessing((ObjectRule(), ObjectRule()))
)


def draw_prob_u8(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (2, 12, 16), np.uint8)


def test_rows_of_all_tables_say_their_run() -> None:
    records = [make_record(f"{index}.png", (12, 16, 1)) for index in range(3)]
    measured = [MEASURE.image(record, draw_prob_u8(0)) for record in records]
    measured.append(Measure.failed(records[0].fail(ImageError("missing", "gone"), "read")))
    rows = Measure.join(measured)
    assert rows.schema == ROWS
    for name in RUN_COLUMNS:
        assert name not in str(rows.schema)
    tables = split_into_tables(pa.concat_tables([rows.slice(1), rows.slice(0, 1)]), STAMP)
    for name, schema in SCHEMAS.items():
        assert tables[name].schema.equals(schema, check_metadata=True)
        assert len(tables[name]) > 0
        for column in set(RUN_COLUMNS) & set(schema.names):
            assert set(tables[name][column].to_pylist()) == {getattr(STAMP, column)}
    assert len(tables["images"]) == 4
    assert len(tables["masks"]) == 3 * 2
    counts = dict(
        zip(
            *(tables["images"][name].to_pylist() for name in ("error", "region_count")), strict=True
        )
    )
    assert counts["gone"] is None
    assert len(tables["regions"]) == 3 * counts[None]


def test_a_table_may_hold_images_measured_tile_by_tile_beside_others() -> None:
    """Blocks of a stage can be joined on their way to the next one."""
    names = ("small.png", "large.png", "failed.png")
    small, large, failed = (make_record(name, (12, 16, 1)) for name in names)
    tiled = MEASURE.image(large, draw_prob_u8(1))
    one_by_one = [
        probability_table([(small, draw_prob_u8(0))]),
        with_measured(
            probability_table([(large, None)]),
            nested_list([tiled.masks], MASK_ROWS),
            nested_list([tiled.regions], REGION_ROWS),
        ),
        probability_table([(failed.fail(ImageError("missing", "gone"), "read"), None)]),
    ]
    (rows,) = MEASURE(pa.concat_tables(one_by_one))
    together = split_into_tables(rows, STAMP)
    rows = pa.concat_tables(rows for each in one_by_one for rows in MEASURE(each))
    apart = split_into_tables(rows, STAMP)
    for name in SCHEMAS:
        found, expected = (
            tables[name].drop_columns(["segmented_at"] if name == "images" else [])
            for tables in (together, apart)
        )
        order = [(column, "ascending") for column in found.column_names[:3:2]]
        assert found.sort_by(order).equals(expected.sort_by(order))
        assert len(found) > 2
