"""Objects of vector files find their images: on a map, in pixels, or not without a flag."""

from __future__ import annotations

import io
import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import shapely
import tifffile
from pyproj import Transformer

from tests.builders import encode_pillow, encode_tiff
from tests.labelled_data.formats.vector import (
    list_objects,
    make_collection,
    make_feature,
    parse,
)
from tests.labelled_data.map_images import (
    CORNER,
    EPSG,
    HEIGHT,
    PIXEL_M,
    WIDTH,
    images_of,
    write_map,
    write_maps,
)
from unet_ray.errors import InputError
from unet_ray.labelled_data.annotations import Annotations
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.label_files import join_annotations
from unet_ray.labelled_data.maps.georeferenced import PlacedAnnotations, place_on_images
from unet_ray.output.formats.geo import write_geojson, write_geoparquet
from unet_ray.output.formats.names import ImageNames
from unet_ray.output.reader import Tables
from unet_ray.storage.roots import Gate, Roots
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import REGIONS

BOX = [2.0, 3.0, 12.0, 3.0, 12.0, 8.0, 2.0, 8.0]
"""A polygon of 10×5 px at pixel (2, 3)."""


def to_map(points: Any = BOX, epsg: int = EPSG) -> list[list[float]]:
    """Return points in pixels right of and below the corner as points on a map."""
    xy = np.array(points).reshape(-1, 2) * [PIXEL_M, -PIXEL_M] + CORNER
    change = Transformer.from_crs(EPSG, epsg, always_xy=True).transform
    return np.column_stack(change(*xy.T)).tolist()


def on_map(*outlines: list[float], epsg: int = EPSG, **members: Any) -> dict[str, Any]:
    """Return a collection of features on the map, whose class is the place in the list."""
    rings = [[*to_map(outline, epsg), to_map(outline, epsg)[0]] for outline in outlines]
    features = [make_feature([ring], label=f"c{i}") for i, ring in enumerate(rings)]
    name = {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}
    return make_collection(*features, **({"crs": {"type": "name", "properties": name}} | members))


def shift(points: list[float], x: float, y: float) -> list[float]:
    return np.add(np.array(points).reshape(-1, 2), (x, y)).ravel().tolist()


def place(
    content: Any, folder: Path, crs: str | None = None, name: str = "labels.geojson"
) -> PlacedAnnotations:
    found = content if isinstance(content, Annotations) else parse(content, name)
    return place_on_images(found, images_of(folder), "--masks labels", crs)


def by_image(placed: PlacedAnnotations) -> dict[str, list[Any]]:
    """Return class and rings of the objects of each image."""
    found = placed.annotations
    assert found.images["crs"].null_count == len(found.images) == len(placed.origins)
    objects = list_objects(found)
    rows = found.objects["image"].to_pylist()
    return {
        name: [each for row, each in zip(rows, objects, strict=True) if row == number]
        for number, name in enumerate(found.images["name"].to_pylist())
    }


def same_corners(ring: list[float], points: list[float]) -> bool:
    """Tell whether a ring has these corners and no others, wherever it begins."""
    own, other = (np.array(each).reshape(-1, 2) for each in (ring, points))
    return shapely.equals_exact(
        shapely.Polygon(own).normalize(), shapely.Polygon(other).normalize(), 1e-3
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_maps(tmp_path / "images")


@pytest.mark.parametrize("epsg", [EPSG, 4326, 25833, 3857])
def test_features_go_to_the_images_that_they_meet(folder: Path, epsg: int) -> None:
    document = on_map(BOX, shift(BOX, WIDTH, 0), shift(BOX, WIDTH - 5, 20), epsg=epsg)
    placed = place(document, folder)
    found = by_image(placed)
    assert {name: [kind for kind, _ in each] for name, each in found.items()} == {
        "left.tif": ["c0", "c2"],
        "right.tif": ["c1", "c2"],
    }
    assert same_corners(found["left.tif"][0][1][0], BOX)
    assert same_corners(found["right.tif"][0][1][0], BOX)
    assert same_corners(found["right.tif"][1][1][0], shift(BOX, -5, 20))
    assert placed.annotations.left_out == {
        "images beyond the extent of the features: unlabelled": 1
    }
    assert f"coordinates of the labels are read as EPSG:{epsg}" in placed.annotations.notes
    assert placed.origins.tolist() == [0, 0]


def test_corners_at_corners_of_pixels_stay_exact(folder: Path) -> None:
    found = by_image(place(on_map(BOX), folder))
    assert found["left.tif"] == [("c0", [BOX])]


def test_what_reaches_far_beyond_an_image_is_cut(folder: Path) -> None:
    huge = [-1e6, -1e6, 1e6, -1e6, 1e6, 1e6, -1e6, 1e6]
    broken = [-1e6, -1e6, 1e6, 1e6, 1e6, -1e6, -1e6, 1e6]  # crosses itself
    found = by_image(place(on_map(huge, broken), folder))
    assert set(found) == {"left.tif", "right.tif", "far.tif"}
    for objects in found.values():
        assert same_corners(
            objects[0][1][0], [-16, -16, WIDTH + 16, -16, WIDTH + 16, HEIGHT + 16, -16, HEIGHT + 16]
        )
        for _, rings in objects:
            assert np.abs(np.concatenate(rings)).max() <= WIDTH + 16


def test_holes_come_along(folder: Path) -> None:
    hole = [4.0, 4.0, 6.0, 4.0, 6.0, 6.0, 4.0, 6.0]
    document = on_map(BOX)
    document["features"][0]["geometry"]["coordinates"].append([*to_map(hole), to_map(hole)[0]])
    placed = place(document, folder)
    (parts,) = placed.annotations.objects["parts"].to_pylist()
    assert [part["is_hole"] for part in parts] == [False, True]
    assert same_corners(parts[1]["points"], hole)


def test_features_elsewhere_are_counted(folder: Path) -> None:
    placed = place(on_map(BOX, shift(BOX, 0, -900), shift(BOX, 0, -5)), folder)
    assert by_image(placed)["left.tif"] == [("c0", [BOX]), ("c2", [shift(BOX, 0, -5)])]
    assert placed.annotations.left_out["features that lie on no image"] == 1


def test_an_image_between_features_is_background(folder: Path) -> None:
    outside = shift(BOX, 200 * WIDTH, 500), shift(BOX, 200 * WIDTH, -500)
    placed = place(on_map(BOX, *outside), folder)
    assert by_image(placed) == {"left.tif": [("c0", [BOX])], "right.tif": [], "far.tif": []}
    assert any("all background" in each for each in placed.annotations.notes)


def test_coordinates_that_are_no_numbers_are_counted(folder: Path) -> None:
    bad = make_feature([[[float("nan"), 1], [2, 2], [3, 3]]], label="c0")
    text = make_feature([[["x", 1], [2, 2], [3, 3]]], label="c0")
    document = on_map(BOX)
    document["features"] += [bad, text]
    placed = place(document, folder)
    assert by_image(placed)["left.tif"] == [("c0", [BOX])]
    (what,) = [key for key in placed.annotations.left_out if "not numbers" in key]
    assert placed.annotations.left_out[what] == 2


# --- in doubt


def test_a_file_without_a_system_is_refused_and_the_flag_decides(folder: Path) -> None:
    document = on_map(BOX, crs=None)
    with pytest.raises(
        InputError, match=f"does not state the coordinate system.*--label-crs EPSG:{EPSG}, "
    ):
        place(document, folder)
    assert by_image(place(document, folder, f"EPSG:{EPSG}"))["left.tif"] == [("c0", [BOX])]


def test_pixels_of_a_georeferenced_image_need_the_flag(tmp_path: Path) -> None:
    write_map(tmp_path / "images/a.tif")
    pixels = make_collection(make_feature([[*np.array(BOX).reshape(-1, 2).tolist()]]))
    with pytest.raises(InputError, match="no feature lies on an image if.*EPSG:4326.*crs pixels"):
        place(pixels, tmp_path / "images")
    found = by_image(place(pixels, tmp_path / "images", "pixels"))
    assert found == {"a.tif": [("object", [BOX])]}


def test_coordinates_that_fit_both_ways_are_refused(tmp_path: Path) -> None:
    """The image covers 60 by 40 degrees, one per pixel."""
    tags = [
        (33550, "d", 3, (1.0, 1.0, 0.0), False),
        (33922, "d", 6, (0.0, 0.0, 0.0, 0.0, 40.0, 0.0), False),
        (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4326), False),
    ]
    (tmp_path / "images").mkdir()
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    tifffile.imwrite(tmp_path / "images/a.tif", image, extratags=tags)
    document = make_collection(make_feature([[*np.array(BOX).reshape(-1, 2).tolist()]]))
    with pytest.raises(InputError, match=r"two ways.*--label-crs EPSG:4326 or --label-crs pixels"):
        place(document, tmp_path / "images")
    as_map = by_image(place(document, tmp_path / "images", "EPSG:4326"))["a.tif"][0][1][0]
    assert as_map[:4] == [2.0, 37.0, 12.0, 37.0]
    assert by_image(place(document, tmp_path / "images", "PIXELS"))["a.tif"][0][1][0] == BOX


def test_degrees_of_a_small_image_are_no_pixels(folder: Path) -> None:
    """12° E 49° N lies within 60×50 px, but no feature would fill a pixel."""
    document = on_map(BOX, epsg=4326)
    del document["crs"]
    found = by_image(place(document, folder))
    assert same_corners(found["left.tif"][0][1][0], BOX)


@pytest.mark.parametrize(
    ("crs", "message"),
    [
        ("EPSG:999999", r"the coordinate system EPSG:999999 \(--label-crs\) is unknown"),
        ("wgs", r"the coordinate system wgs \(--label-crs\) is unknown"),
        ("PROJCS[...]", "the coordinate system"),
        ("EPSG:2056", "no feature lies on an image if its coordinates .* are EPSG:2056"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(folder: Path, crs: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--masks labels: {message}"):
        place(on_map(BOX), folder, crs)


def test_a_system_has_no_use_where_nothing_is_georeferenced(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_pillow(np.zeros((8, 8), np.uint8)))
    with pytest.raises(InputError, match="no image is georeferenced"):
        place(on_map(BOX), tmp_path, "EPSG:32633")
    builder = AnnotationsBuilder()
    builder.add_image("a.png")
    with pytest.raises(InputError, match="coordinates in this format are pixels; omit the flag"):
        place(builder.build(), tmp_path, "EPSG:32633")


def test_a_system_that_the_file_invents_is_refused(folder: Path) -> None:
    name = {"name": "EPSG:12345678"}
    document = on_map(BOX, crs={"type": "name", "properties": name})
    with pytest.raises(InputError, match="the coordinate system EPSG:12345678 is unknown"):
        place(document, folder)


# --- pixels


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with two images that are not georeferenced."""
    for name in ("a", "b"):
        path = tmp_path / f"photos/{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_pillow(np.zeros((HEIGHT, WIDTH), np.uint8)))
    return tmp_path / "photos"


def in_pixels(points: list[float] = BOX, factor: int = 1, **properties: Any) -> dict[str, Any]:
    ring = (np.array(points).reshape(-1, 2) * [1, factor]).tolist()
    return make_collection(make_feature([ring], **properties))


@pytest.mark.parametrize("factor", [1, -1])
def test_y_may_run_upwards_as_in_qgis(photos: Path, factor: int) -> None:
    placed = place(in_pixels(factor=factor), photos, name="b.geojson")
    assert by_image(placed) == {"b.png": [("object", [BOX])]}
    assert any("upwards" in note for note in placed.annotations.notes) == (factor < 0)


def test_y_may_not_run_both_ways(photos: Path) -> None:
    document = in_pixels()
    document["features"] += in_pixels(factor=-1)["features"]
    with pytest.raises(InputError, match="1 features lie at negative y"):
        place(document, photos, name="b.geojson")


def test_one_file_for_several_images_is_refused(photos: Path) -> None:
    with pytest.raises(
        InputError, match=r"of which of the 2 images; name the file after its image"
    ):
        place(in_pixels(), photos)
    (photos / "b.png").unlink()
    assert by_image(place(in_pixels(), photos)) == {"a.png": [("object", [BOX])]}


def test_objects_of_qupath_are_pixels_of_a_georeferenced_image_too(folder: Path) -> None:
    document = in_pixels(objectType="annotation", classification={"name": "Tumor"})
    placed = place(document, folder, name="left.geojson")
    assert by_image(placed) == {"left.tif": [("Tumor", [BOX])]}


def test_degrees_on_photos_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="no feature is as large as a pixel"):
        place(on_map(BOX, epsg=4326), photos, name="a.geojson")


def test_map_coordinates_on_photos_are_refused(photos: Path) -> None:
    """Also where the photos have world files, which are not read."""
    with pytest.raises(
        InputError, match="are those of a map, but their image is not georeferenced"
    ):
        place(on_map(BOX), photos)


def test_a_coordinate_that_is_no_number_costs_its_image(photos: Path) -> None:
    document = in_pixels()
    document["features"].append(make_feature([[[float("nan"), 1], [2, 2], [3, 3]]]))
    placed = place(document, photos, name="a.geojson")
    assert placed.annotations.objects["error"].to_pylist() == [
        None,
        "a coordinate is not a finite number",
    ]


# --- several files, and named images


def test_files_of_images_are_about_their_own(folder: Path) -> None:
    """A feature that reaches over the edge is not drawn on the neighbour, whose file lacks it."""
    both = shift(BOX, WIDTH - 5, 0)
    files = [parse(on_map(both), "left.geojson"), parse(make_collection(), "right.geojson")]
    placed = place(join_annotations(files), folder)
    assert by_image(placed) == {"left.tif": [("c0", [both])], "right.tif": []}
    assert sorted(placed.origins.tolist()) == [0, 1]


def test_a_file_beside_one_that_cannot_be_used_is_still_about_its_own(folder: Path) -> None:
    broken = AnnotationsBuilder()
    broken.add_image("right", error="right.geojson: line 1, column 1: it ends too early")
    files = [parse(on_map(shift(BOX, WIDTH - 5, 0)), "left.geojson"), broken.build()]
    placed = place(join_annotations(files), folder)
    assert {name: len(objects) for name, objects in by_image(placed).items()} == {
        "left.tif": 1,
        "right": 0,
    }
    assert placed.origins.tolist() == [0, 1]


def test_an_empty_file_says_that_nothing_is_on_its_image(folder: Path) -> None:
    files = [parse(make_collection(crs=None), f"{name}.geojson") for name in ("left", "right")]
    placed = place(join_annotations(files), folder)
    assert by_image(placed) == {"left.tif": [], "right.tif": []}
    assert placed.annotations.notes == ()


def test_features_may_name_their_image(folder: Path) -> None:
    document = on_map(BOX, shift(BOX, WIDTH - 5, 0))
    for feature in document["features"]:
        feature["properties"]["image_path"] = "left.tif"
    document["features"][1]["properties"]["image_path"] = "C:\\maps\\right.tif"
    found = by_image(place(document, folder))
    assert found == {"left.tif": [("c0", [BOX])], "right.tif": [("c1", [shift(BOX, -5, 0)])]}


def test_an_image_that_is_not_there_is_left_to_the_pairing(folder: Path) -> None:
    document = on_map(BOX, shift(BOX, 5, 5))
    document["features"][1]["properties"]["image_path"] = "gone.tif"
    found = by_image(place(document, folder))
    assert list(found) == ["gone.tif", "left.tif"]


def test_images_without_a_georeference_are_left_out_of_a_map(folder: Path) -> None:
    (folder / "z.png").write_bytes(encode_pillow(np.zeros((8, 8), np.uint8)))
    placed = place(on_map(BOX), folder)
    what = "images without a georeference by an EPSG code: unlabelled"
    assert placed.annotations.left_out[what] == 1


def test_geopackage_and_geoparquet_find_their_images_too(folder: Path, tmp_path: Path) -> None:
    outline = shapely.Polygon(to_map(BOX))
    frame = geopandas.GeoDataFrame({"class": ["tree"]}, geometry=[outline], crs=EPSG)
    frame.to_file(tmp_path / "a.gpkg")
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.gpkg", "a.parquet"):
        found = by_image(place(parse((tmp_path / name).read_bytes(), name), folder))
        ((kind, rings),) = found["left.tif"]
        assert kind == "tree"
        assert same_corners(rings[0], BOX)


def test_outlines_of_any_shape_do_no_harm(folder: Path) -> None:
    rng, images = random.Random(0), images_of(folder)
    numbers = [0, 1e-9, 5e5, 5.4e6, 1e300, -1e300, 90.0, 180.0, 12.0, float("inf"), float("nan")]
    for _ in range(150):
        rings = [
            [
                [
                    rng.choice([rng.choice(numbers), CORNER[axis] + rng.uniform(-50, 50)])
                    for axis in (0, 1)
                ]
                for _ in range(rng.randrange(1, 7))
            ]
            for _ in range(rng.randrange(1, 4))
        ]
        crs = rng.choice(["EPSG:4326", f"EPSG:{EPSG}", "EPSG:3857", "EPSG:2056"])
        name = {"type": "name", "properties": {"name": crs}}
        document = make_collection(make_feature(rings), make_feature([[[0, 0]]]), crs=name)
        with suppress(InputError):
            placed = place_on_images(parse(document, "x.geojson"), images, "--masks x")
            for row in placed.annotations.objects.to_pylist():
                assert all(np.abs(part["points"]).max() < 200 for part in row["parts"])


# --- our own export


def make_tables(folder: Path) -> Tables:
    """Return a region, BOX with a hole, of each image of a folder."""
    hole = shapely.box(4, 4, 6, 6)
    outline = shapely.to_wkb(shapely.Polygon(np.array(BOX).reshape(-1, 2)).difference(hole))
    uris = [f"{folder}/left.tif", f"{folder}/photo.png", f"{folder}/stack.tif#page=2"]
    region = {
        "run_id": "r",
        "region_id": 1,
        "class_id": 7,
        "class_name": "leaf",
        "score": 0.5,
        "score_max": 0.9,
        "area": 46,
        "bbox": {"xmin": 2.0, "ymin": 3.0, "xmax": 12.0, "ymax": 8.0},
        "centroid_x": 7.0,
        "centroid_y": 5.5,
        "touches_border": False,
        "geometry": outline,
    }
    image = {"region_count": 1, "height": HEIGHT, "width": WIDTH}
    images = pa.Table.from_pylist([{"image_uri": uri} | image for uri in uris])
    regions = pa.Table.from_pylist([{"image_uri": uri} | region for uri in uris], schema=REGIONS)
    return Tables(images, None, regions)


def test_our_export_comes_back(folder: Path, tmp_path: Path) -> None:
    (folder / "photo.png").write_bytes(encode_pillow(np.zeros((HEIGHT, WIDTH), np.uint8)))
    pages = [np.zeros((HEIGHT, WIDTH), np.uint8)] * 3
    (folder / "stack.tif").write_bytes(encode_tiff(*pages))
    tables, output = make_tables(folder), Storage.of(f"{tmp_path}/out")
    names = ImageNames(tables.images)
    gate = Gate(Roots((Storage.of(str(folder)).uri,)))
    write_geojson(iter([tables]), names, output, gate)
    write_geoparquet(iter([tables]), names, output, gate)
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [file.name for file in files] == [
        *("epsg=32633.parquet", "left.tif.geojson", "photo.png.geojson"),
        "stack.tif.page2.geojson",
    ]
    parsed = [parse(file.read_bytes(), file.name) for file in files]
    for some, expected in (
        (parsed[1:], {"left.tif", "photo.png", "stack.tif#page=2"}),
        (parsed[:1], {"left.tif"}),
        (parsed[1:2], {"left.tif"}),
    ):
        placed = place(join_annotations(some), folder)
        shown = {name.rpartition("/")[2]: each for name, each in by_image(placed).items()}
        assert set(shown) == expected
        for objects in shown.values():
            ((kind, rings),) = objects
            assert kind == "leaf"
            assert same_corners(rings[0], BOX)
            assert same_corners(rings[1], [4, 4, 6, 4, 6, 6, 4, 6])
        assert placed.annotations.categories[0].id == 7


def test_our_export_comes_back_through_another_program(folder: Path, tmp_path: Path) -> None:
    """QGIS drops the name of the image from the file and states the system that it assumed."""
    (folder / "photo.png").write_bytes(encode_pillow(np.zeros((HEIGHT, WIDTH), np.uint8)))
    tables, output = make_tables(folder), Storage.of(f"{tmp_path}/out")
    write_geojson(iter([tables]), ImageNames(tables.images), output, Gate(Roots((str(folder),))))
    for name in ("left.tif", "photo.png"):
        sink = io.BytesIO()
        frame = geopandas.read_file(tmp_path / f"out/{name}.geojson")
        frame.to_file(sink, driver="GeoJSON")
        assert "image_uri" not in json.loads(sink.getvalue())
        found = by_image(place(sink.getvalue(), folder))
        assert [each.rpartition("/")[2] for each in found] == [name]
        ((_, rings),) = found[name]
        assert same_corners(rings[0], BOX)
