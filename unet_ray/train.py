"""Train a U-Net: survey the labelled set, stream random crops to Ray Train workers, write a model folder.

pairs ─▶ survey (Ray Data) ─▶ labelling, preprocessing ─▶ crops (Ray Data) ─▶ workers (DDP) ─▶ model folder
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow.fs
import ray
import ray.train
from ray.train.torch import TorchTrainer

from unet_ray.archive.ledger import new_run_id
from unet_ray.archive.storage import Storage
from unet_ray.cluster import (
    Device,
    ProgressBoard,
    connect,
    largest_node_cpus,
    parse_range,
    software_versions,
)
from unet_ray.crop_stream import CropSampler, crop_stream, passes_needed
from unet_ray.errors import InputError, UnetRayError, one_line
from unet_ray.imaging.crops import count_crops
from unet_ray.imaging.labels import Labelling, MaskKind, find_labelling, parse_classes
from unet_ray.inputs import LabelledSet, find_labelled
from unet_ray.network.model_folder import Model, save_model
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import PRESETS, Norm, Padding, UNetConfig
from unet_ray.survey import Survey, survey_set
from unet_ray.train_worker import WorkerSettings, last_epoch, train_worker

_RUN_NAME = "unet_ray"
_MAX_FAILURES = 3
_DEFAULT_CROP = 256


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to learn from, what network, and how."""

    images: str
    """Folder or glob (URI) of the labelled images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by relative path without suffix."""
    output: str
    """Model folder to write (URI)."""
    classes: str | None = None
    """Class names: a,b numbers them from 1; a=1,b=7 gives the mask values."""
    mask_kind: MaskKind | None = None
    """What mask values mean; default: inferred from all masks."""
    background_value: int = 0
    """Mask value of no class."""
    ignore_value: int | None = 255
    """Mask value that is not counted; none: there is no such value."""
    epochs: int = 20
    """Passes over the area of the training images."""
    batch_size: int = 8
    """Crops per step and worker."""
    crop: int | None = None
    """Side of the labelled square of a crop (px); default: 256, or the next that fits a valid network (260)."""
    workers: str = "1"
    """Training workers, N or MIN,MAX."""
    device: Device = "auto"
    """Where workers run; auto: GPUs where the cluster has enough of them."""
    preset: str | None = None
    """Network by name: paper or article; the flags below win over it."""
    base_channels: int | None = None
    """Channels of the first level (default 32)."""
    depth: int | None = None
    """Number of poolings (default 4)."""
    padding: Padding | None = None
    """Convolutions: same (default) or valid, the paper's unpadded ones."""
    norm: Norm | None = None
    """Normalisation: batch (default) or none."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak: it warms up over the first steps and falls as a cosine."""
    val_fraction: float = 0.1
    """Share of the images kept for validation, where --val-images is not given; 0: none."""
    val_images: str | None = None
    """Folder (URI) of validation images."""
    val_masks: str | None = None
    """Folder (URI) of their masks."""
    storage: str | None = None
    """Folder (URI) of checkpoints; a rerun with the same one resumes. Default: a new one below --output."""
    seed: int = 0
    """Of the split, the weights, the crops and the augmentation."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: choose at least {least}")
        if not 0 <= self.val_fraction < 1:
            raise InputError(f"--val-fraction {self.val_fraction}: choose from 0 up to (not including) 1")
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate {self.learning_rate}: choose above 0")
        if (self.val_images is None) != (self.val_masks is None):
            raise InputError("--val-images and --val-masks go together; give both or none")
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: there are {', '.join(PRESETS)}")
        parse_range(self.workers, "--workers")
        parse_classes(self.classes)
        self._check_crop(self.network(1, 1))

    @property
    def crop_px(self) -> int:
        """Side of the labelled square of a crop (px)."""
        if self.crop is not None:
            return self.crop
        network = self.network(1, 1)
        return network.reach.input_size(_DEFAULT_CROP) - 2 * network.margin

    def network(self, in_channels: int, classes: int) -> UNetConfig:
        """Return the network of preset and flags."""
        given = {n: getattr(self, n) for n in ("base_channels", "depth", "padding", "norm")}
        chosen = PRESETS.get(self.preset or "", {}) | {n: v for n, v in given.items() if v is not None}
        return UNetConfig(in_channels=in_channels, classes=classes, **chosen)

    def _check_crop(self, network: UNetConfig) -> None:
        covered = network.reach.input_size(max(1, self.crop_px)) - 2 * network.margin
        if covered != self.crop_px:
            below = covered - network.multiple
            nearest = f"{below} and {covered}" if below > 0 else str(covered)
            raise InputError(
                f"--crop {self.crop} px does not fit depth {network.depth}, padding {network.padding}; "
                f"nearest: {nearest}"
            )


@dataclass(frozen=True)
class TrainResult:
    """What training ended with."""

    model: Model
    output: str
    epochs: int
    metrics: dict[str, Any]
    """Of the last epoch."""


def train(config: TrainConfig, ray_address: str = "local") -> TrainResult:
    """Train and write the model folder.

    Raises: InputError — anything that cannot work, before training starts.
    """
    output = Storage.of(config.output)
    storage = Storage.of(config.storage) if config.storage else output.join(f"checkpoints/{new_run_id()}")
    labelled = find_labelled(config.images, config.masks, parse_classes(config.classes), config.mask_kind)
    validation = _find_validation(config, labelled)
    output.check_writable()
    storage.check_writable()
    _check_same_run(config, storage)
    connect(ray_address)
    survey = survey_set(labelled)
    labelling = find_labelling(
        survey.values, labelled.classes, labelled.kind, config.background_value, config.ignore_value
    )
    names = ", ".join(f"{c.name}={c.id}" for c in labelling.classes)
    print(f"{len(labelled.items)} labelled images; masks of the kind {labelling.kind}, classes {names}")
    network = config.network(len(survey.preprocessing.mean), len(labelling.classes))
    training, validating = _split(config, labelled, validation)
    if validation is not None:
        _check_validation(config, labelling, survey.preprocessing, survey_set(validation))
    settings = WorkerSettings(
        network=network,
        preprocessing=survey.preprocessing,
        labelling=labelling,
        access=validating.access,
        validation=validating.items,
        epochs=config.epochs,
        batch_size=config.batch_size,
        crops_per_epoch=sum(count_crops(*survey.sizes[i], config.crop_px) for i in training),
        learning_rate=config.learning_rate,
        seed=config.seed,
        threads=1,
    )
    sampler = CropSampler(
        labelled.access,
        tuple(labelled.items[i] for i in training),
        labelling,
        survey.preprocessing,
        config.crop_px,
        network.margin,
        config.seed,
        first_epoch=last_epoch(storage, _RUN_NAME),
    )
    storage.write("train.json", json.dumps(_run_settings(config), indent=2).encode())
    result = _fit(config, storage, settings, sampler)
    return _save(config, output, settings, result)


def _find_validation(config: TrainConfig, labelled: LabelledSet) -> LabelledSet | None:
    if config.val_images is None or config.val_masks is None:
        return None
    return find_labelled(config.val_images, config.val_masks, labelled.classes, labelled.kind)


def _check_validation(config: TrainConfig, labelling: Labelling, constants: Preprocessing, found: Survey) -> None:
    """Refuse validation images and masks that do not follow the training set's."""
    values = find_labelling(
        found.values, labelling.classes, labelling.kind, config.background_value, config.ignore_value
    )
    if values.foreground != labelling.foreground:
        raise InputError(
            f"--val-masks {config.val_masks}: the class has the value {values.foreground}, in --masks "
            f"{labelling.foreground}; give masks of one convention"
        )
    found.check_fits(constants, f"--val-images {config.val_images}")


def _split(config: TrainConfig, labelled: LabelledSet, validation: LabelledSet | None) -> tuple[list[int], LabelledSet]:
    """Return the indices of the training images, and the set to validate on."""
    count = len(labelled.items)
    if validation is not None:
        return list(range(count)), validation
    kept = round(count * config.val_fraction)
    if kept == count:
        raise InputError(f"--val-fraction {config.val_fraction} of {count} images leaves none to learn from; give less")
    order = np.random.default_rng(config.seed).permutation(count).tolist()
    items = tuple(labelled.items[i] for i in sorted(order[:kept]))
    return sorted(order[kept:]), LabelledSet(labelled.access, items, labelled.kind, labelled.classes)


def _check_same_run(config: TrainConfig, storage: Storage) -> None:
    """Refuse to resume a run of other settings."""
    if not last_epoch(storage, _RUN_NAME):
        return  # nothing was trained yet: nothing to contradict
    settings, before = _run_settings(config), json.loads(storage.read("train.json"))
    other = [name for name in settings if before.get(name) != settings[name]]
    if other:
        flag = other[0].replace("_", "-")
        raise InputError(
            f"--storage {storage.uri} holds a training with --{flag} {before.get(other[0])}, this one has "
            f"{settings[other[0]]}; give the same flags to resume, or another --storage"
        )


def _run_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that must be the same when a run is resumed."""
    changeable = {"epochs", "workers", "device", "output", "storage"}
    return {f.name: getattr(config, f.name) for f in fields(config) if f.name not in changeable}


def _fit(config: TrainConfig, storage: Storage, settings: WorkerSettings, sampler: CropSampler) -> Any:
    scaling, threads = _scaling(config)
    crops_per_step = config.batch_size * parse_range(config.workers, "--workers")[1]
    passes = passes_needed(config.epochs, settings.crops_per_epoch, crops_per_step)
    run = ray.train.RunConfig(
        name=_RUN_NAME,
        storage_path=storage.path,
        storage_filesystem=pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(storage.filesystem)),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )
    options = ray.data.ExecutionOptions(preserve_order=True)
    with ProgressBoard(lambda lines: print(*lines, sep="\n", flush=True)) as board:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"settings": settings.with_threads(threads), "post": board.post},
            scaling_config=scaling,
            run_config=run,
            datasets={"crops": crop_stream(sampler, passes)},
            dataset_config=ray.train.DataConfig(execution_options=options),
        )
        try:
            return trainer.fit()
        except ray.train.WorkerGroupError as error:
            cause = next(iter(error.worker_failures.values()), error)
            raise UnetRayError(
                f"training failed: {one_line(cause)}; rerun with the same --storage to resume"
            ) from error


def _scaling(config: TrainConfig) -> tuple[ray.train.ScalingConfig, int]:
    """Give workers their CPUs and GPUs, and leave some CPUs to Ray Data."""
    least, most = parse_range(config.workers, "--workers")
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    use_gpu = config.device == "gpu" or (config.device == "auto" and gpus >= least)
    if use_gpu and gpus < least:
        raise InputError(f"--workers {config.workers} --device gpu: the cluster has {gpus} GPUs; give fewer workers")
    if not use_gpu and least > cpus:
        raise InputError(f"--workers {config.workers}: the cluster has {cpus} CPUs; give at most {cpus}")
    free = cpus - max(1, cpus // 4)
    share = min(free // most, largest_node_cpus()) if free >= most else 0.5 * cpus / most
    workers = most if least == most else (least, most)
    each = {"CPU": max(0.1, min(share, 4) if use_gpu else share)} | ({"GPU": 1} if use_gpu else {})
    print(f"training on {config.workers} workers ({'GPU' if use_gpu else 'CPU'}), batch {config.batch_size} each")
    return (
        ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=each),
        max(1, min(cpus // most, largest_node_cpus())),
    )


def _save(config: TrainConfig, output: Storage, settings: WorkerSettings, result: Any) -> TrainResult:
    with result.checkpoint.as_directory() as folder:
        saved = Storage.of(folder)
        weights, metrics = saved.read("model.safetensors"), json.loads(saved.read("progress.json"))
    model = Model(
        settings.network,
        weights,
        settings.labelling.classes,
        settings.preprocessing,
        (0.5,) * len(settings.labelling.classes),
        training=asdict(config) | {"labelling": asdict(settings.labelling)},
        metrics=metrics,
        versions=software_versions(),
    )
    save_model(model, output)
    return TrainResult(model, output.uri, metrics["epoch"], metrics)
