"""Commands as a user runs them: exit codes, one-line errors, quickstart, `ray job submit`."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image
from ray._private.runtime_env.packaging import create_package

from tests.clusters import started_cluster
from tests.conftest import REPOSITORY, S3_KEYS, free_port, make_tiny_model, new_bucket, run_job
from unet_ray.cli.segment import summary
from unet_ray.cluster.node_hours import compute_cost
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.result import SegmentResult
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode
from unet_ray.tables.runs import read_records

_EXCLUDES = [".git", ".venv", "quickstart"]
NOT_YET = ("Failed to connect", "Connection refused", "No available agent")
"""What the job server says while the cluster is still starting."""

READ_ONLY = "/proc/nothing-can-be-written-here"


WRONG = [
    (
        "segment",
        "--model {model} --images {images} --output {tmp}/t --foo 3",
        "Unknown option: --foo",
    ),
    ("segment", "--images {images} --output {tmp}/t", "--model requires an argument"),
    ("segment", "--model {images} --images {images} --output {tmp}/t", "no model here"),
    (
        "segment",
        "--model {model} --images {tmp}/nowhere --output {tmp}/t",
        "no such folder or file",
    ),
    (
        "segment",
        "--model {model} --images {model} --output {tmp}/t",
        "none with a known image suffix",
    ),
    (
        "segment",
        f"--model {{model}} --images {{images}} --output {READ_ONLY}",
        "check the URI|no permission",
    ),
    (
        "segment",
        "--model {model} --images {images} --output {tmp}/t --date today",
        "--date today: give a day",
    ),
    (
        "segment",
        "--model {model} --images s3://No_Bucket!/x --output {tmp}/t",
        "the store does not allow this name",
    ),
    ("segment", "--model {model} --images {tmp}/empty --output {tmp}/t", "no files"),
    ("train", "--images {images} --masks {tmp}/nowhere --output {tmp}/m", "no such folder or file"),
    (
        "train",
        "--images {images} --masks {images} --output {tmp}/m --crop 100",
        "nearest: 96 and 112",
    ),
    ("train", "--images {images} --masks {images} --output {tmp}/m --workers 2,1", "--workers 2,1"),
    (
        "evaluate",
        "--model {model} --images {images} --masks {model}",
        "model.json: it is in none of the supported formats",
    ),
]
_RUN_ALL = """
import contextlib, io, json, runpy, sys
found = []
for job, flags in json.loads(sys.argv[1]):
    sys.argv, said, code = [job, *flags], io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(job, run_name="__main__")
        except SystemExit as end:
            code = end.code
    found.append((code, said.getvalue()))
print(json.dumps(found))
"""
"""Runs jobs one after the other in one process, which loads torch and Ray once."""


def _write_images(place: Path) -> str:
    folder = Storage.of(f"{place}/images")
    for index in range(3):
        folder.write(
            f"{index}.png", encode(draw_scene(64, 64, np.random.default_rng(index))[0], "png")
        )
    return folder.uri


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Return exit code and stderr of each wrong command line."""
    place = tmp_path_factory.mktemp("wrong")
    (place / "empty").mkdir()
    known = {"model": make_tiny_model(place), "images": _write_images(place), "tmp": place}
    jobs = [
        (str(REPOSITORY / f"jobs/{job}.py"), flags.format(**known).split())
        for job, flags, _ in WRONG
    ]
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ALL, json.dumps(jobs)],
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/jobs"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip((flags for _, flags, _ in WRONG), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("flags", "message"), [(flags, message) for _, flags, message in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(
    flags: str, message: str, said: dict[str, tuple[int, str]]
) -> None:
    code, stderr = said[flags]
    assert code == 2, stderr
    assert stderr.count("\n") == 1
    assert stderr.startswith("error: ")
    assert any(part in stderr for part in message.split("|")), stderr


def test_help_names_every_flag() -> None:
    done = run_job("segment", "--help")
    assert done.returncode == 0
    for flag in ("--model", "--shard-images", "--max-error-rate", "--retry-failed", "--dry-run"):
        assert flag in done.stdout


def test_a_run_says_what_it_cost() -> None:
    result = SegmentResult(
        "r", images_done=500, cost=compute_cost({"gpu": 2.0, "cpu": 1.0}, {"gpu": 0.5}, 500, 100.0)
    )
    said = summary(SegmentConfig(model="m", images="i", output="o"), result)
    assert said[1:4] == [
        "cost: 1, 2 per thousand images",
        "  not included, because they have no price: nodes of cpu",
        "regions: none",
    ]


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    done = run_job("quickstart", "--output", tmp_path / "q")
    assert done.returncode == 0, done.stderr
    assert "29 images done, 1 failed" in done.stdout
    assert "(raylet)" not in done.stdout + done.stderr
    assert Image.open(tmp_path / "q/overlays.png").width > 500
    found = duckdb.sql(
        "select class_name, count(*) "
        f"from '{tmp_path}/q/tables/regions/*/*.parquet' group by 1 order by 1"
    )
    counts = dict(found.fetchall())
    assert counts["cell"] > 100
    assert counts["fibre"] > 20
    metrics = [
        line.split()[:3] for line in done.stdout.splitlines() if line.startswith(("cell", "fibre"))
    ]
    assert len(metrics) == 2
    assert all(float(dice) > 0.7 for _, _, dice in metrics)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Start two CPUs that know the S3 server; return the environment of their users."""
    request.getfixturevalue("s3_server")
    with started_cluster(tmp_path, free_port(), "--num-cpus=2") as users:
        yield {name: value for name, value in users.items() if not name.startswith("AWS_")}


class Submitter:
    """A laptop: a copy of the repository, and `ray job` of a cluster without the package."""

    def __init__(self, cluster: dict[str, str], folder: Path) -> None:
        self.cluster, self._folder = cluster, folder
        not_ours = shutil.ignore_patterns(
            *(".git", ".venv*", "quickstart", "__pycache__"),
            *(".*_cache", ".hypothesis", "*.egg-info"),
        )
        shutil.copytree(REPOSITORY, folder, ignore=not_ours)
        for waste in (".git/objects/pack", ".venv/lib/torch.so", "quickstart/tables/masks.parquet"):
            (folder / waste).parent.mkdir(parents=True, exist_ok=True)
            (folder / waste).write_bytes(os.urandom(2**23))

    def ray_job(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "ray"), "job", *words]
        return subprocess.run(
            command, env=self.cluster, cwd=self._folder, capture_output=True, text=True, timeout=300
        )

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Submit as the README says, once the cluster listens."""
        excludes = json.dumps({"excludes": _EXCLUDES})
        for _ in range(30):
            done = self.ray_job(
                "submit", "--working-dir", ".", "--runtime-env-json", excludes, *words
            )
            if not any(reason in done.stdout + done.stderr for reason in NOT_YET):
                break
            time.sleep(1)
        return done


@pytest.mark.slow
def test_ray_job_submit(
    cluster: dict[str, str], tiny_model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """From a laptop, onto S3: the results, what travels, secrets, and how jobs end."""
    bucket, laptop = new_bucket(request), Submitter(cluster, tmp_path / "laptop")
    scenes = [draw_scene(64, 64, np.random.default_rng(index))[0] for index in range(40)]
    for index, scene in enumerate(scenes):
        Storage.of(bucket).write(f"images/{index}.png", encode(scene, "png"))
    places = f"--images {bucket}/images --output {bucket}/tables"
    job = f"python jobs/segment.py --model {tiny_model} {places}"

    done = laptop.submit("--submission-id", "first", "--", *job.split())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "40 images done, 0 failed" in done.stdout
    where = "import unet_ray; print(unet_ray.__file__)"
    wrong = laptop.submit("--", "sh", "-c", f"python -c '{where}'; {job} --foo")
    assert "/working_dir_files/" in wrong.stdout, wrong.stdout
    assert wrong.returncode == 1
    assert "Unknown option" in wrong.stdout + wrong.stderr

    _check_no_secret(laptop, "first")
    _check_stop(laptop, job, bucket)


def _check_no_secret(laptop: Submitter, job: str) -> None:
    """Look for the S3 keys in what Ray tells of the job and of its workers, and in the logs."""
    cluster = laptop.cluster
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"]).read_text()
    for path in (
        f"api/jobs/{job}",
        "api/jobs/",
        "api/v0/actors?detail=1",
        "api/v0/tasks?detail=1",
        "api/v0/workers",
    ):
        asked = urllib.request.Request(f"{cluster['RAY_API_SERVER_ADDRESS']}/{path}")
        asked.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(asked) as answer:
            text = answer.read().decode()
        assert len(text) > 50
        assert S3_KEYS["AWS_SECRET_ACCESS_KEY"] not in text, path
    logs = [
        file
        for file in Path(cluster["RAY_FILES"]).rglob("*")
        if file.is_file() and "/logs/" in str(file)
    ]
    assert len(logs) > 10
    for file in logs:
        assert S3_KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes(), file


def _check_stop(laptop: Submitter, job: str, bucket: str) -> None:
    """Stop a job: its record says so, the output is free, and the same command does the rest.

    Ray kills a job that has not ended three seconds after the request; one that is still starting
    Ray may not have ended by then:
    then the next run calls it lost.
    """
    slow = job.replace("/tables", "/stopped") + " --shard-images 4"
    laptop.submit("--submission-id", "stopped", "--no-wait", "--", *slow.split())
    stopped = Storage.of(f"{bucket}/stopped")
    deadline = time.monotonic() + 120
    while not stopped.exists("runs") and time.monotonic() < deadline:
        time.sleep(0.5)
    laptop.ray_job("stop", "stopped")
    rest = laptop.submit("--", *slow.split())
    assert rest.returncode == 0, rest.stdout[-3000:]
    done, skipped = re.search(r"(\d+) images done, 0 failed, (\d+) left out", rest.stdout).groups()  # type: ignore[union-attr]
    assert int(done) + int(skipped) == 40
    last, first = read_records(stopped)[0].values()
    assert last["status"] == "done"
    assert (first["status"], first["exit_code"]) in (("stopped", 1), ("lost", 1))
    assert not stopped.exists("_lock.json")


def test_what_a_submit_uploads_is_small(tmp_path: Path) -> None:
    """Ray's own packaging of the repository, with the README's excludes."""
    readme = (REPOSITORY / "README.md").read_text()
    assert json.dumps({"excludes": _EXCLUDES}) in readme
    laptop = tmp_path / "laptop"
    Submitter({}, laptop)
    package = tmp_path / "package.zip"
    create_package(str(laptop), package, include_gitignore=True, excludes=_EXCLUDES)
    assert package.stat().st_size < 2**23  # each of the wastes is as large
    names = zipfile.ZipFile(package).namelist()
    assert any(name.endswith("unet_ray/segmentation/segment.py") for name in names)
    assert not any(".git/" in name or ".venv" in name or "quickstart/" in name for name in names)
