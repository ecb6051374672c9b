"""Commands whose credentials end while they work: one line, no error rows, what is done is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import small_training, write_scenes
from tests.conftest import new_bucket
from tests.faulty_store import EXPIRED, Answer, Request, faulty_store
from unet_ray.errors import CredentialsError
from unet_ray.output.config import ReportConfig
from unet_ray.output.reader import read_tables
from unet_ray.output.report.report import report
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.tables.runs import read_records
from unet_ray.training.train import train

pytestmark = pytest.mark.usefixtures("ray_local", "locks_settle_at_once")
_ENDED = r"credentials for s3://\S+ ended at \S+ \S+ UTC \(ExpiredToken\)"
_IMAGES = 40


class EndingCredentials:
    """Answers all requests as AWS does once a session token has ended: after some requests."""

    def __init__(self, is_counted: Callable[[Request], bool], after: int) -> None:
        self._is_counted, self._left = is_counted, after

    def __call__(self, request: Request) -> Answer | None:
        self._left -= self._is_counted(request)
        return EXPIRED if self._left < 0 else None


def _reads_image(request: Request) -> bool:
    return request.command == "GET" and "/archive/" in request.path.partition("?")[0]


def _lists_archive(request: Request) -> bool:
    return "list-type=2" in request.path and "archive" in request.path


def _writes_shard(request: Request) -> bool:
    return request.command == "PUT" and "/masks/date" in request.path


@pytest.fixture
def archive(request: pytest.FixtureRequest) -> str:
    """Return the URI of a bucket with images in `archive`."""
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), _IMAGES)
    return root


def run_until_they_end(
    config: SegmentConfig, endings: EndingCredentials, endpoint: str, patch: pytest.MonkeyPatch
) -> str:
    """Segment with credentials that end, and return the line that says so."""
    with faulty_store(endpoint, answer=endings) as store:
        patch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(CredentialsError) as caught:
            segment(config)
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_credentials_that_end_among_images_stop_the_run(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are elsewhere: what was measured is committed, and the next run does the rest."""
    config = SegmentConfig(
        model=tiny_model, images=f"{archive}/archive", output=f"{tmp_path}/tables", shard_images=4
    )
    endings = EndingCredentials(_reads_image, after=20)
    said = run_until_they_end(config, endings, s3_server, monkeypatch)
    (record,) = read_records(Storage.of(config.output))[0].values()
    done = record["images_done"]
    assert 0 < done <= 20
    assert re.fullmatch(rf"{_ENDED}; {done} images done; run again with new ones", said)
    assert (record["status"], record["exit_code"], record["message"]) == ("failed", 1, said)
    assert record["images_failed"] == 0
    rest = segment(config)
    assert (rest.images_done, rest.images_failed) == (_IMAGES - done, 0)
    rows = read_tables(config.output, current=False).images
    assert rows["error_type"].null_count == len(rows) == _IMAGES


def test_credentials_that_end_while_planning_stop_the_run(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SegmentConfig(
        model=tiny_model, images=f"{archive}/archive", output=f"{tmp_path}/tables"
    )
    for after in (0, 1):
        endings = EndingCredentials(_lists_archive, after)
        said = run_until_they_end(config, endings, s3_server, monkeypatch)
        assert re.fullmatch(rf"{_ENDED}; run again with new ones", said)
    assert not Path(config.output, "images").exists()


def test_credentials_that_end_while_a_shard_is_written_stop_the_run(
    archive: str, s3_server: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the record nor the lock can be written any more; the next run cleans up."""
    config = SegmentConfig(
        model=tiny_model, images=f"{archive}/archive", output=f"{archive}/tables", shard_images=8
    )
    endings = EndingCredentials(_writes_shard, after=2)
    said = run_until_they_end(config, endings, s3_server, monkeypatch)
    assert re.fullmatch(rf"{_ENDED}; \d+ images done; run again with new ones", said)
    output = Storage.of(config.output)
    lock = json.loads(output.read("_lock.json"))
    output.write("_lock.json", json.dumps(lock | {"pid": 2**22 + 1}).encode())  # it is gone
    rest = segment(config)
    assert rest.images_failed == 0
    assert len(read_tables(config.output, current=False).images) == _IMAGES
    states = [record["status"] for record in read_records(output)[0].values()]
    assert states == ["done", "lost"]


@pytest.mark.slow
def test_a_training_whose_credentials_end_stops_in_one_line(
    request: pytest.FixtureRequest,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Among the statistics no image is called unusable for it."""
    root = new_bucket(request)
    make_archive(Storage.of(f"{root}/data"), labelled=12, check=0, archive=0)

    def reads_image(asked: Request) -> bool:
        return asked.command == "GET" and "/labelled/images/" in asked.path.partition("?")[0]

    with faulty_store(s3_server, answer=EndingCredentials(reads_image, after=14)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(CredentialsError) as caught:
            train(small_training(root))
    lost = CredentialsError.find(caught.value)
    assert re.fullmatch(rf"{_ENDED}; run again with new ones", str(lost))
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err


def test_a_report_without_credentials_for_its_pictures_says_so(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SegmentConfig(
        model=tiny_model,
        images=f"{archive}/archive",
        output=f"{tmp_path}/tables",
        threshold=0.3,
        limit=2,
    )
    segment(config)
    pictures = ReportConfig(
        tables=config.output, output=f"{tmp_path}/page.html", image_roots=archive
    )
    with faulty_store(s3_server, answer=lambda _: EXPIRED) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(CredentialsError, match=_ENDED):
            report(pictures)
