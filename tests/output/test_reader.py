"""Masks whose run lengths do not fill them are named; nothing is drawn out of memory."""

import numpy as np
import pyarrow as pa
import pytest

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.filter import ANY
from unet_ray.imaging.regions.postprocessing import Postprocessing
from unet_ray.output.reader import Tables, image_masks
from unet_ray.output.shard_checks import check_shard
from unet_ray.segmentation.stages.measure import Measure, split_into_tables


@pytest.fixture
def tables() -> Tables:
    """Return the tables of two images; the run lengths of the second one's mask end early."""
    measure = Measure(
        "run", "model", "config", (ClassSpec(1, "cell"),), Postprocessing((0.5,), (ANY,))
    )
    row = {"image_etag": "e", "image_bytes": 9, "pages": 1, "error_type": None}
    row |= {"height": 64, "width": 64, "channels": 3}
    prob_u8 = np.zeros((1, 64, 64), np.uint8)
    prob_u8[0, 8:20, 8:20] = 255
    found = split_into_tables(
        Measure.join([measure.image(row | {"image_uri": f"a/{i}.png"}, prob_u8) for i in (1, 2)])
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
