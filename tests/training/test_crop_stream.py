import pickle
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.training.crop_stream import CropSampler, plan_visits

LABELLING = Labelling("classes", (ClassSpec(1, "a"), ClassSpec(2, "b")), 0, 255)
COUNTS = st.lists(st.integers(1, 6), min_size=1, max_size=8)
SIDE = 40


@dataclass(frozen=True)
class Numbered:
    """A reader whose pixels name themselves: the channels are image index, row and column."""

    images: int

    def read(self, index: int) -> LabelledPixels:
        assert 0 <= index < self.images
        rows, columns = np.mgrid[:SIDE, :SIDE]
        image = np.stack([np.full_like(rows, index), rows, columns], axis=2).astype(np.uint8)
        return LabelledPixels(image, [((rows + columns + index) % 3).astype(np.uint8)])


def make_sampler(visits: np.ndarray, seed: int = 0, **config: Any) -> CropSampler:
    crops = CropConfig(**({"side": 8, "margin": 0} | config))
    reader = Numbered(int(visits[:, 0].max()) + 1)
    preprocessing = Preprocessing("uint8", (0.0,) * 3, (1.0,) * 3)
    return CropSampler(reader, visits, LABELLING, preprocessing, crops, seed)


@dataclass(frozen=True)
class Rimmed:
    """A reader of images whose left half is not there; what lies under it is `under`."""

    under: int

    def read(self, index: int) -> LabelledPixels:
        valid = np.ones((SIDE, SIDE), bool)
        valid[:, : SIDE // 2] = False
        image = np.where(valid[:, :, None], 200, self.under).astype(np.uint8).repeat(3, axis=2)
        return LabelledPixels(image, [np.ones((SIDE, SIDE), np.uint8)], valid)


def test_pixels_that_are_not_there_are_not_counted_and_hold_the_offset() -> None:
    preprocessing = Preprocessing("uint8", (90.25,) * 3, (1.0,) * 3)
    crops = [
        crop
        for under in (0, 255)
        for crop in CropSampler(
            Rimmed(under),
            np.array([[0, 30]]),
            LABELLING,
            preprocessing,
            CropConfig(side=16, margin=2, foreground_share=0.5),
            0,
            has_no_data=True,
        ).crops(0)
    ]
    assert {str(crop["image"].dtype) for crop in crops} == {"float32"}
    assert set(np.unique([crop["image"] for crop in crops]).tolist()) == {90.25, 200.0}
    for crop in crops:
        there = crop["image"][2:-2, 2:-2, 0] == 200
        assert (crop["targets"][0, 2:-2, 2:-2] == np.where(there, 1, IGNORED)).all()
    half = len(crops) // 2
    for one, other in zip(crops[:half], crops[half:], strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def plan_test_visits(counts: list[int], one_by_one: bool) -> np.ndarray:
    """Return the visits of the images 1, 3, 5, …; the others are for validation."""
    return plan_visits(np.array(counts), 2 * np.arange(len(counts)) + 1, one_by_one)


def draw_epoch(sampler: CropSampler, epoch: int) -> list[tuple[int, int, int]]:
    """Return the image and the corner of all crops of an epoch."""
    first = epoch * len(sampler.visits)
    ordinals = range(first, first + len(sampler.visits))
    return [
        tuple(crop["image"][0, 0].tolist())
        for ordinal in ordinals
        for crop in sampler.crops(ordinal)
    ]


def test_a_visit_draws_one_crop_or_all_of_an_image() -> None:
    counts, indices = np.array([3, 1, 2]), np.array([4, 7, 9])
    assert plan_visits(counts, indices, one_by_one=True).tolist() == [
        [4, 1],
        [4, 1],
        [4, 1],
        [7, 1],
        [9, 1],
        [9, 1],
    ]
    assert plan_visits(counts, indices, one_by_one=False).tolist() == [[4, 3], [7, 1], [9, 2]]
    large = plan_visits(np.array([150, 64]), np.array([4, 7]), one_by_one=False)
    # a visit draws at most 64 crops
    assert large.tolist() == [[4, 64], [4, 64], [4, 22], [7, 64]]


@given(COUNTS, st.booleans(), st.integers(0, 1000), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_an_epoch_draws_from_each_image_as_often_as_planned(
    counts: list[int], one_by_one: bool, seed: int, epoch: int
) -> None:
    sampler = make_sampler(plan_test_visits(counts, one_by_one), seed)
    assert sampler.crops_per_epoch == sum(counts)
    drawn = Counter(image for image, _, _ in draw_epoch(sampler, epoch))
    assert drawn == {2 * place + 1: count for place, count in enumerate(counts)}


@pytest.mark.parametrize("one_by_one", [True, False])
def test_epochs_and_seeds_differ_in_order_and_in_crops(one_by_one: bool) -> None:
    visits = plan_test_visits([3] * 20, one_by_one)
    first, second = draw_epoch(make_sampler(visits), 0), draw_epoch(make_sampler(visits), 1)
    other = draw_epoch(make_sampler(visits, seed=1), 0)
    assert first == draw_epoch(make_sampler(visits), 0)
    for one, another in ((first, second), (first, other)):
        assert [image for image, _, _ in one] != [image for image, _, _ in another]
        assert len(set(one) & set(another)) < 6  # of 60 crops at 33 · 33 corners
    assert len({(top, left) for _, top, left in first}) > 50


def test_single_visits_spread_the_crops_of_an_image_over_the_epoch() -> None:
    images = [
        image
        for image, _, _ in draw_epoch(make_sampler(plan_test_visits([20] * 10, one_by_one=True)), 0)
    ]
    neighbours = sum(a == b for a, b in pairwise(images))
    assert neighbours < 40  # of 199 pairs; by chance 19
    together = [
        image
        for image, _, _ in draw_epoch(
            make_sampler(plan_test_visits([20] * 10, one_by_one=False)), 0
        )
    ]
    assert sum(a == b for a, b in pairwise(together)) == 190  # 19 in each of ten images


def test_a_visit_gives_the_same_crops_on_any_machine() -> None:
    sampler = make_sampler(
        plan_test_visits([4, 2, 3], one_by_one=False), 5, margin=4, border_weight=10.0
    )
    copy = pickle.loads(pickle.dumps(sampler))
    for ordinal in (7, 0, 5):
        for crop, same in zip(sampler.crops(ordinal), copy.crops(ordinal), strict=True):
            assert crop.keys() == same.keys() == {"image", "targets", "weights"}
            assert all(np.array_equal(crop[name], same[name]) for name in crop)


@given(COUNTS, st.booleans(), st.integers(0, 1000), st.integers(0, 200))
@settings(deadline=None)
def test_a_stream_goes_on_at_the_visit_that_was_not_finished(
    counts: list[int], one_by_one: bool, seed: int, crops_seen: int
) -> None:
    """The visits before it hold no more crops than were seen: at most one visit is done again."""
    sampler = make_sampler(plan_test_visits(counts, one_by_one), seed)
    ordinal = sampler.ordinal_after(crops_seen)
    epoch, place = divmod(ordinal, len(sampler.visits))
    first = epoch * len(sampler.visits)
    drawn = [sum(1 for _ in sampler.crops(first + earlier)) for earlier in range(place + 1)]
    before = epoch * sum(counts) + sum(drawn[:-1])
    assert before <= crops_seen < before + drawn[-1]
    if one_by_one:
        assert ordinal == crops_seen


def test_a_resumed_stream_gives_the_crops_of_an_uninterrupted_one() -> None:
    sampler = make_sampler(plan_test_visits([3, 1, 4, 2], one_by_one=True))
    whole = draw_epoch(sampler, 0) + draw_epoch(sampler, 1)
    for seen in range(20):
        ordinals = range(sampler.ordinal_after(seen), 20)
        rest = [
            tuple(crop["image"][0, 0].tolist())
            for ordinal in ordinals
            for crop in sampler.crops(ordinal)
        ]
        assert rest == whole[seen:]


@pytest.mark.parametrize("border_weight", [0.0, 10.0])
def test_the_size_of_a_crop_is_known_beforehand(border_weight: float) -> None:
    sampler = make_sampler(
        plan_test_visits([1], one_by_one=True), margin=3, border_weight=border_weight
    )
    (crop,) = sampler.crops(0)
    assert sum(array.nbytes for array in crop.values()) == sampler.crop_bytes


def test_crops_have_the_channels_of_the_network_or_are_refused() -> None:
    sampler = make_sampler(plan_test_visits([2], one_by_one=False))
    with pytest.raises(ImageError, match="the model was trained on uint16"):
        list(
            replace(sampler, preprocessing=Preprocessing("uint16", (0.0,) * 3, (1.0,) * 3)).crops(0)
        )
    with pytest.raises(ImageError, match="3 channels, the model was trained on 2"):
        list(
            replace(sampler, preprocessing=Preprocessing("uint8", (0.0,) * 2, (1.0,) * 2)).crops(0)
        )
