import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.builders import draw_touching_discs
from unet_ray.errors import ImageError
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions import merge as seams
from unet_ray.imaging.regions.filter import ANY, RegionFilter
from unet_ray.imaging.regions.merge import SIDES_AT_ONCE, RegionMerger
from unet_ray.imaging.regions.regions import Regions, find_beside_no_data, find_regions
from unet_ray.imaging.regions.separation import SeparatedMask, separate_touching, unseparated
from unet_ray.imaging.regions.tile_regions import find_tile_regions
from unet_ray.limits import MAX_REGIONS

FILTERS = st.builds(RegionFilter, st.integers(1, 6), st.sampled_from([0.0, 0.0, 0.5]))
PATTERNS = (
    "random",
    "sparse",
    "spiral",
    "checkerboard",
    "comb",
    "full",
    "empty",
    "rings",
    "diagonals",
)

TILES_A_SIDE = 10
"""Most tiles along a side of an image: what more of them cost in time they do not show."""


def draw(pattern: str, height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    if pattern == "spiral":
        return draw_spiral(height, width)
    return {
        "random": rng.random((height, width)) < 0.6,
        "sparse": rng.random((height, width)) < 0.2,
        "checkerboard": (x + y) % 2 == 0,
        "comb": (x % 2 == 0) | (y == 0),
        "full": np.ones((height, width), bool),
        "empty": np.zeros((height, width), bool),
        "rings": np.maximum(abs(y - height // 2), abs(x - width // 2)) % 3 == 0,
        "diagonals": (x - y) % 5 == 0,
    }[pattern]


def draw_spiral(height: int, width: int) -> NDArray[np.bool_]:
    """Walk inwards, and leave one pixel free between the turns."""
    mask = np.zeros((height, width), bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = True
    for _ in range(height * width):
        ahead = [(y + k * dy, x + k * dx) for k in (1, 2)]
        inside = [0 <= a < height and 0 <= b < width for a, b in ahead]
        if inside[0] and not (inside[1] and mask[ahead[1]]) and not mask[ahead[0]]:
            y, x = ahead[0]
            mask[y, x] = True
        else:
            dy, dx = dx, -dy
    return mask


def find_by_tiles(
    separate: Callable[[Box], SeparatedMask],
    prob_u8: NDArray[np.uint8],
    tile: int,
    rng: np.random.Generator,
    region_filter: RegionFilter = ANY,
    max_regions: int = MAX_REGIONS,
    valid: NDArray[np.bool_] | None = None,
    sides_at_once: int = SIDES_AT_ONCE,
) -> Regions:
    """Return the regions of an image, found in tiles that come in random order.

    Args:
        separate: Gives the separated mask of a tile.
        prob_u8: Probabilities of the whole image, H×W.
        tile: Side of the tiles, px.
        rng: Generator of the order.
        region_filter: Filter of the regions.
        max_regions: Largest number of regions.
        valid: Pixels that are there.
        sides_at_once: Number of sides that are drawn at a time, about.
    """
    height, width = prob_u8.shape
    beside = None if valid is None else find_beside_no_data(valid)
    merger = RegionMerger(height, width, max_regions, sides_at_once)
    cores = [
        Box(top, left, min(top + tile, height), min(left + tile, width))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]
    for index in rng.permutation(len(cores)):
        core = cores[index]
        part = prob_u8[core.top : core.bottom, core.left : core.right]
        near = None if beside is None else beside[core.top : core.bottom, core.left : core.right]
        merger.add(find_tile_regions(separate(core), part, core, height, width, near))
    return merger.regions(region_filter)


def whole(mask: NDArray[np.bool_]) -> Callable[[Box], SeparatedMask]:
    """Return a function that gives tiles of a mask whose objects are its components."""
    return lambda box: unseparated(mask[box.top : box.bottom, box.left : box.right])


def grow_from(
    mask: NDArray[np.bool_], markers: NDArray[np.bool_], steps: int
) -> Callable[[Box], SeparatedMask]:
    """Return a function that gives tiles of a mask whose objects grow from markers.

    A tile is separated with a halo of `steps` pixels, and cut to its core.
    """

    def tile(box: Box) -> SeparatedMask:
        top, left = max(0, box.top - steps), max(0, box.left - steps)
        read = np.s_[top : box.bottom + steps, left : box.right + steps]
        inner = slice(box.top - top, box.bottom - top), slice(box.left - left, box.right - left)
        return separate_touching(mask[read], markers[read], steps, inner)

    return tile


def assert_equal(found: Regions, expected: Regions) -> None:
    for name in (
        "area",
        "prob_u8_sum",
        "prob_u8_max",
        "x_sum",
        "y_sum",
        "bbox",
        "first",
        "beside_no_data",
    ):
        np.testing.assert_array_equal(getattr(found.sums, name), getattr(expected.sums, name), name)
    assert list(found.geometry) == list(expected.geometry)  # byte by byte
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.touches_border, expected.touches_border)
    np.testing.assert_array_equal(found.touches_no_data, expected.touches_no_data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(PATTERNS),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([1, 30, 200, SIDES_AT_ONCE]),
    FILTERS,
    st.integers(0, 2**32 - 1),
)
def test_tiles_give_the_regions_of_the_whole(
    pattern: str,
    height: int,
    width: int,
    tile: int,
    sides_at_once: int,
    region_filter: RegionFilter,
    seed: int,
) -> None:
    """Ids, sums, boxes and the bytes of outlines do not depend on the tiles and their order."""
    height, width = min(height, TILES_A_SIDE * tile), min(width, TILES_A_SIDE * tile)
    rng = np.random.default_rng(seed)
    mask = draw(pattern, height, width, rng)
    prob_u8 = rng.integers(0, 256, mask.shape, np.uint8)
    valid = mask | (rng.random(mask.shape) < rng.choice([0.0, 0.5, 1.0]))
    beside = find_beside_no_data(valid)
    assert_equal(
        find_by_tiles(
            whole(mask),
            prob_u8,
            tile,
            rng,
            region_filter,
            valid=valid,
            sides_at_once=sides_at_once,
        ),
        find_regions(unseparated(mask), prob_u8, region_filter, beside_no_data_hw=beside),
    )


def test_a_region_touches_no_data_where_a_side_of_a_pixel_does() -> None:
    mask = np.zeros((9, 9), bool)
    mask[0:3, 0:3] = mask[0:3, 6:9] = mask[6:9, 0:3] = True
    valid = np.ones((9, 9), bool)
    valid[3, 1] = valid[3, 5] = False  # below the first one; at a corner of the second one
    found = find_regions(
        unseparated(mask), np.full((9, 9), 200, np.uint8),
        beside_no_data_hw=find_beside_no_data(valid),
    )  # fmt: skip
    assert found.touches_no_data.tolist() == [True, False, False]
    assert found.sums.beside_no_data.tolist() == [1, 0, 0]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from((*PATTERNS, "blobs")),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 20),
    st.integers(0, 6),
    FILTERS,
    st.integers(0, 2**32 - 1),
)
def test_tiles_give_the_separated_objects_of_the_whole(
    pattern: str,
    size: tuple[int, int],
    tile: int,
    steps: int,
    region_filter: RegionFilter,
    seed: int,
) -> None:
    """Markers lie in one tile and grow into others, and leftovers cross seams."""
    size = min(size[0], TILES_A_SIDE * tile), min(size[1], TILES_A_SIDE * tile)
    rng = np.random.default_rng(seed)
    if pattern == "blobs":
        mask, markers = draw_touching_discs(*size, seed)
    else:
        mask = draw(pattern, *size, rng)
        markers = rng.random(size) < rng.choice([0.02, 0.2, 0.6])
    prob_u8 = rng.integers(0, 256, size, np.uint8)
    expected = find_regions(separate_touching(mask, markers, steps), prob_u8, region_filter)
    assert_equal(
        find_by_tiles(grow_from(mask, markers, steps), prob_u8, tile, rng, region_filter), expected
    )
    if region_filter == ANY:
        assert expected.area.sum() == mask.sum()


@pytest.mark.parametrize("tile", [3, 5, 8, 64])
def test_too_many_regions_are_an_error_whatever_the_tiles(tile: int) -> None:
    mask = draw("random", 40, 40, np.random.default_rng(1))
    prob_u8, separated, rng = mask.astype(np.uint8), unseparated(mask), np.random.default_rng(0)
    count = separated.count
    assert (
        len(find_by_tiles(whole(mask), prob_u8, tile, rng, ANY, count))
        == len(find_regions(separated, prob_u8, ANY, count))
        == count
    )
    for find in (
        lambda n: find_by_tiles(whole(mask), prob_u8, tile, rng, ANY, n),
        lambda n: find_regions(separated, prob_u8, ANY, n),
    ):
        with pytest.raises(ImageError, match=f"more than {count - 1} regions"):
            find(count - 1)


def test_an_outline_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seams, "MAX_OUTLINE_BYTES", 2**10)
    mask = draw("comb", 64, 64, np.random.default_rng(0))
    with pytest.raises(ImageError, match="outline takes"):
        find_by_tiles(
            whole(mask), mask.astype(np.uint8), 16, np.random.default_rng(0), RegionFilter(1)
        )


def test_a_side_of_a_piece_takes_17_bytes_until_all_tiles_are_there() -> None:
    """Sides are most of what a large image keeps: four columns of int32, and the kind."""
    mask = draw("rings", 60, 60, np.random.default_rng(0))
    core = Box(60, 60, 120, 120)  # no edge of it is one of the image
    separated = separate_touching(mask, mask, 2)
    tile = find_tile_regions(separated, mask.astype(np.uint8), core, 200, 200)
    for columns in (tile.sides, tile.contacts):
        assert sum(column.nbytes for column in vars(columns).values()) == 17 * len(columns)
    assert len(tile.sides) > 0
    assert {edge.part.dtype for edge in vars(tile.edges).values()} == {np.dtype(np.int32)}


def test_outlines_are_drawn_in_the_memory_of_some_of_them() -> None:
    """Every region is a diagonal that crosses seams."""
    mask = draw("diagonals", 600, 600, np.random.default_rng(0))
    peaks = []
    for sides_at_once in (2**30, 2**13):
        tracemalloc.start()
        find_by_tiles(
            whole(mask), mask.view(np.uint8), 100, np.random.default_rng(0),
            sides_at_once=sides_at_once,
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.6 * peaks[0]


def test_outlines_far_from_the_corner_are_exact() -> None:
    """Rows times columns are beyond 32 bits."""
    mask = draw("random", 30, 30, np.random.default_rng(0))
    mask[[0, -1]] = mask[:, [0, -1]] = False  # all regions are finished within the tile
    far, near = (
        find_tile_regions(
            unseparated(mask), mask.view(np.uint8), Box(at, at, at + 30, at + 30), at + 30, at + 30
        )
        for at in (1_000_000, 0)
    )
    moved = shapely.transform(shapely.from_wkb(near.geometry), lambda xy: xy + 1_000_000)
    assert list(far.geometry) == list(shapely.to_wkb(moved, byte_order=1))
