"""Verify passes the output of a run, and names each rule that is broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import flip_bit, make_tiny_model
from tests.conftest import run_job
from unet_ray.imaging.regions.run_lengths import encode_rle
from unet_ray.output.config import VerifyConfig
from unet_ray.output.verify import verify
from unet_ray.segmentation.config import SegmentConfig
from unet_ray.segmentation.segment import segment
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import draw_scene, encode

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """Return an output of five images, one of them damaged, in three shards, beside its archive."""
    folder = tmp_path_factory.mktemp("verified")
    archive, rng = Storage.of(f"{folder}/archive"), np.random.default_rng(0)
    for index in range(4):
        archive.write(f"{index}.png", encode(draw_scene(60 + index, 80, rng)[0], "png"))
    archive.write("broken.png", b"no image")
    config = SegmentConfig(
        model=make_tiny_model(folder),
        images=archive.uri,
        output=f"{folder}/tables",
        shard_images=2,
        max_error_rate=0.5,
    )
    segment(config)
    return folder


def test_the_output_of_a_run_passes(tables: Path) -> None:
    result = verify(VerifyConfig(tables=f"{tables}/tables", images=f"{tables}/archive"))
    assert not result.problems
    assert result.rows["images"] == 5
    assert result.rows["masks"] == 4 * 2  # four good images, two classes
    assert result.rows["regions"] > 20
    assert result.shards == 3


def test_images_that_patterns_leave_out_need_no_row(tables: Path) -> None:
    archive = Storage.of(f"{tables}/archive")
    archive.write("thumbs/0.png", b"x")
    flags = {"tables": f"{tables}/tables", "images": archive.uri, "pixels": False}
    found = verify(VerifyConfig(**flags)).problems  # type: ignore[arg-type]
    assert found == {"an image of the archive without a row": 1}
    assert not verify(VerifyConfig(**flags, exclude="thumbs/*")).problems  # type: ignore[arg-type]
    archive.delete("thumbs/0.png")


def change(
    table: str, column: str, value: Callable[[Any], Any], of: Callable[[dict[str, Any]], bool]
) -> Any:
    """Return a function that changes a column of the first row for which `of` holds."""

    def apply(root: Path) -> None:
        for path in sorted(root.glob(f"{table}/*/*.parquet")):
            content = pq.read_table(path, partitioning=None)
            rows = content.to_pylist()
            for row in rows:
                if of(row):
                    row[column] = value(row[column])
                    pq.write_table(pa.Table.from_pylist(rows, schema=content.schema), path)
                    return
        raise AssertionError("no such row")

    return apply


def drop_first(table: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        for path in sorted(root.glob(f"{table}/*/*.parquet")):
            content = pq.read_table(path, partitioning=None)
            if len(content):
                pq.write_table(content.slice(1), path)
                return

    return apply


def commit_twice(root: Path) -> None:
    """Commit a shard of the same rows again, as an at-least-once sink would."""
    for table in ("masks", "regions", "images"):
        first = min(root.glob(f"{table}/*/*.parquet"))
        shutil.copy(first, first.with_name(first.name.replace("000000", "000077")))


def store_upper_half_twice(root: Path) -> None:
    """Store the upper half of a mask in place of the lower half as well."""
    path = min(root.glob("masks/*/*.parquet"))
    content = pq.read_table(path, partitioning=None)
    whole, *rows = content.to_pylist()
    assert whole["height"] % 2 == 0
    half = whole | {"height": whole["height"] // 2}
    pq.write_table(pa.Table.from_pylist([half, half, *rows], schema=content.schema), path)


def unlink(pattern: str) -> Callable[[Path], None]:
    return lambda root: min(root.glob(pattern)).unlink()


def is_any(_: dict[str, Any]) -> bool:
    return True


def is_good(row: dict[str, Any]) -> bool:
    return row["error_type"] is None


OTHER_MASK = encode_rle(np.eye(5, dtype=bool))

DAMAGES = {
    "region_count is not the number": change("images", "region_count", lambda n: n + 1, is_good),
    "region ids are not 1 to n": change("regions", "region_id", lambda n: n + 1, is_any),
    "breaks 0 < score": change("regions", "score", lambda _: 1.5, is_any),
    "a successful image without masks": change(
        "images", "image_uri", lambda uri: uri + "x", is_good
    ),
    "masks rows without a successful": change("masks", "image_uri", lambda uri: uri + "x", is_any),
    "regions rows without a successful": change(
        "regions", "run_id", lambda name: name + "x", is_any
    ),
    "do not cover their image": change("masks", "height", lambda px: px - 1, is_any),
    "masks rows that do not cover": store_upper_half_twice,
    "do not decode to their size": change("masks", "counts", lambda _: OTHER_MASK, is_any),
    "run lengths that do not": change("masks", "counts", lambda _: b"\xff\x01zz", is_any),
    "area differs from that of its run lengths": change("masks", "area", lambda px: px + 1, is_any),
    "whose area differs from its mask's": change("regions", "area", lambda px: px + 1, is_any),
    "whose box differs": change(
        "regions", "bbox", lambda box: box | {"xmax": box["xmax"] + 1}, is_any
    ),
    "whose centroid differs": change("regions", "centroid_x", lambda x: x + 0.25, is_any),
    "whose outline differs": change("regions", "geometry", lambda wkb: wkb[:-1] + b"\x07", is_any),
    "whose touches_border differs": change("regions", "touches_border", lambda b: not b, is_any),
    "a failed image without error": change(
        "images", "error", lambda _: "", lambda row: not is_good(row)
    ),
    "more than one successful row": commit_twice,
    "an image more than once in a run": commit_twice,
    "counts differ from its rows": commit_twice,
    "images file without its masks file": unlink("masks/*/*.parquet"),
    "a file without its images file": unlink("images/*/*.parquet"),
    "counts images files that are missing": unlink("images/*/*.parquet"),
    "a run without a record": unlink("runs/*.json"),
    "an image of the archive without a row": unlink("images/*/*.parquet"),
    "damaged, or does not fit its schema": lambda root: min(
        root.glob("images/*/*.parquet")
    ).write_bytes(b"PAR1"),
    "a number of regions that differs from its mask's": drop_first("regions"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_broken_rule_is_named(kind: str, tables: Path, tmp_path: Path) -> None:
    shutil.copytree(f"{tables}/tables", f"{tmp_path}/tables")
    DAMAGES[kind](tmp_path / "tables")
    result = verify(VerifyConfig(tables=f"{tmp_path}/tables", images=f"{tables}/archive"))
    assert [found for found in result.problems if kind in found], result.problems


def test_damaged_files_are_listed_and_the_others_are_checked(tables: Path, tmp_path: Path) -> None:
    root = tmp_path / "tables"
    shutil.copytree(f"{tables}/tables", root)
    _, second, third = sorted(root.glob("regions/*/*.parquet"))
    flip_bit(third, -300)
    flip_bit(Path(str(second).replace("regions", "images")), -300)
    DAMAGES["area differs from that of its run lengths"](root)
    for name, content in (
        ("notes", b"{}"),
        ("deep", b"[" * 100_000),
        ("list", b"[]"),
        ("20200101T000000Z-aaaaaa", b'{"status": 7}'),
    ):
        (root / f"runs/{name}.json").write_bytes(content)
    (root / "_lock.json").write_bytes(b"mine")
    (root / "masks/notes.txt").write_bytes(b"mine")
    result = verify(VerifyConfig(tables=str(root), images=f"{tables}/archive"))
    counts = {kind.partition(",")[0].partition(" (")[0]: n for kind, n in result.problems.items()}
    assert counts == {
        "a file that is damaged": 2,
        "a masks row whose area differs from that of its run lengths": 1,
        "a file in runs/ that is not a record of a run": 4,
        "a lock file that unet_ray did not write": 1,
        "a file that is not a shard": 1,
    }
    damaged = next(kind for kind in result.problems if "damaged" in kind)
    named = " ".join(result.examples[damaged])
    assert f"regions/{third.parent.name}/{third.name}" in named
    assert f"images/{second.parent.name}/{second.name}" in named
    assert result.shards == 3


def test_rows_that_no_rule_foresees_are_a_problem_of_their_shard(
    tables: Path, tmp_path: Path
) -> None:
    shutil.copytree(f"{tables}/tables", tmp_path / "tables")
    change("images", "height", lambda _: 2**31 - 1, is_good)(tmp_path / "tables")
    change("regions", "bbox", lambda _: dict.fromkeys(BOX, float("nan")), is_any)(
        tmp_path / "tables"
    )
    assert verify(VerifyConfig(tables=f"{tmp_path}/tables")).problems


BOX = ("xmin", "ymin", "xmax", "ymax")


@pytest.mark.slow
def test_the_job_prints_what_is_wrong(tables: Path, tmp_path: Path) -> None:
    passed = run_job("verify", "--tables", f"{tables}/tables", "--images", f"{tables}/archive")
    assert passed.returncode == 0, passed.stderr
    assert "3 shards: 5 images, 8 masks" in passed.stdout
    assert "all rules hold" in passed.stdout
    shutil.copytree(f"{tables}/tables", f"{tmp_path}/tables")
    commit_twice(tmp_path / "tables")
    failed = run_job("verify", "--tables", f"{tmp_path}/tables", "--no-pixels")
    assert failed.returncode == 1
    assert "2 × an image more than once in a run: " in failed.stdout
    assert "breaches of " in failed.stderr
    assert run_job("verify", "--tables", f"{tmp_path}/nothing").returncode == 2
