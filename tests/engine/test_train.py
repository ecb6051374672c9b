"""Training on a real Ray: workers, failures, resumption, refusals and warnings."""

from __future__ import annotations

import json
import re
import signal
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tests.builders import encode_tiff, small_training
from tests.clusters import Nodes, started_cluster
from tests.conftest import S3_KEYS, free_port, new_bucket
from tests.training_job import Job
from unet_ray.cluster.resources import Capacity, worker_cpus
from unet_ray.errors import InputError, UnetRayError
from unet_ray.network.model_folder import load_model
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode, make_archive
from unet_ray.training.train import train


@given(st.lists(st.integers(2, 64), min_size=1, max_size=5), st.integers(1, 8))
def test_workers_fit_and_leave_cpus_to_ray_data(cpus: list[int], workers: int) -> None:
    """Elastic training fills every node, and still leaves half a CPU for tasks on the largest."""
    assume(workers <= max(cpus))
    share = worker_cpus(Capacity(tuple({"CPU": float(c)} for c in cpus), grows=False), workers)
    assert sum(c // share for c in cpus) >= workers
    full = max(cpus) // share
    assert max(cpus) - min(full, workers) * share >= 0.5 - 1e-9
    if workers < 2 * max(cpus) - 1:
        assert max(cpus) - full * share >= 0.5 - 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_two_workers_train_one_model(tmp_path: Path) -> None:
    """Two images give fewer crops than one step of both workers takes."""
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=2, check=0, archive=0)
    few = {"batch_size": 16, "epochs": 3, "val_fraction": 0.0}
    result = train(
        small_training(
            str(tmp_path), workers="2", padding="valid", crop=132, border_weight=10.0, **few
        )
    )
    assert result.progress.epochs == 3
    assert result.progress.best.dice == {}
    assert [record.workers for record in result.progress.history] == [2, 2, 2]
    started = {actor["ActorClassName"] for actor in ray._private.state.actors().values()}
    assert "TrainController" in started
    # it would ask a dashboard that this Ray does not have, and every training would wait for it
    assert "PlacementGroupCleaner" not in started


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_trains_in_bfloat16(tmp_path: Path, compiled: bool) -> None:
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=6, check=0, archive=0)
    config = small_training(
        str(tmp_path),
        device="gpu",
        epochs=12,
        loss="bce_dice",
        learning_rate=4e-3,
        compile=compiled,
    )
    result = train(config)
    assert all(record.gpu_memory_bytes for record in result.progress.history)
    assert result.progress.best.score is not None
    assert result.progress.best.score > 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_loss_that_explodes_ends_training_in_one_line(tmp_path: Path) -> None:
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=2, check=0, archive=0)
    with pytest.raises(
        UnetRayError,
        match=r"the loss became .* at step \d+ .*; rerun with a smaller --learning-rate",
    ):
        train(
            small_training(
                str(tmp_path), learning_rate=1e30, norm="none", val_fraction=0.0, epochs=3
            )
        )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_images_that_would_overflow_the_network_are_left_out_of_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("0", "1", "val-0", "val-large"):
        image, mask = draw_scene(70, 80, rng)
        samples = image.astype(np.float32)
        samples[5, 6] = 1e20 if name == "val-large" else 0
        kind = "val" if name.startswith("val") else "labelled"
        folder = Storage.of(f"{tmp_path}/data/{kind}")
        folder.write(f"images/{name}.tif", encode_tiff(samples))
        folder.write(f"masks/{name}.png", encode(mask, "png"))
    places = {f"val_{kind}": f"{tmp_path}/data/val/{kind}" for kind in ("images", "masks")}
    result = train(small_training(str(tmp_path), max_error_rate=0.5, **places))
    assert result.progress.best.score is not None
    noted = "1 of 2 labelled images cannot be used and are skipped"
    assert f"{noted}: {places['val_images']}/val-large.tif: unsupported" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_training_leaves_pictures_and_a_model_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_archive(Storage.of(f"{tmp_path}/data"), labelled=6, check=0, archive=0)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    first = train(
        small_training(
            str(tmp_path), epochs=2, best_by="dice:fibre", loss="bce_dice", class_weights="1,2"
        )
    )
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c  # Ray Train does not put it back
    run = Path(first.run_folder)
    assert Image.open(run / "curves.png").width > 600
    assert Image.open(run / "worst.png").width > 300
    assert list(run.glob("tensorboard/events.out.tfevents.*"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["score"] >= max(r.dice["fibre"] for r in first.progress.history) - 0.005
    thresholds = [rule.threshold for rule in first.model.postprocessing.rules]
    assert thresholds == list(first.progress.best.thresholds.values())

    capsys.readouterr()
    again = small_training(
        str(tmp_path),
        init_from=first.output,
        output=f"{tmp_path}/next",
        classes="fibre=2,other=1",
        base_channels=None,
        depth=None,
        learning_rate=1e-9,
    )
    tuned = train(again)
    assert (
        "starting from a model that has these classes: fibre; classes with new filters: 1"
        in capsys.readouterr().out
    )
    assert tuned.model.preprocessing == first.model.preprocessing
    before, after = (load_model(Storage.of(m.output)).build().state_dict() for m in (first, tuned))
    assert np.allclose(before["head.weight"][1], after["head.weight"][0], atol=1e-6)
    assert np.allclose(before["contracting.0.0.weight"], after["contracting.0.0.weight"], atol=1e-6)
    assert not np.allclose(before["head.weight"][0], after["head.weight"][1], atol=1e-3)


@pytest.mark.usefixtures("ray_local")
def test_labels_that_cannot_work_are_named_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refusal comes before training, and notes are printed only when training starts."""
    data = Storage.of(f"{tmp_path}/data/labelled")
    rng = np.random.default_rng(0)

    def write(name: str, image: np.ndarray, mask: np.ndarray) -> None:
        data.write(f"images/{name}.png", encode(image, "png"))
        data.write(f"masks/{name}.png", encode(mask, "png"))

    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 5:20] = 1
    for index in range(4):
        write(f"{index}", rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), mask)
    config = small_training(str(tmp_path), best_by="dice:nothing")

    def refused() -> str:
        with pytest.raises(InputError) as error:
            train(config)
        return str(error.value)

    assert "there is no class nothing" in refused()
    write("grey", np.zeros((40, 60), np.uint8), mask)
    write("deep", rng.integers(0, 65535, (40, 60), dtype=np.uint16), mask)
    assert re.search(
        r"several types: 5 of uint8 .*1 of uint16 \(for instance .*deep.png\); convert", refused()
    )
    data.write("images/deep.png", encode(np.zeros((40, 60), np.uint8), "png")[:60])
    assert re.search(
        r"1 of 6 labelled images cannot be used, more than --max-error-rate 0.01 .*deep.png",
        refused(),
    )
    config = small_training(str(tmp_path), best_by="dice:nothing", max_error_rate=0.2)
    refused()
    shown = capsys.readouterr().out
    assert "note:" not in shown  # nothing is printed of a run that does not start


@pytest.fixture
def archive(request: pytest.FixtureRequest) -> str:
    """Return the URI of a bucket with a small labelled set."""
    root = new_bucket(request)
    make_archive(Storage.of(f"{root}/data"), labelled=8, check=0, archive=0)
    return root


@pytest.mark.soak
@pytest.mark.usefixtures("s3_server")
def test_a_training_survives_the_loss_of_its_worker_and_of_its_driver(archive: str) -> None:
    """A killed worker is replaced; a killed driver's command goes on when it is given again.

    Every epoch is recorded once.
    """
    flags = ["--epochs", "30", "--checkpoint-minutes", "0.02"]
    with Job(archive, *flags) as job:
        job.wait_for(r"epoch  6/30")  # whose first checkpoints are known to Ray Train by now
        (worker,) = job.children("RayTrainWorker")
        worker.kill()
        job.wait_for(r"a worker failed(.*\n)+.* from epoch (?!1\n)\d+\n(.*\n)*epoch +\d+/30")
        job.process.kill()
    with Job(archive, *flags) as again:
        assert again.process.wait(300) == 0, again.output
    assert "from epoch 1\n" not in again.output
    history = json.loads(_latest_progress(Storage.of(archive)))["history"]
    assert [record["epoch"] for record in history] == list(range(1, 31))
    seen = [record["crops_seen"] for record in history]
    assert all(0 < b - a < 2 * seen[0] for a, b in pairwise(seen))


@pytest.mark.soak
@pytest.mark.usefixtures("s3_server")
def test_a_training_survives_the_loss_of_its_controller(archive: str) -> None:
    """The kernel may kill Ray Train's controller when a stranger takes all memory."""
    with Job(archive, "--epochs", "20", "--checkpoint-minutes", "0.02") as job:
        for epoch in (6, 12):
            job.wait_for(rf"epoch +{epoch}/20")
            (controller,) = job.children("ray::TrainController")
            controller.kill()
        assert job.process.wait(300) == 0, job.output
    lost = re.findall(r"the process that controls the training failed .*; resuming", job.output)
    assert len(lost) == 2, job.output
    assert job.output.count("from epoch 1\n") == 1
    assert "Traceback" not in job.output
    history = json.loads(_latest_progress(Storage.of(archive)))["history"]
    assert [record["epoch"] for record in history] == list(range(1, 21))


def _latest_progress(root: Storage) -> bytes:
    found = [e.path for e in root.entries("run/unet_ray") if e.path.endswith("/progress.json")]
    assert len(found) <= 3  # the newest two, and one of the moment of the end
    return root.read(f"run/unet_ray/{max(found)}")


@pytest.mark.soak
def test_elastic_training_takes_in_new_nodes_and_survives_their_loss(
    archive: str, tmp_path: Path
) -> None:
    flags = ["--workers", "1,2", "--resize-check-s", "2", "--epochs", "400", "--patience", "0"]
    port, node_flags = free_port(), ("--num-cpus=2", f"--object-store-memory={300 * 2**20}")
    with ExitStack() as stack:
        users = stack.enter_context(started_cluster(tmp_path, port, *node_flags))
        nodes = Nodes(port, users, *node_flags)
        environment = users | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        environment |= {"AWS_DEFAULT_REGION": "us-east-1"} | S3_KEYS
        job = stack.enter_context(Job(archive, *flags, **environment))
        job.wait_for(r"1 worker, effective batch 4, .* from epoch 1\n(.*\n)*.*epoch   2/400")
        nodes.add()
        job.wait_for(r"2 workers, effective batch 8, .* from epoch \d+\n(.*\n)+.*epoch +\d+/400")
        nodes.kill()
        job.wait_for(
            r"2 workers(.*\n)+1 worker, effective batch 4, .* from epoch (?!1\n)\d+\n"
            r"(.*\n)+.*epoch +\d+/400"
        )
        job.process.send_signal(signal.SIGINT)
        job.process.wait(60)
