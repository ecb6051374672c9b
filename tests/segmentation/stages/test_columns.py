"""A record becomes columns and a record again, whatever table it travels in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.image_sources.sources import ImageSource, whole_file
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey, ImagePlace, PagePlace
from unet_ray.segmentation.stages.columns import (
    PLAN,
    PLAN_OF_FILES_SQL,
    pixel_table,
    plan_table,
    probability_table,
    read_pixels,
    read_records,
)
from unet_ray.segmentation.stages.image_record import Failure, ImageRecord
from unet_ray.storage.file_entry import FILES, FileEntry
from unet_ray.tables.duckdb_workspace import open_workspace

FILE_SIZE = 10_000
NUMBERS = st.none() | st.integers(0, 2**31 - 1)
MICROMETRES = st.floats(1e-6, 1e6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PAGES = st.builds(
    PagePlace,
    header=st.binary(min_size=8, max_size=8),
    index=st.integers(0, 9),
    size=st.integers(0, FILE_SIZE),
    ranges=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), max_size=3).map(tuple),
)
PLACES = st.builds(
    ImagePlace,
    key=st.just(WHOLE),
    file_size=st.just(FILE_SIZE),
    pages=st.lists(PAGES, min_size=1, max_size=3).map(tuple),
    mask=st.none() | PAGES,
    channels=st.sampled_from([(), ("DAPI", "µm"), ("a",)]),
    pixel_size_um=st.none() | st.tuples(MICROMETRES, MICROMETRES),
    error=st.sampled_from(["", "its channels differ"]),
)


@st.composite
def sources(draw: st.DrawFn) -> ImageSource:
    """Draw an image as it is listed; the key in its place is its own."""
    key = draw(st.builds(ImageKey, NUMBERS, NUMBERS, NUMBERS, NUMBERS))
    place = draw(st.none() | PLACES)
    return ImageSource(
        draw(TEXTS),
        key,
        etag=draw(TEXTS),
        size=draw(st.integers(0, 2**62)),
        pages=draw(st.integers(1, 2**16)),
        place=None if place is None else replace(place, key=key),
    )


SECONDS = st.floats(0, 1e6)
RECORDS = st.builds(
    ImageRecord,
    sources(),
    height=st.none() | st.integers(1, 2**31 - 1),
    width=st.none() | st.integers(1, 2**31 - 1),
    channels=st.none() | st.integers(1, 99),
    valid=st.none() | st.binary(max_size=9),
    valid_pixels=st.none() | st.integers(0, 2**62),
    pixel_size_um=st.none() | st.tuples(MICROMETRES, MICROMETRES),
    note=st.none() | TEXTS,
    content_hash=st.none() | TEXTS,
    failure=st.none() | st.builds(Failure, TEXTS, TEXTS, TEXTS),
    read_s=SECONDS,
    decode_s=SECONDS,
    predict_s=SECONDS,
    measure_s=SECONDS,
    batch_divisor=st.integers(1, 64),
)


@pytest.mark.parametrize("to_table", [pixel_table, probability_table])
@given(records=st.lists(RECORDS, min_size=1, max_size=3))
def test_records_are_the_same_after_a_journey_between_stages(
    records: list[ImageRecord], to_table: Callable[..., pa.Table]
) -> None:
    assert read_records(to_table([(record, None) for record in records])) == records


@given(st.lists(sources(), max_size=3))
def test_images_of_a_plan_are_the_same_as_those_listed(listed: list[ImageSource]) -> None:
    table = plan_table(listed)
    assert table.schema == PLAN
    assert [record.source for record in read_records(table)] == listed
    assert table["image_uri"].to_pylist() == [source.uri for source in listed]
    assert table["stored_bytes"].to_pylist() == [source.stored_bytes for source in listed]


def test_pixels_come_back_in_their_type_and_shape() -> None:
    rng, images = np.random.default_rng(0), []
    for shape, dtype in (((3, 4, 2), np.uint16), ((5, 1, 1), np.uint8), ((2, 2, 3), np.float32)):
        pixels = (rng.random(shape) * 200).astype(dtype)
        source = ImageSource("a.png", WHOLE, etag="e", size=9)
        images.append((ImageRecord(source, *shape), pixels))
    images.insert(1, (ImageRecord(source), None))
    for found, (_, pixels) in zip(read_pixels(pixel_table(images)), images, strict=True):
        if pixels is None:
            assert found is None
        else:
            assert found is not None
            assert found.dtype == pixels.dtype
            np.testing.assert_array_equal(found, pixels)


def test_files_of_one_image_are_planned_alike_in_bulk_and_one_by_one(tmp_path: Path) -> None:
    files = [FileEntry(f"{name}.png", f"/a/{name}.png", f"e{name}", name) for name in range(5)]
    rows = [{name: getattr(file, name) for name in FILES.names} for file in files]
    with open_workspace() as database:
        database.write("files", FILES, [pa.Table.from_pylist(rows, schema=FILES)])
        found = database.table(f"{PLAN_OF_FILES_SQL} FROM files ORDER BY uri")
    assert found.select(PLAN.names).cast(PLAN).equals(plan_table(map(whole_file, files)))
