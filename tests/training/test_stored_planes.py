from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.readers import FileReader
from unet_ray.labelled_data.statistics import compute_statistics
from unet_ray.training.config import TrainConfig
from unet_ray.training.setup import set_up_training
from unet_ray.training.split import Split


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("kind", ["instances", "binary"])
def test_crops_are_the_same_from_files_and_from_the_object_store(tmp_path: Path, kind: str) -> None:
    """Images of several sizes, of which one has no object; the crops are compared one by one."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index, side in enumerate((48, 70, 33, 48)):
        ids = np.zeros((side, side + 9), np.uint8)
        if index != 2:
            for number, corner in enumerate(rng.integers(0, side - 14, (9, 2)).tolist(), 1):
                ids[corner[0] : corner[0] + 13, corner[1] : corner[1] + 11] = number
        mask = ids if kind == "instances" else np.where(ids, 255, 0).astype(np.uint8)
        image = rng.integers(0, 255, (*ids.shape, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
    config = TrainConfig(
        images=str(tmp_path / "images"),
        masks=str(tmp_path / "masks"),
        mask_kind=kind,  # type: ignore[arg-type]
        output=str(tmp_path / "model"),
        val_fraction=0.0,
        crop=32,
        separate=True,
        border_weight=10.0,
        foreground_share=0.7,
    )
    labelled = find_labelled(config.images, config.masks, config.label_options(()))
    statistics = compute_statistics(labelled, decode_once=True)
    assert statistics.decoded_once
    split = Split((), None)
    sampler = set_up_training(config, labelled, statistics, None, None, None, split).sampler
    stored = sampler.store_planes()
    assert stored.planes is not None
    read = replace(sampler, reader=FileReader(labelled.access, labelled.items))
    assert read.store_planes().planes is None
    for ordinal in range(3 * len(sampler.visits)):
        for one, other in zip(stored.crops(ordinal), read.crops(ordinal), strict=True):
            assert one.keys() == other.keys() == {"image", "targets", "weights"}
            assert all(np.array_equal(one[name], other[name]) for name in one)
