"""GeoParquet as GeoPandas, GDAL and our export write it, and damaged ones."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import geopandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from tests.labelled_data.formats.vector import list_objects, parse, parse_in_child
from unet_ray.errors import ImageError
from unet_ray.labelled_data.annotations import Category, LabelError
from unet_ray.tables.schemas import REGIONS, on_a_map

BOX = shapely.box(1, 1, 5, 4)
RING = [5.0, 1.0, 5.0, 4.0, 1.0, 4.0, 1.0, 1.0]


def write(geometries: list[Any], crs: Any = 32633, options: Any = None, **columns: Any) -> bytes:
    """Return a GeoParquet file as GeoPandas writes it."""
    sink = io.BytesIO()
    frame = geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)
    frame.to_parquet(sink, **(options or {}))
    return sink.getvalue()


def with_metadata(data: bytes, **changes: Any) -> bytes:
    """Return a file whose column of geometries is described in another way; None removes a key."""
    table = pq.read_table(io.BytesIO(data))
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"]["geometry"] | changes
    geo["columns"]["geometry"] = {key: value for key, value in column.items() if value != "absent"}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("read", [parse, parse_in_child])
@pytest.mark.parametrize(
    "options",
    [
        None,
        {"compression": "zstd", "write_covering_bbox": True, "schema_version": "1.1.0"},
        {"geometry_encoding": "geoarrow"},
        {"index": True, "compression": "gzip"},
    ],
)
def test_features_are_read_with_their_system_and_their_classes(read: Any, options: Any) -> None:
    geometries = [shapely.MultiPolygon([BOX]), shapely.MultiPolygon([BOX, shapely.box(7, 7, 8, 8)])]
    kinds = {"class": ["tree", "road"], "area": [1.5, 2.5]}
    found = read(write(geometries, options=options, **kinds), "a.parquet")
    assert list_objects(found) == [("tree", [RING]), ("road", [RING, [8, 7, 8, 8, 7, 8, 7, 7]])]
    assert found.images["crs"].to_pylist() == ["EPSG:32633"]


@pytest.mark.parametrize(
    ("crs", "found"),
    [
        ("absent", "EPSG:4326"),
        (None, "unstated"),
        ({"id": {"authority": "OGC", "code": "CRS84"}}, "EPSG:4326"),
        ({"id": {"authority": "EPSG", "code": 25832}}, "EPSG:25832"),
        ({"type": "ProjectedCRS"}, "unstated"),
        ("EPSG:25832", "unstated"),
    ],
)
def test_the_coordinate_system_is_what_the_metadata_say(crs: Any, found: str) -> None:
    data = with_metadata(write([BOX]), crs=crs)
    assert parse(data, "a.parquet").images["crs"].to_pylist() == [found]


def test_points_and_missing_geometries_are_counted() -> None:
    found = parse(write([BOX, shapely.Point(1, 2), None, shapely.Polygon()]), "a.geoparquet")
    assert list_objects(found) == [("object", [RING])]
    assert found.left_out == {"points": 1, "features without a geometry": 2}
    points = write([shapely.Point(1, 2)], options={"geometry_encoding": "geoarrow"})
    assert parse(points, "a.parquet").left_out == {"points": 1}


def make_regions(epsg: int | None) -> bytes:
    """Return two regions of two images as our export, or our own table, holds them."""
    rows = [
        {
            "image_uri": f"/data/{name}",
            "run_id": "r",
            "region_id": 1,
            "class_id": number,
            "class_name": kind,
            "score": 0.5,
            "score_max": 0.9,
            "area": 12,
            "bbox": {"xmin": 1.0, "ymin": 1.0, "xmax": 5.0, "ymax": 4.0},
            "centroid_x": 3.0,
            "centroid_y": 2.5,
            "touches_border": False,
            "geometry": shapely.to_wkb(BOX),
        }
        for name, number, kind in (("a.tif", 7, "leaf"), ("s.tif#page=2", 9, "twig"))
    ]
    schema = REGIONS
    if epsg:
        schema = on_a_map(REGIONS, epsg)
        on_map = shapely.to_wkb(shapely.box(500_001, 1, 500_005, 4))
        rows = [{"map_geometry": on_map} | row for row in rows]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


@pytest.mark.parametrize(("epsg", "crs"), [(32633, "EPSG:32633"), (None, "unstated")])
def test_our_export_comes_back_with_its_images(epsg: int | None, crs: str) -> None:
    found = parse(make_regions(epsg), "epsg=32633.parquet")
    assert found.categories == (Category("leaf", 7), Category("twig", 9))
    images = found.images.to_pylist()
    assert [image["uri"] for image in images] == ["/data/a.tif", "/data/s.tif#page=2"]
    assert {image["crs"] for image in images} == {crs}
    assert found.objects["image"].to_pylist() == [0, 1]
    left = 500_001 if epsg else 1
    assert {min(ring[::2]) for _, rings in list_objects(found) for ring in rings} == {left}


def test_other_parquet_files_are_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image_uri": ["a.png"]}), sink)
    with pytest.raises(LabelError, match="has no `geo` metadata"):
        parse(sink.getvalue(), "a.parquet")
    with pytest.raises(LabelError, match="not a Parquet file, or a damaged one"):
        parse(sink.getvalue()[:-9], "a.parquet")
    wrong = write([BOX]).replace(b'"primary_column"', b'"primary_colum_"')
    with pytest.raises(LabelError, match="metadata cannot be used"):
        parse(wrong, "a.parquet")


def test_mutated_files_are_read_or_refused() -> None:
    """In the child: what damages Parquet may also crash its reader, which costs only the file."""
    rng, kinds = random.Random(0), set[str]()
    data = write([BOX, shapely.MultiPolygon([BOX])], label=["a", "b"])
    for _ in range(60):
        changed = bytearray(data)
        start = rng.randrange(4, len(data))
        changed[start : start + 4] = rng.randbytes(rng.randrange(1, 5))
        try:
            found = parse_in_child(bytes(changed), "a.parquet")
        except ImageError as failure:
            kinds.add(failure.error_type)
            continue
        found.objects.validate(full=True)
    assert kinds <= {"unreadable", "too_large"}
