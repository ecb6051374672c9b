"""Random crops for training: as many from every image as cover its area once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box, read_box
from unet_ray.imaging.labels.border_weights import border_weights, context_px
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.markers import CONTEXT_PX, find_markers
from unet_ray.imaging.labels.targets import IGNORED


@dataclass(frozen=True)
class CropConfig:
    """How crops are cut."""

    side: int
    """Of the labelled square (px)."""
    margin: int
    """Read around it for networks with unpadded convolutions (px)."""
    foreground_share: float = 0.0
    """Share of the crops that hold a pixel of a class, the class drawn first: rare classes come as often as others."""
    border_weight: float = 0.0
    """w₀ of the border weight map (Ronneberger et al. 2015, equation 2); 0: no map."""
    border_sigma: float = 5.0
    """σ of the map (px)."""
    markers: bool = False
    """Whether there are targets of the objects' markers as well, which tell touching objects apart."""

    @property
    def filters_per_class(self) -> int:
        """Planes of targets for each class."""
        return 2 if self.markers else 1


def count_crops(height: int, width: int, side: int) -> int:
    """Return how many crops of `side` × `side` px cover an image's area once, at least 1."""
    return max(1, round(height * width / side**2))


class LabelledCrops:
    """Cuts random squares out of one image.

    Args:
        image_hwc — as `Preprocessing.check` returns it, or with fewer channels.
        masks — HW each, of the same size.
        labelling — what the masks mean.
        config — how to cut.
    """

    def __init__(
        self,
        image_hwc: NDArray[Any],
        masks: list[NDArray[Any]],
        labelling: Labelling,
        config: CropConfig,
    ) -> None:
        self._image, self._masks, self._labelling, self._config = (
            image_hwc,
            masks,
            labelling,
            config,
        )
        self._pixels: dict[int, NDArray[np.intp]] = {}
        self._objects: dict[int, NDArray[Any]] = {}

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Cut one square of side + 2·margin px.

        Returns: `image` HWC, mirrored beyond the image; `targets` KHW uint8, IGNORED beyond it: all classes, then with
            `markers` those of all classes; with a border weight also `weights` KHW float16.
        """
        top, left = self._corner(rng)
        margin, size = self._config.margin, self._config.side + 2 * self._config.margin
        box = Box(top - margin, left - margin, top - margin + size, left - margin + size)
        crop = {"image": read_box(self._image, box, mirror=True), "targets": self._targets(box)}
        return crop | ({"weights": self._weights(box)} if self._config.border_weight else {})

    def _corner(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left pixel of the labelled square."""
        height, width = self._image.shape[:2]
        last = max(0, height - self._config.side), max(0, width - self._config.side)
        pixel = (
            self._foreground_pixel(rng) if rng.random() < self._config.foreground_share else None
        )
        if pixel is None:
            return int(rng.integers(last[0] + 1)), int(rng.integers(last[1] + 1))
        drawn = [at - int(rng.integers(self._config.side)) for at in pixel]
        return min(max(drawn[0], 0), last[0]), min(max(drawn[1], 0), last[1])

    def _foreground_pixel(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw a class that the image holds, and one of its pixels."""
        for index in rng.permutation(len(self._labelling.classes)).tolist():
            if index not in self._pixels:
                self._pixels[index] = np.flatnonzero(self._labelling.class_mask(self._masks, index))
            pixels = self._pixels[index]
            if len(pixels):
                row, column = divmod(int(pixels[rng.integers(len(pixels))]), self._image.shape[1])
                return row, column
        return None

    def _targets(self, box: Box) -> NDArray[np.uint8]:
        inside, pad = self._inside(box)
        targets = self._labelling.targets([mask[inside] for mask in self._masks])
        targets = (
            np.pad(targets, ((0, 0), *pad), constant_values=IGNORED)
            if any(map(any, pad))
            else targets
        )
        if not self._config.markers:
            return targets
        markers = self._of_objects(box, CONTEXT_PX, find_markers, beyond=0)
        return np.concatenate([targets, np.where(targets == IGNORED, targets, markers)])

    def _weights(self, box: Box) -> NDArray[np.float16]:
        """Weigh the pixels between objects, for the markers as for the classes."""
        strength, sigma_px = self._config.border_weight, self._config.border_sigma
        weigh = partial(border_weights, strength=strength, sigma_px=sigma_px)
        weights = self._of_objects(box, context_px(sigma_px), weigh, beyond=1).astype(np.float16)
        return np.tile(weights, (self._config.filters_per_class, 1, 1))

    def _of_objects(
        self,
        box: Box,
        context_px: int,
        plane_of: Callable[[NDArray[Any]], NDArray[Any]],
        beyond: float,
    ) -> NDArray[Any]:
        """Return a plane per class, made of its objects in a box and so far around it; `beyond` the image a constant.

        The objects are those of the whole image: labelling a piece anew could make two of the ends of one.
        """
        wide = Box(
            box.top - context_px,
            box.left - context_px,
            box.bottom + context_px,
            box.right + context_px,
        )
        (rows, columns), pad = self._inside(wide)
        planes = [
            plane_of(self._objects_of(k)[rows, columns])
            for k in range(len(self._labelling.classes))
        ]
        padded = np.pad(np.stack(planes), ((0, 0), *pad), constant_values=beyond)
        return padded[:, context_px:-context_px, context_px:-context_px]

    def _objects_of(self, index: int) -> NDArray[Any]:
        if index not in self._objects:
            self._objects[index] = self._labelling.objects(self._masks, index)
        return self._objects[index]

    def _inside(
        self, box: Box
    ) -> tuple[tuple[slice, slice], tuple[tuple[int, int], tuple[int, int]]]:
        """Return the part of a box that lies in the image, and what lies beyond it: (before, after) rows, columns."""
        height, width = self._image.shape[:2]
        rows = slice(max(0, box.top), max(0, min(height, box.bottom)))
        columns = slice(max(0, box.left), max(0, min(width, box.right)))
        return (rows, columns), (
            (rows.start - box.top, box.bottom - rows.stop),
            (columns.start - box.left, box.right - columns.stop),
        )
