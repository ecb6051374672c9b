"""Rows of separated objects agree with each other; each way in which they do not is named."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco
from scipy.ndimage import gaussian_filter

from tests.builders import make_record
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.filter import RegionFilter
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.output.reader import Tables, image_objects
from unet_ray.output.shard_checks import RegionRules, check_shard
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.tables.schemas import IMAGES, MASKS, REGIONS

CLASSES = (ClassSpec(1, "a"), ClassSpec(4, "b"))
POSTPROCESSING = Postprocessing((ObjectRule(0.5, 0.6), ObjectRule(0.55, 0.6, 6, 0.6)), steps=3)
FILTERS = [rule.filter for rule in POSTPROCESSING.rules]


def draw_prob_u8() -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(4, 70, 90)), (0, 3, 3))
    return ((noise / noise.std() * 40) + 140).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    measured = Measure(CLASSES, POSTPROCESSING).image(make_record("i", (70, 90, 3)), draw_prob_u8())
    tables = split_into_tables(Measure.join([measured]), RunStamp("run", "model", "config"))
    return {name: table.to_pylist() for name, table in tables.items()}


def check(rows: dict[str, list[dict[str, Any]]], is_separated: bool = True) -> set[str]:
    schemas = {"images": IMAGES, "masks": MASKS, "regions": REGIONS}
    tables = {
        name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in schemas.items()
    }
    return {
        problem.kind
        for problem in check_shard(
            tables, {"run": RegionRules(dict(zip((1, 4), FILTERS, strict=True)), is_separated)}
        )
    }


def test_rows_as_they_are_written_pass(rows: dict[str, list[dict[str, Any]]]) -> None:
    assert len(rows["regions"]) > 20
    assert not check(rows)


def test_label_images_are_those_of_the_postprocessing(
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    tables = Tables(*(pa.Table.from_pylist(rows[name]) for name in ("images", "masks", "regions")))
    found = image_objects(tables, "i")
    for index, spec in enumerate(CLASSES):
        _, labels = POSTPROCESSING.objects(index, draw_prob_u8())
        pairs = np.unique(np.stack([labels.ravel(), found[spec.name].ravel()]), axis=1)
        assert (
            len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
        )  # labels map one to one
        assert ((labels > 0) == (found[spec.name] > 0)).all()


def swap_outlines(regions: list[dict[str, Any]]) -> None:
    regions[0]["geometry"], regions[1]["geometry"] = regions[1]["geometry"], regions[0]["geometry"]


def repeat_outline(regions: list[dict[str, Any]]) -> None:
    regions[1]["geometry"] = regions[0]["geometry"]


def lose_first(regions: list[dict[str, Any]]) -> None:
    del regions[0]
    for number, region in enumerate(regions, 1):
        region["region_id"] = number


def move_to_another_class(regions: list[dict[str, Any]]) -> None:
    last = next(place for place, region in enumerate(regions) if region["class_id"] == 4)
    for name in ("geometry", "area", "bbox", "centroid_x", "centroid_y", "touches_border"):
        regions[0][name] = regions[last][name]


def test_the_rules_of_regions_come_from_run_records() -> None:
    objects = {"parted": False, "min_areas": {"1": 6}}
    assert RegionRules.of_record({"objects": objects}) == RegionRules(
        {1: RegionFilter(6)}, separated=False
    )
    objects["min_scores"] = {"1": 0.5}
    assert RegionRules.of_record({"objects": objects}) == RegionRules(
        {1: RegionFilter(6, 0.5)}, separated=False
    )


def cut(height: int, width: int, sides: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    """Return the rows of an image whose mask is empty, in pieces (top, left, height, width)."""
    row = dict.fromkeys(IMAGES.names, 1) | {"image_uri": "i", "run_id": "run", "region_count": 0}
    row |= {"height": height, "width": width, "segmented_at": None}
    row |= dict.fromkeys(["error_type", "error", "error_stage"])
    row |= {name: "" for name in ("image_etag", "file_uri", "model_digest", "config_digest")}
    row |= {"content_hash": None}
    key = {"image_uri": "i", "run_id": "run", "class_id": 1, "class_name": "a", "area": 0}
    pieces = [
        key | dict(zip(("top", "left", "height", "width"), piece, strict=True)) for piece in sides
    ]
    for piece in pieces:
        size = piece["height"] * piece["width"]
        whole = {"size": [1, size % 2**32], "counts": [size % 2**32]}
        piece["counts"] = coco.frPyObjects(whole, 1, size % 2**32)["counts"]
    return {"images": [row], "masks": pieces, "regions": []}


@pytest.mark.parametrize("is_separated", [False, True])
@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (cut(4, 6, [(0, 0, 4, 6)]), None),
        (cut(4, 6, [(0, 0, 4, 2), (0, 2, 4, 4)]), None),
        (cut(2**31 - 1, 2**31 - 1, [(0, 0, 4, 6)]), "masks rows that do not cover their image"),
        (cut(2**31 - 1, 1, [(0, 0, 2**31 - 1, 1)]), "masks rows that are too large"),
        (cut(2**16, 2**16, [(0, 0, 2**16, 2**16)]), "masks rows that are too large"),
        (
            cut(2**20, 600, [(0, left, 2**20, 1) for left in range(600)]),
            "masks rows that are too large",
        ),
    ],
)
def test_masks_that_do_not_fit_into_memory_are_named_and_not_drawn(
    rows: dict[str, Any], kind: str | None, is_separated: bool
) -> None:
    found = check(rows, is_separated)
    assert len(found) == (kind is not None)
    assert kind is None or found.pop().startswith(kind)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (
            lambda r: r[0].update(area=r[0]["area"] + 1),
            "a region whose area differs from its outline's",
        ),
        (
            lambda r: r[0]["bbox"].update(xmin=r[0]["bbox"]["xmin"] + 1),
            "a region whose box differs from its outline's",
        ),
        (
            lambda r: r[0].update(centroid_x=r[0]["centroid_x"] + 1),
            "a region whose centroid differs from its outline's",
        ),
        (
            lambda r: r[0].update(touches_border=not r[0]["touches_border"]),
            "touches_border differs from its outline's",
        ),
        (swap_outlines, "a region whose box differs from its outline's"),
        (repeat_outline, "regions that overlap"),
        (lambda r: r[0].update(geometry=b"\x01none"), "an outline that is not a geometry"),
        (lambda r: r[-1].update(score=0.59), "a region whose score is below the run's minimum"),
        (lose_first, "pixels of a mask outside every region"),
        (move_to_another_class, "a region that extends beyond its mask"),
    ],
)
def test_damage_is_named(
    rows: dict[str, list[dict[str, Any]]],
    damage: Callable[[list[dict[str, Any]]], object],
    kind: str,
) -> None:
    copied = deepcopy(rows)
    damage(copied["regions"])
    copied["images"][0]["region_count"] = len(copied["regions"])
    assert any(kind in found for found in check(copied))
