import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import distance_transform_edt

from unet_ray.imaging.labels.markers import find_depths, find_markers
from unet_ray.imaging.regions.components import label_image
from unet_ray.imaging.regions.separation import STEPS, separate_touching

LABELS = arrays(
    np.uint16,
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0, 1, 2, 900]),
)


@given(LABELS)
def test_depth_is_the_distance_to_the_nearest_pixel_outside_the_object(labels: np.ndarray) -> None:
    """The reference is the transform of each object alone, on the image continued at its edges."""
    padded = np.pad(labels, 20, mode="edge")
    expected = np.zeros(labels.shape)
    for number in np.unique(labels[labels > 0]):
        inside = padded == number
        to_other = (
            distance_transform_edt(inside)[20:-20, 20:-20]
            if not inside.all()
            else np.full(labels.shape, np.inf)
        )
        expected = np.where(labels == number, to_other, expected)
    np.testing.assert_allclose(find_depths(labels), expected, rtol=1e-5)


@given(LABELS)
def test_every_object_has_a_marker_within_it_and_no_marker_lies_outside(labels: np.ndarray) -> None:
    markers = find_markers(labels)
    assert not (markers & (labels == 0)).any()
    assert set(np.unique(labels[markers])) == set(np.unique(labels[labels > 0]))


def test_markers_of_large_touching_objects_lie_apart_and_grow_back() -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[5:35, 5:30], labels[5:35, 30:55] = 7, 300
    markers = find_markers(labels)
    # columns of the middle row, each object less a rim of 4 px
    assert markers[20].nonzero()[0].tolist() == [*range(9, 26), *range(34, 51)]
    assert label_image(markers).max() == 2
    grown = separate_touching(labels > 0, markers, STEPS).labels
    assert np.array_equal(grown > 0, labels > 0)
    assert len(np.unique(grown[labels == 7])) == len(np.unique(grown[labels == 300])) == 1


def test_markers_of_one_pixel_of_several_pieces_and_of_holes() -> None:
    labels = np.zeros((30, 30), int)
    labels[2, 2] = 5  # one pixel
    labels[10:24, 2:14], labels[10:20, 18:28] = 9, 9  # two pieces
    labels[13:16, 5:8] = 0  # a hole
    markers = find_markers(labels)
    assert markers[2, 2]
    assert markers[14:16, 22:24].all()
    assert markers[19:20, 6:10].any()
    assert not markers[10:18, 2:9].any()  # next to the hole


def test_an_object_that_fills_the_image_is_all_marker() -> None:
    assert find_markers(np.full((9, 9), 3)).all()
    assert not find_markers(np.zeros((9, 9), int)).any()


def test_a_hundred_thousand_objects_have_a_marker_each() -> None:
    labels = np.arange(400 * 250).reshape(400, 250).repeat(3, 0).repeat(3, 1) + 1
    markers = find_markers(labels)
    assert markers[1::3, 1::3].all()  # the middle of each
    # and nothing else, except at the image's edge, which is no rim of an object
    assert markers[3:-3, 3:-3].sum() == 398 * 248
