"""Train a U-Net: survey the labelled set, stream random crops to Ray Train workers, write a model folder.

pairs ─▶ survey (Ray Data) ─▶ labelling, preprocessing ─▶ crops (Ray Data) ─▶ workers (DDP) ─▶ model folder
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from unet_ray.archive.ledger import new_run_id
from unet_ray.archive.storage import Storage
from unet_ray.checkpoints import BEST, PROGRESS, Progress, last_progress
from unet_ray.cluster import ProgressBoard, connect, largest_node_cpus, parse_range, software_versions
from unet_ray.crop_stream import CropSampler, crop_stream
from unet_ray.errors import InputError, UnetRayError, one_line
from unet_ray.imaging.labels import parse_classes
from unet_ray.inputs import LabelledSet, find_labelled
from unet_ray.learning_task import LearningTask, understand
from unet_ray.network.augment import parse_augmentations
from unet_ray.network.learner import LearnerConfig
from unet_ray.network.model_folder import Model, load_model, save_model
from unet_ray.survey import survey_set
from unet_ray.train_config import TrainConfig
from unet_ray.train_worker import WorkerSettings, train_worker

_RUN_NAME = "unet_ray"
_IDLE_RESTARTS = 1
"""Failures in a row without a new checkpoint that are tried again."""
_MAY_CHANGE = (
    *("epochs", "workers", "device", "output", "storage", "learning_rate", "batch_size", "compile", "patience"),
    *("checkpoint_minutes", "keep_checkpoints", "max_error_rate", "resize_check_s"),
)
"""Settings that a run may be resumed with others of."""


@dataclass(frozen=True)
class TrainResult:
    """What training ended with."""

    model: Model
    output: str
    run_folder: str
    progress: Progress


def train(config: TrainConfig, ray_address: str = "local") -> TrainResult:
    """Train and write the model folder.

    Raises: InputError — anything that cannot work, before training starts; UnetRayError — a training that fails.
    """
    output = Storage.of(config.output)
    run_folder = Storage.of(config.storage) if config.storage else output.join(f"runs/{new_run_id()}")
    initial = load_model(Storage.of(config.init_from)) if config.init_from else None
    classes = parse_classes(config.classes) or (initial.classes if initial else ())
    training = find_labelled(config.images, config.masks, classes, config.mask_kind)
    validation = _find_validation(config, training)
    output.check_writable()
    run_folder.check_writable()
    _check_same_run(config, run_folder)
    connect(ray_address)
    survey = survey_set(training, decode_once=True)
    held = survey_set(validation, decode_once=True) if validation else None
    task = understand(config, training, survey, held, initial)
    run_folder.write("train.json", json.dumps(_run_settings(config), indent=2).encode())
    result = _fit(config, run_folder, task)
    return _save(config, output, run_folder, task, result)


def _find_validation(config: TrainConfig, training: LabelledSet) -> LabelledSet | None:
    if config.val_images is None or config.val_masks is None:
        return None
    return find_labelled(config.val_images, config.val_masks, training.classes, training.kind)


def _check_same_run(config: TrainConfig, run_folder: Storage) -> None:
    """Refuse to resume a run of other settings."""
    if last_progress(run_folder, _RUN_NAME) is None:
        return  # nothing was trained yet: nothing to contradict
    settings, before = _run_settings(config), json.loads(run_folder.read("train.json"))
    other = [name for name in settings if name not in _MAY_CHANGE and before.get(name) != settings[name]]
    if other:
        flag = other[0].replace("_", "-")
        raise InputError(
            f"--storage {run_folder.uri} holds a training with --{flag} {before.get(other[0])}, this one has "
            f"{settings[other[0]]}; give the same flags to resume, or another --storage"
        )


def _run_settings(config: TrainConfig) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _fit(config: TrainConfig, run_folder: Storage, task: LearningTask) -> Any:
    scaling = _scaling(config)
    run = ray.train.RunConfig(
        name=_RUN_NAME,
        storage_path=run_folder.path,
        storage_filesystem=run_folder.arrow_filesystem,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )
    settings = _worker_settings(config, run_folder, task)
    with ProgressBoard(lambda lines: print(*lines, sep="\n", flush=True)) as board:

        def fit() -> Any:
            trainer = TorchTrainer(
                train_worker,
                train_loop_config={"settings": settings, "post": board.post},
                scaling_config=scaling,
                run_config=run,
                datasets={"crops": _stream_from_checkpoint(config, run_folder, task.sampler)},
                dataset_config=ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True)),
            )
            return trainer.fit()

        result = _with_restarts(fit, run_folder)
    if result.return_value is not None:
        raise UnetRayError(result.return_value)
    return result


def _with_restarts(fit: Callable[[], Any], run_folder: Storage) -> Any:
    """Train; after a failure go on from the last checkpoint, as long as there was progress since the failure before."""
    idle, seen = 0, _crops_seen(run_folder)
    while True:
        try:
            return fit()
        except ray.train.WorkerGroupError as error:
            before, seen = seen, _crops_seen(run_folder)
            idle = 0 if seen > before else idle + 1
            cause = one_line(next(iter(error.worker_failures.values()), error))
            if idle > _IDLE_RESTARTS:
                raise UnetRayError(
                    f"training failed: {cause}; rerun with --storage {run_folder.uri} to resume"
                ) from error
            print(f"a worker failed ({cause}); going on from the last checkpoint", flush=True)


def _crops_seen(run_folder: Storage) -> int:
    return (last_progress(run_folder, _RUN_NAME) or Progress()).crops_seen


def _stream_from_checkpoint(config: TrainConfig, run_folder: Storage, sampler: CropSampler) -> Any:
    """Return what Ray Train calls whenever workers start: the crops that come after those of the last checkpoint."""
    crops_per_step = config.batch_size * parse_range(config.workers, "--workers")[1]
    total = config.epochs * sampler.crops_per_epoch + 2 * crops_per_step  # what even splitting and short batches cost

    def stream() -> Any:
        seen = _crops_seen(run_folder)
        return crop_stream(sampler, seen, max(crops_per_step, total - seen))

    return stream


def _worker_settings(config: TrainConfig, run_folder: Storage, task: LearningTask) -> WorkerSettings:
    return WorkerSettings(
        network=task.network,
        preprocessing=task.sampler.preprocessing,
        labelling=task.sampler.labelling,
        learner=LearnerConfig(
            config.learning_rate,
            config.loss,
            config.weights_of(task.network.classes),
            parse_augmentations(config.augment),
        ),
        reader=task.validation_reader,
        validation=task.validation,
        initial=task.initial,
        epochs=config.epochs,
        batch_size=config.batch_size,
        crops_per_epoch=task.sampler.crops_per_epoch,
        metric=config.best_by,
        patience=config.patience,
        checkpoint_minutes=config.checkpoint_minutes,
        shuffle_buffer=task.shuffle_buffer,
        compiled=config.compile,
        seed=config.seed,
        run_folder=run_folder,
    )


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    """Give workers their CPUs and GPUs, and leave some CPUs to Ray Data."""
    least, most = parse_range(config.workers, "--workers")
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    use_gpu = config.device == "gpu" or (config.device == "auto" and gpus >= least)
    if use_gpu and gpus < least:
        raise InputError(f"--workers {config.workers} --device gpu: the cluster has {gpus} GPUs; give fewer workers")
    if not use_gpu and least > cpus:
        raise InputError(f"--workers {config.workers}: the cluster has {cpus} CPUs; give at most {cpus}")
    share = _cpus_of_worker(least, most, cpus)
    each = {"CPU": max(0.1, min(share, 4) if use_gpu else share)} | ({"GPU": 1} if use_gpu else {})
    print(f"training on {config.workers} workers ({'GPU' if use_gpu else 'CPU'}), batch {config.batch_size} each")
    return ray.train.ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=use_gpu,
        resources_per_worker=each,
        elastic_resize_monitor_interval_s=config.resize_check_s,
    )


def _cpus_of_worker(least: int, most: int, cpus: int) -> float:
    """Return the logical CPUs of a worker; Ray Data's tasks need those that workers leave."""
    node = largest_node_cpus()
    if least < most:  # nodes come and go: as many workers on each as it takes to start
        nodes = sum(bool(n["Alive"] and n["Resources"].get("CPU")) for n in ray.nodes())
        return 0.75 * node / -(-least // nodes)
    free = cpus - max(1, cpus // 4)
    return min(free // most, node) if free >= most else 0.5 * cpus / most


def _save(config: TrainConfig, output: Storage, run_folder: Storage, task: LearningTask, result: Any) -> TrainResult:
    with result.checkpoint.as_directory() as folder:
        saved = Storage.of(folder)
        weights, progress = saved.read(BEST), Progress.of_json(saved.read(PROGRESS))
    labelling, best = task.sampler.labelling, progress.best
    model = Model(
        task.network,
        weights,
        labelling.classes,
        task.sampler.preprocessing,
        tuple(best.thresholds[c.name] for c in labelling.classes),
        training=asdict(config) | {"labelling": asdict(labelling), "run_folder": run_folder.uri},
        metrics=asdict(best),
        versions=software_versions(),
    )
    save_model(model, output)
    summary = {"digest": model.digest, "output": output.uri, "epochs": progress.epochs, "best": asdict(best)}
    run_folder.write("summary.json", json.dumps(summary, indent=2).encode())
    return TrainResult(model, output.uri, run_folder.uri, progress)
