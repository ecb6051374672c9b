"""Random crops for training; each image gives as many as cover its area once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box, read_box
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.label_planes import LabelPlanes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED


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
        planes: Result of `compute_planes` for these masks.
        valid_hw: Valid pixels of the image; None: all are valid.
    """

    def __init__(
        self,
        image_hwc: NDArray[Any],
        masks: list[NDArray[Any]],
        labelling: Labelling,
        config: CropConfig,
        planes: LabelPlanes,
        valid_hw: NDArray[np.bool_] | None = None,
    ) -> None:
        self._image = image_hwc
        self._masks = masks
        self._labelling = labelling
        self._config = config
        self._planes = planes
        self._valid = valid_hw

    def draw(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Cut one square of side + 2·margin px.

        Args:
            rng: Generator that decides the place.

        Returns:
            `image` HWC, mirrored beyond the image's border; `targets` KHW uint8, IGNORED beyond
            the border, with planes of all classes and then, if `markers` is set, planes of their
            markers; `weights` KHW float16 if there is a border weight; `valid` HW if some pixels
            of the image are invalid.
        """
        top, left = self._draw_corner(rng)
        side, margin = self._config.side, self._config.margin
        box = Box(
            top=top - margin,
            left=left - margin,
            bottom=top + side + margin,
            right=left + side + margin,
        )
        crop = {"image": read_box(self._image, box, mirror=True), "targets": self._cut_targets(box)}
        if self._planes.weights is not None:
            weights = self._cut_planes(self._planes.weights, box, beyond=1)
            # the same for classes and markers
            crop["weights"] = np.tile(weights, (self._config.filters_per_class, 1, 1))
        if self._valid is not None:
            crop["valid"] = read_box(self._valid[:, :, None], box, mirror=True)[:, :, 0]
        return crop

    def _draw_corner(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left pixel of the labelled square."""
        height, width = self._image.shape[:2]
        side = self._config.side
        last_top = max(0, height - side)
        last_left = max(0, width - side)
        pixel = None
        if rng.random() < self._config.foreground_share:
            pixel = self._draw_foreground_pixel(rng)
        if pixel is None:
            return int(rng.integers(last_top + 1)), int(rng.integers(last_left + 1))
        top = pixel[0] - int(rng.integers(side))
        left = pixel[1] - int(rng.integers(side))
        return min(max(top, 0), last_top), min(max(left, 0), last_left)

    def _draw_foreground_pixel(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """Draw a class that the image holds, then one of the pixels of that class."""
        for index in rng.permutation(len(self._labelling.classes)).tolist():
            row_ends = self._planes.row_ends[index]
            if row_ends[-1] == 0:
                continue
            pixel = int(rng.integers(row_ends[-1]))
            row = int(np.searchsorted(row_ends, pixel, side="right"))
            before = int(row_ends[row - 1]) if row else 0
            masks = [mask[row : row + 1] for mask in self._masks]
            in_class = self._labelling.class_mask(masks, index)[0]
            if self._valid is not None:
                in_class = in_class & self._valid[row]
            columns = np.flatnonzero(in_class)
            return row, int(columns[pixel - before])
        return None

    def _cut_targets(self, box: Box) -> NDArray[np.uint8]:
        inside, pad = self._clip(box)
        valid = None if self._valid is None else self._valid[inside]
        targets = self._labelling.targets([mask[inside] for mask in self._masks], valid)
        if any(map(any, pad)):
            targets = np.pad(targets, ((0, 0), *pad), constant_values=IGNORED)
        if self._planes.markers is None:
            return targets
        markers = self._cut_planes(self._planes.markers, box, beyond=False)
        return np.concatenate([targets, np.where(targets == IGNORED, targets, markers)])

    def _cut_planes(self, planes_khw: NDArray[Any], box: Box, beyond: float) -> NDArray[Any]:
        """Cut a box out of planes of the whole image, with a value for pixels beyond the image."""
        (rows, columns), pad = self._clip(box)
        piece = planes_khw[:, rows, columns]
        if any(map(any, pad)):
            piece = np.pad(piece, ((0, 0), *pad), constant_values=beyond)
        return piece

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
