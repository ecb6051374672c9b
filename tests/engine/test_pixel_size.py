"""Images of several pixel sizes, resampled to that of a model, on a real Ray."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import encode_tiff
from tests.conftest import run_job
from unet_ray.errors import InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import load_model, save_model
from unet_ray.network.predictor import Predictor
from unet_ray.network.resampled_predictor import ResampledPredictor
from unet_ray.output.reader import image_masks, read_tables
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.tables.runs import read_records


@pytest.fixture
def config(tiny_model: str, tmp_path: Path) -> SegmentConfig:
    """Write a model of pixels of 0.5 µm, an image of 0.25 µm and one that does not say it."""
    folder = Storage.of(tiny_model)
    save_model(replace(load_model(folder), pixel_size_um=(0.5, 0.5)), folder)
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    scene = draw_scene(120, 150, rng)[0]
    known = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    archive.write("known.tif", encode_tiff(scene, **known))
    archive.write("unknown.tif", encode_tiff(scene))
    return SegmentConfig(
        model=tiny_model,
        images=archive.uri,
        output=f"{tmp_path}/tables",
        pixel_size="model",
        max_error_rate=0.5,
        tile=64,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_images_are_resampled_to_the_pixel_size_of_the_model(
    config: SegmentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = segment(config)
    assert (result.images_done, result.images_failed) == (1, 1)
    assert not result.other_pixel_sizes  # the network saw the size that it learnt
    (message,) = result.error_messages
    assert "does not state its pixel size" in message
    assert "images resampled to 0.5 µm" in capsys.readouterr().out
    tables, uri = read_tables(config.output), f"{config.images}/known.tif"
    model = load_model(Storage.of(config.model))
    predictor = ResampledPredictor(
        Predictor(model.build(), model.preprocessing, PredictorConfig(tile=64))
    )
    image = draw_scene(120, 150, np.random.default_rng(0))[0]
    resampling = Resampling.of(120, 150, (0.5, 0.5))
    prob_u8 = predictor.predict_timed([Pixels(image, None)], [resampling])[0][0]
    masks = image_masks(tables, uri)
    for index, spec in enumerate(model.classes):
        assert masks[spec.name].shape == (120, 150)
        assert (masks[spec.name] != (prob_u8[index] >= 128)).mean() <= 1e-4

    # other settings are other rows: both images are done again, and none fails
    plain = segment(replace(config, pixel_size=None))
    assert (plain.images_done, plain.images_failed) == (2, 0)
    assert plain.other_pixel_sizes == {"0.25 µm": 1}
    again = segment(config)
    assert (again.images_done, again.images_failed) == (0, 0)
    digests = {
        (record["config"]["pixel_size"], record["config_digest"])
        for record in read_records(Storage.of(config.output))[0].values()
    }
    assert len(digests) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_labelled_images_are_resampled_for_an_evaluation(
    config: SegmentConfig, tmp_path: Path
) -> None:
    mask = draw_scene(120, 150, np.random.default_rng(0))[1]
    data = Storage.of(f"{tmp_path}/data")
    for name in ("known", "unknown"):
        data.write(f"{name}/images/a.tif", Storage.of(config.images).read(f"{name}.tif"))
        data.write(f"{name}/masks/a.png", encode(mask, "png"))
    labelled = EvaluateConfig(
        model=config.model,
        images=f"{data.uri}/known/images",
        masks=f"{data.uri}/known/masks",
        pixel_size="model",
    )
    resampled, plain = evaluate(labelled), evaluate(replace(labelled, pixel_size=None))
    assert resampled.counts.shape == plain.counts.shape
    assert not np.array_equal(resampled.counts, plain.counts)
    as_they_are = evaluate(replace(labelled, pixel_size="0.25"))
    assert np.array_equal(as_they_are.counts, plain.counts)
    unknown = {"images": f"{data.uri}/unknown/images", "masks": f"{data.uri}/unknown/masks"}
    with pytest.raises(InputError, match=r"unknown/images/a\.tif: the file does not state"):
        evaluate(replace(labelled, **unknown))


def test_a_model_that_knows_no_pixel_size_cannot_be_the_measure(
    tiny_model: str, tmp_path: Path
) -> None:
    job = run_job(
        "segment",
        *("--model", tiny_model, "--images", tmp_path, "--output", tmp_path / "tables"),
        *("--pixel-size", "model"),
    )
    assert job.returncode == 2
    (line,) = job.stderr.splitlines()
    assert line.startswith("error: --pixel-size model: the model does not know the pixel size")
