"""Random crops for training; each image gives as many as cover its area once."""

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
    """Settings for cutting crops."""

    side: int
    """Side of the labelled square (px)."""
    margin: int
    """Pixels read around the labelled square, for networks with unpadded convolutions (px)."""
    foreground_share: float = 0.0
    """Share of the crops that are drawn to hold a pixel of a class, 0 to 1.

    The class is drawn first, so that rare classes come as often as others.
    """
    border_weight: float = 0.0
    """w₀ of the border weight map (Ronneberger et al. 2015, equation 2); 0 means no map."""
    border_sigma: float = 5.0
    """σ of the border weight map (px)."""
    markers: bool = False
    """True to add targets of the objects' markers, which tell touching objects apart."""

    @property
    def filters_per_class(self) -> int:
        """Number of target planes for each class."""
        return 2 if self.markers else 1


def count_crops(height: int, width: int, side: int) -> int:
    """Return the number of crops of `side` × `side` px that cover an image's area, at least 1."""
    return max(1, round(height * width / side**2))


class LabelledCrops:
    """Cuts random crops out of one image.

    Args:
        image_hwc: Image as `Preprocessing.check` returns it, or with fewer channels.
        masks: Masks of the image's size, HW each.
        labelling: Meaning of the mask values.
        config: Settings for cutting.
        valid_hw: Pixels of the image that are there; None: all of them.
    """

    def __init__(
        self,
        image_hwc: NDArray[Any],
        masks: list[NDArray[Any]],
        labelling: Labelling,
        config: CropConfig,
        valid_hw: NDArray[np.bool_] | None = None,
    ) -> None:
        self._image, self._masks, self._labelling = image_hwc, masks, labelling
        self._config, self._valid = config, valid_hw
        self._pixels: dict[int, NDArray[np.intp]] = {}
        self._objects: dict[int, NDArray[Any]] = {}

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Cut one square of side + 2·margin px.

        Args:
            rng: Generator that decides the place.

        Returns:
            `image` HWC, mirrored beyond the image's border; `targets` KHW uint8, IGNORED beyond
            the border, with planes of all classes and then, if `markers` is set, planes of their
            markers; `weights` KHW float16 if there is a border weight; `valid` HW if some pixels
            of the image are not there.
        """
        top, left = self._draw_corner(rng)
        margin, size = self._config.margin, self._config.side + 2 * self._config.margin
        box = Box(top - margin, left - margin, top - margin + size, left - margin + size)
        crop = {"image": read_box(self._image, box, mirror=True), "targets": self._cut_targets(box)}
        if self._config.border_weight:
            crop["weights"] = self._weigh_borders(box)
        if self._valid is not None:
            crop["valid"] = read_box(self._valid[:, :, None], box, mirror=True)[:, :, 0]
        return crop

    def _draw_corner(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left pixel of the labelled square."""
        height, width = self._image.shape[:2]
        last = max(0, height - self._config.side), max(0, width - self._config.side)
        pixel = (
            self._draw_foreground_pixel(rng)
            if rng.random() < self._config.foreground_share
            else None
        )
        if pixel is None:
            return int(rng.integers(last[0] + 1)), int(rng.integers(last[1] + 1))
        drawn = [at - int(rng.integers(self._config.side)) for at in pixel]
        return min(max(drawn[0], 0), last[0]), min(max(drawn[1], 0), last[1])

    def _draw_foreground_pixel(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw a class that the image holds, then one of the pixels of that class."""
        for index in rng.permutation(len(self._labelling.classes)).tolist():
            if index not in self._pixels:
                inside = self._labelling.class_mask(self._masks, index)
                if self._valid is not None:
                    inside = inside & self._valid
                self._pixels[index] = np.flatnonzero(inside)
            pixels = self._pixels[index]
            if len(pixels):
                row, column = divmod(int(pixels[rng.integers(len(pixels))]), self._image.shape[1])
                return row, column
        return None

    def _cut_targets(self, box: Box) -> NDArray[np.uint8]:
        inside, pad = self._clip(box)
        valid = None if self._valid is None else self._valid[inside]
        targets = self._labelling.targets([mask[inside] for mask in self._masks], valid)
        targets = (
            np.pad(targets, ((0, 0), *pad), constant_values=IGNORED)
            if any(map(any, pad))
            else targets
        )
        if not self._config.markers:
            return targets
        markers = self._make_object_planes(box, CONTEXT_PX, find_markers, beyond=0)
        return np.concatenate([targets, np.where(targets == IGNORED, targets, markers)])

    def _weigh_borders(self, box: Box) -> NDArray[np.float16]:
        """Weigh the pixels between objects, with the same weights for classes and markers."""
        strength, sigma_px = self._config.border_weight, self._config.border_sigma
        weigh = partial(border_weights, strength=strength, sigma_px=sigma_px)
        weights = self._make_object_planes(box, context_px(sigma_px), weigh, beyond=1).astype(
            np.float16
        )
        return np.tile(weights, (self._config.filters_per_class, 1, 1))

    def _make_object_planes(
        self,
        box: Box,
        context_px: int,
        make_plane: Callable[[NDArray[Any]], NDArray[Any]],
        beyond: float,
    ) -> NDArray[Any]:
        """Compute a plane per class from its objects in a box and in the context around the box.

        The objects are those of the whole image, because labelling a piece anew could split one
        object whose ends lie in the piece into two.

        Args:
            box: Box that the planes cover; it may extend beyond the image.
            context_px: Width of the context around the box (px).
            make_plane: Function of the object ids (HW) that returns a plane of the same size.
            beyond: Value of the planes beyond the image.
        """
        halo_box = Box(
            box.top - context_px,
            box.left - context_px,
            box.bottom + context_px,
            box.right + context_px,
        )
        (rows, columns), pad = self._clip(halo_box)
        planes = [
            make_plane(self._find_objects(k)[rows, columns])
            for k in range(len(self._labelling.classes))
        ]
        padded = np.pad(np.stack(planes), ((0, 0), *pad), constant_values=beyond)
        return padded[:, context_px:-context_px, context_px:-context_px]

    def _find_objects(self, index: int) -> NDArray[Any]:
        if index not in self._objects:
            self._objects[index] = self._labelling.objects(self._masks, index, self._valid)
        return self._objects[index]

    def _clip(
        self, box: Box
    ) -> tuple[tuple[slice, slice], tuple[tuple[int, int], tuple[int, int]]]:
        """Clip a box to the image.

        Returns:
            Slices of rows and columns that lie in the image, and the numbers of pixels beyond it,
            (before, after) for rows and for columns.
        """
        height, width = self._image.shape[:2]
        rows = slice(max(0, box.top), max(0, min(height, box.bottom)))
        columns = slice(max(0, box.left), max(0, min(width, box.right)))
        return (rows, columns), (
            (rows.start - box.top, box.bottom - rows.stop),
            (columns.start - box.left, box.right - columns.stop),
        )
