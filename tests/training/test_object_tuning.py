import numpy as np

from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.metrics.objects import count_objects
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.labelled_data.alignment import LabelledPixels
from unet_ray.training.object_tuning import (
    _FILTERS,
    _MARKER_THRESHOLDS,
    _THRESHOLDS,
    _count_grid,
    choose,
)

LABELLING = Labelling("instances", (ClassSpec(1, "a"),), 0, 255)


def test_every_choice_is_counted_as_postprocessing_would_find_it() -> None:
    rng = np.random.default_rng(0)
    ids = np.kron(rng.integers(0, 9, (8, 8)), np.ones((6, 6), int)).astype(np.uint16)
    ids[:4] = 255
    prob_u8 = np.stack(
        [(ids > 0) * 150, np.kron(rng.integers(0, 256, (16, 16)), np.ones((3, 3), int))]
    ).astype(np.uint8)
    prob_u8 += rng.integers(0, 60, prob_u8.shape).astype(np.uint8)
    grid = _count_grid(LABELLING, 4, prob_u8, LabelledPixels(ids[:, :, None], [ids]))
    assert grid.shape == (1, len(_THRESHOLDS), len(_MARKER_THRESHOLDS) + 1, len(_FILTERS), 3)
    truth = LABELLING.objects([ids], 0)
    fewer = 0
    for t, c, at in (
        (0, 0, 0),
        (2, 3, 16),
        (4, 6, 39),
        (1, len(_MARKER_THRESHOLDS), 22),
        (2, 2, 3),
    ):
        marker, steps = (_MARKER_THRESHOLDS[c], 4) if c < len(_MARKER_THRESHOLDS) else (None, None)
        rule = ObjectRule(_THRESHOLDS[t], marker, _FILTERS[at].area, _FILTERS[at].score)
        _, found = Postprocessing((rule,), steps).objects(0, prob_u8)
        counts = count_objects(truth, found, ids != 255)
        expected = counts["matched_50"], counts["found_objects"], counts["true_objects"]
        assert tuple(grid[0, t, c, at]) == expected
        fewer += grid[0, t, c, at, 1] < grid[0, t, c, 0, 1]
    assert fewer == 3


def test_the_best_choice_wins_and_among_equals_the_one_nearest_to_one_half() -> None:
    grid = np.zeros((4, len(_THRESHOLDS), len(_MARKER_THRESHOLDS) + 1, len(_FILTERS), 3))
    grid[..., 0], grid[..., 1], grid[..., 2] = 60, 100, 100
    assert choose(grid)[0] == ObjectRule(0.5, 0.5, min_score=0.0)
    grid[:, 3, 5, 2:4, 0] = 90  # in every image
    rule, found, plain = choose(grid)
    assert (rule.threshold, rule.marker_threshold) == (_THRESHOLDS[3], _MARKER_THRESHOLDS[5])
    assert rule.filter == _FILTERS[2]
    # TP / (TP + FP + FN) of 90 and of 60 matches among 100 true and 100 found objects
    assert found == 90 / 110
    assert plain == 60 / 140


def test_a_choice_that_is_better_in_one_image_only_is_taken_for_chance() -> None:
    grid = np.zeros((10, len(_THRESHOLDS), len(_MARKER_THRESHOLDS) + 1, len(_FILTERS), 3))
    grid[..., 0], grid[..., 1], grid[..., 2] = 60, 100, 100
    grid[0, 4, 6, 3, 0] = 90
    assert choose(grid)[0] == ObjectRule(0.5, 0.5, min_score=0.0)
    grid[1:8, 4, 6, 3, 0] = 90
    rule = choose(grid)[0]
    assert (rule.threshold, rule.marker_threshold) == (_THRESHOLDS[4], _MARKER_THRESHOLDS[6])
    assert rule.filter == _FILTERS[3]
