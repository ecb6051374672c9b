import numpy as np
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.regions import find_regions
from unet_ray.imaging.regions.separation import unseparated

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Return the 8-connected components in raster order, found the slow way."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        region, front = set(), [start]
        left.discard(start)
        while front:
            y, x = front.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        found.append(region)
    return found


RING_CLOSED_AT_A_CORNER = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]], bool)
TWO_HOLES_THAT_TOUCH = np.ones((4, 4), bool)
TWO_HOLES_THAT_TOUCH[1, 1] = TWO_HOLES_THAT_TOUCH[2, 2] = False


@given(masks, st.builds(RegionFilter, st.integers(1, 3), st.sampled_from([0.0, 0.5])))
@example(RING_CLOSED_AT_A_CORNER, ANY)
@example(TWO_HOLES_THAT_TOUCH, ANY)
@example(np.eye(5, dtype=bool), ANY)
@example(~np.eye(5, dtype=bool), ANY)
@settings(deadline=None, max_examples=300)
def test_regions_are_the_components_and_outlines_are_exact(
    mask: np.ndarray, region_filter: RegionFilter
) -> None:
    prob_u8 = np.random.default_rng(mask.size).integers(0, 256, mask.shape).astype(np.uint8)
    expected = [
        region
        for region in flood(mask)
        if len(region) >= region_filter.area
        and np.mean([prob_u8[pixel] for pixel in region]) >= 255 * region_filter.score
    ]
    found = find_regions(unseparated(mask), prob_u8, region_filter)
    geometry = shapely.from_wkb(found.geometry)
    assert len(found) == len(expected)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for i, region in enumerate(expected):
        ys, xs = np.array(sorted(region)).T
        values = prob_u8[ys, xs].astype(int)
        assert found.area[i] == len(region) == geometry[i].area
        assert found.sums.prob_u8_sum[i] == values.sum()
        assert found.sums.prob_u8_max[i] == values.max()
        assert found.bbox[i].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.allclose(found.centroid[i], [xs.mean() + 0.5, ys.mean() + 0.5])
        on_edge = (xs == 0) | (ys == 0) | (xs == mask.shape[1] - 1) | (ys == mask.shape[0] - 1)
        assert found.touches_border[i] == on_edge.any()
        assert geometry[i].is_valid, shapely.is_valid_reason(geometry[i])
        inside = shapely.contains_xy(geometry[i], columns + 0.5, rows + 0.5)
        assert {(int(y), int(x)) for y, x in np.argwhere(inside)} == region


def test_pieces_that_touch_at_a_corner_are_one_region_and_a_multipolygon() -> None:
    (geometry,) = shapely.from_wkb(
        find_regions(unseparated(np.eye(2, dtype=bool)), np.zeros((2, 2), np.uint8)).geometry
    )
    assert geometry.geom_type == "MultiPolygon"


def test_the_score_is_the_mean_probability() -> None:
    found = find_regions(unseparated(np.ones((1, 2), bool)), np.array([[255, 128]], np.uint8))
    assert np.isclose(found.score[0], (255 + 128) / 510)
    assert found.score_max[0] == 1
