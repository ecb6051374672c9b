from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.image_sources.sources import expand_stacks, header_decoders, whole_file
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.segmentation.stages.columns import PIXELS, plan_table
from unet_ray.segmentation.stages.decode import Decode
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.storage.storage import Content, Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.tables.binary_columns import table_with, view_samples

_LONG = 2**22
"""Bytes behind an image that make its file longer than each of 32 that are read at a time."""


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_changed_since_it_was_listed_is_not_taken_for_the_listed_one(
    root: str, check: bool
) -> None:
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    for name in ("same", "other"):
        archive.write(f"{name}.png", encode(draw_scene(30, 40, rng)[0], "png"))
    with header_decoders() as decoders:
        plan = plan_table(expand_stacks(decoders, archive, archive.entries()))
    archive.write("other.png", encode(draw_scene(50, 60, rng)[0], "png"))
    constants = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
    rows = [
        row
        for table in Decode(ImageReading(archive, check), constants, 2**25)(plan)
        for row in table.to_pylist()
    ]
    found = {Path(row["image_uri"]).stem: (row["error_type"], row["height"]) for row in rows}
    assert found == {"same": (None, 30), "other": ("changed", None) if check else (None, 50)}


@pytest.mark.parametrize("stated", [100, 0, -5, 2**28, 2**62])
def test_how_much_is_read_of_a_file_is_for_its_store_to_say(root: str, stated: int) -> None:
    """A manifest may state any size: of a long file nothing is kept, and a small one is read."""
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    small = encode(draw_scene(30, 40, rng)[0], "png")
    archive.write("small.png", small)
    archive.write("long.png", small + bytes(_LONG))
    plan = plan_table(whole_file(replace(e, size=stated)) for e in archive.entries())
    constants = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
    (found,) = Decode(ImageReading(archive, True), constants, 2**25)(plan)
    long, short = found.to_pylist()
    assert (long["error_type"], long["pixels"]) == (None, None) or stated == 2**28
    if stated <= 2**28:
        assert (short["height"], short["image_bytes"]) == (30, len(small))
    else:  # for the stage that reads windows
        assert (short["pixels"], short["error_type"]) == (None, None)


def test_an_image_costs_one_request_and_requests_wait_side_by_side(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers of TIFF files, and images with their etags, from a store that answers after 0.5 s."""
    bucket, rng = new_bucket(request), np.random.default_rng(0)
    scene = draw_scene(30, 40, rng)[0]
    for index in range(40):
        Storage.of(bucket).write(f"{index:02}.tif", encode(scene, "tif"))
    with faulty_store(s3_server, delay_s=0.5) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        archive = Storage.of(bucket)
        entries = archive.entries()
        before = store.requests
        with header_decoders() as decoders:
            plan = plan_table(expand_stacks(decoders, archive, entries))
        assert store.requests - before == 40
        assert store.most_under_way > 20
        before, store.most_under_way = store.requests, 0
        constants = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
        (found,) = Decode(ImageReading(archive, True), constants, 2**25)(plan)
        assert found["error"].null_count == 40
        assert store.requests - before == 40
        assert store.most_under_way > 20
        assert min(found["read_s"].to_pylist()) > 0.5 / 32


@given(st.lists(st.none() | arrays(np.uint8, array_shapes(min_side=0, max_side=5)), max_size=20))
def test_a_table_with_samples_equals_one_made_of_rows_of_bytes(
    samples: list[np.ndarray | None],
) -> None:
    rows = [{"image_uri": f"{index}", "pixels": each} for index, each in enumerate(samples)]
    found = table_with(rows, PIXELS, "pixels")
    found.validate(full=True)
    plain = [
        row | {"pixels": None if row["pixels"] is None else row["pixels"].tobytes()} for row in rows
    ]
    assert found.equals(pa.Table.from_pylist(plain, schema=PIXELS))
    parts = pa.concat_tables(
        [found.slice(3), found.slice(0, 3), found.filter(found["pixels"].is_valid())]
    )
    back = [None if each is None else each.tobytes() for each in view_samples(parts["pixels"])]
    assert back == parts["pixels"].to_pylist()


def test_a_page_of_a_stack_costs_its_own_bytes(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pages come in blocks of a bounded size; the file is read once, not once per page."""
    archive, rng = Storage.of(root).join("archive"), np.random.default_rng(0)
    pages = rng.integers(0, 255, (40, 300, 301), np.uint8)
    archive.write("stack.tif", encode(pages, "tif"))
    with header_decoders() as decoders:
        sources = list(expand_stacks(decoders, archive, archive.entries()))
    plan = plan_table(replace(source, size=1) for source in sources)  # as a manifest may say
    read, read_content = list[int](), Storage.read_content

    def counted(file: Storage, offset: int, size: int) -> Content:
        content = read_content(file, offset, size)
        read.append(len(content.data))
        return content

    monkeypatch.setattr(Storage, "read_content", counted)
    constants = Preprocessing("uint8", (0.0,), (1.0,))
    tables = list(Decode(ImageReading(archive, True), constants, block_bytes=2**20)(plan))
    found = [row for table in tables for row in table.to_pylist()]
    assert [row["page"] for row in found] == list(range(1, 41))
    for row, page in zip(found, pages, strict=True):
        assert row["error"] is None
        assert row["pixels"] == page.tobytes()
    assert len(tables) == 4
    assert 1.0 < sum(read) / sources[0].size < 1.5
