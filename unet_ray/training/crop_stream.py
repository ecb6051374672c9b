"""The stream of random crops that training workers read.

Ray Data cuts the crops from all labelled images, epoch after epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from unet_ray.cluster.ray_data import TASK_CPUS, calm_ray_data, ordinals
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.crops import LabelledCrops
from unet_ray.imaging.labels.label_planes import compute_planes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.readers import Reader, StoreReader
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage
from unet_ray.training.progress import crops_seen
from unet_ray.training.stored_planes import StoredPlanes, store_planes

_CROPS_PER_VISIT = 64
"""Largest number of crops that a visit draws from an image."""
_BLOCK_BYTES = 2**24
"""Size of the crops that one task cuts; large enough to make Ray's cost per task small."""


@dataclass(frozen=True)
class CropSampler:
    """Draws the crops of all epochs.

    The crops depend only on the seed, not on the process that draws them or on the order of the
    calls.

    An epoch is a sequence of *visits* in a random order. A visit draws crops from one image. If
    images are kept decoded in memory, a visit draws a single crop, so that crops are shuffled over
    the whole set. Otherwise it draws all crops of the image, which is decoded once for them, up to
    64 crops per visit.
    """

    reader: Reader
    """Reads the labelled images."""
    visits: NDArray[np.int64]
    """Index of the image and number of crops to draw, for each visit; (visits, 2)."""
    labelling: Labelling
    """Meaning of the masks."""
    preprocessing: Preprocessing
    """Preprocessing whose checks each crop passes; workers apply it."""
    config: CropConfig
    """Size and kind of the crops."""
    seed: int
    """Seed of the order of visits and of the crops."""
    has_no_data: bool = False
    """True if some pixels of some images are missing; all crops are float32 then."""
    planes: StoredPlanes | None = None
    """Planes of the images in the object store; None: they are computed at each visit."""

    def store_planes(self) -> CropSampler:
        """Return the sampler with stored planes if its images lie in the object store."""
        if not isinstance(self.reader, StoreReader):
            return self
        indices = np.unique(self.visits[:, 0]).tolist()
        planes = store_planes(self.reader, indices, self.labelling, self.config)
        return replace(self, planes=planes)

    @property
    def crops_per_epoch(self) -> int:
        """Number of crops of all visits."""
        return int(self.visits[:, 1].sum())

    @property
    def crop_bytes(self) -> int:
        """Size of one crop with its targets and weights (bytes)."""
        bytes_per_filter = 3 if self.config.border_weight else 1
        num_filters = len(self.labelling.classes) * self.config.filters_per_class
        dtype = np.dtype("float32" if self.has_no_data else self.preprocessing.dtype)
        image_bytes_per_px = dtype.itemsize * self.preprocessing.channels
        side_px = self.config.side + 2 * self.config.margin
        return side_px**2 * (image_bytes_per_px + num_filters * bytes_per_filter)

    def ordinal_after(self, crops_seen: int) -> int:
        """Return the ordinal of the visit where the stream continues after `crops_seen` crops."""
        epoch, rest = divmod(crops_seen, self.crops_per_epoch)
        order = _order(self.seed, epoch, len(self.visits))
        seen = np.cumsum(self.visits[order, 1])
        return epoch * len(self.visits) + int(np.searchsorted(seen, rest, side="right"))

    def crops(self, ordinal: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Draw the crops of one visit.

        Args:
            ordinal: Number of the visit, counted from 0 over all epochs.

        Yields:
            Crops as `LabelledCrops.draw` returns them.
        """
        epoch, place = divmod(ordinal, len(self.visits))
        visit = int(_order(self.seed, epoch, len(self.visits))[place])
        index, num_crops = self.visits[visit].tolist()
        image, masks, valid = self.reader.read(index)
        if self.planes:
            planes = self.planes.read(index)
        else:
            planes = compute_planes(masks, self.labelling, self.config, valid)
        source = LabelledCrops(
            image_hwc=image,
            masks=masks,
            labelling=self.labelling,
            config=self.config,
            planes=planes,
            valid_hw=valid,
        )
        rng = np.random.default_rng([self.seed, epoch, visit])
        for _ in range(num_crops):
            crop = source.draw(rng)
            checked = self.preprocessing.check(crop["image"], crop.pop("valid", None))
            if self.has_no_data:
                checked = checked.astype(np.float32)
            yield crop | {"image": checked}


def plan_visits(
    counts: NDArray[np.int64], indices: NDArray[np.int64], one_by_one: bool
) -> NDArray[np.int64]:
    """Plan the visits of an epoch.

    A visit draws at most 64 crops, which fit into memory; an image with more crops has several
    visits.

    Args:
        counts: Number of crops of each image; (images,).
        indices: Index of each image in the reader; (images,).
        one_by_one: Plan a visit for each crop rather than for each image.

    Returns:
        Index of the image and number of crops, for each visit; (visits, 2).
    """
    most = 1 if one_by_one else _CROPS_PER_VISIT
    num_visits = -(-counts // most)  # rounded up
    visits = np.stack([indices, np.full_like(counts, most)], axis=1)
    visits = np.repeat(visits, num_visits, axis=0)
    last_visits = np.cumsum(num_visits) - 1
    visits[last_visits, 1] = counts - (num_visits - 1) * most
    return visits


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_visits: int) -> NDArray[np.int64]:
    """Return the order of the visits of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(num_visits)


def crop_stream(sampler: CropSampler, crops_seen: int, crops_needed: int) -> ray.data.Dataset:
    """Return the dataset of the crops that come after `crops_seen` crops.

    Args:
        sampler: Draws the crops.
        crops_seen: Number of crops to skip.
        crops_needed: Smallest number of crops in the dataset; it may hold a few more.
    """
    calm_ray_data()
    # Ray Train calls this in another process, whose settings are its own.
    ray.data.DataContext.get_current().enable_progress_bars = False
    shared = ray.put(sampler)
    first = sampler.ordinal_after(crops_seen)
    crops_per_visit = sampler.crops_per_epoch / len(sampler.visits)
    num_visits = int(np.ceil(crops_needed / crops_per_visit)) + len(sampler.visits)
    visits_per_task = max(1, int(_BLOCK_BYTES / (sampler.crop_bytes * crops_per_visit)))

    def cut(batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Return the crops of the visits of a batch."""
        mine: CropSampler = ray.get(shared)
        crops = list[dict[str, NDArray[Any]]]()
        for ordinal in batch["id"].tolist():
            crops += mine.crops(first + ordinal)
        stacked = {}
        for name in crops[0]:
            stacked[name] = np.stack([crop[name] for crop in crops])
        return stacked

    visits = ordinals(num_visits, num_visits // visits_per_task)
    return visits.map_batches(cut, batch_size=None, num_cpus=TASK_CPUS)


@dataclass(frozen=True)
class StreamFromCheckpoint:
    """Dataset factory that Ray Train calls whenever workers start.

    Its dataset continues after the crops that the last checkpoint has seen.
    """

    sampler: CropSampler
    """Draws the crops."""
    run_folder: Storage
    """Run folder of the training."""
    run_name: str
    """Folder of Ray Train's run in it."""
    total: int
    """Number of crops of the whole training."""
    least: int
    """Smallest number of crops in the dataset, even if the training has seen all of them."""

    def __call__(self) -> ray.data.Dataset:
        """Return the dataset of the crops that are left."""
        seen = crops_seen(self.run_folder, self.run_name)
        return crop_stream(self.sampler, seen, max(self.least, self.total - seen))
