"""Validation during training.

Whole images go through the same predictor as in inference; pixels are counted at every threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.drawing.panels import Comparison
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.metrics.metrics import PixelCounts
from unet_ray.imaging.metrics.thresholds import best_thresholds, count_prob_u8, counts_at
from unet_ray.imaging.regions.run_lengths import binary_mask
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.config import PredictorConfig
from unet_ray.network.predictor import Predictor
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet


@dataclass(frozen=True)
class Validation:
    """Labelled images that the network has not learnt from."""

    reader: Reader
    """Reads the images and their masks."""
    preprocessing: Preprocessing
    """Preprocessing of the training."""
    labelling: Labelling
    """Meaning of the masks."""
    images: tuple[tuple[int, str], ...]
    """Index in `reader` and URI of each image."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that predicts."""

    def run(
        self, network: UNet, rank: int, world: int, add_up: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> ValidationResult:
        """Validate the network; all workers call this together, and each predicts its share.

        Args:
            network: Network on its device.
            rank: Rank of this worker, from 0.
            world: Number of workers.
            add_up: Function that sums an array over all workers.

        Returns:
            The result over all images, the same on each worker.
        """
        predictor = self._predictor(network)
        names = tuple(spec.name for spec in self.labelling.classes)
        indices = tuple(index for index, _ in self.images)
        histograms = np.zeros((len(names), 2, 256), np.int64)
        image_dice = np.zeros(len(indices))
        for place in range(rank, len(indices), world):
            image, targets = self._read(indices[place])
            try:
                (prob_u8,) = predictor.predict([image])
            except ImageError:
                image_dice[place] = np.nan  # tells all workers
                continue
            counted = count_prob_u8(prob_u8[: len(names)], targets)
            histograms += counted
            dice = counts_at(counted, (0.5,) * len(names)).dice
            is_empty = np.isnan(dice).all()  # no class is present or found
            image_dice[place] = 1.0 if is_empty else np.nanmean(dice)
        return ValidationResult(names, indices, add_up(histograms), add_up(image_dice))

    def compare(
        self, network: UNet, worst: Sequence[tuple[int, float]], thresholds: tuple[float, ...]
    ) -> list[Comparison]:
        """Predict some images for a picture of image, truth and prediction.

        Args:
            network: Network on its device.
            worst: Index and Dice of each image; images that are no longer in the set are left out.
            thresholds: Probability threshold of each class.
        """
        predictor = self._predictor(network)
        uris = dict(self.images)
        names = tuple(spec.name for spec in self.labelling.classes)
        rows = []
        for index, dice in worst:
            if index not in uris:
                continue
            image, targets = self._read(index)
            (prob_u8,) = predictor.predict([image])
            # The planes of the classes come first; those of the markers are left out.
            masks = [
                binary_mask(prob_u8[place], threshold) for place, threshold in enumerate(thresholds)
            ]
            row = Comparison(
                name=uris[index].rpartition("/")[2],
                dice=dice,
                image_hwc=image,
                targets_khw=targets,
                masks_khw=np.stack(masks),
                class_names=names,
            )
            rows.append(row)
        return rows

    def _predictor(self, network: UNet) -> Predictor:
        return Predictor(network, self.preprocessing, PredictorConfig(device=self.device))

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        image, masks, valid = self.reader.read(index)
        return self.preprocessing.check(image, valid), self.labelling.targets(masks, valid)


@dataclass(frozen=True)
class ValidationResult:
    """Result of a validation, summed over all workers."""

    classes: tuple[str, ...]
    """Names of the classes."""
    indices: tuple[int, ...]
    """Indices of the images in the reader."""
    histograms: NDArray[np.int64]
    """Counts of pixels by probability, as `count_prob_u8` returns them; (classes, 2, 256)."""
    image_dice: NDArray[np.float64]
    """Mean Dice over classes of each image, at threshold ½; NaN if the network's output is not
    finite; (images,)."""

    @property
    def is_finite(self) -> bool:
        """True if the network's output is finite for every image."""
        return not np.isnan(self.image_dice).any()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Threshold with the best Dice for each class."""
        return best_thresholds(self.histograms)

    @property
    def counts(self) -> PixelCounts:
        """Counts of all pixels at `thresholds`."""
        return counts_at(self.histograms, self.thresholds)

    def by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        """Return a metric by class name; None: undefined; empty without images."""
        if not self.indices:
            return {}
        found: dict[str, float | None] = {}
        for name, value in zip(self.classes, values, strict=True):
            found[name] = None if np.isnan(value) else round(float(value), 6)
        return found

    def score(self, metric: str) -> float | None:
        """Return the score that the best epoch is chosen by.

        Args:
            metric: `dice` or `iou` for the mean over classes, or with the name of one class, as in
                `dice:leaf`.

        Returns:
            The score. Classes without a pixel in the validation images are left out, because a
            single false pixel would decide; None if no class is left.
        """
        metric_name, _, class_name = metric.partition(":")
        values = self.counts.dice if metric_name == "dice" else self.counts.iou
        is_asked = np.array([class_name in ("", name) for name in self.classes])
        is_present = self.histograms[:, 1].sum(1) > 0
        known = values[is_asked & is_present]
        return float(known.mean()) if len(known) else None

    def worst(self, count: int) -> list[tuple[int, float]]:
        """Return index and Dice of the `count` images with the lowest Dice, ascending."""
        order = np.argsort(self.image_dice, kind="stable")[:count].tolist()
        return [(self.indices[place], float(self.image_dice[place])) for place in order]
