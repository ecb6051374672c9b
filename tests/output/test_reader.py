"""Tables are read when they are used; masks whose run lengths do not fill them are named."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from tests.builders import make_record
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.output.reader import Tables, image_masks, read_tables
from unet_ray.output.shard_checks import check_shard
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import SCHEMAS
from unet_ray.tables.shards import ShardName, write_shard

_SHARDS, _IMAGES, _OUTLINE_BYTES = 40, 8, 2**20
"""Shards, images of a shard, and size of what stands for the outline of each (bytes)."""
_MEASURE = """
import json, resource, sys, unet_ray
from unet_ray.output.reader import read_tables

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mb()
tables = read_tables(sys.argv[1])
names = tables.images["image_uri"].to_pylist()
unet_ray.mask(tables, names[100], "cell")
one_image = peak_mb() - before
regions = sum(len(shard.regions) for shard in tables.shards())
all_shards = peak_mb() - before
print(json.dumps([len(names), regions, one_image, all_shards, tables.regions.nbytes / 2**20]))
"""


@pytest.fixture
def tables() -> Tables:
    """Return the tables of two images; the run lengths of the second one's mask end early."""
    measure = Measure((ClassSpec(1, "cell"),), Postprocessing((ObjectRule(),)))
    prob_u8 = np.zeros((1, 64, 64), np.uint8)
    prob_u8[0, 8:20, 8:20] = 255
    records = [make_record(f"a/{index}.png", (64, 64, 3)) for index in (1, 2)]
    found = split_into_tables(
        Measure.join([measure.image(record, prob_u8) for record in records]),
        RunStamp("run", "model", "config"),
    )
    masks = found["masks"].to_pylist()
    masks[1]["counts"] = b"55"  # 5 px outside, 5 px inside, and nothing more
    damaged = pa.Table.from_pylist(masks, schema=found["masks"].schema)
    return Tables(found["images"], damaged, found["regions"])


def test_a_mask_that_is_not_filled_is_an_error(tables: Tables) -> None:
    assert image_masks(tables, "a/1.png")["cell"].sum() == 144
    with pytest.raises(InputError, match="a/2.png: the mask of cell is damaged: run lengths that"):
        image_masks(tables, "a/2.png")


def test_a_mask_that_is_not_filled_is_a_problem_of_its_shard(tables: Tables) -> None:
    (problem,) = check_shard(vars(tables), {})
    assert (problem.kind, problem.where) == (
        "run lengths that do not decode to their size",
        "a/2.png",
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the URI of tables with 320 MB of outlines that do not compress."""
    output, rng = Storage.of(str(tmp_path_factory.mktemp("large"))), np.random.default_rng(0)
    run_id = "20260101T000000Z-aaaaaa"
    measure = Measure((ClassSpec(1, "cell"),), Postprocessing((ObjectRule(),)))
    full = np.full((1, 8, 8), 255, np.uint8)
    for shard in range(_SHARDS):
        uris = [f"/a/{shard:02d}-{image}.png" for image in range(_IMAGES)]
        tables = split_into_tables(
            Measure.join([measure.image(make_record(uri, (8, 8, 1)), full) for uri in uris]),
            RunStamp(run_id, "model", "config"),
        )
        place = SCHEMAS["regions"].get_field_index("geometry")
        outlines = pa.array([rng.bytes(_OUTLINE_BYTES) for _ in uris], pa.binary())
        tables["regions"] = tables["regions"].set_column(
            place, SCHEMAS["regions"].field("geometry"), outlines
        )
        write_shard(output, ShardName("2026-01-01", run_id, shard), tables, lambda: None)
    return output.uri


def test_one_image_and_all_shards_in_turn_take_a_fraction_of_the_memory_of_the_tables(
    large: str,
) -> None:
    """Measured in a process of its own, by the largest memory that it ever had."""
    child = subprocess.run(
        [sys.executable, "-c", _MEASURE, large], check=True, capture_output=True, text=True
    )
    images, regions, one_image_mb, all_shards_mb, whole_mb = json.loads(child.stdout)
    assert images == regions == _SHARDS * _IMAGES
    assert whole_mb > 320
    assert one_image_mb < 120  # the files and rows of a shard, and what importing takes
    assert all_shards_mb < 200  # 32 MB of files, and the rows of some four shards of 8 MB


def test_shards_in_turn_are_the_tables(large: str) -> None:
    tables = read_tables(large)
    shards = [*tables.shards()]
    for name in SCHEMAS:
        whole = getattr(tables, name)
        assert pa.concat_tables([getattr(shard, name) for shard in shards]).equals(whole), name
    history = read_tables(large, current=False)
    assert history.select("masks", "/a/07-3.png").equals(tables.select("masks", "/a/07-3.png"))
    assert repr(history) == f"<tables at {large}>"


def test_tables_in_memory_are_one_shard(tables: Tables) -> None:
    assert [*tables.shards()] == [tables]
    assert tables.select("masks", "a/1.png")["image_uri"].to_pylist() == ["a/1.png"]
