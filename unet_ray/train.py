"""Train a U-Net: survey the labelled set, stream random crops to Ray Train workers, write a model folder.

pairs ─▶ survey (Ray Data) ─▶ labelling, preprocessing ─▶ crops (Ray Data) ─▶ workers (DDP) ─▶ model folder
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from unet_ray.archive.runs import new_run_id
from unet_ray.archive.storage import Storage
from unet_ray.capacity import Capacity, cpus_of_gpu_worker, cpus_of_worker, parse_range, plan_pool
from unet_ray.cluster import REUSED_MEMORY, ProgressBoard, connect, software_versions
from unet_ray.crop_stream import CropSampler, StreamFromCheckpoint
from unet_ray.errors import InputError, UnetRayError, one_line
from unet_ray.imaging.labels import parse_classes
from unet_ray.imaging.parting import Parting
from unet_ray.inputs import LabelledSet, find_labelled
from unet_ray.learning_task import LearningTask, understand
from unet_ray.network.augment import parse_augmentations
from unet_ray.network.learner import LearnerConfig
from unet_ray.network.model_folder import Model, load_model, save_model
from unet_ray.object_tuning import METRIC, tune_objects
from unet_ray.progress import PROGRESS, Progress, crops_seen, last_progress
from unet_ray.run_folder import BEST, settle_checkpoints
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
    settings = {f.name: getattr(config, f.name) for f in fields(config)} | {"labelled_images": len(training.items)}
    _check_same_run(settings, run_folder)
    _settle(run_folder)
    connect(ray_address)
    survey = survey_set(training, decode_once=True)
    held = survey_set(validation, decode_once=True) if validation else None
    task = understand(config, training, survey, held, initial)
    run_folder.write("train.json", json.dumps(settings, indent=2).encode())
    result = _fit(config, run_folder, task)
    return _save(config, output, run_folder, task, result)


def _find_validation(config: TrainConfig, training: LabelledSet) -> LabelledSet | None:
    if config.val_images is None or config.val_masks is None:
        return None
    return find_labelled(config.val_images, config.val_masks, training.classes, training.kind)


def _check_same_run(settings: dict[str, Any], run_folder: Storage) -> None:
    """Refuse to resume a run of other settings, or of another number of images: their split would differ."""
    if last_progress(run_folder, _RUN_NAME) is None:
        return  # nothing was trained yet: nothing to contradict
    before = json.loads(run_folder.read("train.json"))
    other = [name for name in settings if name not in _MAY_CHANGE and before.get(name) != settings[name]]
    if other:
        name = other[0]
        flag = "labelled images:" if name == "labelled_images" else f"--{name.replace('_', '-')}"
        raise InputError(
            f"--storage {run_folder.uri} holds a training with {flag} {before.get(name)}, this one has "
            f"{settings[name]}; give the same to resume, or another --storage (and --init-from to go on from a model)"
        )


def _fit(config: TrainConfig, run_folder: Storage, task: LearningTask) -> Any:
    scaling = _scaling(config)
    run = ray.train.RunConfig(
        name=_RUN_NAME,
        storage_path=run_folder.path,
        storage_filesystem=run_folder.arrow_filesystem,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        worker_runtime_env=None if scaling.use_gpu else REUSED_MEMORY,
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
    )
    settings = _worker_settings(config, run_folder, task)
    with ProgressBoard(lambda lines: print(*lines, sep="\n", flush=True)) as board:
        make_trainer = partial(
            TorchTrainer,
            train_worker,
            train_loop_config={"settings": settings, "post": board.post},
            scaling_config=scaling,
            run_config=run,
            datasets={"crops": _stream(config, run_folder, task.sampler)},
            dataset_config=ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True)),
        )
        result = _with_restarts(make_trainer, run_folder)
    if result.return_value is not None:
        raise UnetRayError(result.return_value)
    return result


def _with_restarts(make_trainer: Callable[[], TorchTrainer], run_folder: Storage) -> Any:
    """Train; after a failure go on from the last checkpoint, as long as there was progress since the failure before."""
    idle, seen = 0, crops_seen(run_folder, _RUN_NAME)
    while True:
        try:
            return make_trainer().fit()
        except ray.train.TrainingFailedError as error:
            before, seen = seen, crops_seen(run_folder, _RUN_NAME)
            idle = 0 if seen > before else idle + 1
            cause = one_line(_first_cause(error))
            if idle > _IDLE_RESTARTS:
                raise UnetRayError(
                    f"training failed: {cause}; rerun with --storage {run_folder.uri} to resume"
                ) from error
            print(f"a worker failed ({cause}); going on from the last checkpoint", flush=True)
            _settle(run_folder)


def _settle(run_folder: Storage) -> None:
    for line in settle_checkpoints(run_folder, _RUN_NAME):
        print(line, flush=True)


def _first_cause(error: Exception) -> BaseException:
    """Return what one worker failed of, rather than what the others made of its end."""
    failures: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
    return min(failures, key=lambda failure: "onnection" in str(failure), default=error)


def _stream(config: TrainConfig, run_folder: Storage, sampler: CropSampler) -> StreamFromCheckpoint:
    crops_per_step = config.batch_size * parse_range(config.workers, "--workers")[1]
    total = config.epochs * _crops_per_epoch(config, sampler) + 2 * crops_per_step  # what splits and short batches cost
    return StreamFromCheckpoint(sampler, run_folder, _RUN_NAME, total, crops_per_step)


def _crops_per_epoch(config: TrainConfig, sampler: CropSampler) -> int:
    """Return the crops of an epoch: at least one step of all workers, which may be more than there are."""
    return max(sampler.crops_per_epoch, config.batch_size * parse_range(config.workers, "--workers")[1])


def _worker_settings(config: TrainConfig, run_folder: Storage, task: LearningTask) -> WorkerSettings:
    weights = config.weights_of(len(task.sampler.labelling.classes))
    return WorkerSettings(
        network=task.network,
        preprocessing=task.sampler.preprocessing,
        labelling=task.sampler.labelling,
        learner=LearnerConfig(
            config.learning_rate,
            config.loss,
            weights * task.sampler.config.filters_per_class if weights else None,
            parse_augmentations(config.augment),
        ),
        reader=task.validation_reader,
        validation=task.validation,
        initial=task.initial,
        epochs=config.epochs,
        batch_size=config.batch_size,
        crops_per_epoch=_crops_per_epoch(config, task.sampler),
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
    have = Capacity.of_cluster()
    use_gpu = config.device == "gpu" or (config.device == "auto" and have.gpus >= least)
    if use_gpu:
        each = {"CPU": cpus_of_gpu_worker(have), "GPU": 1.0}
        have.require_gpus(least, each["CPU"], f"--workers {config.workers} on GPUs", "give fewer, or --device cpu")
    elif least > have.cpus and not have.grows:
        raise InputError(f"--workers {config.workers}: the cluster has {have.cpus} CPUs; give at most {have.cpus}")
    else:
        each = {"CPU": cpus_of_worker(have, least)}
    device = "GPU" if use_gpu else "CPU"
    print(f"training on {config.workers} worker{'s' * (most > 1)} ({device}), batch {config.batch_size} each")
    return ray.train.ScalingConfig(
        num_workers=most if least == most else (least, most),
        use_gpu=use_gpu,
        resources_per_worker=each,
        elastic_resize_monitor_interval_s=config.resize_check_s,
    )


def _tuned(config: TrainConfig, task: LearningTask, model: Model) -> Model:
    """Choose thresholds and areas of objects on the validation images, and say what they came to."""
    labelling, indices = task.sampler.labelling, [index for index, _ in task.validation]
    tuned = tune_objects(model, labelling, task.validation_reader, indices, plan_pool(None, config.device))
    rule, parting, found = tuned.model.rule, tuned.model.parting, {}
    assert parting
    for place, spec in enumerate(labelling.classes):
        found[spec.name] = {METRIC: tuned.ap50[place], f"{METRIC}_of_components": tuned.ap50_of_components[place]}
        print(
            f"objects of {spec.name}: AP@0.5 {tuned.ap50[place]:.3f} on the validation images (components alone "
            f"{tuned.ap50_of_components[place]:.3f}) with threshold {rule.thresholds[place]}, core threshold "
            f"{parting.thresholds[place]}, objects from {rule.least[place].area} px and a mean probability of "
            f"{rule.least[place].score}"
        )
    return replace(tuned.model, metrics=model.metrics | {"objects": {"tuned_by": METRIC, "classes": found}})


def _save(config: TrainConfig, output: Storage, run_folder: Storage, task: LearningTask, result: Any) -> TrainResult:
    with result.checkpoint.as_directory() as folder:
        saved = Storage.of(folder)
        weights, progress = saved.read(BEST), Progress.of_json(saved.read(PROGRESS))
    labelling, best = task.sampler.labelling, progress.best
    classes = len(labelling.classes)
    model = Model(
        task.network,
        weights,
        labelling.classes,
        task.sampler.preprocessing,
        tuple(best.thresholds[c.name] for c in labelling.classes),
        Parting((0.5,) * classes, (1,) * classes) if config.separate else None,
        training=asdict(config) | {"labelling": asdict(labelling), "run_folder": run_folder.uri},
        metrics=asdict(best),
        versions=software_versions(),
    )
    if config.separate and task.validation:
        model = _tuned(config, task, model)
    save_model(model, output)
    summary = {"digest": model.digest, "output": output.uri, "epochs": progress.epochs, "best": asdict(best)}
    run_folder.write("summary.json", json.dumps(summary, indent=2).encode())
    return TrainResult(model, output.uri, run_folder.uri, progress)
