"""Validation during training: whole images through the predictor that inference uses, counts at every threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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
    preprocessing: Preprocessing
    labelling: Labelling
    images: tuple[tuple[int, str], ...]
    """(index in `reader`, URI)."""
    device: Literal["cpu", "cuda"] = "cpu"

    def run(
        self, network: UNet, rank: int, world: int, add_up: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> ValidationResult:
        """Predict every `world`-th image, each by one worker, and count.

        Args:
            network — on its device.
            rank, world — this worker, and how many there are.
            add_up — adds an array up over all workers.
        """
        predictor = self._predictor(network)
        classes = tuple(c.name for c in self.labelling.classes)
        histograms = np.zeros((len(classes), 2, 256), np.int64)
        image_dice = np.zeros(len(self.images))
        for place in range(rank, len(self.images), world):
            image, targets = self._read(self.images[place][0])
            counted = count_prob_u8(predictor.predict([image])[0][: len(classes)], targets)
            histograms += counted
            image_dice[place] = _mean(counts_at(counted, (0.5,) * len(classes)).dice, otherwise=1.0)
        indices = tuple(index for index, _ in self.images)
        return ValidationResult(classes, indices, add_up(histograms), add_up(image_dice))

    def compare(
        self, network: UNet, worst: Sequence[tuple[int, float]], thresholds: tuple[float, ...]
    ) -> list[Comparison]:
        """Predict some images, (index, Dice), for a picture of image, truth and prediction."""
        predictor, uris, rows = self._predictor(network), dict(self.images), []
        names = tuple(c.name for c in self.labelling.classes)
        for index, dice in worst:
            image, targets = self._read(index)
            (prob_u8,) = predictor.predict([image])
            masks = np.stack(
                [binary_mask(plane, t) for plane, t in zip(prob_u8, thresholds, strict=False)]
            )  # no markers
            rows.append(
                Comparison(uris[index].rpartition("/")[2], dice, image, targets, masks, names)
            )
        return rows

    def _predictor(self, network: UNet) -> Predictor:
        return Predictor(network, self.preprocessing, PredictorConfig(device=self.device))

    def _read(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        image, masks = self.reader.read(index)
        return self.preprocessing.check(image), self.labelling.targets(masks)


@dataclass(frozen=True)
class ValidationResult:
    """What all workers found."""

    classes: tuple[str, ...]
    indices: tuple[int, ...]
    """Of the images, in the reader."""
    histograms: NDArray[np.int64]
    """(classes, 2, 256), as `count_prob_u8`."""
    image_dice: NDArray[np.float64]
    """Mean Dice over the classes of each image, at ½."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Per class: the threshold with the best Dice."""
        return best_thresholds(self.histograms)

    @property
    def counts(self) -> PixelCounts:
        """Counts over all pixels, at `thresholds`."""
        return counts_at(self.histograms, self.thresholds)

    def by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        """Return a metric by class name; nothing without images, None where it is undefined."""
        plain = [None if np.isnan(value) else round(float(value), 6) for value in values]
        return dict(zip(self.classes, plain, strict=True)) if self.indices else {}

    def score(self, metric: str) -> float | None:
        """Return a metric by name: `dice`, `iou`: the mean over classes; `dice:leaf`: of one class.

        None where no class that it asks for has a pixel in the validation images: a false one would decide.
        """
        name, _, class_name = metric.partition(":")
        values = self.counts.dice if name == "dice" else self.counts.iou
        asked = [not class_name or name == class_name for name in self.classes]
        known = values[np.array(asked) & (self.histograms[:, 1].sum(1) > 0)]
        return float(known.mean()) if len(known) else None

    def worst(self, count: int) -> list[tuple[int, float]]:
        """Return (index, Dice) of the images with the lowest Dice, ascending."""
        order = np.argsort(self.image_dice, kind="stable")[:count].tolist()
        return [(self.indices[place], float(self.image_dice[place])) for place in order]


def _mean(values: NDArray[np.float64], otherwise: float) -> float:
    return otherwise if np.isnan(values).all() else float(np.nanmean(values))
