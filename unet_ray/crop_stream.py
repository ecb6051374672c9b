"""The stream of random crops that training workers read: Ray Data over all images, pass after pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data

from unet_ray.cluster import TASK_CPUS
from unet_ray.imaging.crops import count_crops, random_crop
from unet_ray.imaging.labels import Labelling
from unet_ray.inputs import LabelAccess, LabelledImage
from unet_ray.network.preprocessing import Preprocessing


@dataclass(frozen=True)
class CropSampler:
    """Cuts the crops of one image in one epoch: the same for the same seed, whoever does it and in what order."""

    access: LabelAccess
    items: tuple[LabelledImage, ...]
    labelling: Labelling
    preprocessing: Preprocessing
    side: int
    margin: int
    seed: int
    first_epoch: int

    def crops(self, ordinal: int) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yield (image crop HWC, targets KHW); ordinals run through all images, shuffled anew, epoch after epoch."""
        epoch, place = divmod(ordinal, len(self.items))
        epoch += self.first_epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        index = int(order[place])
        rng = np.random.default_rng([self.seed, epoch, index])
        image, masks = self.items[index].read(self.access)
        image, targets = self.preprocessing.check(image), self.labelling.targets(masks)
        for _ in range(count_crops(image.shape[0], image.shape[1], self.side)):
            yield random_crop(image, targets, self.side, self.margin, rng)


def crop_stream(sampler: CropSampler, passes: int) -> Any:
    """Return the dataset of the crops of all passes."""
    shared = ray.put(sampler)

    def cut(batch: dict[str, Any]) -> dict[str, Any]:
        mine = ray.get(shared)
        pairs = [pair for ordinal in batch["id"] for pair in mine.crops(int(ordinal))]
        return {"image": np.stack([p[0] for p in pairs]), "targets": np.stack([p[1] for p in pairs])}

    ordinals = len(sampler.items) * passes
    stream = ray.data.range(ordinals, override_num_blocks=max(1, ordinals // 8))
    return stream.map_batches(cut, batch_size=None, num_cpus=TASK_CPUS)


def passes_needed(epochs: int, crops_per_epoch: int, crops_per_step: int) -> int:
    """Return how often the stream goes through all images, so that no worker runs dry before its last step.

    An epoch is at least one step of each worker, which may be more crops than there are; splitting the stream evenly
    and dropping the last short batch cost up to one step more.
    """
    needed = epochs * max(crops_per_epoch, crops_per_step) + crops_per_step
    return -(-needed // crops_per_epoch) + 1
