"""Builders that several test files share: files in memory, images, archives, models, configs.

What only one test file needs stays in that file. Servers, clusters and processes are elsewhere:
conftest.py, faulty_store.py, clusters.py, training_job.py.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unet_ray.flags import ClassSpec
from unet_ray.image_sources.names import split_uri
from unet_ray.image_sources.sources import ImageSource
from unet_ray.imaging.codecs.image_place import WHOLE
from unet_ray.imaging.codecs.range_file import Fetch, RangeFile
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.network.config import UNetConfig
from unet_ray.network.learner import Learner, LearnerConfig
from unet_ray.network.model_folder import Model, save_model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure
from unet_ray.segmentation.stages.run_tables import RunStamp, split_into_tables
from unet_ray.storage.storage import Storage
from unet_ray.synthetic import CLASSES, draw_scene, encode
from unet_ray.tables.ledger import summarize_run
from unet_ray.tables.runs import write_run_record
from unet_ray.tables.shards import ShardName, write_shard
from unet_ray.training.config import TrainConfig
from unet_ray.training.progress import EpochRecord, Progress

# --- files in memory


def encode_pillow(image: Image.Image | NDArray[Any], kind: str = "PNG", **options: object) -> bytes:
    """Encode an image with Pillow.

    Args:
        image: A Pillow image or an array, H×W or H×W×channels; one channel becomes grey.
        kind: Pillow's name of the format.
        options: Options of the format, as `Image.save` takes them.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_tiff(*pages: NDArray[Any], **options: Any) -> bytes:
    """Encode pages as a TIFF file; by default those with a third axis are RGB, others grey."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in pages:
            photometric = "rgb" if page.ndim == 3 else "minisblack"
            writer.write(page, **({"photometric": photometric} | options))
    return buffer.getvalue()


def make_fetch(data: bytes, asked: Callable[[int, int], None] = lambda *_: None) -> Fetch:
    """Return a function that fetches ranges of `data`.

    Args:
        data: The whole file.
        asked: Called with (offset, size) of each range before it is returned.
    """

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, size in ranges:
            asked(offset, size)
        return [data[offset : offset + size] for offset, size in ranges]

    return fetch


def make_range_file(
    data: bytes, asked: Callable[[int, int], None] = lambda *_: None, size: int | None = None
) -> RangeFile:
    """Return `data` as a file that is read in ranges.

    Args:
        data: The bytes that the file really has.
        asked: Called with (offset, size) of each range before it is returned.
        size: Size that the file claims to have, bytes; by default that of `data`.
    """
    return RangeFile(make_fetch(data, asked), len(data) if size is None else size)


# --- images and archives


def draw_touching_discs(
    height: int, width: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return a mask of touching discs, some pixels torn out, and markers of most of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask, markers = np.zeros((2, height, width), bool)
    for _ in range(int(rng.integers(0, 12))):
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
        radius = rng.uniform(0.5, 9)
        mask |= distance < radius
        markers |= distance < rng.uniform(-1, radius)
    return mask & (rng.random(mask.shape) < rng.choice([1.0, 0.95, 0.6])), markers


def write_scenes(archive: Storage, count: int) -> None:
    """Write `count` PNG files of synthetic scenes, 60×70 px."""
    rng = np.random.default_rng(0)
    for index in range(count):
        archive.write(f"{index:03d}.png", encode(draw_scene(60, 70, rng)[0], "png"))


def write_noise(folder: Path, count: int, side: int) -> Path:
    """Make a folder with `count` square PNG files of random RGB pixels, and return it."""
    folder.mkdir()
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


# --- tables


def make_record(
    uri: str, hwc: tuple[int, int, int], pages: int = 1, size: int = 9, **found: Any
) -> ImageRecord:
    """Return what is known of an image once it is decoded.

    Args:
        uri: Name of the image in the tables.
        hwc: Its height and width (px), and number of channels.
        pages: Number of images in its file; with more than one the name ends with a key.
        size: Size of the file (bytes).
        found: Other fields of the record.
    """
    file_uri, key = (uri, WHOLE) if pages == 1 else split_uri(uri)
    source = ImageSource(file_uri, key, etag="e", size=size, pages=pages)
    return ImageRecord(source, *hwc, **found)


def write_tables(output: Storage, shards: Sequence[Sequence[str]], run_id: str, day: str) -> None:
    """Write the shards and the record of a run as `segment` does, without Ray.

    Args:
        output: Root of the tables.
        shards: URIs of the images of each shard; each is 12×16 px, and has two classes.
        run_id: Id of the run.
        day: Partition, YYYY-MM-DD.
    """
    rng, classes = np.random.default_rng(0), (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    postprocessing = Postprocessing((ObjectRule(),) * 2)
    measure, stamp = Measure(classes, postprocessing), RunStamp(run_id, "1" * 64, "c")
    for task, uris in enumerate(shards):
        measured = [
            measure.image(
                make_record(uri, (12, 16, 1)), rng.integers(0, 256, (2, 12, 16), np.uint8)
            )
            for uri in uris
        ]
        tables = split_into_tables(Measure.join(measured), stamp)
        write_shard(output, ShardName(day, run_id, task), tables, lambda: None)
    record = {"run_id": run_id, "status": "done", "exit_code": 0, "date": day}
    record |= {"model_digest": "1" * 64, "config_digest": "c"}
    record["objects"] = {"parted": False, "min_areas": {"1": 1, "2": 1}}
    write_run_record(output, run_id, record | summarize_run(output, run_id))


def flip_bit(file: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file; places below 0 count from its end."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


# --- models and configs


def rename_images(tables: Path, rename: Callable[[str], str]) -> None:
    """Give the images in the tables of an output other URIs, as whoever writes there can."""
    for path in tables.glob("*/date=*/*.parquet"):
        rows = pq.read_table(path, partitioning=None)
        uris = pa.array([rename(uri) for uri in rows["image_uri"].to_pylist()], pa.string())
        place = rows.column_names.index("image_uri")
        pq.write_table(rows.set_column(place, rows.schema.field(place), uris), path)


def make_tiny_model(place: Path) -> str:
    """Write an untrained two-class model below a folder and return where it is."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=3, num_classes=2, base_channels=4, depth=2)
    classes = (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    preprocessing = Preprocessing("uint8", (128.0,) * 3, (64.0,) * 3)
    folder = place / "tiny-model"
    save_model(
        Model(
            config,
            state_bytes(UNet(config)),
            classes,
            preprocessing,
            Postprocessing((ObjectRule(),) * 2),
        ),
        Storage.of(str(folder)),
    )
    return str(folder)


def write_model_files(folder: Path, described: dict[str, Any], weights: bytes) -> None:
    """Write a model folder with any content, with digests that fit it, as a hostile author would.

    Args:
        folder: Folder; a model in it is replaced.
        described: Content of `model.json`; its digests are made anew.
        weights: Content of the file of weights.
    """
    folder.mkdir(exist_ok=True)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    sha256 = hashlib.sha256(weights)
    keys = ("network", "classes", "preprocessing", "thresholds", "parting")
    keys += ("input_channels", "image_channels")
    meaning = {key: described[key] for key in keys if key in described}
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()
    described = described | {"digest": hashlib.sha256(sha256.digest() + canonical).hexdigest()}
    name = "model.safetensors"
    if "weights" in described:
        name = f"model-{sha256.hexdigest()[:16]}.safetensors"
        described["weights"] = {"file": name, "sha256": sha256.hexdigest()}
    (folder / name).write_bytes(weights)
    (folder / "model.json").write_text(json.dumps(described))


def read_model_files(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Return the content of `model.json` and of the file of weights, unchecked."""
    (weights,) = folder.glob("*.safetensors")
    return json.loads((folder / "model.json").read_text()), weights.read_bytes()


SMALL_NETWORK = {"base_channels": 4, "depth": 2, "crop": 64, "batch_size": 4}
"""Fields of a TrainConfig whose training takes seconds on a CPU."""


def small_training(root: str, **more: object) -> TrainConfig:
    """Return the config of a training of one epoch on the labelled set of `make_archive`.

    Args:
        root: URI of the place with the archive in `data`; the model goes to `model`.
        more: Fields that are other than the default or these.
    """
    fields = {
        "images": f"{root}/data/labelled/images",
        "masks": f"{root}/data/labelled/masks",
        "classes": CLASSES,
        "output": f"{root}/model",
        "epochs": 1,
        "val_fraction": 0.3,
    }
    return TrainConfig(**(fields | SMALL_NETWORK | more))  # type: ignore[arg-type]


def small_training_flags(root: object) -> list[str]:
    """Return the flags of `jobs/train.py` for the labelled set and the network of `small_training`.

    Number of epochs, validation and storage are the caller's.
    """
    fields = {
        "images": f"{root}/data/labelled/images",
        "masks": f"{root}/data/labelled/masks",
        "classes": CLASSES,
        "output": f"{root}/model",
    }
    flags: list[str] = []
    for name, value in (fields | SMALL_NETWORK).items():
        flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


# --- states of a training


def make_epoch_record(epoch: int, score: float | None = None) -> EpochRecord:
    """Return the record of an epoch of two classes, of which `a` has the score and `b` has none."""
    return EpochRecord(
        epoch=epoch,
        crops_seen=100 * epoch,
        loss=1 / epoch,
        learning_rate=1e-3,
        iou={"a": score, "b": None},
        dice={"a": score, "b": None},
        thresholds={"a": 0.5, "b": 0.25},
        score=score,
        crops_per_s=12.5,
        data_wait=0.01,
        elapsed_s=3.5,
        validation_s=0.5,
        workers=2,
        gpu_memory_bytes=None,
        worst=[(3, 0.1), (1, 0.25)],
    )


def make_progress(*scores: float | None) -> Progress:
    """Return the progress of a training after epochs with these scores."""
    progress = Progress()
    for epoch, score in enumerate(scores, 1):
        progress = replace(progress, crops_seen=100 * epoch, epoch_loss=12.0).after(
            make_epoch_record(epoch, score)
        )
    return progress


def make_learner(norm: str, weights: dict[str, Tensor] | None = None) -> Learner:
    """Return a learner as a training worker makes one: fresh, or with a checkpoint's weights."""
    torch.manual_seed(0 if weights is None else 99)
    network = UNet(UNetConfig(1, 2, 4, 1, "same", norm))  # type: ignore[arg-type]
    if weights:
        network.load_state_dict(weights)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocessing = Preprocessing("uint8", (128.0,), (64.0,))
    return Learner(network, preprocessing, LearnerConfig(1e-2, "bce_dice"), torch.Generator())
