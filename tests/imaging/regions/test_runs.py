import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from skimage.measure import label

from unet_ray.imaging.regions.runs import Runs, components, line_of, overlaps, ranges, uncovered

SIZES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
LABELS = arrays(np.int32, SIZES, elements=st.integers(0, 3))


@settings(deadline=None)
@given(arrays(bool, SIZES))
def test_runs_of_a_mask_are_labelled_by_component(mask: NDArray[np.bool_]) -> None:
    found = Runs.of_mask(mask).image(*mask.shape)
    assert np.array_equal(found, label(mask, connectivity=2))


def merge_groups(pairs: list[tuple[int, int]], num_members: int) -> list[int]:
    """Merge the groups of each pair, one pair after the other; a group is its first member."""
    group = list(range(num_members))
    for one, other in pairs:
        earlier, later = sorted((group[one], group[other]))
        group = [earlier if each == later else each for each in group]
    first_members = sorted(set(group))
    return [first_members.index(each) for each in group]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_components_are_the_merged_groups_numbered_by_their_first_members(
    belong_together: list[tuple[int, int]],
) -> None:
    pairs = np.array(belong_together, np.int64).reshape(-1, 2).T
    assert components(pairs, 40).tolist() == merge_groups(belong_together, 40)


def runs_of(*rows: str) -> Runs:
    """Return the runs of a drawing with `#` for pixels of the mask."""
    return Runs.of_mask(np.array([list(row) for row in rows]) != ".")


def test_runs_of_the_docstring_examples_meet() -> None:
    upper, lower = runs_of("#####.", ".#.#.#").pairs(corners=False)
    assert upper.tolist() == [0, 0]
    assert lower.tolist() == [1, 2]
    upper, lower = runs_of("#####.", ".#.#.#").pairs(corners=True)
    assert upper.tolist() == [0, 0, 0]
    assert lower.tolist() == [1, 2, 3]
    runs = runs_of("##.##....", ".###.##..", "......#.#")
    assert np.stack(runs.pairs(corners=True)).tolist() == [[0, 1, 1, 3], [2, 2, 3, 4]]
    assert runs.label.tolist() == [0, 0, 0, 0, 0, 1]


def test_pieces_of_the_docstring_example_are_uncovered() -> None:
    runs = runs_of("..#######")
    run, start, stop = uncovered(runs, np.array([0, 0]), np.array([3, 5]), np.array([5, 6]))
    assert run.tolist() == [0, 0]
    assert start.tolist() == [2, 6]
    assert stop.tolist() == [3, 9]


@settings(deadline=None)
@given(LABELS)
def test_runs_give_the_label_image_back(labels: NDArray[np.int32]) -> None:
    runs = Runs.of_labels(labels)
    assert np.array_equal(runs.image(*labels.shape), labels)
    assert np.array_equal(np.lexsort((runs.start, runs.row)), np.arange(len(runs)))
    for which, edge in {
        "top": labels[0],
        "bottom": labels[-1],
        "left": labels[:, 0],
        "right": labels[:, -1],
    }.items():
        assert np.array_equal(line_of(runs, runs.label, which, *labels.shape), edge - 1)


@settings(deadline=None)
@given(LABELS, st.booleans())
def test_pairs_are_neighbours_in_the_next_row(labels: NDArray[np.int32], corners: bool) -> None:
    runs = Runs.of_labels(labels)
    boxes = list(zip(runs.row.tolist(), runs.start.tolist(), runs.stop.tolist(), strict=True))
    reach = int(corners)
    expected = [
        (i, j)
        for i, (y, first, after) in enumerate(boxes)
        for j, (below, start, stop) in enumerate(boxes)
        if below == y + 1 and start < after + reach and stop > first - reach
    ]
    assert list(zip(*(side.tolist() for side in runs.pairs(corners)), strict=True)) == expected


@settings(deadline=None)
@given(LABELS)
def test_uncovered_pixels_have_another_label_below(labels: NDArray[np.int32]) -> None:
    runs = Runs.of_labels(labels)
    upper, lower = runs.pairs(corners=False)
    same = runs.label[upper] == runs.label[lower]
    run, start, stop = uncovered(runs, upper[same], *overlaps(runs, (upper[same], lower[same])))
    found = np.zeros(labels.shape, bool)
    for y, first, after in zip(runs.row[run], start, stop, strict=True):
        assert not found[y, first:after].any()
        found[y, first:after] = True
    below = np.append(labels[1:], np.zeros_like(labels[:1]), axis=0)
    assert np.array_equal(found, (labels > 0) & (labels != below))


def test_ranges_of_the_docstring_example() -> None:
    assert ranges(np.array([4, 9]), np.array([2, 1])).tolist() == [4, 5, 9]
