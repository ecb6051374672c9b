"""Which images may be opened that tables name."""

from __future__ import annotations

import os
from typing import Any

import pytest

from unet_ray.errors import InputError
from unet_ray.output.run_roots import roots_of_runs
from unet_ray.storage.roots import Gate
from unet_ray.storage.storage import Storage

LOCAL, BUCKET = Storage("/data/tables"), Storage("s3://bucket/tables")


@pytest.mark.parametrize(
    ("record", "local", "in_bucket"),
    [
        ({"image_roots": ["/data/images"]}, ["/data/images"], []),
        ({"image_roots": ["s3://bucket/images"]}, [], ["s3://bucket/images"]),
        ({"image_roots": ["s3://other/images", "gs://bucket"]}, [], []),
        ({"image_roots": []}, [], []),
        ({"image_roots": ["http://127.0.0.1/"]}, [], []),
        ({"image_roots": [7, None, "s3://"]}, [], []),
        ({"image_roots": ["http://127.0.0.1/", "/data/images"]}, ["/data/images"], []),
        ({"image_roots": "/data"}, [], []),
        ({"config": {"images": "/data/images/*/a?.png"}}, ["/data/images"], []),
        ({"config": {"images": "archive"}}, [f"{os.getcwd()}/archive"], []),
        ({"config": {"images": "s3://bucket/deep/m.parquet"}}, [], ["s3://bucket"]),
        ({"config": {"images": "memory://x"}}, [], []),
        ({"config": {"images": None}}, [], []),
        ({"config": "images"}, [], []),
        ({}, [], []),
        (
            {"image_roots": ["/data/new"], "config": {"images": "/data/old"}},
            ["/data/new"],
            [],
        ),
    ],
)
def test_runs_open_their_own_images_on_the_store_of_their_tables(
    record: dict[str, Any], local: list[str], in_bucket: list[str]
) -> None:
    assert roots_of_runs(LOCAL, [record], None).uris == tuple(local)
    assert roots_of_runs(BUCKET, [record], None).uris == tuple(in_bucket)


def test_the_flag_counts_for_every_store() -> None:
    roots = roots_of_runs(LOCAL, [{"image_roots": ["/data"]}], "s3://b/x/, /other")
    assert roots.uris == ("s3://b/x", "/other")
    with pytest.raises(InputError, match="http:// is not supported"):
        roots_of_runs(LOCAL, [], "http://h/x")


def test_several_runs_have_the_roots_of_each() -> None:
    records = [{"image_roots": ["/b", "/a"]}, {"image_roots": ["/a"]}, {}]
    assert roots_of_runs(LOCAL, records, None).uris == ("/a", "/b")
    assert roots_of_runs(LOCAL, [], None).uris == ()


def test_records_with_roots_without_end_cost_no_more_than_others() -> None:
    records = [{"image_roots": [f"/{run}/{n}" for n in range(10_000)]} for run in range(20)]
    roots = roots_of_runs(LOCAL, records, None)
    assert len(roots.uris or ()) == 100
    gate = Gate(roots)
    assert not gate.admits("/elsewhere/x.png")
    assert "/0/14, /0/15 and 92 more, for example /elsewhere/x.png; to open" in gate.reason
