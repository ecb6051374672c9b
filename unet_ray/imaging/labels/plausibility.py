"""Test whether labels lie on what they outline: the edges of an image are where its labels end.

If labels are turned, mirrored, scaled or of another image, the gradient along their outlines is no
larger than beside them. In real sets of microscopy and photographs, it is 2.3 to 5.6 times as large
along outlines as beside them; with the same labels mirrored, 0.99 to 1.03 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW_PX = 512
"""Side of the window that is examined, around an outline (px)."""
_BESIDE_PX = 8
"""Distance from the outline to the pixels that are compared with it (px)."""
_FEWEST_PX = 50
"""Shortest outline that gives a result (px)."""
_FEWEST_IMAGES = 3
_MISPLACED = 1.1
"""Ratio of the gradients from which labels never look misplaced."""
_CHANCE = 1.03
"""Largest ratio that sets of any size have by chance, because objects have typical positions."""
_ERRORS = 3.0
"""Standard errors of the mean above which images agree that the ratio is larger than 1."""


def measure_edge_contrast(image_hwc: NDArray[Any], masks: Sequence[NDArray[Any]]) -> float | None:
    """Compare the gradient of an image along the outlines of its labels with that beside them.

    Args:
        image_hwc: Image.
        masks: Its masks, HW each.

    Returns:
        Mean gradient on the outlines divided by that 8 px beside them; None if there are too few
        outlines, or no gradients.
    """
    outline = np.zeros(image_hwc.shape[:2], bool)
    for mask in masks:
        outline[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        outline[1:] |= mask[1:] != mask[:-1]
    rows, columns = np.nonzero(outline)
    if len(rows) < _FEWEST_PX:
        return None
    middle = len(rows) // 2
    top = max(0, int(rows[middle]) - _WINDOW_PX // 2)
    left = max(0, int(columns[middle]) - _WINDOW_PX // 2)
    window = slice(top, top + _WINDOW_PX), slice(left, left + _WINDOW_PX)
    samples = image_hwc[window].astype(np.float32)
    # the sum of the absolute differences across each pixel, down and right
    gradient: NDArray[np.float32] = np.zeros(samples.shape[:2], np.float32)
    across = np.abs(samples[:, 2:] - samples[:, :-2])
    down = np.abs(samples[2:] - samples[:-2])
    gradient[:, 1:-1] += across.sum(axis=2)
    gradient[1:-1] += down.sum(axis=2)
    rows, columns = np.nonzero(outline[window])
    height, width = gradient.shape
    beside = [
        gradient[_shift(rows, _BESIDE_PX, height), columns],
        gradient[_shift(rows, -_BESIDE_PX, height), columns],
        gradient[rows, _shift(columns, _BESIDE_PX, width)],
        gradient[rows, _shift(columns, -_BESIDE_PX, width)],
    ]
    on = float(gradient[rows, columns].mean())
    off = float(np.mean(beside))
    return on / off if on > 0 and off > 0 else None


def look_misplaced(contrasts: Sequence[float | None]) -> float | None:
    """Return the typical edge contrast of a set if its labels look misplaced, else None.

    Args:
        contrasts: Result of `measure_edge_contrast` for each image.

    Returns:
        The geometric mean over the images, if it is no larger than by chance alone.
    """
    known = [contrast for contrast in contrasts if contrast is not None]
    if len(known) < _FEWEST_IMAGES:
        return None
    logs = np.log(known)
    typical = float(np.exp(logs.mean()))
    # faint or thin objects in noise have weak edges, but they have them in every image
    by_chance = float(np.exp(_ERRORS * logs.std(ddof=1) / np.sqrt(len(logs))))
    return typical if typical < min(_MISPLACED, max(_CHANCE, by_chance)) else None


def _shift(places: NDArray[np.intp], by: int, size: int) -> NDArray[np.intp]:
    """Return places moved by a distance; those that would leave the image stay within it."""
    return np.clip(places + by, 0, size - 1)
