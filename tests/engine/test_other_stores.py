"""Nights on Google Cloud Storage and on Azure: images, model and tables lie on an emulator."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.builders import make_tiny_model, write_scenes
from tests.conftest import run_job
from tests.emulators import new_place
from unet_ray.output.reader import read_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.runs import read_records

pytestmark = pytest.mark.soak


@pytest.mark.parametrize(("scheme", "server"), [("gs", "gcs_server"), ("az", "azure_server")])
def test_nights_on_another_store_do_what_is_new(
    request: pytest.FixtureRequest, tmp_path: Path, scheme: str, server: str
) -> None:
    request.getfixturevalue(server)
    place = Storage.of(new_place(scheme))
    model = Storage.of(make_tiny_model(tmp_path))
    for entry in model.entries():
        place.write(f"model/{entry.path}", model.read(entry.path))
    write_scenes(place.join("images/day 1"), 7)
    places = ("--model", f"{place.uri}/model", "--images", f"{place.uri}/images/**/*.png")
    flags = (*places, "--output", f"{place.uri}/tables", "--shard-images", 3)

    first = run_job("segment", *flags)
    assert first.returncode == 0, first.stdout + first.stderr
    place.write("images/day 1/000.png", place.read("images/day 1/001.png"))
    changed = run_job("segment", *flags)
    assert changed.returncode == 0, changed.stdout + changed.stderr

    tables = place.join("tables")
    records, _ = read_records(tables)
    done = [record["images_done"] for record in records.values()]
    assert sorted(done) == [1, 7]  # what did not change is not done again
    assert not tables.exists("_lock.json")
    checked = run_job("verify", "--tables", tables.uri, "--images", f"{place.uri}/images")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert read_tables(tables.uri).images.num_rows == 7

    other = {"run_id": "other", "host": "far", "boot": "its", "pid": 1, "started_at": "then"}
    tables.write("_lock.json", json.dumps(other | {"heartbeat_at": time.time()}).encode())
    held = run_job("segment", *flags)
    assert held.returncode == 4, held.stdout + held.stderr
    assert "run other has held this output since then" in held.stderr + held.stdout
