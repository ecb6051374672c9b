import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.outlines import Parts, outlines_wkb
from unet_ray.imaging.regions.rasterize import fill_outlines
from unet_ray.imaging.regions.runs import Runs
from unet_ray.imaging.regions.separation import separate_touching

IMAGES = st.integers(1, 12).flatmap(lambda h: st.integers(1, 12).map(lambda w: (h, w)))


def trace_outlines(labels: np.ndarray) -> np.ndarray:
    parts = Parts.of(Runs.of_labels(labels))
    return shapely.from_wkb(outlines_wkb(parts.sides(), parts.label, int(labels.max(initial=0))))


@settings(max_examples=200)
@given(IMAGES.flatmap(lambda shape: arrays(np.int8, shape, elements=st.integers(0, 3))), st.data())
def test_filled_outlines_give_the_labels_back(drawn: np.ndarray, data: st.DataObject) -> None:
    """Labels have holes, several pieces, corners that touch; windows are any."""
    _, labels = np.unique(drawn, return_inverse=True)
    labels = labels.reshape(drawn.shape) + int(drawn.min() > 0)  # from 1 without gaps, 0 nothing
    outlines = trace_outlines(labels)
    height, width = labels.shape
    assert np.array_equal(
        fill_outlines(outlines, np.arange(1, len(outlines) + 1), Box(0, 0, height, width)), labels
    )
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    part = fill_outlines(outlines, np.arange(1, len(outlines) + 1), Box(top, left, bottom, right))
    assert np.array_equal(part, labels[top:bottom, left:right])


def test_no_outline_fills_no_pixel() -> None:
    assert not fill_outlines(np.array([], object), np.array([]), Box(3, 4, 8, 10)).any()


def test_a_hundred_thousand_outlines_are_filled() -> None:
    mask = np.ones((1000, 900), bool)
    markers = np.zeros_like(mask)
    markers[1::3, 1::3] = True
    labels = separate_touching(mask, markers, 1).labels
    assert labels.max() == 333 * 300 + 1  # the row that no marker reaches is one more
    assert np.array_equal(
        fill_outlines(trace_outlines(labels), np.arange(1, labels.max() + 1), Box(0, 0, 1000, 900)),
        labels,
    )
