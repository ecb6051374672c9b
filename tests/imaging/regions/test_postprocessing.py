import numpy as np
import pytest

from unet_ray.errors import InputError
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing

PROB_U8 = np.array(
    [
        [[200, 200, 200, 200, 200, 200, 0, 140]],  # an object or two, and a small faint one
        [[255, 0, 0, 0, 0, 255, 0, 0]],  # its markers
    ],
    np.uint8,
)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"threshold": 1.5}, "thresholds 1.5: choose 0 to 1"),
        ({"marker_threshold": -0.5}, "thresholds of markers -0.5: choose 0 to 1"),
        ({"min_area": -1}, "min_areas -1: choose 0 to 2147483647"),
        ({"min_score": float("nan")}, "min_scores nan: choose 0 to 1"),
    ],
)
def test_a_number_that_is_out_of_bounds_is_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ObjectRule(**numbers)  # type: ignore[arg-type]


def test_markers_belong_to_all_classes_or_to_none() -> None:
    for rule, steps in ((ObjectRule(), 8), (ObjectRule(marker_threshold=0.5), None)):
        with pytest.raises(AssertionError):
            Postprocessing((rule,), steps)


def test_a_rule_without_limits_keeps_every_object() -> None:
    assert ObjectRule().filter == ObjectRule(min_score=0.0).filter == ANY
    assert ObjectRule(min_area=3, min_score=0.5).filter == RegionFilter(3, 0.5)


@pytest.mark.parametrize(
    ("rule", "steps", "labels"),
    [
        (ObjectRule(), None, [1, 1, 1, 1, 1, 1, 0, 2]),
        (ObjectRule(threshold=0.6), None, [1, 1, 1, 1, 1, 1, 0, 0]),
        (ObjectRule(min_area=2), None, [1, 1, 1, 1, 1, 1, 0, 0]),
        (ObjectRule(min_score=0.6), None, [1, 1, 1, 1, 1, 1, 0, 0]),
        (ObjectRule(marker_threshold=0.5), 2, [1, 1, 1, 2, 2, 2, 0, 3]),
        (ObjectRule(marker_threshold=0.5, min_area=2), 1, [1, 1, 3, 3, 2, 2, 0, 0]),
    ],
)
def test_each_number_of_a_rule_has_its_effect(
    rule: ObjectRule, steps: int | None, labels: list[int]
) -> None:
    mask, found = Postprocessing((rule,), steps).objects(0, PROB_U8)
    assert mask.tolist() == [[value > 0 for value in [*labels[:7], rule.threshold < 0.55]]]
    assert found.tolist() == [labels]


def test_the_halo_is_as_wide_as_markers_grow() -> None:
    assert Postprocessing((ObjectRule(),)).halo == 0
    assert Postprocessing((ObjectRule(marker_threshold=0.5),), steps=5).halo == 5
