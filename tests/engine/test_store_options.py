"""Images at stores that are not those of the tables: public ones, and some whose readers pay."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import small_training, write_scenes
from tests.conftest import S3_KEYS, new_bucket
from tests.faulty_store import Answer, FaultyStore, Request, faulty_store
from unet_ray.errors import InputError
from unet_ray.output.config import ExportConfig, ReportConfig, VerifyConfig
from unet_ray.output.export import export
from unet_ray.output.report.report import report
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import make_archive
from unet_ray.tables.runs import read_records
from unet_ray.training.train import train

pytestmark = pytest.mark.usefixtures("ray_local", "locks_settle_at_once")
_DENIED = Answer.error(403, "AccessDenied", "Access Denied")
_KEYS = (S3_KEYS["AWS_ACCESS_KEY_ID"], S3_KEYS["AWS_SECRET_ACCESS_KEY"])


def _refuse_signatures(request: Request) -> Answer | None:
    """Answer as a public bucket to readers whose keys another store gave them."""
    return _DENIED if request.headers["Authorization"] else None


def _refuse_who_does_not_pay(request: Request) -> Answer | None:
    return None if request.headers["x-amz-request-payer"] == "requester" else _DENIED


@pytest.fixture
def archive(request: pytest.FixtureRequest) -> str:
    """Return the URI of a bucket with images in `archive`."""
    root = new_bucket(request)
    write_scenes(Storage.of(f"{root}/archive"), 4)
    return root


def segment_and_read(images: str, options: str, model: str, folder: Path) -> None:
    """Segment images with options of their store, then do all that opens images again."""
    output = f"{folder}/tables"
    config = SegmentConfig(
        model=model, images=images, images_options=options, output=output, threshold=0.3
    )
    result = segment(config)
    assert (result.images_done, result.images_failed) == (4, 0)
    (record,) = read_records(Storage.of(output))[0].values()
    assert record["config"]["images_options"] == options
    checked = VerifyConfig(tables=output, images=images, images_options=options)
    assert not verify(checked).problems
    root = "/".join(images.split("/")[:3]) if images.startswith("s3://") else None
    roots = root or result.image_roots[0]
    page = ReportConfig(
        tables=output, output=f"{folder}/a.html", image_roots=roots, images_options=options
    )
    made = report(page)
    assert made.pictures > 0
    assert made.problems == []


def test_a_public_bucket_is_read_without_a_signature(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path
) -> None:
    """The keys of this process stay with the store of the tables."""
    with faulty_store(s3_server, answer=_refuse_signatures, keys=_KEYS) as store:
        options = f"anon=true,endpoint_url={store.endpoint}"
        segment_and_read(f"{archive}/archive", options, tiny_model, tmp_path)
        assert store.requests > 4


def test_readers_pay_where_they_agree_to(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path
) -> None:
    """Listing, HEAD and GET alike, for the images only."""
    with faulty_store(s3_server, answer=_refuse_who_does_not_pay) as store:
        options = f"requester_pays=true,endpoint_url={store.endpoint}"
        segment_and_read(f"{archive}/archive", options, tiny_model, tmp_path)


def test_the_images_of_a_local_manifest_have_the_options(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path
) -> None:
    uris = [f"{archive}/archive/{index:03d}.png" for index in range(4)]
    pq.write_table(pa.table({"image_uri": uris}), tmp_path / "manifest.parquet")
    with faulty_store(s3_server, answer=_refuse_signatures, keys=_KEYS) as store:
        config = SegmentConfig(
            model=tiny_model,
            images=f"{tmp_path}/manifest.parquet",
            images_options=f"anon=true,endpoint_url={store.endpoint}",
            image_roots=archive,
            output=f"{tmp_path}/tables",
        )
        result = segment(config)
    assert (result.images_done, result.images_failed) == (4, 0)


def test_tables_and_models_have_options_of_their_own(
    archive: str, s3_server: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables name a store that is not there; everything lies elsewhere."""
    model = Storage.of(f"{archive}/model")
    for file in Path(tiny_model).iterdir():
        model.write(file.name, file.read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    here = f"endpoint_url={s3_server}"
    config = SegmentConfig(
        model=model.uri,
        model_options=here,
        images=f"{archive}/archive",
        images_options=here,
        output=f"{archive}/tables",
        output_options=here,
    )
    assert segment(config).images_done == 4
    exported = ExportConfig(
        tables=config.output,
        tables_options=here,
        format="coco",
        output=f"{archive}/coco.json",
        output_options=here,
    )
    export(exported)
    checked = VerifyConfig(tables=config.output, tables_options=here)
    assert not verify(checked).problems


@pytest.mark.slow
def test_a_training_reads_images_and_masks_from_stores_of_their_own(
    request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_bucket(request)
    make_archive(Storage.of(f"{root}/data"), labelled=10, check=0, archive=0)

    def only(part: str, store: FaultyStore) -> None:
        other = {"images": "masks", "masks": "images"}[part]
        store.refuse = lambda _, path: 403 if f"labelled%2F{other}" in path else None

    with faulty_store(s3_server) as images, faulty_store(s3_server) as masks:
        only("images", images)
        only("masks", masks)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        config = small_training(
            root,
            images_options=f"endpoint_url={images.endpoint}",
            masks_options=f"endpoint_url={masks.endpoint}",
            output_options=f"endpoint_url={s3_server}",
        )
        result = train(config)
        assert images.requests >= 10
        assert masks.requests >= 10
    assert result.progress.epochs == 1


def test_options_for_a_folder_of_this_machine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--images-options: only URIs at s3:// have options"):
        SegmentConfig(
            model="model", images=str(tmp_path), images_options="anon=true", output="tables"
        )
