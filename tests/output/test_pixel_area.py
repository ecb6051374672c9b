"""Areas are given in µm² where the size of the pixels is known, and nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import geopandas
import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import tifffile

import unet_ray.output
from tests.builders import make_record
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.output.config import ExportConfig, ReportConfig
from unet_ray.output.export import export
from unet_ray.output.report.report import ReportResult, report
from unet_ray.segmentation.result import SegmentResult
from unet_ray.segmentation.shard_writer import Shards
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp
from unet_ray.storage.storage import Storage
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.runs import write_run_record

RUN, DAY = "20260101T000000Z-aaaaaa", "2026-01-01"
SIZES = {"fine.tif": (0.25, 0.25), "model.tif": (0.5, 0.5), "flat.tif": (0.5, 2.0)}
SIZES |= {"bare.tif": (None, None), "damaged.tif": (float("nan"), -1.0)}
"""Pixel size (µm) of each image; each has one region of 40 px."""
AREAS_UM2 = {"fine.tif": 2.5, "model.tif": 10.0, "flat.tif": 40.0}
AREA_PX = 40
GEO_TAGS = [
    (33550, "d", 3, (0.5, 0.5, 0.0), False),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_400_000.0, 0.0), False),
    (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), False),
]


def make_rows(archive: Path) -> pa.Table:
    """Return the measured rows of the images, which are written too."""
    archive.mkdir()
    measure = Measure((ClassSpec(1, "cell"),), Postprocessing((ObjectRule(),)))
    measured = []
    for name, (x, y) in SIZES.items():
        file = archive / name
        tifffile.imwrite(file, np.zeros((32, 32), np.uint8), extratags=GEO_TAGS)
        prob_u8 = np.zeros((1, 32, 32), np.uint8)
        prob_u8[0, 4:9, 4:12] = 200
        pixel_size_um = None if x is None else (x, y)
        size, hwc = file.stat().st_size, (32, 32, 1)
        record = make_record(str(file), hwc, size=size, pixel_size_um=pixel_size_um)
        measured.append(measure.image(record, prob_u8))
    return Measure.join(measured)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an archive, and the tables and the record of a run over it."""
    folder = tmp_path_factory.mktemp("sizes")
    rows = make_rows(folder / "archive")
    output, model_size_um = Storage.of(f"{folder}/tables"), (0.5, 0.5)
    result = SegmentResult(RUN, model_pixel_size_um=model_size_um, status="done")
    with OutputLock(output, RUN):
        shards = Shards(output, DAY, RunStamp(RUN, "m", "c"), model_size_um)
        result.add(shards.write(0, rows))
    record = {"other_pixel_sizes": result.other_pixel_sizes, "model_pixel_size_um": model_size_um}
    record |= {"config": {"images": f"{folder}/archive"}, "status": "done"}
    write_run_record(output, RUN, record)
    return folder


def test_images_of_another_pixel_size_than_the_model_s_are_counted(place: Path) -> None:
    record = json.loads((place / f"tables/runs/{RUN}.json").read_text())
    assert record["other_pixel_sizes"] == {"0.25 µm": 1, "0.5 × 2 µm": 1}


@pytest.fixture(scope="module")
def made(place: Path) -> ReportResult:
    return report(ReportConfig(tables=f"{place}/tables", output=f"{place}/r.html", pictures=5))


def test_the_report_gives_areas_and_names_other_sizes(place: Path, made: ReportResult) -> None:
    figures = made.facts.by_date[DAY][1].figures
    assert figures["typical area (px)"].value == pytest.approx(AREA_PX)
    typical = np.exp(np.mean(np.log([*AREAS_UM2.values()])))
    assert figures["typical area (µm²)"].value == pytest.approx(typical)
    logs = np.log2([*AREAS_UM2.values()])
    error = typical * np.log(2) * logs.std() / len(logs) ** 0.5
    assert figures["typical area (µm²)"].error == pytest.approx(error)
    page = (place / "r.html").read_text()
    line = "1 image at 0.25 µm, 1 image at 0.5 × 2 µm, the model was trained at 0.5 µm"
    assert f"pixel sizes: {line}" in page
    assert {"40 px (2.5 µm²)", "40 px (10 µm²)", "40 px (40 µm²)"} == set(
        re.findall(r"40 px \([^)]*\)", page)
    )


def test_a_report_without_any_size_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.output.test_pixel_area.SIZES", {"bare.tif": (None, None)})
    rows, output = make_rows(tmp_path / "archive"), Storage.of(f"{tmp_path}/tables")
    with OutputLock(output, RUN):
        sums = Shards(output, DAY, RunStamp(RUN, "m", "c"), (0.5, 0.5)).write(0, rows)
    assert not sums.other_pixel_sizes
    made = report(ReportConfig(tables=output.uri, output=f"{tmp_path}/r.html", pictures=0))
    assert "typical area (µm²)" not in made.facts.by_date[DAY][1].figures
    assert "pixel sizes" not in (tmp_path / "r.html").read_text()


def test_coco_has_areas_and_pixel_sizes(place: Path, tmp_path: Path) -> None:
    output = f"{tmp_path}/all.json"
    export(ExportConfig(tables=f"{place}/tables", format="coco", output=output))
    found = json.loads(Path(output).read_text())
    images = {image["id"]: image for image in found["images"]}
    areas = {
        images[each["image_id"]]["file_name"]: each.get("area_um2") for each in found["annotations"]
    }
    assert areas == AREAS_UM2 | {"bare.tif": None, "damaged.tif": None}
    sizes = {each["file_name"]: each.get("pixel_size_um") for each in found["images"]}
    assert sizes == {name: list(SIZES[name]) if name in AREAS_UM2 else None for name in SIZES}


def test_geojson_has_areas_and_gdal_reads_them_as_numbers(place: Path, tmp_path: Path) -> None:
    """QGIS reads by GDAL, which takes a property that is null in all of a file for a text."""
    export(ExportConfig(tables=f"{place}/tables", format="geojson", output=f"{tmp_path}/out"))
    for name in SIZES:
        file = next((tmp_path / "out").glob(f"{name}*"), None) or next(
            (tmp_path / "out").glob(f"{Path(name).stem}*")
        )
        (feature,) = json.loads(file.read_text())["features"]
        assert feature["properties"].get("area_um2") == AREAS_UM2.get(name)
        read = pyogrio.read_info(file)
        types = dict(zip(read["fields"], read["dtypes"], strict=True))
        assert types.get("area_um2") == ("float64" if name in AREAS_UM2 else None)
        assert types["touches_border"] == types["touches_no_data"] == "bool"


def test_geoparquet_has_areas_in_a_column_at_the_end(place: Path, tmp_path: Path) -> None:
    export(ExportConfig(tables=f"{place}/tables", format="geoparquet", output=f"{tmp_path}/out"))
    rows = geopandas.read_parquet(tmp_path / "out/epsg=32633.parquet")
    assert rows.columns[-1] == "area_um2"
    found = {
        Path(uri).name: area
        for uri, area in zip(*(rows[c] for c in ("image_uri", "area_um2")), strict=True)
    }
    assert {name: area for name, area in found.items() if area == area} == AREAS_UM2


def test_the_documented_view_gives_areas(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(unet_ray.output.__file__).parent / "README.md"
    views = re.findall(r"^CREATE OR REPLACE VIEW.*?;$", readme.read_text(), re.M | re.S)
    monkeypatch.chdir(place)
    with duckdb.connect() as database:
        for view in views:
            database.execute(view)
        rows = database.sql("SELECT image_uri, area_um2 FROM current_regions").fetchall()
    found = {Path(uri).name: area for uri, area in rows}
    assert {name: area for name, area in found.items() if name in AREAS_UM2} == AREAS_UM2
    assert found["bare.tif"] is None
