"""Objects of COCO annotations: polygons and run lengths, drawn as label images.

Annotation files are untrusted, and pycocotools is C code that believes every number: a coordinate
of 1e9 takes gigabytes, and run lengths that end early show whatever lay in memory. So types are
checked while a file is parsed, numbers against the size of the decoded image before anything is
drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from reprlib import repr as shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from unet_ray.errors import ImageError
from unet_ray.imaging.regions.run_lengths import check_runs, decompress_counts

_MOST_OUTLINE_PX = 2**24
"""Longest outline of a polygon (px); pycocotools takes 80 bytes for each pixel of it."""
_MOST_NUMBER = 2**63
"""Number from which a coordinate or a count does not even fit an array."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """The outline of an object or of a part of it."""

    points: NDArray[np.float64]
    """Corners, x and y of each; (n, 2), px from the upper left corner of the image."""

    def list_runs(self, height: int, width: int) -> NDArray[np.int64]:
        """Return the run lengths of the pixels inside.

        Raises:
            ValueError: A corner is far from the image, or the outline is too long.
        """
        # Tools write outlines that leave the image, above all where images were cut into tiles.
        # What lies outside is cut off. Farther out, the numbers are of another image, or wrong.
        margin = max(height, width)
        limits = np.array([width, height]) + margin
        wrong = np.flatnonzero(~((self.points >= -margin) & (self.points <= limits)))
        if len(wrong):
            raise ValueError(
                f"the coordinate {self.points.flat[wrong[0]]:g} is farther than {margin} px from "
                f"the image of {width}×{height} px"
            )
        steps = np.abs(self.points - np.roll(self.points, 1, axis=0)).max(axis=1)
        if steps.sum() > _MOST_OUTLINE_PX:
            raise ValueError(
                f"an outline of {steps.sum():.0f} px; the longest is {_MOST_OUTLINE_PX} px"
            )
        (drawn,) = coco.frPyObjects([self.points.ravel().tolist()], height, width)
        return decompress_counts(drawn["counts"])


@dataclass(frozen=True, eq=False)
class RunLengths:
    """The mask of an object or of a part of it, as run lengths of a whole image."""

    size: list[int]
    """Height and width of the image, as the file states them (px)."""
    counts: bytes | NDArray[np.int64]
    """Lengths of the runs, compressed or plain."""

    def list_runs(self, height: int, width: int) -> NDArray[np.int64]:
        """Return the plain run lengths.

        Raises:
            ValueError: They are of an image of another size, or no run lengths.
        """
        if self.size != [height, width]:
            raise ValueError(
                f"run lengths of the size {self.size}, but the image has [{height}, {width}] px"
            )
        return decompress_counts(self.counts) if isinstance(self.counts, bytes) else self.counts


@dataclass(frozen=True, eq=False)
class CocoObject:
    """One object of an image."""

    name: str
    """Its annotation, for messages: `annotation 17`."""
    parts: tuple[Polygon | RunLengths, ...] = ()
    """Parts that together are the object."""
    error: str | None = None
    """The reason why the annotation cannot be read, if it cannot."""

    @staticmethod
    def parse(name: str, segmentation: Any) -> CocoObject:
        """Read a segmentation; one that is none becomes an object with an error.

        Args:
            name: Name of the annotation.
            segmentation: What the JSON holds: a list of polygons, or run lengths.
        """
        parts = segmentation if isinstance(segmentation, list) else [segmentation]
        try:
            return CocoObject(name, tuple(map(_parse_part, parts)), None if parts else "no polygon")
        except ValueError as error:
            return CocoObject(name, error=str(error))

    def list_inside(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Yield each run of pixels inside the object, (first, last + 1), column-major.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).

        Raises:
            ValueError: The annotation cannot be read, or does not fit an image of this size.
        """
        if self.error:
            raise ValueError(self.error)
        for part in self.parts:
            counts = part.list_runs(height, width)
            check_runs(counts, height, width)
            ends = np.cumsum(counts).tolist()
            yield from zip(ends[::2], ends[1::2], strict=False)


def draw_objects(objects: tuple[CocoObject, ...], height: int, width: int) -> NDArray[Any]:
    """Draw the objects of a class as a label image.

    Args:
        objects: Objects to draw.
        height: Height of the image (px).
        width: Width of the image (px).

    Returns:
        HW ids, 1 to n in the order of the objects, 0 for background. Where two objects overlap, the
        later one wins.

    Raises:
        ImageError: `unreadable`: an annotation cannot be read, or does not fit the image.
    """
    columns = np.zeros(height * width, np.uint16 if len(objects) < 2**16 else np.int32)
    for number, each in enumerate(objects, 1):
        try:
            for first, end in each.list_inside(height, width):
                columns[first:end] = number
        except ValueError as error:
            raise ImageError("unreadable", f"{each.name}: {error}") from None
    return np.ascontiguousarray(columns.reshape(width, height).T)


def _parse_part(part: Any) -> Polygon | RunLengths:
    """Read a polygon or run lengths; raise ValueError for anything else."""
    if isinstance(part, list):
        return _parse_polygon(part)
    if isinstance(part, dict):
        return RunLengths(_parse_size(part.get("size")), _parse_counts(part.get("counts")))
    raise ValueError(f"its segmentation holds {shorten(part)}, not polygons or run lengths")


def _parse_polygon(numbers: list[Any]) -> Polygon:
    wrong = [n for n in numbers if type(n) not in (int, float) or not abs(n) < _MOST_NUMBER]
    if wrong:
        raise ValueError(f"a polygon with the coordinate {shorten(wrong[0])}")
    # pycocotools takes four numbers for a box, others for two points.
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"a polygon of {len(numbers)} numbers; it needs x and y of 3 points or more"
        )
    return Polygon(np.array(numbers, np.float64).reshape(-1, 2))


def _parse_size(size: Any) -> list[int]:
    if not isinstance(size, list) or [*map(type, size)] != [int, int]:
        raise ValueError(f"run lengths of the size {shorten(size)}; it must be [height, width]")
    return size


def _parse_counts(counts: Any) -> bytes | NDArray[np.int64]:
    if isinstance(counts, str) and counts.isascii():
        return counts.encode()
    if not isinstance(counts, list):
        raise ValueError(f"run lengths with the counts {shorten(counts)}")
    wrong = [n for n in counts if type(n) is not int or not abs(n) < _MOST_NUMBER]
    if wrong:
        raise ValueError(f"run lengths with the count {shorten(wrong[0])}")
    return np.array(counts, np.int64)
