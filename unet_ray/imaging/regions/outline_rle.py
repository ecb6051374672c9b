"""Outlines become COCO run lengths, column-major over the whole image, without drawing anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.imaging.regions.runs import ranges

_MOST_SIDES_PX = 2**25
"""Largest length of the horizontal sides of an outline (px). Each pixel takes 50 bytes, and
an outline of four corners may be as wide as its image."""


def encode_outlines(
    outlines: NDArray[Any],
    height: int | NDArray[np.int64],
    width: int | NDArray[np.int64],
    group_px: int = 2**22,
) -> list[bytes | None]:
    """Encode each outline as the COCO compressed run lengths of its mask.

    Down a column of pixels, the horizontal sides of an outline mark in turn where the inside begins
    and where it ends. So the sides of all outlines, sorted column by column, are the runs.

    Args:
        outlines: Polygons or multipolygons whose sides lie between pixels, y down; shapely
            geometries.
        height: Height of the image, or of the image of each outline (px).
        width: Width of the image, or of the image of each outline (px).
        group_px: Length of the horizontal sides of outlines that are encoded together (px).

    Returns:
        Compressed counts of each outline; None if finding them takes too much memory.

    Raises:
        ValueError: An outline is empty, or leaves the image.
    """
    if not len(outlines):
        return []
    if (shapely.is_missing(outlines) | shapely.is_empty(outlines)).any():
        raise ValueError("an outline without points")
    sizes = np.empty((len(outlines), 2), np.int64)
    sizes[:, 0] = height
    sizes[:, 1] = width
    parts, part_outline = shapely.get_parts(outlines, return_index=True)
    rings, ring_part = shapely.get_rings(parts, return_index=True)
    ring_outline = part_outline[ring_part]
    points, ring = shapely.get_coordinates(rings, return_index=True)
    # From here on, coordinates determine how much memory is taken, by C code as well.
    limits = sizes[ring_outline[ring], ::-1]
    leaves = ~((points >= 0) & (points <= limits)).all(axis=1)
    if leaves.any():
        rows, columns = sizes[ring_outline[ring[np.argmax(leaves)]]].tolist()
        raise ValueError(f"an outline that leaves its image of {columns}×{rows} px")
    x, y = points.astype(np.int64).T
    # Horizontal sides: their left end, length and row of vertices. Outlines ascend.
    sides = np.flatnonzero((ring[1:] == ring[:-1]) & (x[1:] != x[:-1]))
    left = np.minimum(x[sides], x[sides + 1])
    length = np.abs(x[sides + 1] - x[sides])
    line = y[sides]
    outline = ring_outline[ring[sides]]
    codes: list[bytes | None] = [None] * len(outlines)
    for some in _group(np.bincount(outline, length, minlength=len(outlines)), group_px):
        first, after = np.searchsorted(outline, [some[0], some[-1] + 1])
        place = slice(first, after)
        px = length[first:after]
        label = np.repeat(outline[place] - some[0], px)
        # Each pixel of a side is an edge, numbered down the columns.
        column_px = sizes[some[0] + label, 0]
        edge = np.repeat(line[place], px) + column_px * ranges(left[place], px)
        order = np.lexsort((edge, label))
        start, stop = edge[order].reshape(-1, 2).T
        found = _compress_runs(label=label[order][::2], start=start, stop=stop, sizes=sizes[some])
        for index, code in zip(some, found, strict=True):
            codes[index] = code
    return codes


def _group(lengths: NDArray[Any], group_px: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of outlines that are encoded together; they are consecutive.

    Args:
        lengths: Length of the horizontal sides of each outline (px).
        group_px: Length of a group (px), which its last outline may exceed.
    """
    groups = np.cumsum(lengths) // group_px
    is_long = lengths > _MOST_SIDES_PX
    starts = np.flatnonzero((np.diff(groups) > 0) | is_long[1:] | is_long[:-1]) + 1
    for some in np.split(np.arange(len(lengths)), starts):
        if not is_long[some[0]]:
            yield some


def _compress_runs(
    label: NDArray[np.int64],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> list[bytes]:
    """Encode the runs of each label as the gaps and lengths that COCO counts.

    Args:
        label: Label of each run, ascending; (runs,).
        start: First pixel of each run, column-major over the image; ascending within a label.
        stop: Last pixel + 1 of each run.
        sizes: Height and width of the image of each label (px); (labels, 2).

    Returns:
        Compressed counts of each label.
    """
    # A run may go on from the foot of a column to the head of the next one.
    goes_on = np.zeros(len(start), bool)
    goes_on[1:] = (label[1:] == label[:-1]) & (start[1:] == stop[:-1])
    begins = np.flatnonzero(~goes_on)
    ends = np.append(begins[1:], len(stop)) - 1
    label = label[begins]
    start = start[begins]
    stop = stop[ends]
    gap = start.copy()
    gap[1:] -= np.where(label[1:] == label[:-1], stop[:-1], 0)
    counts = np.stack([gap, stop - start], axis=1).ravel()
    bounds = np.searchsorted(label, np.arange(len(sizes) + 1))
    rest = sizes.prod(axis=1) - stop[bounds[1:] - 1]
    listed = []
    for size, first, after, rest_px in zip(
        sizes.tolist(), bounds[:-1], bounds[1:], rest.tolist(), strict=True
    ):
        label_counts = counts[2 * first : 2 * after].tolist()
        if rest_px > 0:
            label_counts.append(rest_px)
        listed.append({"size": size, "counts": label_counts})
    return [code["counts"] for code in coco.frPyObjects(listed, *listed[0]["size"])]
