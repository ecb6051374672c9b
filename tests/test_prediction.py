"""The public names of `unet_ray`: the examples of docstrings run as printed, no name is missing."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import shapely

import unet_ray
from tests.builders import encode_pillow, make_tiny_model
from unet_ray import prediction as notebook
from unet_ray.errors import ImageError, InputError
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Return a folder with `model`, `images` and `tables`."""
    folder = tmp_path_factory.mktemp("segmented")
    Path(make_tiny_model(folder)).rename(folder / "model")
    for index in range(2):
        scene = draw_scene(50, 70, np.random.default_rng(index))[0]
        Storage.of(f"{folder}/images").write(f"{index}.png", encode(scene, "png"))
    alpha = np.full((50, 70, 1), 255, np.uint8)
    alpha[:, :20] = 0
    rimmed = encode_pillow(np.concatenate([scene, alpha], axis=2))
    Storage.of(f"{folder}/images").write("rim.png", rimmed)
    segment(
        SegmentConfig(model=f"{folder}/model", images=f"{folder}/images", output=f"{folder}/tables")
    )
    return folder


@pytest.fixture
def here(segmented: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with `model`, `images` and `tables`."""
    monkeypatch.chdir(segmented)
    return segmented


def test_examples_run_as_printed(here: Path) -> None:
    found = doctest.testmod(notebook)
    assert found.attempted >= 15
    assert found.failed == 0


@pytest.mark.parametrize("file", ["0.png", "rim.png"])
def test_predict_gives_what_the_job_writes(here: Path, file: str) -> None:
    model, tables = unet_ray.load_model("model"), unet_ray.read_tables("tables")
    uri = f"{here}/images/{file}"
    prediction = model.predict(uri)
    assert any(mask[:, :20].any() for mask in prediction.masks.values()) == (file == "0.png")
    ours = tables.regions.filter([u == uri for u in tables.regions["image_uri"].to_pylist()])
    assert prediction.regions.drop_columns(["run_id"]).equals(ours.drop_columns(["run_id", "date"]))
    for name in model.classes:
        assert np.array_equal(prediction.masks[name], unet_ray.mask(tables, uri, name))
        assert np.array_equal(prediction.masks[name], prediction.probabilities[name] >= 128 / 255)
    assert len(prediction.geodataframe) == len(ours)
    assert prediction.overlay().size == (70, 50)
    assert unet_ray.overlay(uri, tables.regions).tobytes() == prediction.overlay().tobytes()


def test_an_overlay_draws_objects_in_holes_and_each_class_in_its_colour() -> None:
    inner, ring = (
        shapely.box(8, 8, 12, 12),
        shapely.box(2, 2, 18, 18).difference(shapely.box(6, 6, 14, 14)),
    )
    image = np.zeros((20, 20, 3), np.uint8)

    def drawn(*regions: tuple[int, Any]) -> Any:
        numbers, outlines = zip(*regions, strict=True)
        return np.asarray(
            unet_ray.overlay(
                image, pa.table({"class_id": numbers, "geometry": shapely.to_wkb(outlines)})
            )
        )

    both, alone = drawn((1, inner), (2, ring)), drawn((2, ring))
    assert both[10, 10].any()
    assert not both[7, 7].any()
    assert np.array_equal(both[4, 4], alone[4, 4])
    assert alone[4, 4].any()


def test_relative_paths_are_found_in_the_tables(here: Path) -> None:
    tables = unet_ray.read_tables("tables")
    named, whole = (
        unet_ray.overlay(uri, tables.regions) for uri in ("images/0.png", f"{here}/images/0.png")
    )
    assert (
        named.tobytes()
        == whole.tobytes()
        != unet_ray.overlay("images/0.png", tables.regions.slice(0, 0)).tobytes()
    )
    assert unet_ray.mask(tables, "images/0.png", "cell").shape == (50, 70)


def test_bad_input_is_refused_in_one_line(here: Path) -> None:
    model = unet_ray.load_model("model")
    with pytest.raises(ImageError, match="uint16"):
        model.predict(np.zeros((9, 9, 3), np.uint16))
    with pytest.raises(ImageError, match=r"samples of shape \(0, 9, 3\)"):
        model.predict(np.zeros((0, 9, 3), np.uint8))
    with pytest.raises(InputError, match="nowhere.png: cannot be read"):
        model.predict("nowhere.png")
    with pytest.raises(InputError, match="has no class leaf; choose one of cell, fibre"):
        unet_ray.mask("tables", f"{here}/images/0.png", "leaf")


def test_public_names_exist_and_import_nothing_before_they_are_used() -> None:
    assert all(getattr(unet_ray, name) for name in unet_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unet_ray.nothing  # noqa: B018
    light = "import sys, unet_ray; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
