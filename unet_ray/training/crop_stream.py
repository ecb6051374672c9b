"""The stream of random crops that training workers read: Ray Data over all images, epoch after epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_ray.cluster.ray_data import TASK_CPUS, calm_ray_data, ordinals
from unet_ray.imaging.labels.crops import CropConfig, LabelledCrops
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.readers import Reader
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage
from unet_ray.training.progress import crops_seen

_CROPS_PER_VISIT = 64
_BLOCK_BYTES = 2**24
"""Of the crops that one task cuts: enough to make Ray's own cost per task small."""


@dataclass(frozen=True)
class CropSampler:
    """Draws the crops of all epochs: the same for the same seed, whoever does it and in what order.

    An epoch is a sequence of *visits* in an order of its own. A visit draws from one image: a single crop where images
    lie decoded in memory, so that crops are shuffled over the whole set; else all crops of the image, which is
    decoded once for them.
    """

    reader: Reader
    visits: NDArray[np.int64]
    """(visits, 2): index of the image, crops to draw."""
    labelling: Labelling
    preprocessing: Preprocessing
    config: CropConfig
    seed: int

    @property
    def crops_per_epoch(self) -> int:
        """Crops of all visits."""
        return int(self.visits[:, 1].sum())

    @property
    def crop_bytes(self) -> int:
        """Bytes of one crop with its targets and weights."""
        planes = (
            len(self.labelling.classes)
            * self.config.filters_per_class
            * (3 if self.config.border_weight else 1)
        )
        sample = np.dtype(self.preprocessing.dtype).itemsize * self.preprocessing.channels
        return (self.config.side + 2 * self.config.margin) ** 2 * (sample + planes)

    def ordinal_after(self, crops_seen: int) -> int:
        """Return the visit at which the stream goes on when so many crops of it were used."""
        epoch, rest = divmod(crops_seen, self.crops_per_epoch)
        order = _order(self.seed, epoch, len(self.visits))
        seen = np.cumsum(self.visits[order, 1])
        return epoch * len(self.visits) + int(np.searchsorted(seen, rest, side="right"))

    def crops(self, ordinal: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the crops of one visit, as `LabelledCrops.draw`; ordinals run on from epoch to epoch."""
        epoch, place = divmod(ordinal, len(self.visits))
        visit = int(_order(self.seed, epoch, len(self.visits))[place])
        index, count = self.visits[visit].tolist()
        image, masks = self.reader.read(index)
        source = LabelledCrops(image, masks, self.labelling, self.config)
        rng = np.random.default_rng([self.seed, epoch, visit])
        for _ in range(count):
            crop = source.draw(rng)
            yield crop | {"image": self.preprocessing.check(crop["image"])}


def plan_visits(
    counts: NDArray[np.int64], indices: NDArray[np.int64], one_by_one: bool
) -> NDArray[np.int64]:
    """Return the visits of an epoch; one for many crops of an image is separated, so that its crops fit into memory.

    Args:
        counts — crops of each image.
        indices — the images.
        one_by_one — a visit for each crop, or one for each image.
    """
    most = 1 if one_by_one else _CROPS_PER_VISIT
    parts = -(-counts // most)
    visits = np.repeat(np.stack([indices, np.full_like(counts, most)], axis=1), parts, axis=0)
    visits[np.cumsum(parts) - 1, 1] = counts - (parts - 1) * most  # what is left for the last one
    return visits


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def crop_stream(sampler: CropSampler, crops_seen: int, crops_needed: int) -> Any:
    """Return the dataset of `crops_needed` crops (or a few more) that follow the first `crops_seen`."""
    calm_ray_data()
    ray.data.DataContext.get_current().enable_progress_bars = (
        False  # Ray Train calls this in a process of its own
    )
    shared, first = ray.put(sampler), sampler.ordinal_after(crops_seen)
    crops_per_visit = sampler.crops_per_epoch / len(sampler.visits)
    visits = int(np.ceil(crops_needed / crops_per_visit)) + len(sampler.visits)
    visits_per_task = max(1, int(_BLOCK_BYTES / (sampler.crop_bytes * crops_per_visit)))

    def cut(batch: dict[str, Any]) -> dict[str, Any]:
        mine: CropSampler = ray.get(shared)
        crops = [crop for ordinal in batch["id"] for crop in mine.crops(first + int(ordinal))]
        return {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}

    return ordinals(visits, visits // visits_per_task).map_batches(
        cut, batch_size=None, num_cpus=TASK_CPUS
    )


@dataclass(frozen=True)
class StreamFromCheckpoint:
    """What Ray Train calls whenever workers start: the crops that come after those of the last checkpoint."""

    sampler: CropSampler
    run_folder: Storage
    run_name: str
    total: int
    """Crops of the whole training."""
    least: int
    """Crops that even a training which has seen all of them gets."""

    def __call__(self) -> Any:
        """Return the dataset."""
        seen = crops_seen(self.run_folder, self.run_name)
        return crop_stream(self.sampler, seen, max(self.least, self.total - seen))
