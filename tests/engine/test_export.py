"""Results in other tools' formats, read by pycocotools, Pillow, GeoPandas, and by training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tests.builders import make_tiny_model, rename_images
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.output.config import ExportConfig, Format
from unet_ray.output.export import export
from unet_ray.output.reader import Tables, image_masks, image_objects, read_tables
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

EPSG, CORNER, PIXEL_M = 32633, (500_000.0, 5_400_000.0), 0.5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Return a folder with an archive (PNGs, a stack, a GeoTIFF), a model and two runs' rows."""
    folder = tmp_path_factory.mktemp("export")
    archive, rng = Storage.of(f"{folder}/archive"), np.random.default_rng(0)
    for name in ("a/one.png", "b/two.png"):
        archive.write(name, encode(draw_scene(50, 70, rng)[0], "png"))
    tifffile.imwrite(
        folder / "archive/map.tif",
        draw_scene(40, 60, rng)[0],
        photometric="rgb",
        extratags=[
            (33550, "d", 3, (PIXEL_M, PIXEL_M, 0.0), False),
            (33922, "d", 6, (0.0, 0.0, 0.0, *CORNER, 0.0), False),
            (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, EPSG), False),
        ],
    )
    tifffile.imwrite(
        folder / "archive/stack.tif", np.stack([draw_scene(30, 30, rng)[0] for _ in range(2)])
    )
    flags = {"images": archive.uri, "output": f"{folder}/tables", "threshold": 0.45}
    model = make_tiny_model(folder)
    segment(SegmentConfig(model=model, shard_images=2, limit=2, **flags))  # type: ignore[arg-type]
    segment(SegmentConfig(model=model, shard_images=2, **flags))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def tables(place: Path) -> Tables:
    return read_tables(f"{place}/tables")


def test_coco_holds_every_region_exactly(place: Path, tables: Tables, tmp_path: Path) -> None:
    result = export(
        ExportConfig(tables=f"{place}/tables", format="coco", output=f"{tmp_path}/all.json")
    )
    assert (result.images, result.regions) == (5, len(tables.regions))
    assert result.regions > 20
    found = COCO(tmp_path / "all.json")
    assert {c["name"]: c["id"] for c in found.loadCats(found.getCatIds())} == {
        "cell": 1,
        "fibre": 2,
    }
    assert {i["file_name"] for i in found.imgs.values()} == {
        *("a/one.png", "b/two.png", "map.tif", "stack.tif#page=1", "stack.tif#page=2"),
    }
    for number, image in found.imgs.items():
        objects = image_objects(tables, image["image_uri"])
        rows = found.loadAnns(found.getAnnIds(number))
        ids = [
            row["region_id"]
            for row in tables.regions.to_pylist()
            if row["image_uri"] == image["image_uri"]
        ]
        assert len(rows) == len(ids)
        for region_id, annotation in zip(sorted(ids), rows, strict=True):
            name = found.cats[annotation["category_id"]]["name"]
            assert np.array_equal(found.annToMask(annotation) > 0, objects[name] == region_id)
            assert annotation["area"] == coco_mask.area(annotation["segmentation"])
            assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
    assert (
        len(found.loadRes(json.loads((tmp_path / "all.json").read_text())["annotations"]).anns)
        == result.regions
    )


def test_coco_polygons_fill_holes_and_report_it(place: Path, tmp_path: Path) -> None:
    result = export(
        ExportConfig(
            tables=f"{place}/tables", format="coco", output=f"{tmp_path}/p.json", polygons=True
        )
    )
    found = COCO(tmp_path / "p.json")
    areas = [
        (found.annToMask(annotation).sum(), annotation["area"])
        for annotation in found.anns.values()
    ]
    assert all(drawn >= area for drawn, area in areas)
    (note,) = result.notes
    assert (result.notes[note] > 0) == any(drawn > area for drawn, area in areas)


def test_label_images_are_the_masks(place: Path, tables: Tables, tmp_path: Path) -> None:
    export(ExportConfig(tables=f"{place}/tables", format="png", output=f"{tmp_path}/png"))
    names = {str(path.relative_to(tmp_path / "png")) for path in (tmp_path / "png").rglob("*.png")}
    assert names == {
        "a/one.png.png",
        "b/two.png.png",
        "map.tif.png",
        "stack.tif.page1.png",
        "stack.tif.page2.png",
    }
    picture = Image.open(tmp_path / "png/a/one.png.png")
    assert picture.mode == "P"
    masks = image_masks(tables, f"{place}/archive/a/one.png")
    expected = np.where(masks["fibre"], 2, np.where(masks["cell"], 1, 0))
    assert np.array_equal(np.asarray(picture), expected)


def test_geopandas_opens_regions_on_the_map(place: Path, tables: Tables, tmp_path: Path) -> None:
    for format in ("geojson", "geoparquet"):
        export(ExportConfig(tables=f"{place}/tables", format=format, output=f"{tmp_path}/{format}"))  # type: ignore[arg-type]
    ours = tables.regions.filter(
        [uri.endswith("map.tif") for uri in tables.regions["image_uri"].to_pylist()]
    )
    frames = [
        geopandas.read_file(tmp_path / "geojson/map.tif.geojson"),
        geopandas.read_parquet(tmp_path / f"geoparquet/epsg={EPSG}.parquet"),
    ]
    for frame in frames:
        assert frame.crs.to_epsg() == EPSG
        assert len(frame) == len(ours) > 0
        frame = frame.sort_values("region_id")
        box = ours["bbox"][0].as_py()
        left, top = CORNER[0] + PIXEL_M * box["xmin"], CORNER[1] - PIXEL_M * box["ymin"]
        assert frame.geometry.iloc[0].bounds[0] == left
        assert frame.geometry.iloc[0].bounds[3] == top
        assert np.allclose(frame.geometry.area, PIXEL_M**2 * frame["area"])
    assert list((tmp_path / "geoparquet").iterdir()) == [
        tmp_path / f"geoparquet/epsg={EPSG}.parquet"
    ]
    pixels = json.loads((tmp_path / "geojson/a/one.png.geojson").read_text())
    assert "crs" not in pixels


@pytest.mark.parametrize("format", ["geojson", "geoparquet"])
def test_tables_do_not_choose_which_files_an_export_opens(
    place: Path, tmp_path: Path, format: Format
) -> None:
    """Whoever wrote them names a copy of the map outside the run's images; a flag lets it in."""
    tables = tmp_path / "tables"
    shutil.copytree(place / "tables", tables)
    (tmp_path / "others").mkdir()
    shutil.copy(place / "archive/map.tif", tmp_path / "others")
    rename_images(
        tables, lambda uri: uri.replace(f"{place}/archive/map.tif", f"{tmp_path}/others/map.tif")
    )
    config = ExportConfig(tables=str(tables), format=format, output=f"{tmp_path}/out")
    note = (
        f"images not opened to read their place on the map: not below {place}/archive, for example "
        f"{tmp_path}/others/map.tif; to open them, give "
    )
    flag = f"--image-roots {place}/archive,{tmp_path}/others"  # the stack is in the archive
    assert export(config).notes[f"{note}{flag}"] == 1
    assert not list((tmp_path / "out").rglob("epsg=*"))
    pasted = export(replace(config, image_roots=flag.partition(" ")[2]))
    assert not any("not looked at" in note for note in pasted.notes)
    on_a_map = "images on a map" if format == "geojson" else "images left out: not georeferenced"
    assert any(note.startswith(on_a_map) for note in pasted.notes)


def test_labels_find_pages_and_images_in_subfolders_by_their_names(
    place: Path, tmp_path: Path
) -> None:
    """Another tool dropped the URIs; names in the file start at the images' own folder."""
    export(ExportConfig(tables=f"{place}/tables", format="coco", output=f"{tmp_path}/all.json"))
    content = json.loads((tmp_path / "all.json").read_text())
    for image in content["images"]:
        del image["image_uri"]
        image["file_name"] = image["file_name"].removeprefix("a/")
    (tmp_path / "all.json").write_text(json.dumps(content))
    labelled = find_labelled(f"{place}/archive", f"{tmp_path}/all.json", LabelOptions())
    found = {item.image.uri.removeprefix(f"{place}/archive/"): item for item in labelled.items}
    assert set(found) == {
        "a/one.png",
        "b/two.png",
        "map.tif",
        "stack.tif#page=1",
        "stack.tif#page=2",
    }
    tables = read_tables(f"{place}/tables")
    page = found["stack.tif#page=2"]
    image, masks, _ = FileReader(labelled.access, (page,)).read(0)
    assert image.shape[:2] == (30, 30)
    assert np.array_equal(masks[0] > 0, image_masks(tables, page.image.uri)["cell"])


def test_tables_of_several_models_are_not_mixed(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "tables", tmp_path / "tables")
    file = sorted((tmp_path / "tables/masks").rglob("*.parquet"))[0]
    rows = pq.read_table(file, partitioning=None)
    other = {"cell": "fibre", "fibre": "cell"}
    names = pa.array([other[name] for name in rows["class_name"].to_pylist()])
    pq.write_table(
        rows.set_column(rows.column_names.index("class_name"), "class_name", names), file
    )
    for format, output in (("coco", "all.json"), ("png", "labels")):
        with pytest.raises(InputError, match="the rows come from several models"):
            export(
                ExportConfig(
                    tables=f"{tmp_path}/tables", format=format, output=f"{tmp_path}/{output}"
                )
            )  # type: ignore[arg-type]


def test_what_a_format_cannot_hold_is_reported(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_ray.output.formats.coco._COCO_PIXELS", 2000)
    monkeypatch.setattr("unet_ray.output.formats.png._PNG_PIXELS", 2000)
    coco = ExportConfig(tables=f"{place}/tables", format="coco", output=f"{tmp_path}/all.json")
    result = export(coco)
    assert result.images == 2
    too_large = "images left out: too large for COCO's run lengths (2^32 px), give --polygons"
    assert result.notes[too_large] == 3
    result = export(ExportConfig(tables=f"{place}/tables", format="png", output=f"{tmp_path}/png"))
    assert result.images == 2
    assert result.notes["images left out: larger than 2000 px"] == 3


def test_a_date_and_tables_that_are_not_there_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no successful image of --date 2020-01-01"):
        export(
            ExportConfig(
                tables=f"{place}/tables", format="png", output=f"{tmp_path}/x", date="2020-01-01"
            )
        )
    with pytest.raises(InputError, match="no tables here"):
        export(ExportConfig(tables=f"{place}/nothing", format="png", output=f"{tmp_path}/x"))
    with pytest.raises(InputError, match="name a .json file"):
        ExportConfig(tables="t", format="coco", output="folder")


@pytest.mark.slow
def test_labels_that_were_exported_and_corrected_train_the_next_model(
    place: Path, tmp_path: Path
) -> None:
    """Export, delete one object, train from the model, segment."""
    for name in ("a/one.png", "b/two.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes((place / "archive" / name).read_bytes())
    (tmp_path / "images/a/corrupt.png").write_bytes(b"no image")
    model = str(place / "tiny-model")
    flags = {
        "images": f"{tmp_path}/images",
        "model": model,
        "output": f"{tmp_path}/tables",
        "threshold": 0.45,
    }
    flags["max_error_rate"] = 0.5  # type: ignore[assignment]
    segment(SegmentConfig(**flags))  # type: ignore[arg-type]
    labels = tmp_path / "labels.json"
    export(ExportConfig(tables=f"{tmp_path}/tables", format="coco", output=str(labels)))
    corrected = json.loads(labels.read_text())
    removed = corrected["annotations"].pop()
    labels.write_text(json.dumps(corrected))
    labelled = find_labelled(f"{tmp_path}/images", str(labels), LabelOptions())
    assert [spec.name for spec in labelled.classes] == ["cell", "fibre"]
    assert labelled.notes[-1] == (
        f"skipped 1 of 3 images in {tmp_path}/images that are not in {labels} (a/corrupt.png)"
    )
    tables = read_tables(f"{tmp_path}/tables")
    item = labelled.items[removed["image_id"] - 1]
    _, drawn, _ = FileReader(labelled.access, (item,)).read(0)
    masks = dict(zip(("cell", "fibre"), drawn, strict=True))
    before = image_masks(tables, item.image.uri)
    assert np.array_equal(masks["cell"] > 0, before["cell"])
    assert before["fibre"].sum() - (masks["fibre"] > 0).sum() == removed["area"]
    flags_of_training = {
        "crop": 32,
        "epochs": 1,
        "batch_size": 2,
        "val_fraction": 0.0,
        "init_from": model,
    }
    config = TrainConfig(
        images=f"{tmp_path}/images",
        masks=str(labels),
        output=f"{tmp_path}/model-2",
        **flags_of_training,
    )  # type: ignore[arg-type]
    train(config)
    again = segment(SegmentConfig(**(flags | {"model": f"{tmp_path}/model-2"})))  # type: ignore[arg-type]
    assert again.images_done == 2
    with pytest.raises(InputError, match="no category leaf; there are cell, fibre"):
        find_labelled(f"{tmp_path}/images", str(labels), LabelOptions((ClassSpec(1, "leaf"),)))
