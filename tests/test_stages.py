from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet_ray.archive.storage import Storage
from unet_ray.inputs import expand_stacks
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.plan import plan_row
from unet_ray.stages.columns import PIXELS, PLAN, samples_of, table_with
from unet_ray.stages.decode import Decode
from unet_ray.synthetic import draw_scene, encode


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_changed_since_it_was_listed_is_not_taken_for_what_was_listed(root: str, check: bool) -> None:
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    for name in ("same", "other"):
        archive.write(f"{name}.png", encode(draw_scene(30, 40, rng)[0], "png"))
    listed = [plan_row(source) for source in expand_stacks(archive, archive.entries())]
    archive.write("other.png", encode(draw_scene(50, 60, rng)[0], "png"))
    plan = pa.Table.from_pylist(listed, schema=PLAN)
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


def test_a_page_of_a_stack_costs_its_own_bytes(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pages, in blocks of a bounded size: what is read of the file is the file once, not once a page."""
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    pages = rng.integers(0, 255, (40, 300, 301), np.uint8)
    archive.write("stack.tif", encode(pages, "tif"))
    sources = list(expand_stacks(archive, archive.entries()))
    rows = [plan_row(source) | {"image_bytes": 1} for source in sources]  # as a manifest may say
    plan = pa.Table.from_pylist(rows, schema=PLAN)
    read, read_range = list[int](), Storage.read_range

    def counted(file: Storage, offset: int, size: int) -> bytes:
        data = read_range(file, offset, size)
        read.append(len(data))
        return data

    monkeypatch.setattr(Storage, "read_range", counted)
    constants = Preprocessing("uint8", (0.0,), (1.0,))
    tables = list(Decode(archive, constants, check_etags=True, block_bytes=2**20)(plan))
    found = [row for table in tables for row in table.to_pylist()]
    assert [row["page"] for row in found] == list(range(1, 41))
    for row, page in zip(found, pages, strict=True):
        assert row["error"] is None
        assert row["pixels"] == page.tobytes()
    assert len(tables) == 4
    assert sum(read) < 1.5 * sources[0].size
