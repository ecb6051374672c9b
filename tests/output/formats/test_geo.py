"""Regions on maps: files of any number of coordinate systems, in bounded memory and open files."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from pyproj import CRS

from tests.builders import write_tables
from tests.conftest import new_bucket
from tests.faulty_store import faulty_store
from unet_ray.output.config import ExportConfig
from unet_ray.output.export import export
from unet_ray.output.formats.geo import _UNREADABLE
from unet_ray.storage.storage import Storage

RUN, DAY = "20260101T000000Z-aaaaaa", "2026-01-01"
ZONES = [*range(32601, 32661), *range(32701, 32721)]
"""EPSG codes of UTM zones, north and south."""


def write_geotiff(path: Path, epsg: int) -> None:
    tifffile.imwrite(
        path,
        np.zeros((12, 16), np.uint8),
        extratags=[
            (33550, "d", 3, (1.0, 1.0, 0.0), False),
            (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), False),
            (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, epsg), False),
        ],
    )


def test_the_places_of_far_images_are_read_side_by_side(
    request: pytest.FixtureRequest, s3_server: str, tmp_path: Path
) -> None:
    """Each takes three requests: for its size, its directories, and its tags with them."""
    archive = Storage.of(f"{new_bucket(request)}/images")
    write_geotiff(tmp_path / "a.tif", ZONES[0])
    for index in range(20):
        archive.put(f"{index}.tif", tmp_path / "a.tif")
    archive.write("20.tif", b"")
    uris = [f"{archive.uri}/{index}.tif" for index in range(22)]
    write_tables(Storage.of(f"{tmp_path}/tables"), [uris], RUN, DAY)
    with faulty_store(s3_server, delay_s=0.2) as far:
        result = export(
            ExportConfig(
                tables=f"{tmp_path}/tables",
                format="geojson",
                output=f"{tmp_path}/out",
                image_roots=archive.uri,
                images_options=f"endpoint_url={far.endpoint}",
            )
        )
        assert far.most_under_way > 10
        assert far.requests < 22 * 4
    assert result.notes["images on a map"] == 20
    assert result.notes[_UNREADABLE] == 2  # an empty file, and one that is gone


def test_an_archive_of_many_coordinate_systems_is_exported_with_few_open_files(
    tmp_path: Path,
) -> None:
    """Each image is of another zone, and each zone has two images."""
    uris = [f"{tmp_path}/images/{i}.tif" for i in range(2 * len(ZONES))]
    (tmp_path / "images").mkdir()
    for index, uri in enumerate(uris):
        write_geotiff(Path(uri), ZONES[index % len(ZONES)])
    tables = f"{tmp_path}/tables"
    write_tables(Storage.of(tables), [uris], RUN, DAY)
    config = ExportConfig(
        tables=tables,
        format="geoparquet",
        output=f"{tmp_path}/out",
        image_roots=f"{tmp_path}/images",
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        result = export(config)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (result.images, result.files) == (len(uris), len(ZONES))
    assert not result.notes
    regions = 0
    for index, epsg in enumerate(ZONES):
        rows = pq.read_table(tmp_path / f"out/epsg={epsg}.parquet", partitioning=None)
        assert set(rows["image_uri"].to_pylist()) == {uris[index], uris[index + len(ZONES)]}
        assert f'"code": {CRS.from_epsg(epsg).to_epsg()}'.encode() in rows.schema.metadata[b"geo"]
        regions += len(rows)
    assert regions == result.regions
