"""VGG Image Annotator: projects and exports of versions 1 and 2."""

from __future__ import annotations

import csv
import json
import math
import random
from io import StringIO
from typing import Any

import numpy as np
import pytest

from tests.labelled_data.formats.parsed import (
    damage,
    damage_bytes,
    list_errors,
    list_ignored,
    list_objects,
    parse,
)
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, LabelError

POLYGON = {"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [2, 2, 8]}
FLAT = [1, 2, 9, 2, 5, 8]


def region(shape: Any = POLYGON, **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes or {"class": "leaf"}}


def image(*regions: Any, filename: Any = "a.jpg", **more: Any) -> dict[str, Any]:
    """Return an image as VIA 2 writes it."""
    entry = {"filename": filename, "size": 1234, "regions": list(regions), "file_attributes": {}}
    return entry | more


def export(*images: Any) -> dict[str, Any]:
    """Return an export of annotations."""
    return {f"{each['filename']}1234": each for each in images}


def project(*images: Any) -> dict[str, Any]:
    """Return a saved project."""
    options = {"leaf": "", "stem": ""}
    return {
        "_via_settings": {"ui": {}, "core": {"buffer_size": 18}, "project": {"name": "p"}},
        "_via_img_metadata": export(*images),
        "_via_attributes": {
            "region": {"class": {"type": "dropdown", "description": "", "options": options}},
            "file": {},
        },
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [f"{each['filename']}1234" for each in images],
    }


@pytest.mark.parametrize("form", [export, project])
def test_projects_and_exports_hold_the_same(form: Any) -> None:
    found = parse(
        form(image(region(), region(**{"class": "stem"})), image(filename="b.jpg")), "via.json"
    )
    assert found.images["name"].to_pylist() == ["a.jpg", "b.jpg"]
    assert list_objects(found) == [("leaf", [FLAT]), ("stem", [FLAT])]
    assert list_objects(found, 1) == []
    assert found.left_out == {}
    assert found.objects_of(0)[1]["label"] == "'a.jpg1234', region 1"


def test_version_1_numbers_its_regions() -> None:
    old = image(
        fileref="https://host/a.jpg",
        base64_img_data="",
        regions={"0": region(), "1": region(**{"class": "stem"})},
    )
    found = parse(export(old), "via.json")
    assert [name for name, _ in list_objects(found)] == ["leaf", "stem"]
    assert found.images["places"].to_pylist() == [["https://host/a.jpg"]]


def test_boxes_circles_and_ellipses_are_outlines() -> None:
    found = parse(
        export(
            image(
                region({"name": "rect", "x": 1, "y": 2, "width": 4, "height": 3}),
                region({"name": "circle", "cx": 10, "cy": 12, "r": 5}),
                region({"name": "ellipse", "cx": 0, "cy": 0, "rx": 8, "ry": 2, "theta": 0.5}),
            )
        ),
        "via.json",
    )
    (_, (box,)), (_, (circle,)), (_, (ellipse,)) = list_objects(found)
    assert box == [1, 2, 5, 2, 5, 5, 1, 5]
    assert np.allclose(np.hypot(*(np.reshape(circle, (-1, 2)) - (10, 12)).T), 5)
    x, y = np.reshape(ellipse, (-1, 2)).T
    along, across = x * math.cos(0.5) + y * math.sin(0.5), y * math.cos(0.5) - x * math.sin(0.5)
    assert np.allclose((along / 8) ** 2 + (across / 2) ** 2, 1)
    assert found.left_out == {"rectangles: all of their pixels are taken as the object": 1}


def test_what_is_no_area_is_counted_and_left_out() -> None:
    found = parse(
        export(
            image(
                region({"name": "point", "cx": 1, "cy": 2}),
                region(POLYGON | {"name": "polyline"}),
                region({"name": "circle", "cx": 1, "cy": 2, "r": 0}),
                region({"name": "polygon", "all_points_x": [1], "all_points_y": [1]}),
                region({"name": "spiral"}),
            )
        ),
        "via.json",
    )
    assert len(found.objects) == 0
    assert found.left_out == {
        "points": 1,
        "lines": 1,
        "circles without area": 1,
        "outlines of fewer than three points": 1,
        "regions of an unknown shape": 1,
    }


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"class": "leaf"}, "leaf"),
        ({"name": " leaf "}, "leaf"),
        ({"class": 3}, "3"),
        ({"class": {"leaf": True}}, "leaf"),
        ({"class": {"leaf": True, "stem": False}}, "leaf"),
        ({"class": "leaf", "name": "leaf"}, "leaf"),
        ({"class": "leaf", "comment": ""}, "leaf"),
        ({"comment": ""}, "object"),
    ],
)
def test_the_only_attribute_that_is_filled_in_names_the_class(
    attributes: dict[str, Any], name: str
) -> None:
    found = parse(export(image(region(**attributes))), "via.json")
    assert list_objects(found) == [(name, [FLAT])]


def test_regions_without_attributes_are_objects_of_one_class() -> None:
    bare = {"shape_attributes": POLYGON, "region_attributes": {}}
    assert list_objects(parse(export(image(bare)), "via.json")) == [("object", [FLAT])]


def test_regions_without_a_class_among_others_are_not_counted() -> None:
    bare = {"shape_attributes": POLYGON, "region_attributes": {}}
    found = parse(export(image(region(), bare)), "via.json")
    assert [name for name, _ in list_objects(found)] == ["leaf"]
    assert list_ignored(found) == [[FLAT]]
    assert found.left_out == {"regions without a class: their pixels are not counted": 1}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            export(image(region(kind="leaf", state="dry"))),
            "the class may be the attribute 'kind' or 'state'; remove the other one in VIA",
        ),
        (
            {"a.jpg1": image(), "a.jpg2": image()},
            "'a.jpg1' and 'a.jpg2' are both called 'a.jpg'; give each image a name of its own",
        ),
        (export(image(filename="")), "'1234': the image has no filename"),
        (export(image(7)), r"'a.jpg1234', region 0 is 7; give an object"),
        (export(image(regions=7)), "'a.jpg1234': regions are 7; give a list"),
        (export(image()) | {"b.jpg": None}, "not a VIA JSON of version 1 or 2: b.jpg is None"),
        ({"_via_img_metadata": 7}, "_via_img_metadata is 7; give an object"),
        ({"_via_settings": {}}, "not a VIA JSON: it has no images"),
    ],
)
def test_a_file_that_is_broken_or_ambiguous_is_refused(content: Any, error: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse(content, "via.json")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        (None, "its shape_attributes are None; give an object"),
        (
            POLYGON | {"all_points_y": [1]},
            "its all_points_x and all_points_y are not lists of equal length",
        ),
        (POLYGON | {"all_points_y": [1, 2, "3"]}, "the coordinate '3' is not a number in px"),
        ({"name": "circle", "cx": 1, "cy": 2}, "the coordinate None is not a number in px"),
    ],
)
def test_a_region_that_cannot_be_drawn_is_named(shape: Any, error: str) -> None:
    found = parse(export(image(region(), region(shape))), "via.json")
    assert list_errors(found) == [("'a.jpg1234', region 1", error)]


CSV_HEADER = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
    "region_attributes\n"
)


def to_csv(*images: Any) -> str:
    """Return an export as CSV: a line for each region, one for an image without regions."""
    text = StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_MINIMAL)
    for each in images:
        regions = each["regions"] or [{"shape_attributes": {}, "region_attributes": {}}]
        for index, one in enumerate(regions):
            cells = [json.dumps(one[key]) for key in ("shape_attributes", "region_attributes")]
            rows.writerow([each["filename"], 1234, "{}", len(each["regions"]), index, *cells])
    return CSV_HEADER + text.getvalue()


@pytest.mark.parametrize("header", [CSV_HEADER, f"#{CSV_HEADER}", f"\ufeff{CSV_HEADER}"])
def test_an_export_as_csv_holds_the_same_as_one_as_json(header: str) -> None:
    images = [image(region(), region(**{"class": "stem"})), image(filename="b, c.jpg")]
    content = to_csv(*images).replace(CSV_HEADER, header)
    assert parse(content, "via.csv").to_bytes() == parse(export(*images), "via.json").to_bytes()


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (to_csv(image(region())).replace('""name""', "name"), "line 2: its attributes are not JSO"),
        (to_csv(image(region())) + "a.jpg,1\n", "line 3 has 2 cells, but the first line has 7"),
        (
            to_csv(image(region())) + "a, b.jpg,1,{},0,0,{},{}\n",
            "line 3 has 8 cells, but the first line has 7",
        ),
        (to_csv(image(region())).encode() + b"\xff", "not UTF-8 text; save it as UTF-8"),
        (f"{CSV_HEADER},1,,,,,\n", "'1': the image has no filename"),
        (f'{CSV_HEADER}a.jpg,1,,,,"{"[" * 90_000}",\n', "line 2: its attributes are not JSON"),
        (f'{CSV_HEADER}a.jpg,1,,,,"{"[" * 200_000}",\n', "line 2: not valid CSV: field larger"),
    ],
)
def test_a_csv_that_is_broken_is_refused(content: Any, error: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse(content, "via.csv")
    assert str(caught.value).startswith(error)


def test_a_region_of_several_classes_is_named() -> None:
    found = parse(export(image(region(kind={"leaf": True, "stem": True}))), "via.json")
    ((_, error),) = list_errors(found)
    assert error == "it has several classes, 'leaf', 'stem'; tick one"


def test_damaged_files_are_refused_or_read() -> None:
    ellipse = {"name": "ellipse", "cx": 0, "cy": 0, "rx": 8, "ry": 2, "theta": 0.5}
    good = project(image(region(), region(ellipse)), image(region(**{"class": {"leaf": True}})))
    content = json.dumps(good).encode()
    numbers = random.Random(7)
    for _ in range(1000):
        data = damage_bytes(content, numbers)
        if numbers.random() < 0.5:
            data = json.dumps(damage(good, numbers)).encode()
        try:
            Annotations.from_bytes(parse(data, "a.json").to_bytes())
        except LabelError:
            continue


def test_long_names_are_told_apart() -> None:
    names = [f"{'long' * 20}{number}{'name' * 20}.jpg" for number in range(3)]
    found = parse(to_csv(*(image(region(), filename=name) for name in names)), "via.csv")
    assert found.images["name"].to_pylist() == names


def test_damaged_csvs_are_refused_or_read() -> None:
    content = to_csv(image(region(), region(**{"class": "stem"})), image(filename="b.jpg")).encode()
    numbers = random.Random(7)
    for _ in range(500):
        try:
            found = parse(damage_bytes(content, numbers), "via.csv")
            Annotations.from_bytes(found.to_bytes())
        except LabelError:
            continue


def test_the_confined_child_reads_the_same() -> None:
    decoder = Decoder(module="unet_ray.labelled_data.formats.parsing")
    try:
        for name, content in (
            ("via.json", json.dumps(project(image(region()))).encode()),
            ("via.csv", to_csv(image(region())).encode()),
        ):
            answer = decoder.call({"name": name}, len(content), lambda content=content: [content])
            assert bytes(answer) == parse(content, name).to_bytes()
    finally:
        decoder.close()
