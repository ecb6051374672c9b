"""GeoJSON as QGIS, GDAL, QuPath and our export write it: exact objects, or one line."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.labelled_data.formats.vector import (
    BOX,
    OPEN_BOX,
    list_objects,
    make_collection,
    make_feature,
    parse,
    parse_in_child,
    parse_or_refuse,
)
from unet_ray.errors import ImageError
from unet_ray.labelled_data.annotations import Category, LabelError

HOLE = [[2, 2], [3, 2], [3, 3], [2, 2]]
UTM = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}


def test_a_collection_of_qgis_is_read_with_its_system_and_its_classes() -> None:
    found = parse(
        make_collection(
            make_feature(**{"id": 1, "class": "crown", "area": 12.5}),
            make_feature([[*BOX[0]], HOLE], **{"id": 2, "class": "road", "area": 3.25}),
            name="labels",
            crs=UTM,
        ),
        "maps/labels.geojson",
    )
    assert list_objects(found) == [
        ("crown", [OPEN_BOX]),
        ("road", [OPEN_BOX, [2.0, 2.0, 3.0, 2.0, 3.0, 3.0]]),
    ]
    (image,) = found.images.to_pylist()
    assert (image["name"], image["places"], image["crs"]) == ("", ["maps/labels"], "EPSG:32633")
    holes = [part["is_hole"] for part in found.objects["parts"][1].as_py()]
    assert holes == [False, True]
    assert not found.left_out


@pytest.mark.parametrize(
    ("crs", "found"),
    [
        ({}, "EPSG:4326"),
        ({"crs": None}, "unstated"),
        ({"crs": UTM}, "EPSG:32633"),
        (
            {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
            "EPSG:4326",
        ),
        ({"crs": {"type": "name", "properties": {"name": "EPSG:25832"}}}, "EPSG:25832"),
        (
            {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG:6.9:25832"}}},
            "EPSG:25832",
        ),
        (
            {
                "crs": {
                    "type": "name",
                    "properties": {"name": "http://www.opengis.net/def/crs/EPSG/0/3857"},
                }
            },
            "EPSG:3857",
        ),
        ({"crs": {"type": "EPSG", "properties": {"code": 2056}}}, "EPSG:2056"),
        ({"crs": {"type": "link", "properties": {"href": "file:///etc/passwd"}}}, "unstated"),
        ({"crs": {"type": "name", "properties": {"name": "PROJCS[" + "x" * 9999}}}, "unstated"),
        ({"crs": "EPSG:32633"}, "unstated"),
    ],
)
def test_the_coordinate_system_is_what_the_file_says(crs: dict[str, Any], found: str) -> None:
    after = json.dumps(make_collection(make_feature()) | crs)  # after the features
    before = json.dumps(make_collection(make_feature(), **crs))
    for text in (before, after):
        assert parse(text, "a.geojson").images["crs"].to_pylist() == [found]


FEATURE = make_feature()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (FEATURE, "a.geojson"),
        (FEATURE["geometry"], "a.json"),
        ({"type": "GeometryCollection", "geometries": [FEATURE["geometry"]]}, "a.geojson"),
        (FEATURE | {"geometry": {"type": "MultiPolygon", "coordinates": [BOX]}}, "a.geojson"),
        ([FEATURE], "a.geojson"),
        (make_collection(FEATURE), "a.JSON"),
        (json.dumps(FEATURE) + "\n", "a.geojsonl"),
        ("\x1e" + json.dumps(FEATURE, indent=1) + "\n", "a.geojsons"),
        (b"\xef\xbb\xbf" + json.dumps(make_collection(FEATURE), indent=2).encode(), "a.geojson"),
        (make_feature([[[x, y, 7.5] for x, y in BOX[0]]]), "a.geojson"),
    ],
)
def test_all_outer_forms_give_the_same_object(content: Any, name: str) -> None:
    assert list_objects(parse(content, name)) == [("object", [OPEN_BOX])]


@pytest.mark.parametrize("separator", ["", "\x1e"])
@pytest.mark.parametrize("name", ["a.geojsonl", "a.ndjson", "a.geojson"])
def test_a_feature_per_line_is_read(separator: str, name: str) -> None:
    lines = [separator + json.dumps(make_feature(label=kind)) for kind in "abc"]
    found = parse("\n".join(lines) + "\n\n", name)
    assert [kind for kind, _ in list_objects(found)] == ["a", "b", "c"]
    assert found.objects["label"].to_pylist() == ["line 1", "line 2", "line 3"]


def qupath(kind: str, name: str | None = None, **members: Any) -> dict[str, Any]:
    """Return an object as QuPath 0.5 writes it."""
    classified = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    properties = {"objectType": kind, **classified, "isLocked": True}
    return make_feature(**properties) | {"id": "0a7dcd4c-6d2f-4d0c-9d3e-d0fcd6b3d6c4"} | members


def test_objects_of_qupath_are_in_pixels() -> None:
    nucleus = {"type": "Polygon", "coordinates": [HOLE]}
    found = parse(
        make_collection(
            qupath("cell", "Positive", nucleusGeometry=nucleus),
            qupath("cell"),
            qupath("cell", "Ignore*"),
            qupath("tmaCore"),
        ),
        "slide 1.geojson",
    )
    assert list_objects(found) == [("Positive", [OPEN_BOX]), (None, [OPEN_BOX]), (None, [OPEN_BOX])]
    assert found.images["crs"].to_pylist() == [None]
    assert found.images["places"].to_pylist() == [["slide 1"]]
    assert found.left_out == {
        "nuclei of cells: the cells' outlines are taken": 1,
        "features without a class, or to be ignored: their pixels are not counted": 2,
        "QuPath's TMA cores and root objects": 1,
    }


def test_objects_of_old_versions_of_qupath_are_read() -> None:
    old = {"id": "PathAnnotationObject"}
    found = parse(
        [
            make_feature(classification={"name": "Tumor", "colorRGB": -3670016}) | old,
            make_feature(classification={"names": ["Tumor", "Positive"]}, measurements=[]) | old,
            make_feature(classification='{"name": "Stroma", "color": [1, 2, 3]}') | old,
        ],
        "a.json",
    )
    kinds = [kind for kind, _ in list_objects(found)]
    assert kinds == ["Tumor", "Tumor: Positive", "Stroma"]
    assert found.images["crs"].to_pylist() == [None]


def test_annotations_are_drawn_below_detections_and_children_are_found() -> None:
    parent = qupath("annotation", "Tumor")
    parent["properties"]["childObjects"] = [qupath("detection", "Cell")]
    found = parse(make_collection(qupath("detection", "Cell"), parent), "a.geojson")
    assert [kind for kind, _ in list_objects(found)] == ["Tumor", "Cell", "Cell"]
    assert "annotations are drawn first, detections and cells over them" in found.notes


def test_areas_beside_detections_are_refused_until_a_flag_says_what_they_are() -> None:
    document = make_collection(qupath("annotation"), qupath("detection", "Cell"))
    with pytest.raises(LabelError, match="give --label-property objectType"):
        parse(document, "a.geojson")
    found = parse(document, "a.geojson", label_property="objectType")
    assert [kind for kind, _ in list_objects(found)] == ["annotation", "detection"]


def test_objects_on_several_planes_are_refused() -> None:
    plane = {"geometry": make_feature()["geometry"] | {"plane": {"c": -1, "z": 1, "t": 0}}}
    with pytest.raises(LabelError, match=r"several planes \(z=0 t=0, z=1 t=0\)"):
        parse(make_collection(qupath("annotation"), qupath("annotation") | plane), "a.geojson")


def test_our_export_names_its_image_and_comes_back_in_pixels() -> None:
    """The export of an image that is not georeferenced turns y upwards, as QGIS shows it."""
    properties = {"image_uri": "/data/a.tif#page=2", "region_id": 1, "class_id": 7}
    rest = {"class_name": "leaf", "score": 0.5, "area": 12}
    upwards = [[[x, -y] for x, y in BOX[0]]]
    features = [make_feature(upwards, **properties, **rest)]
    found = parse(make_collection(*features, image_uri="/data/a.tif#page=2"), "a.geojson")
    assert list_objects(found) == [("leaf", [OPEN_BOX])]
    assert found.categories == (Category("leaf", 7),)
    (image,) = found.images.to_pylist()
    assert image["name"] == image["uri"] == "/data/a.tif#page=2"
    assert image["crs"] is None
    on_map = parse(make_collection(*features, image_uri="/data/a.tif", crs=UTM), "a.geojson")
    assert on_map.images["crs"].to_pylist() == ["EPSG:32633"]
    assert list_objects(on_map)[0][1][0][:4] == [1, -1, 5, -1]


def test_a_file_without_features_says_that_nothing_is_there() -> None:
    found = parse(make_collection(), "a/b.geojson")
    assert found.images["places"].to_pylist() == [["a/b"]]
    assert len(found.objects) == 0
    named = parse(make_collection(image_uri="/x/y.png"), "y.png.geojson")
    assert named.images["uri"].to_pylist() == ["/x/y.png"]


def features_with(**columns: list[Any]) -> dict[str, Any]:
    """Return a collection whose features have these properties; None leaves one out."""
    rows = zip(*columns.values(), strict=True)
    properties = [dict(zip(columns, row, strict=True)) for row in rows]
    return make_collection(*(make_feature(**each) for each in properties))


@pytest.mark.parametrize(
    ("columns", "classes"),
    [
        ({}, []),
        ({"Class": ["a", "b"]}, ["a", "b"]),
        ({"class_name": ["a", "b"], "class_id": [4, 9]}, ["a", "b"]),
        ({"Label": ["a", "b"], "name": ["a", "b"]}, ["a", "b"]),
        ({"label": [1, 2.0]}, ["1", "2"]),
        ({"type": ["Polygon", "Polygon"], "category": ["x", "x"]}, ["x", "x"]),
        ({"fid": [1, 2], "area": [1.5, 2.5], "note": ["", None]}, ["object", "object"]),
        ({"id": [1, 2]}, ["object", "object"]),
        ({"species": ["oak", "oak"]}, ["object", "object"]),
        ({"class": ["a", None]}, ["a", None]),
        ({"class": ["a ", "a"]}, ["a", "a"]),
    ],
)
def test_one_property_names_the_class(columns: dict[str, Any], classes: list[str]) -> None:
    found = parse(features_with(**columns), "a.geojson")
    assert [kind for kind, _ in list_objects(found)] == classes


def test_class_ids_go_with_the_names_that_they_number() -> None:
    found = parse(features_with(**{"class": ["a", "b"], "class_id": [4, 9]}), "a.geojson")
    assert found.categories == (Category("a", 4), Category("b", 9))
    found = parse(features_with(label=[3, 5]), "a.geojson")
    assert found.categories == (Category("3", 3), Category("5", 5))


@pytest.mark.parametrize(
    ("columns", "message", "flag", "classes"),
    [
        (
            {"class": ["a", "b"], "name": ["x", "x"]},
            r"several properties may name the class: class \(a, b\), name \(x\); choose one with "
            "--label-property class",
            "class",
            ["a", "b"],
        ),
        (
            {"species": ["oak", "elm"]},
            r"no property is called class.* species \(oak, elm\); .*--label-property species",
            "species",
            ["oak", "elm"],
        ),
        (
            {"id": [1, 1, 2]},
            r"no property is called class.* id \(1, 2\)",
            "none",
            ["object", "object", "object"],
        ),
        (
            {"name": [f"tree {i}" for i in range(20)]},
            "the property name has 20 values in 20 features",
            "none",
            ["object"] * 20,
        ),
    ],
)
def test_classes_in_doubt_are_refused_and_the_flag_decides(
    columns: dict[str, Any], message: str, flag: str, classes: list[str]
) -> None:
    document = features_with(**columns)
    with pytest.raises(LabelError, match=message):
        parse(document, "a.geojson")
    found = parse(document, "a.geojson", label_property=flag)
    assert [kind for kind, _ in list_objects(found)] == classes


def test_a_property_that_is_not_there_is_refused() -> None:
    document = features_with(kind=["a", "b"], depth=[1.5, 2.5])
    with pytest.raises(LabelError, match=r"no property klass .*there are kind \(a, b\)"):
        parse(document, "a.geojson", label_property="klass")
    with pytest.raises(LabelError, match="has the value 1.5, which is neither a name nor a whole"):
        parse(document, "a.geojson", label_property="depth")


def test_what_is_no_polygon_is_counted() -> None:
    geometries = [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        None,
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 1]]]},
        {"type": "Polygon", "coordinates": [BOX[0], [[1, 1], [2, 2], [1, 1]]]},
    ]
    features = [make_feature() | {"geometry": geometry} for geometry in geometries]
    found = parse(make_collection(*features), "a.geojson")
    assert list_objects(found) == [("object", [OPEN_BOX])]
    assert found.left_out == {
        "points": 1,
        "lines": 1,
        "features without a geometry": 2,
        "outlines of fewer than three points": 2,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_collection(7), r"features\[0\] is 7; give a feature"),
        (
            make_collection(make_feature() | {"properties": [1]}),
            r"features\[0\] has the properties",
        ),
        (make_collection(make_feature("x")), r"features\[0\] has the geometry .*; give a polygon"),
        (make_collection(make_feature([[1, 2, 3]])), r"features\[0\] has the ring"),
        (make_collection(make_feature([1])), r"features\[0\] has the ring 1"),
        ('{"type": "FeatureCollection", "features": 3}', "features are 3; give a list"),
        ('{"type": "FeatureCollection", "features": [', "line 1, column 4"),
        ('{"type": "FeatureCollection"}', "not GeoJSON with features"),
        ('{"type": "Feature"}\n{"type": "Feature"', "line 2: "),
        ("[" * 9999 + '{"type": "Feature"}', "nested too deeply"),
        ('\x1e{"type": "Feature", "x": ' + "[" * 99999, "line 1: it is nested too deeply"),
        ('{"type": "Topology", "objects": {}}', "it is in none of the supported formats"),
    ],
)
def test_a_broken_file_is_one_line_with_the_place(content: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message) as error:
        parse(content, "a.geojson")
    assert "\n" not in str(error.value)


def test_a_coordinate_that_is_no_number_costs_its_object() -> None:
    rings = [[["a", 1], [2, 2], [3, 3]]]
    found = parse(make_collection(make_feature(rings), make_feature()), "a.geojson")
    assert found.objects["error"].to_pylist() == ["a coordinate is not a number", None]
    huge = json.dumps(make_collection(make_feature())).replace("[1, 1]", f"[{10**400}, 1]")
    assert parse(huge, "a.geojson").objects["error"].to_pylist() == ["a coordinate is not a number"]


def test_values_of_any_kind_where_tools_write_others_do_no_harm() -> None:
    strange = [None, [], [1], {}, {"a": 1}, "\ud800", "", 1.5, True, 10**400, float("nan")]
    for value in strange:
        base = qupath("annotation", "Tumor")
        geometry = base["geometry"] | {"plane": {"z": value, "t": value}}
        for changed in (
            base | {"geometry": geometry},
            base | {"id": value},
            base | {"nucleusGeometry": value},
            *(
                base | {"properties": base["properties"] | {key: value}}
                for key in (
                    *("objectType", "classification", "childObjects", "image_uri", "image", "name"),
                )
            ),
            make_feature(classification={"name": value, "names": value}),
        ):
            for crs in (UTM, value, {"type": value, "properties": value}):
                document = make_collection(changed, crs=crs, image_uri=value)
                found = parse_or_refuse(document, "a.geojson")
                assert found is None or len(found.objects) <= 1


def test_mutated_files_are_read_or_refused() -> None:
    rng = random.Random(0)
    document = make_collection(
        qupath("annotation", "Tumor"), make_feature([BOX[0], HOLE], label=3), crs=UTM
    )
    text = json.dumps(document)
    values = ["null", "[]", "{}", '"x"', "1e999", "NaN", "true", "[[]]", str(10**400), "-1"]
    for _ in range(1000):
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.choice([0, 1, 2, 5, 20, 200]))
        changed = text[:start] + rng.choice(["", *values]) + text[end:]
        found = parse_or_refuse(changed, "a.geojson")
        assert found is None or len(found.objects) <= 3


def test_the_confined_child_reads_the_same() -> None:
    for document in (make_collection(qupath("cell", "a")), make_collection(FEATURE, crs=UTM)):
        data = json.dumps(document).encode()
        found = parse_in_child(data, "a.geojson")
        assert list_objects(found) == list_objects(parse(data, "a.geojson"))
    data = json.dumps(features_with(species=["oak", "elm"])).encode()
    with pytest.raises(ImageError, match="--label-property species"):
        parse_in_child(data, "a.geojson")
    found = parse_in_child(data, "a.geojson", label_property="species")
    assert [kind for kind, _ in list_objects(found)] == ["oak", "elm"]
