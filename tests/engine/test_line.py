"""The whole line on a real Ray: train, resume, evaluate and segment on S3; runs over archives."""

import json
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import duckdb
import geopandas
import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
import ray
from pycocotools import mask as coco

from tests.builders import small_training
from tests.conftest import new_bucket
from unet_ray.errors import InputError, OutputHeldError, TooManyFailuresError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.evaluation.evaluate import evaluate
from unet_ray.image_sources.encoded import find_place, read_encoded
from unet_ray.image_sources.names import split_uri
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.network.config import PredictorConfig
from unet_ray.network.model_folder import load_model
from unet_ray.network.predictor import Predictor
from unet_ray.output.reader import image_masks, read_tables
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode, make_archive
from unet_ray.tables.runs import read_records, write_run_record
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS
from unet_ray.training.config import TrainConfig
from unet_ray.training.train import train

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.mark.slow
@pytest.mark.usefixtures("locks_settle_at_once")
def test_on_s3_a_training_is_resumed_and_its_model_is_evaluated_and_segments(
    request: pytest.FixtureRequest,
) -> None:
    """On a local folder: test_resumption.py, test_evaluate.py, the quickstart."""
    root = new_bucket(request)
    made = make_archive(Storage.of(root).join("data"), labelled=4, check=2, archive=5)
    first = train(small_training(root, storage=f"{root}/checkpoints"))
    assert first.progress.epochs == 1
    assert set(first.progress.best.iou) == {"cell", "fibre"}
    more = train(small_training(root, storage=f"{root}/checkpoints", epochs=2))
    assert more.progress.epochs == 2
    assert more.model.digest != first.model.digest
    assert load_model(Storage.of(f"{root}/model")).digest == more.model.digest
    with pytest.raises(
        InputError, match="holds a training with --crop 64, but this one has --crop 32"
    ):
        train(small_training(root, storage=f"{root}/checkpoints", crop=32))

    checked = evaluate(
        EvaluateConfig(
            model=f"{root}/model",
            images=made.check_images.uri,
            masks=made.check_masks.uri,
            output=f"{root}/m.json",
        )
    )
    written = json.loads(Storage.of(root).read("m.json"))
    assert written["images"] == 2
    assert written == checked.metrics()
    assert written["classes"]["cell"]["pixels"] == 256 * 256 + 240 * 320  # the two check images

    config = SegmentConfig(
        model=f"{root}/model",
        images=made.archive.uri,
        output=f"{root}/tables",
        threshold=0.3,
        max_error_rate=0.5,
    )
    result = segment(config)
    assert (result.status, result.images_done, result.images_failed) == ("done", 5, 1)
    again = segment(config)
    assert (again.images_listed, again.images_skipped, again.images_done) == (6, 6, 0)


def test_validation_masks_of_another_convention_are_refused(tmp_path: Path) -> None:
    for name, value in (("one", 1), ("two", 255)):
        folder = Storage.of(f"{tmp_path}/{name}")
        folder.write("images/a.png", encode(np.zeros((64, 64, 3), np.uint8), "png"))
        folder.write("masks/a.png", encode(np.eye(64, dtype=np.uint8) * value, "png"))
    config = TrainConfig(
        images=f"{tmp_path}/one/images",
        masks=f"{tmp_path}/one/masks",
        output=f"{tmp_path}/model",
        mask_kind="binary",
        val_images=f"{tmp_path}/two/images",
        val_masks=f"{tmp_path}/two/masks",
    )
    with pytest.raises(InputError, match="the class has values from 128, but in --masks from 1"):
        train(config)


@pytest.fixture
def archive(tmp_path: Path) -> Storage:
    """Return a folder of six images: three kinds of files, a stack of two pages, an empty file."""
    folder = Storage.of(f"{tmp_path}/archive")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "sub/c.tif"):
        folder.write(name, encode(draw_scene(70, 90, rng)[0], name[-3:]))
    folder.write("d.tif", encode(np.stack([draw_scene(64, 64, rng)[0] for _ in range(2)]), "tif"))
    folder.write("empty.png", b"")
    folder.write("notes.txt", b"not an image")
    return folder


def run_config(archive: Storage, tiny_model: str, tmp_path: Path, **more: object) -> SegmentConfig:
    given = {
        "model": tiny_model,
        "images": archive.uri,
        "output": f"{tmp_path}/tables",
        "max_error_rate": 0.5,
    }
    return SegmentConfig(**(given | {"shard_images": 2} | more))  # type: ignore[arg-type]


def test_tables_are_what_the_contract_says(
    archive: Storage, tiny_model: str, tmp_path: Path
) -> None:
    result = segment(run_config(archive, tiny_model, tmp_path, date="2026-02-03"))
    assert (result.images_done, result.images_failed) == (5, 1)
    tables = f"{tmp_path}/tables"
    for name, schema in (("images", IMAGES), ("masks", MASKS), ("regions", REGIONS)):
        files = sorted(Path(tables, name).rglob("*.parquet"))
        assert len(files) >= 3
        assert all(
            f.parent.name == "date=2026-02-03" and f.name.startswith(result.run_id) for f in files
        )
        assert pq.read_schema(files[0]).equals(schema)
    failed = duckdb.sql(
        f"select * from '{tables}/images/*/*.parquet' where error_type is not null"
    ).fetchdf()
    assert failed[["error_type", "error_stage"]].values.tolist() == [["unreadable", "decode"]]
    assert failed["height"].isna().all()
    record = json.loads(next(Path(tables, "runs").iterdir()).read_text())
    assert (record["status"], record["exit_code"], record["images_listed"]) == ("done", 0, 6)
    assert record["started_at"] < record["first_images_at"] < record["ended_at"]
    assert (
        record["object_store_bytes"] > 6 * 128 * 128
    )  # pixels and prob_u8 went from stage to stage
    assert record["spilled_bytes"] == 0

    images = polars.read_parquet(f"{tables}/images/**/*.parquet").filter(
        polars.col("error").is_null()
    )
    assert images["image_uri"].str.contains("#page=").sum() == 2
    model = load_model(Storage.of(tiny_model))
    predictor = Predictor(model.build(), model.preprocessing, PredictorConfig())
    regions = geopandas.read_parquet(f"{tables}/regions")
    assert isinstance(regions, geopandas.GeoDataFrame)
    assert regions.crs is None
    assert regions.geometry.is_valid.all()
    assert (regions.geometry.area == regions["area"]).all()
    rows = duckdb.sql(f"select * from '{tables}/masks/*/*.parquet'").fetchdf()
    assert len(rows) == 5 * 2
    for row in images.to_dicts():
        uri, key = split_uri(row["image_uri"])
        file = Storage.of(uri).entry()
        place = find_place(process_decoder(), archive, file, key)
        image = model.preprocessing.check(decode_image(read_encoded(archive, uri, place)).samples)
        (prob_u8,) = predictor.predict([image])
        for index, spec in enumerate(model.classes):
            mask = rows[(rows.image_uri == row["image_uri"]) & (rows.class_id == spec.id)].iloc[0]
            decoded = coco.decode(
                {"size": [mask.height, mask.width], "counts": bytes(mask["counts"])}
            )
            assert np.array_equal(decoded, prob_u8[index] >= 128)
            mine = regions[(regions.image_uri == row["image_uri"]) & (regions.class_id == spec.id)]
            assert mine["area"].sum() == mask.area == decoded.sum()
    of_image = regions[regions.image_uri == images["image_uri"][0]]
    assert sorted(of_image.region_id) == list(range(1, len(of_image) + 1))


def test_prometheus_can_scrape_a_run(archive: Storage, tiny_model: str, tmp_path: Path) -> None:
    result = segment(run_config(archive, tiny_model, tmp_path))
    port = next(node["MetricsExportPort"] for node in ray.nodes() if node["Alive"])
    wanted, deadline = (
        {"images_measured_total": 6.0, "images_failed_total": 1.0, "predictors": 1.0},
        time.time() + 30,
    )
    found, values = dict[str, float](), dict[str, float]()
    while found != wanted and time.time() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if result.run_id in line]
        values |= {
            line.split("{")[0].removeprefix("ray_unet_ray_"): float(line.split()[-1])
            for line in lines
        }
        found = {name: value for name, value in values.items() if name in wanted}
        time.sleep(0.5)
    assert found == wanted
    assert values["megapixels_total"] == pytest.approx(result.megapixels)
    assert values["predict_seconds_total"] == pytest.approx(result.stage_s["predict"])


def test_a_run_whose_driver_vanished_is_called_lost(tiny_model: str, tmp_path: Path) -> None:
    output = Storage.of(f"{tmp_path}/tables")
    write_run_record(output, "20260101T000000Z-aaaaaa", {"status": "done", "exit_code": 0})
    write_run_record(output, "20260102T000000Z-bbbbbb", {"status": "running", "exit_code": None})
    (tmp_path / "empty").mkdir()
    empty = Storage.of(f"{tmp_path}/empty")
    segment(run_config(empty, tiny_model, tmp_path, allow_empty=True))
    assert [record["status"] for record in read_records(output)[0].values()] == [
        "done",
        "lost",
        "done",
    ]


def test_a_second_run_does_what_is_new_or_changed(
    archive: Storage, tiny_model: str, tmp_path: Path
) -> None:
    config = run_config(archive, tiny_model, tmp_path)
    segment(config)
    assert segment(config).images_done == 0
    archive.write("a.png", encode(draw_scene(50, 50, np.random.default_rng(9))[0], "png"))
    archive.write("new.png", encode(draw_scene(40, 40, np.random.default_rng(8))[0], "png"))
    result = segment(config)
    assert (result.images_done, result.images_failed, result.images_skipped) == (2, 0, 5)
    assert segment(replace(config, retry_failed=True, max_error_rate=1.0)).images_failed == 1
    tables = read_tables(config.output)
    assert len(tables.images) == 6
    # five done and one failed, then two new or changed, then the failed one again
    assert len(read_tables(config.output, current=False).images) == 5 + 1 + 2 + 1
    (height,) = [
        r["height"] for r in tables.images.to_pylist() if r["image_uri"].endswith("/a.png")
    ]
    assert height == 50
    assert image_masks(tables, f"{archive.uri}/a.png")["cell"].shape == (50, 50)
    assert segment(replace(config, min_area=5)).images_done == 6  # another configuration
    # the result does not depend on the tile, so nothing is done again
    assert segment(replace(config, min_area=5, tile=32, actors="1")).images_done == 0


def test_results_do_not_depend_on_tile_or_shards(
    archive: Storage, tiny_model: str, tmp_path: Path
) -> None:
    outputs = []
    for name, more in (
        ("one", {"tile": 4096, "shard_images": 100}),
        ("two", {"tile": 16, "shard_images": 1}),
    ):
        config = replace(
            run_config(archive, tiny_model, tmp_path), output=f"{tmp_path}/{name}", **more
        )
        segment(config)
        tables = read_tables(config.output)
        outputs.append(
            [image_masks(tables, uri) for uri in sorted(tables.images["image_uri"].to_pylist())]
        )
    pixels = sum(mask.size for masks in outputs[0] for mask in masks.values())
    different = sum((a[c] != b[c]).sum() for a, b in zip(*outputs, strict=True) for c in a)
    assert different <= 1e-4 * pixels


def test_a_precision_that_the_cpu_lacks_is_warned_of(
    archive: Storage,
    tiny_model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(
            "unet_ray.segmentation.run.cpu_has_bfloat16", lambda found=has_bfloat16: found
        )
        config = run_config(archive, tiny_model, tmp_path, precision="bfloat16", limit=1)
        assert segment(config).images_done == 1
        is_warned = "float32 is 4 to 8 times as fast" in capsys.readouterr().out
        assert is_warned is not has_bfloat16


def test_a_dry_run_writes_nothing_and_a_limit_is_kept(
    archive: Storage, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(run_config(archive, tiny_model, tmp_path, dry_run=True))
    assert "6 images listed: 6 new" in capsys.readouterr().out
    assert not Path(tmp_path, "tables").exists()
    assert segment(run_config(archive, tiny_model, tmp_path, limit=2)).images_done == 2
    with pytest.raises(
        TooManyFailuresError, match="1 of 4 images failed, more than --max-error-rate 0.1"
    ):
        segment(run_config(archive, tiny_model, tmp_path, max_error_rate=0.1))
    records = [json.loads(p.read_text()) for p in sorted(Path(tmp_path, "tables/runs").iterdir())]
    assert sorted((r["status"], r["exit_code"]) for r in records) == [("done", 0), ("failed", 3)]


def test_a_held_output_is_left_alone(archive: Storage, tiny_model: str, tmp_path: Path) -> None:
    from unet_ray.tables.lock import OutputLock

    with (
        OutputLock(Storage.of(f"{tmp_path}/tables"), "other"),
        pytest.raises(OutputHeldError, match="run other has held"),
    ):
        segment(run_config(archive, tiny_model, tmp_path))


def test_resources_that_cannot_work_are_refused(
    archive: Storage, tiny_model: str, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="--actors 64: the cluster has . CPUs, one of which is for reading"
    ):
        segment(run_config(archive, tiny_model, tmp_path, actors="64"))
    with pytest.raises(
        InputError,
        match="--device gpu: needs 1 GPU; this cluster has none and can add none; "
        "give --device cpu",
    ):
        segment(run_config(archive, tiny_model, tmp_path, device="gpu"))


def test_labelled_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    made = make_archive(Storage.of(f"{tmp_path}/data"), labelled=2, check=0, archive=0)
    good = made.labelled_images.read("0000.png")
    for data, message in ((b"", "the file is empty"), (good[:500], "0000.png: unreadable")):
        made.labelled_images.write("0000.png", data)
        with pytest.raises(InputError, match=f"1 of 2 labelled images cannot be used.*{message}"):
            train(small_training(str(tmp_path)))
    made.labelled_images.write("0000.png", encode(np.zeros((9, 9, 3), np.uint8), "png"))
    with pytest.raises(InputError, match="the image has 9×9 px, but its mask .* 256×256 px"):
        train(small_training(str(tmp_path)))
    made.labelled_images.write("0000.png", good)
    with pytest.raises(InputError, match="mask values without a class: 2"):
        train(small_training(str(tmp_path), classes="cell=1,other=7"))
    with pytest.raises(InputError, match="may be classes or objects"):
        train(small_training(str(tmp_path), classes=None))


def test_shards_are_written_while_others_are_still_decoded(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash costs a shard, not all that was measured; shards also close by their bytes."""
    archive, rng = Storage.of(f"{tmp_path}/archive"), np.random.default_rng(0)
    images = [encode(draw_scene(256, 300, rng)[0], "png") for _ in range(10)]
    for index in range(400):
        archive.write(f"{index:03}.png", images[index % 10])
    segment(
        SegmentConfig(
            model=tiny_model, images=archive.uri, output=f"{tmp_path}/tables", shard_images=20
        )
    )
    tables = read_tables(f"{tmp_path}/tables")
    committed = min(path.stat().st_mtime for path in tmp_path.glob("tables/images/*/*.parquet"))
    measured = sorted(at.timestamp() for at in tables.images["segmented_at"].to_pylist())
    assert len(measured) == 400
    assert committed < measured[200]
    monkeypatch.setattr("unet_ray.segmentation.shard_writer._SHARD_BYTES", 2**14)
    segment(
        SegmentConfig(model=tiny_model, images=archive.uri, output=f"{tmp_path}/more", limit=100)
    )
    shards = list(tmp_path.glob("more/images/*/*.parquet"))
    assert len(shards) > 3
    assert sum(pq.read_metadata(path).num_rows for path in shards) == 100
