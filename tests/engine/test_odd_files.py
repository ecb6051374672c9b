"""Files with odd names, and things that are no files: an image each or an error row, never a hang.

`test_names.py` has what terminals and tables make of hostile names; here, the rows are right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import botocore.session
import pytest

from tests.builders import encode_pillow
from tests.conftest import new_bucket, run_job
from tests.engine.image_zoo.cases import Case, Image, draw, draw_stack, first, paint, tiff_with
from tests.engine.image_zoo.judging import Tables, judge
from tests.engine.image_zoo.models import make_threshold_model
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment

NAMES = [
    "a b.png",
    " space before and behind .png",
    "a#1.png",
    "a#page=2.png",
    "a#z=1.png",
    "a?versionId=3.png",
    "a?.png",
    "a%20b.png",
    "a%2Fb.png",
    "100%.png",
    "a+b.png",
    "a&b=c;d,e.png",
    "a*b[1].png",
    "plate 1 #2/well+A?01%.png",
    "~a.png",
    "café.png",
    "cafe\u0301.png",
    "日本語.png",
    "'quoted' \"twice\".png",
]
ON_DISKS = ["a\nb.png", "a\tb.png", "a\\b.png", "c:a.png"]
"""Names that stores refuse, or change."""
STACK = "a#z=1 %41.tif"


def make_case(names: Iterable[str]) -> Case:
    """Return a case of an image of its own for each name, and of a stack of two planes."""
    scenes = {name: draw(700 + place) for place, name in enumerate(names)}
    files = {name: encode_pillow(first(paint(marks))) for name, marks in scenes.items()}
    planes = draw_stack(2, seed=7)
    metadata = {"axes": "ZYX"}
    files[STACK] = tiff_with(first(paint(planes)), ome=True, metadata=metadata, photometric=1)
    images = {name: Image(marks) for name, marks in scenes.items()}
    images |= {f"{STACK}#z={z}": Image(planes[z]) for z in range(2)}
    return Case(files, images)


def write_on_disk(folder: Path, case: Case) -> None:
    """Write the files of a case below a folder."""
    for name, data in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.slow
def test_odd_names_on_a_disk(tmp_path: Path, ray_local: None) -> None:
    case = make_case([*NAMES, *ON_DISKS])
    archive = tmp_path / "an archive #1 100%"
    write_on_disk(archive, case)
    config = SegmentConfig(
        model=make_threshold_model(tmp_path, "u8x3"),
        images=str(archive),
        output=f"{tmp_path}/tables",
    )
    segment(config)
    assert judge(case, archive, Tables.read(config.output)) == []


@pytest.mark.slow
def test_odd_keys_in_a_bucket(
    request: pytest.FixtureRequest, tmp_path: Path, ray_local: None
) -> None:
    case = make_case(NAMES)
    bucket = new_bucket(request)
    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    for name, data in case.files.items():
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"in/{name}", Body=data)
    config = SegmentConfig(
        model=make_threshold_model(tmp_path, "u8x3"),
        images=f"{bucket}/in",
        output=f"{tmp_path}/tables",
    )
    segment(config)
    assert judge(case, f"{bucket}/in", Tables.read(config.output)) == []


@pytest.mark.slow
def test_what_is_no_file_costs_itself(tmp_path: Path) -> None:
    """Nothing of it hangs the run, and each is an error row or is said."""
    archive = tmp_path / "archive"
    case = make_case(["good.png", "a.png/inner.png"])
    write_on_disk(archive, case)
    (archive / "empty.png").write_bytes(b"")
    (archive / "empty.tif").write_bytes(b"")
    (archive / "folder.png").mkdir()
    (archive / "broken link.png").symlink_to("nowhere.png")
    (archive / "circle.png").symlink_to("circle.png")
    os.mkfifo(archive / "pipe.png")
    (archive / os.fsdecode(b"b\xff.png")).write_bytes(case.files["good.png"])
    done = run_job(
        *("segment", "--model", make_threshold_model(tmp_path, "u8x3"), "--images", archive),
        *("--output", tmp_path / "tables", "--max-error-rate", 1),
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    tables = Tables.read(f"{tmp_path}/tables")
    rows = tables.of_folder(archive)
    failed = {name: row["error_type"] for name, row in rows.items() if row["error_type"]}
    assert failed["empty.png"] == failed["empty.tif"] == "unreadable"
    odd = {"broken link.png", "circle.png", "pipe.png"}
    assert failed.keys() <= odd | {"empty.png", "empty.tif", "b\\xff.png"}
    assert "folder.png" not in rows
    assert "b\\xff.png" in failed or "b\\xff.png" in said
    assert odd <= failed.keys() or "other files" in said
    assert {name for name in rows if name not in failed} == case.images.keys()
    for name in failed:
        del tables.images[f"{archive}/{name}"]
    assert judge(case, archive, tables) == []
