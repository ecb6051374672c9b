"""GeoPackages as QGIS and GDAL write them, and hostile ones."""

from __future__ import annotations

import random
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely

from tests.labelled_data.formats.vector import list_objects, parse, parse_in_child, parse_or_refuse
from unet_ray.labelled_data.annotations import LabelError

BOX = shapely.box(1, 1, 5, 4)
RING = [5.0, 1.0, 5.0, 4.0, 1.0, 4.0, 1.0, 1.0]
"""Corners of BOX as GDAL writes them."""


def write(
    folder: Path, geometries: list[Any], crs: Any = 32633, layer: str = "labels", **columns: Any
) -> Path:
    """Write a layer into the GeoPackage of a folder; return its path."""
    path = folder / "labels.gpkg"
    options = {"layer": layer, "driver": "GPKG", "mode": "a" if path.exists() else "w"}
    frame = geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # no system was given
        frame.to_file(path, **options)
    return path


def change(path: Path, *statements: str) -> bytes:
    """Run statements in a database; return its content."""
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return path.read_bytes()


@pytest.mark.parametrize("read", [parse, parse_in_child])
def test_a_layer_is_read_with_its_system_and_its_classes(tmp_path: Path, read: Any) -> None:
    holed = shapely.Polygon(BOX.exterior, [shapely.box(2, 2, 3, 3).exterior])
    several = shapely.MultiPolygon([BOX, shapely.box(7, 7, 8, 8)])
    kinds = {"class": ["tree", "road", None], "area": [1.5, 2.5, 3.5]}
    data = write(tmp_path, [holed, several, BOX], **kinds).read_bytes()
    found = read(data, "maps/labels.gpkg")
    assert list_objects(found) == [
        ("tree", [RING, [3, 2, 3, 3, 2, 3, 2, 2]]),
        ("road", [RING, [8, 7, 8, 8, 7, 8, 7, 7]]),
        (None, [RING]),
    ]
    assert found.images["crs"].to_pylist() == ["EPSG:32633"]
    assert found.images["places"].to_pylist() == [["maps/labels"]]
    assert found.objects["label"][0].as_py() == "feature 1 of labels"


def test_points_lines_heights_and_empty_geometries_are_counted_or_read(tmp_path: Path) -> None:
    high = shapely.force_3d(BOX, 9.0)
    others = [shapely.Point(1, 2), shapely.LineString([(0, 0), (1, 1)]), None, shapely.Polygon()]
    found = parse(write(tmp_path, [high, *others]).read_bytes(), "a.gpkg")
    assert list_objects(found) == [("object", [RING])]
    assert found.left_out == {"points": 1, "lines": 1, "features without a geometry": 2}


@pytest.mark.parametrize(
    ("crs", "found"),
    [(4326, "EPSG:4326"), ("ESRI:54009", "ESRI:54009"), (None, "unstated"), (3857, "EPSG:3857")],
)
def test_the_coordinate_system_is_a_code(tmp_path: Path, crs: Any, found: str) -> None:
    assert (
        parse(write(tmp_path, [BOX], crs).read_bytes(), "a.gpkg").images["crs"][0].as_py() == found
    )


def test_the_code_may_stand_in_the_definition(tmp_path: Path) -> None:
    path = write(tmp_path, [BOX])
    own = "UPDATE gpkg_spatial_ref_sys SET organization = 'mine' WHERE srs_id = 32633"
    assert parse(change(path, own), "a.gpkg").images["crs"].to_pylist() == ["EPSG:32633"]
    none = "UPDATE gpkg_spatial_ref_sys SET definition = 'PROJCS[' || hex(zeroblob(9999))"
    assert parse(change(path, none), "a.gpkg").images["crs"].to_pylist() == ["unstated"]


def test_of_several_layers_the_name_is_a_property(tmp_path: Path) -> None:
    write(tmp_path, [BOX], layer="trees")
    data = write(tmp_path, [BOX], 4326, layer="roads").read_bytes()
    with pytest.raises(LabelError, match=r"layer \(roads, trees\).*--label-property layer"):
        parse(data, "a.gpkg")
    found = parse(data, "a.gpkg", label_property="layer")
    assert [kind for kind, _ in list_objects(found)] == ["roads", "trees"]
    assert found.images["crs"].to_pylist() == ["EPSG:4326", "EPSG:32633"]


def test_a_file_that_is_open_in_qgis_is_read_and_said(tmp_path: Path) -> None:
    data = change(write(tmp_path, [BOX]), "PRAGMA journal_mode=WAL")
    assert data[18:20] == b"\2\2"
    found = parse(data, "a.gpkg")
    assert list_objects(found) == [("object", [RING])]
    assert any("a.gpkg-wal are not read" in note for note in found.notes)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DROP TABLE gpkg_contents", "not a GeoPackage with layers"),
        ("UPDATE gpkg_contents SET data_type = 'tiles'", "has no layer of features"),
        ("UPDATE gpkg_geometry_columns SET column_name = 'x'", "layer labels has no column x"),
        ("UPDATE gpkg_contents SET table_name = 'x'", "has no layer of features"),
    ],
)
def test_other_databases_are_refused(tmp_path: Path, statement: str, message: str) -> None:
    path = write(tmp_path, [BOX])
    with closing(sqlite3.connect(path)) as database:
        drops = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    triggers = [f'DROP TRIGGER "{name}"' for (name,) in drops]
    data = change(path, "PRAGMA foreign_keys=OFF", *triggers, statement)
    with pytest.raises(LabelError, match=message):
        parse(data, "a.gpkg")


def test_a_view_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unet_ray.labelled_data.formats.geopackage._MOST_STEPS", 5)
    path = write(tmp_path, [BOX])
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    triggers = [f'DROP TRIGGER "{name}"' for (name,) in names]
    endless = (
        "CREATE VIEW labels AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS fid, NULL AS geom FROM n WHERE i < 0"
    )
    data = change(path, *triggers, "DROP TABLE labels", endless)
    with pytest.raises(LabelError, match="interrupted"):
        parse(data, "a.gpkg")


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    data = write(tmp_path, [BOX, shapely.MultiPolygon([BOX])], label=["a", "b"]).read_bytes()
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 10])):
            start = rng.randrange(16, len(data))
            changed[start : start + 4] = rng.randbytes(rng.randrange(1, 5))
        if rng.random() < 0.2:
            del changed[rng.randrange(100, len(changed)) :]
        parse_or_refuse(bytes(changed), "a.gpkg")


def test_geometries_that_are_no_wkb_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, [BOX, BOX, BOX])
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    triggers = [f'DROP TRIGGER "{name}"' for (name,) in names]
    data = change(
        path,
        *triggers,
        "UPDATE labels SET geom = 'text' WHERE fid = 1",
        "UPDATE labels SET geom = x'4750000a00' WHERE fid = 2",
    )
    found = parse(data, "a.gpkg")
    assert found.left_out == {"features with a geometry that cannot be read, such as curves": 2}
    assert len(found.objects) == 1
