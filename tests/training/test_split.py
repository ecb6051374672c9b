"""The split of a labelled set: groups stay together, and the share is reached as can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.training.test_record import config as config  # a fixture
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.grouping.groups import Grouping
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.training.config import TrainConfig
from unet_ray.training.record import DataDecisions, TrainingRecord
from unet_ray.training.split import Split, choose_split, describe_sides, draw_validation

SIZES = st.lists(st.integers(1, 20), min_size=2, max_size=12)
SHARES = st.floats(0.01, 0.9)


def make_grouping(sizes: list[int]) -> Grouping:
    """Return groups of these sizes, in an order in which they are mixed."""
    groups = [f"g{index}" for index, size in enumerate(sizes) for _ in range(size)]
    return Grouping("file", tuple(np.random.default_rng(0).permutation(groups).tolist()))


@given(SIZES, SHARES, st.integers(0, 9))
def test_groups_stay_on_one_side_and_each_side_has_one(
    sizes: list[int], share: float, seed: int
) -> None:
    grouping = make_grouping(sizes)
    count = len(grouping.groups)
    assume(round(count * share) < count)
    kept = draw_validation(grouping, share, seed)
    held = {grouping.groups[index] for index in kept}
    assert kept == [index for index, group in enumerate(grouping.groups) if group in held]
    assert 0 < len(held) < len(sizes)
    assert kept == draw_validation(grouping, share, seed)


@given(SIZES, SHARES, st.integers(0, 9))
def test_no_group_more_or_less_would_be_nearer_to_the_share(
    sizes: list[int], share: float, seed: int
) -> None:
    grouping = make_grouping(sizes)
    count = len(grouping.groups)
    wanted = max(round(count * share), 1)
    assume(wanted < count)
    kept = draw_validation(grouping, share, seed)
    held = {grouping.groups[index] for index in kept}
    away = abs(len(kept) - wanted)
    for place, size in enumerate(sizes):
        if f"g{place}" not in held and len(held) < len(sizes) - 1:
            assert abs(len(kept) + size - wanted) >= away


@given(st.integers(2, 60), st.floats(0, 0.99), st.integers(0, 9))
def test_images_that_are_groups_of_their_own_are_drawn_as_they_always_were(
    count: int, share: float, seed: int
) -> None:
    """A training of an earlier version, begun anew with its seed, keeps its split."""
    kept = max(round(count * share), int(share > 0 and count > 1))
    order = np.random.default_rng(seed).permutation(count).tolist()
    grouping = Grouping("image", tuple(f"{index}.png" for index in range(count)))
    assert draw_validation(grouping, share, seed) == sorted(order[:kept])


def test_a_share_below_half_of_each_group_takes_the_smallest() -> None:
    grouping = make_grouping([20, 7, 20])
    for seed in range(5):
        assert {grouping.groups[i] for i in draw_validation(grouping, 0.02, seed)} == {"g1"}


def test_images_of_one_group_are_refused_with_the_ways_out() -> None:
    with pytest.raises(
        InputError, match=r"all 30 images are in one group \(g0\).*--val-fraction 0"
    ):
        draw_validation(make_grouping([30]), 0.1, 0)
    assert draw_validation(make_grouping([30]), 0, 0) == []
    assert draw_validation(make_grouping([1]), 0.1, 0) == []


def test_a_training_of_an_earlier_version_goes_on_with_its_split(config: TrainConfig) -> None:
    labelled = find_labelled(config.images, config.masks, LabelOptions((ClassSpec(1, "cell"),)))
    decisions = DataDecisions(
        Labelling("classes", (ClassSpec(1, "cell"),)),
        Preprocessing("uint8", (1.0,), (4.0,), (-1.0, 1.5)),
        ("0001.png",),
    )
    kept = choose_split(config, labelled, TrainingRecord({}, {}, decisions))
    assert (kept.validation, kept.grouping) == (("0001.png",), None)
    # before 2026-12 records had neither files nor decisions: image by image, by the seed
    drawn = choose_split(config, labelled, TrainingRecord({}))
    assert drawn.grouping == Grouping("image", labelled.names)
    assert drawn.validation == choose_split(config, labelled, None).validation


def test_the_share_that_is_kept_is_said_where_groups_decide_it(config: TrainConfig) -> None:
    labelled = find_labelled(config.images, config.masks, LabelOptions((ClassSpec(1, "cell"),)))
    twice = replace(labelled, items=labelled.items * 2)  # as two windows of each file are
    split = choose_split(config, twice, None)
    assert split.grouping
    assert split.grouping.by == "file"
    note = "2 of 8 images (25%), which are 1 of 4 groups, are kept for validation"
    assert split.grouping.notes[-1] == note
    assert len(split.validation) == 1


def test_a_single_image_is_learnt_from_without_validation(config: TrainConfig) -> None:
    labelled = find_labelled(config.images, config.masks, LabelOptions((ClassSpec(1, "cell"),)))
    windows = replace(labelled, items=labelled.items[:1] * 5)
    assert choose_split(config, windows, None) == Split((), None)


def test_a_split_by_groups_comes_back_from_the_record(config: TrainConfig) -> None:
    labelled = find_labelled(config.images, config.masks, LabelOptions((ClassSpec(1, "cell"),)))
    groups = dict(zip(labelled.names, ["a", "a", "b", "b"], strict=True))
    decisions = DataDecisions(
        Labelling("classes", (ClassSpec(1, "cell"),)),
        Preprocessing("uint8", (1.0,), (4.0,), (-1.0, 1.5)),
        labelled.names[:2],
        None,
        groups,
        "--group-by patient",
    )
    split = choose_split(config, labelled, TrainingRecord({}, {}, decisions))
    assert split.grouping == Grouping("--group-by patient", ("a", "a", "b", "b"))
    assert split.validation == labelled.names[:2]
    assert describe_sides(decisions) == {
        "by": "--group-by patient",
        "training": {"images": 2, "groups": 1, "images_of": {"b": 2}, "groups_not_listed": 0},
        "validation": {"images": 2, "groups": 1, "images_of": {"a": 2}, "groups_not_listed": 0},
    }
