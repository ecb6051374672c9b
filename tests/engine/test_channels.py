"""Images of five channels, from training on two of them to tables: names decide, not order."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import tifffile

import unet_ray
from tests.builders import encode_pillow
from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.flags import parse_channels
from unet_ray.imaging.channels import ChosenChannels, InputChannels
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.statistics import compute_statistics
from unet_ray.network.model_folder import load_model
from unet_ray.output.config import ReportConfig
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

pytestmark = pytest.mark.usefixtures("ray_local")

NAMES = ("brightfield", "DAPI", "tubulin", "actin", "mito")
COUNT, SIDE = 8, 64


def draw_field(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return channels by name, H×W uint16 each, and the mask of what is bright in two of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), bool)
    for _ in range(5):
        mask |= np.hypot(*(np.stack([y, x]) - rng.uniform(0, SIDE, (2, 1, 1)))) < 9
    channels = {name: rng.integers(0, 60_000, mask.shape) for name in NAMES}
    channels |= {"DAPI": 900 * mask + rng.integers(0, 99, mask.shape)}
    channels |= {"actin": 5000 - 4000 * mask + rng.integers(0, 999, mask.shape)}
    return {name: samples.astype(np.uint16) for name, samples in channels.items()}, mask


def encode_field(channels: dict[str, np.ndarray], order: tuple[str, ...], is_named: bool) -> bytes:
    """Encode channels as pages of an OME-TIFF, or of one without names."""
    file, metadata = io.BytesIO(), {"axes": "CYX"}
    if is_named:
        metadata |= {"Channel": {"Name": [*order]}}  # type: ignore[dict-item]
    samples = np.stack([channels[name] for name in order])
    tifffile.imwrite(file, samples, ome=True, photometric="minisblack", metadata=metadata)
    return file.getvalue()


def write_fields(folder: Path, order: tuple[str, ...], is_named: bool = True) -> str:
    """Write the fields as files and return the folder."""
    for index in range(COUNT):
        channels, _ = draw_field(index)
        data = encode_field(channels, order, is_named)
        Storage.of(str(folder)).write(f"{index}.ome.tif", data)
    return str(folder)


def flags(place: Path, **more: Any) -> TrainConfig:
    given = {"base_channels": 4, "depth": 2, "crop": 32, "epochs": 12, "batch_size": 4}
    places = {"images": f"{place}/images", "masks": f"{place}/masks", "output": f"{place}/model"}
    return TrainConfig(**places | given | {"learning_rate": 0.02, "mask_kind": "binary"} | more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with labelled fields; every third file has its channels in another order."""
    folder = tmp_path_factory.mktemp("channels")
    for index in range(COUNT):
        channels, mask = draw_field(index)
        order = NAMES[::-1] if index % 3 == 0 else NAMES
        storage = Storage.of(str(folder))
        storage.write(f"images/{index}.ome.tif", encode_field(channels, order, True))
        storage.write(f"masks/{index}.png", encode_pillow(mask.astype(np.uint8) * 255))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """Return that folder with a model that was trained on two of the channels."""
    train(flags(place, channels="dapi,Actin"))
    return place


def run(place: Path, images: str, output: str, **more: Any) -> Any:
    config = SegmentConfig(
        model=f"{place}/model", images=images, output=f"{place}/{output}", max_error_rate=1, **more
    )
    segment(config)
    return read_tables(config.output)


def errors_of(tables: str) -> list[dict[str, Any]]:
    """Return what the rows of failed images say, the last one first."""
    images = read_tables(tables, current=False).images.sort_by([("segmented_at", "descending")])
    rows = images.select(["error", "error_type", "error_stage"]).to_pylist()
    return [row for row in rows if row["error"]]


def regions_of(tables: Any) -> list[dict[str, Any]]:
    """Return the regions of all images without what names the run and the folder."""
    rows = tables.regions.sort_by([("image_uri", "ascending"), ("region_id", "ascending")])
    names = ["image_uri", "region_id", "area", "score", "geometry"]
    return [
        row | {"image_uri": Path(row["image_uri"]).name} for row in rows.select(names).to_pylist()
    ]


@pytest.mark.slow
def test_files_in_another_order_give_the_same_regions(trained: Path, tmp_path: Path) -> None:
    model = load_model(Storage.of(f"{trained}/model"))
    assert model.input_channels == ("DAPI", "actin")
    assert model.network.in_channels == 2
    assert model.preprocessing.offset[0] < 1000 < model.preprocessing.offset[1]
    assert json.loads((trained / "model/model.json").read_text())["input_channels"] == [
        "DAPI",
        "actin",
    ]
    orders = (NAMES, ("actin", "mito", "DAPI"), ("Actin", "DAPI ", "brightfield", "tubulin"))
    found = []
    for number, order in enumerate(orders):
        fields = [
            {name: channels[name.strip().replace("Actin", "actin")] for name in order}
            for channels, _ in map(draw_field, range(COUNT))
        ]
        folder = tmp_path / str(number)
        for index, channels in enumerate(fields):
            data = encode_field(channels, order, True)
            Storage.of(str(folder)).write(f"{index}.ome.tif", data)
        tables = run(trained, str(folder), f"tables{number}")
        assert tables.images["error"].null_count == COUNT
        assert tables.images["channels"].to_pylist() == [2] * COUNT
        found.append(regions_of(tables))
    assert len(found[0]) >= COUNT
    assert found[0] == found[1] == found[2]
    masks = [draw_field(index)[1] for index in range(COUNT)]
    area = sum(row["area"] for row in found[0])
    assert 0.5 < area / np.sum(masks) < 2  # it has learnt something

    uri = tables.images["image_uri"][0].as_py()
    predicted = unet_ray.load_model(f"{trained}/model").predict(uri)
    of_image = tables.regions.filter(pc.field("image_uri") == uri)
    assert predicted.regions["geometry"].equals(of_image["geometry"])
    made = report(
        ReportConfig(tables=f"{trained}/tables0", output=f"{tmp_path}/r.html", pictures=1)
    )
    assert not made.problems


@pytest.mark.slow
def test_files_without_names_are_refused_with_a_remedy_that_works(
    trained: Path, tmp_path: Path
) -> None:
    images = write_fields(tmp_path / "unnamed", ("actin", "mito", "DAPI"), is_named=False)
    assert len(run(trained, images, "refused").images) == 0
    message = (
        "its channels have no names: the image has 3 channels without names, the model was trained "
        "on the channels DAPI, actin; choose its channels in that order, for instance "
        "--channels 0,1"
    )
    row = {"error": message, "error_type": "unsupported", "error_stage": "decode"}
    assert errors_of(f"{trained}/refused") == [row] * COUNT
    named = write_fields(tmp_path / "named", NAMES)
    again = run(trained, images, "refused", channels="2,0")
    expected = run(trained, named, "expected")
    assert regions_of(again) == regions_of(expected)
    lacking = write_fields(tmp_path / "lacking", ("mito", "DAPI"))
    run(trained, lacking, "lacking")
    message = errors_of(f"{trained}/lacking")[0]["error"]
    assert message.startswith("there is no channel actin: the image has the channels mito, DAPI,")
    with pytest.raises(
        InputError,
        match="--channels 2: the number of channels is 1, but the model was trained on the",
    ):
        run(trained, images, "refused", channels="2")


@pytest.mark.slow
def test_evaluation_takes_the_channels_of_the_model(trained: Path, tmp_path: Path) -> None:
    labelled = {"model": f"{trained}/model", "masks": f"{trained}/masks", "mask_kind": "binary"}
    found = [
        evaluate(EvaluateConfig(images=images, bootstrap=0, **labelled | more)).counts  # type: ignore[arg-type]
        for images, more in (
            (f"{trained}/images", {}),
            (write_fields(tmp_path / "other", NAMES[::-1]), {}),
            (write_fields(tmp_path / "unnamed", NAMES, is_named=False), {"channels": "1,3"}),
        )
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    with pytest.raises(InputError, match=r"8 of 8 labelled images .* --channels 0,1"):
        evaluate(EvaluateConfig(images=f"{tmp_path}/unnamed", **labelled))  # type: ignore[arg-type]


@pytest.mark.parametrize("decode_once", [True, False])
def test_a_set_without_the_flag_takes_all_channels_that_its_images_share(
    place: Path, decode_once: bool
) -> None:
    """The names of the first image give the order; images in another order are put right."""
    labelled = find_labelled(f"{place}/images", f"{place}/masks", LabelOptions())
    found = compute_statistics(labelled, decode_once)
    assert found.check_types() == []
    assert found.find_inputs(found.usable) == InputChannels(5, names=NAMES[::-1])
    for index in range(COUNT):
        channels, _ = draw_field(index)
        expected = np.dstack([channels[name] for name in NAMES[::-1]])
        assert np.array_equal(found.reader.read(index).image, expected)
    offset = found.preprocessing_of("mean", found.usable).offset
    assert offset[3] < 1000 < offset[1] < 6000 < min(offset[0], offset[2], offset[4])


def photographs(folder: Path) -> str:
    for index in range(COUNT):
        rgb = np.dstack([draw_field(index)[0]["DAPI"] // 5] * 3).astype(np.uint8)
        rgb[0, 0, 0] += index % 2  # every second one is grey
        Storage.of(str(folder)).write(f"{index}.png", encode_pillow(rgb))
    return str(folder)


@pytest.mark.parametrize(
    ("write", "flag", "expected"),
    [
        (photographs, None, InputChannels(3, names=("R", "G", "B"))),
        (photographs, "G", InputChannels(1, names=("G",))),
        (partial(write_fields, order=NAMES, is_named=False), None, InputChannels(5)),
        (
            partial(write_fields, order=NAMES, is_named=False),
            "3,1",
            InputChannels(2, indices=(3, 1), image_channels=5),
        ),
        (
            partial(write_fields, order=NAMES[:3], is_named=False),
            None,
            InputChannels(3, indices=(0, 1, 2), image_channels=3),
        ),
        (partial(write_fields, order=NAMES), "1,3", InputChannels(2, names=("DAPI", "actin"))),
    ],
)
def test_a_model_keeps_names_or_else_indices(
    place: Path,
    tmp_path: Path,
    write: Callable[[Path], str],
    flag: str | None,
    expected: InputChannels,
) -> None:
    labelled = find_labelled(write(tmp_path / "images"), f"{place}/masks", LabelOptions())
    chosen = ChosenChannels(parse_channels(flag)) if flag else None
    found = compute_statistics(labelled.with_channels(chosen))
    found.check_types()
    assert found.find_inputs(found.usable) == expected
    assert found.preprocessing_of("mean", found.usable).channels == expected.count


def test_a_set_whose_images_differ_in_their_channels_is_refused(
    place: Path, tmp_path: Path
) -> None:
    folder = write_fields(tmp_path / "mixed", NAMES)
    for index in range(3):
        data = encode_field(draw_field(index)[0], ("mito", "DAPI", "actin"), True)
        Storage.of(folder).write(f"{index}.ome.tif", data)
    with pytest.raises(InputError, match="the images differ in their channels: ") as error:
        train(flags(place, images=folder, output=f"{tmp_path}/m", epochs=1))
    for text in ("5 of the channels brightfield, DAPI, tub", "3 of the channels mito, DAPI, actin"):
        assert text in str(error.value)
    assert "--channels" in str(error.value)
    with pytest.raises(InputError, match="--channels GFP: there is no channel GFP"):
        train(flags(place, images=folder, output=f"{tmp_path}/m", channels="GFP"))
