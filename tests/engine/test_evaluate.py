"""Evaluation on a real Ray: counts are those of a plain loop, and its files hold them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import torch

from unet_ray.cli.evaluate import table
from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import EvaluateResult, count_against, evaluate
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.metrics.metrics import COUNTS, MEANS, METRICS
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.grouping.groups import Grouping
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import load_model, save_model, state_bytes
from unet_ray.network.predictor import Predictor
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode


@pytest.fixture
def config(tiny_model: str, tmp_path: Path) -> EvaluateConfig:
    """Write six labelled images; the mask of the last one is empty."""
    folder = Storage.of(f"{tmp_path}/data")
    rng = np.random.default_rng(0)
    for index in range(6):
        image, mask = draw_scene(96, 110, rng)
        folder.write(f"images/{index}.png", encode(image, "png"))
        folder.write(f"masks/{index}.png", encode(mask * (index < 5), "png"))
    return EvaluateConfig(
        model=tiny_model,
        images=f"{folder.uri}/images",
        masks=f"{folder.uri}/masks",
        output=f"{tmp_path}/out/metrics.json",
        per_image=f"{tmp_path}/out/images.parquet",
        worst=4,
        bootstrap=50,
    )


@pytest.mark.usefixtures("ray_local")
def test_counts_are_those_of_a_plain_loop_and_files_hold_them(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    result = evaluate(config)
    assert np.array_equal(result.counts, count_in_a_loop(config))
    out = Storage.of(f"{tmp_path}/out")
    written = json.loads(out.read("metrics.json"))
    assert written == result.metrics()
    assert {"iou", "dice", "pixel_error", "true_positive", "pixels", "ap50", "image_dice"} <= set(
        written["classes"]["cell"]
    )
    assert set(written["intervals"]["cell"]) == METRICS.keys() | MEANS.keys()
    low, high = written["intervals"]["cell"]["dice"]
    assert low <= written["classes"]["cell"]["dice"] <= high

    data = out.read("images.parquet")
    table = polars.read_parquet(io.BytesIO(data))
    assert table.columns == ["image_uri", "class_id", "class_name", *COUNTS, *METRICS, "group"]
    assert table["image_uri"].to_list() == [uri for uri in result.image_uris for _ in range(2)]
    assert (
        table.filter(polars.col("class_name") == "cell")["true_positive"].sum()
        == (written["classes"]["cell"]["true_positive"])
    )
    assert table["adapted_rand_error"].null_count() >= 2  # both classes of the empty mask
    fields = pq.read_schema(io.BytesIO(data))
    assert all(field.metadata[b"description"] for field in fields)


@pytest.mark.usefixtures("ray_local")
def test_output_that_is_not_finite_is_one_line(config: EvaluateConfig, tmp_path: Path) -> None:
    model = load_model(Storage.of(config.model))
    network = model.build()
    with torch.no_grad():
        network.head.weight.fill_(3e38)
    place = Storage.of(f"{tmp_path}/overflowing")
    save_model(replace(model, weights=state_bytes(network)), place)
    with pytest.raises(InputError, match="the model cannot predict a labelled image: internal: th"):
        evaluate(replace(config, model=place.uri))


def count_in_a_loop(config: EvaluateConfig) -> np.ndarray:
    model = load_model(Storage.of(config.model))
    labelled = find_labelled(config.images, config.masks, LabelOptions(model.classes))
    predictor = Predictor(model.build(), model.preprocessing, PredictorConfig(threads=1))
    labelling, reader = (
        Labelling("classes", model.classes, 0, 255),
        FileReader(labelled.access, labelled.items),
    )
    counts = []
    for index in range(len(labelled.items)):
        labelled_image = reader.read(index)
        (prob_u8,) = predictor.predict([model.preprocessing.check(labelled_image.image)])
        counts.append(count_against(model.postprocessing, labelling, 2, prob_u8, labelled_image))
    return np.stack(counts)


def make_result(dice: list[tuple[float, float]], tiny_model: str, **more: int) -> EvaluateResult:
    """Return a result of images with the given Dice of two classes; NaN: absent and not found."""
    counts = np.zeros((len(dice), 2, len(COUNTS)))
    names = list(COUNTS)
    counts[:, :, names.index("true_positive")] = np.nan_to_num(np.array(dice)) * 50
    counts[:, :, names.index("false_negative")] = np.where(
        np.isnan(dice), 0, 100 - np.nan_to_num(dice) * 100
    )
    config = EvaluateConfig(model=tiny_model, images="i", masks="m", **more)
    uris = tuple(f"{index}.png" for index in range(len(dice)))
    return EvaluateResult(config, load_model(Storage.of(tiny_model)), uris, counts)


def test_the_worst_images_are_those_with_the_lowest_mean_dice(tiny_model: str) -> None:
    nan = float("nan")
    result = make_result(
        [(1, 0.5), (0, 1), (nan, 0.25), (nan, nan), (0.5, nan)], tiny_model, worst=3, bootstrap=0
    )
    assert [(image["image_uri"], image["dice"]) for image in result.worst] == [
        ("2.png", 0.25),
        ("1.png", 0.5),
        ("4.png", 0.5),
    ]
    assert result.worst[0]["classes"] == {"cell": None, "fibre": 0.25}
    assert result.metrics()["intervals"] == {"cell": {}, "fibre": {}}


def test_figures_are_those_of_groups_too(tiny_model: str) -> None:
    nan = float("nan")
    result = make_result([(1, nan), (0.5, nan), (0, nan), (1, nan)], tiny_model, bootstrap=50)
    assert result.metrics()["groups"] == {"by": "image", "count": 4}
    grouped = replace(result, grouping=Grouping("file", ("a", "b", "a", "b")))
    metrics = grouped.metrics()
    about = metrics["groups"]
    assert (about["by"], about["count"]) == ("file", 2)
    assert about["figures"]["a"]["images"] == 2
    # of 100 pixels in each image 50 are found in the first, none in the third
    assert about["figures"]["a"]["cell"]["iou"] == pytest.approx(50 / 150)
    assert about["figures"]["b"]["fibre"]["iou"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert grouped.table()["group"].to_pylist() == ["a", "a", "b", "b"] * 2
    assert table(grouped)[0].endswith("(4 images in 2 groups by file)")
    assert table(result)[0].endswith("(4 images)")


def test_a_class_that_occurs_nowhere_has_null_metrics(tiny_model: str) -> None:
    metrics = make_result([(1, float("nan"))] * 3, tiny_model, bootstrap=10).metrics()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["classes"]["fibre"]["dice"] is None
    assert metrics["intervals"]["fibre"]["dice"] is None
    assert metrics["intervals"]["cell"]["dice"] == [1, 1]


def test_true_objects_are_ids_or_components() -> None:
    cell = (ClassSpec(1, "cell"),)
    ids = np.array([[7, 7, 0, 8, 8, 255]], np.uint8)
    image_objects = [
        (Labelling("instances", cell, 0, 255), [[7, 7, 0, 8, 8, 0]]),
        (Labelling("instances", cell, 7, 255), [[0, 0, 7, 8, 8, 0]]),
        (Labelling("classes", (ClassSpec(8, "cell"),), 0, 255), [[0, 0, 0, 1, 1, 0]]),
    ]
    for labelling, expected in image_objects:
        assert labelling.objects([ids], 0).tolist() == expected


@pytest.mark.parametrize("flag", ["worst", "bootstrap", "boundary_tolerance"])
def test_negative_numbers_are_refused(flag: str) -> None:
    with pytest.raises(InputError, match=f"--{flag.replace('_', '-')} -1: choose 0 to 1000000"):
        EvaluateConfig(model="m", images="i", masks="m", **{flag: -1})  # type: ignore[arg-type]


def test_files_that_cannot_be_written_are_named_before_anything_is_read(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="/out: no permission to write here"):
        evaluate(config)
    with pytest.raises(InputError, match="--output .*/results/: this is a folder; name a file"):
        evaluate(replace(config, output=f"{tmp_path}/results/"))
