from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet_ray.archive.storage import Storage
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.stages.columns import PIXELS, PLAN, samples_of, table_with
from unet_ray.stages.decode import Decode
from unet_ray.synthetic import draw_scene, encode


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_changed_since_it_was_listed_is_not_taken_for_what_was_listed(root: str, check: bool) -> None:
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    for name in ("same", "other"):
        archive.write(f"{name}.png", encode(draw_scene(30, 40, rng)[0], "png"))
    listed = [(e.uri, e.uri, None, e.etag, e.size, 1) for e in archive.entries()]
    archive.write("other.png", encode(draw_scene(50, 60, rng)[0], "png"))
    plan = pa.Table.from_pylist([dict(zip(PLAN.names, row, strict=True)) for row in listed], schema=PLAN)
    constants = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
    rows = [row for table in Decode(archive, constants, check, 2**25)(plan) for row in table.to_pylist()]
    found = {Path(row["image_uri"]).stem: (row["error_type"], row["height"]) for row in rows}
    assert found == {"same": (None, 30), "other": ("changed", None) if check else (None, 50)}


@given(st.lists(st.none() | arrays(np.uint8, array_shapes(min_side=0, max_side=5)), max_size=20))
def test_a_table_with_samples_is_what_rows_of_bytes_make(samples: list[np.ndarray | None]) -> None:
    rows = [{"image_uri": f"{index}", "pixels": each} for index, each in enumerate(samples)]
    found = table_with(rows, PIXELS, "pixels")
    found.validate(full=True)
    plain = [row | {"pixels": None if row["pixels"] is None else row["pixels"].tobytes()} for row in rows]
    assert found.equals(pa.Table.from_pylist(plain, schema=PIXELS))
    parts = pa.concat_tables([found.slice(3), found.slice(0, 3), found.filter(found["pixels"].is_valid())])
    back = [None if each is None else each.tobytes() for each in samples_of(parts["pixels"])]
    assert back == parts["pixels"].to_pylist()
