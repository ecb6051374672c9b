"""The command `train`.

It computes the dataset statistics of the labelled set, streams random crops to the workers of Ray
Train, and writes a model folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import ray.train

from unet_ray.cluster.actor_pool import plan_pool
from unet_ray.cluster.session import connect, quiet_ray, software_versions
from unet_ray.errors import OutputHeldError
from unet_ray.flags import ClassSpec, parse_classes
from unet_ray.imaging.regions.postprocessing import ObjectRule, Postprocessing
from unet_ray.imaging.regions.separation import STEPS
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.labelled_window import cut_large_images
from unet_ray.labelled_data.preview import LABELS_PICTURE, draw_labels
from unet_ray.labelled_data.statistics import DatasetStatistics, compute_both
from unet_ray.network.model_folder import Model, load_model, save_model
from unet_ray.storage.storage import Storage
from unet_ray.store_options import keep_for, read_store_options
from unet_ray.tables.lock import OutputLock
from unet_ray.tables.runs import new_run_id
from unet_ray.training.checkpoints import BEST
from unet_ray.training.config import TrainConfig
from unet_ray.training.object_tuning import METRIC, tune_objects
from unet_ray.training.progress import PROGRESS, Progress, last_progress
from unet_ray.training.record import (
    LabelledFile,
    TrainingRecord,
    list_labelled_files,
    read_record,
)
from unet_ray.training.setup import TrainingSetup, choose_channels, set_up_training
from unet_ray.training.split import choose_split, describe_sides
from unet_ray.training.trainer import RUN_NAME, choose_cpu_precision, fit, settle

_logger = logging.getLogger("unet_ray")


@dataclass(frozen=True)
class TrainResult:
    """Result of a training."""

    model: Model
    """The trained model."""
    output: str
    """Model folder (URI)."""
    run_folder: str
    """Run folder (URI)."""
    progress: Progress
    """Progress at the end."""


@quiet_ray()
def train(config: TrainConfig, ray_address: str = "local") -> TrainResult:
    """Train a U-Net and write the model folder.

    Args:
        config: Flags of training.
        ray_address: Ray cluster to run on; `local` starts one on this machine.

    Returns:
        The model, where it is, and how training went.

    Raises:
        InputError: Flags, images or masks are invalid, or differ from those of the training to
            resume; raised before training starts.
        OutputHeldError: Another training holds the run folder.
        UnetRayError: The training fails.
    """
    options, run_id = read_store_options(config, "output"), new_run_id()
    output = Storage.of(config.output, keep_for(config.output, options))
    run_folder = output.join(f"runs/{run_id}")
    if config.storage:
        run_folder = Storage.of(config.storage, keep_for(config.storage, options))
    initial = load_initial(config)
    classes = parse_classes(config.classes) or (initial.classes if initial else ())
    training = find_training(config, classes)
    validation = find_validation(config, training)
    output.check_writable()
    run_folder.check_writable()
    with _hold(run_folder, run_id):
        settings = asdict(config) | {"labelled_images": len(training.items)}
        before = read_record(run_folder) if last_progress(run_folder, RUN_NAME) else None
        if before:
            before.check_settings(settings, run_folder)
            before.check_files(_list_files(training, None, validation, None), run_folder)
        decisions = before.decisions if before else None
        split = choose_split(config, training, before)
        settle(run_folder)
        connect(ray_address)
        channels = choose_channels(config, initial, decisions)
        statistics, validation_statistics = compute_both(
            training,
            validation,
            channels,
            decode_once=True,
            more_per_px=config.plane_bytes_per_px(len(training.classes)),
        )
        files = _list_files(training, statistics, validation, validation_statistics)
        if before and before.files is not None:
            files = before.check_files(files, run_folder)
        elif before:
            _logger.info(
                f"{run_folder.uri}: an earlier version began this training and kept no list of its "
                f"files; the {len(files)} files found now are assumed to be the same, and listed"
            )
        setup = set_up_training(
            config,
            training,
            statistics,
            validation=validation_statistics,
            initial=initial,
            before=decisions,
            split=split,
        )
        precision = before.cpu_precision if before else choose_cpu_precision(config)
        TrainingRecord(settings, files, setup.decisions, precision).write(run_folder)
        run_folder.write(LABELS_PICTURE, draw_labels(statistics, setup.decisions.labelling))
        setup = replace(setup, sampler=setup.sampler.store_planes())
        result = fit(config, run_folder, setup, precision)
        OutputLock.check(run_folder, run_id)
        return _save(config, output, run_folder, setup, result)


@contextmanager
def _hold(run_folder: Storage, run_id: str) -> Iterator[None]:
    """Hold the lock on a run folder; raise OutputHeldError if another training holds it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(OutputLock(run_folder, run_id))
        except OutputHeldError as error:
            raise OutputHeldError(str(error).replace("--output", "--storage")) from None
        yield


def _list_files(
    training: LabelledSet,
    statistics: DatasetStatistics | None,
    validation: LabelledSet | None,
    validation_statistics: DatasetStatistics | None,
) -> dict[str, LabelledFile]:
    """Return the files of the labelled set and of the validation set by name."""
    files = list_labelled_files(training, statistics)
    return files | (
        list_labelled_files(validation, validation_statistics, "val_") if validation else {}
    )


def find_training(config: TrainConfig, classes: tuple[ClassSpec, ...]) -> LabelledSet:
    """Return the labelled set of --images, with large images split into windows.

    Args:
        config: Flags of training.
        classes: Classes that are known; may be empty.

    Raises:
        InputError: No labelled set is found.
    """
    labelled = find_labelled(config.images, config.masks, config.label_options(classes))
    return cut_large_images(labelled, config.crop or 0)


def load_initial(config: TrainConfig) -> Model | None:
    """Return the model of --init-from; None if not given."""
    if config.init_from is None:
        return None
    return load_model(Storage.of(config.init_from, read_store_options(config, "model")))


def find_validation(config: TrainConfig, training: LabelledSet) -> LabelledSet | None:
    """Return the labelled set of --val-images, read like that of --images; None if not given."""
    if config.val_images is None or config.val_masks is None:
        return None
    options = replace(config.label_options(training.classes), kind=training.kind)
    labelled = find_labelled(config.val_images, config.val_masks, options)
    return cut_large_images(labelled, config.crop or 0)


def _tune_separation(config: TrainConfig, setup: TrainingSetup, model: Model) -> Model:
    """Choose thresholds and filters of objects on the validation images, and log the results."""
    labelling, indices = setup.sampler.labelling, [index for index, _ in setup.validation]
    tuned = tune_objects(
        model, labelling, setup.validation_reader, indices, plan_pool(None, config.device)
    )
    rules, found = tuned.model.postprocessing.rules, {}
    for place, (spec, rule) in enumerate(zip(labelling.classes, rules, strict=True)):
        found[spec.name] = {
            METRIC: tuned.ap50[place],
            f"{METRIC}_of_components": tuned.ap50_of_components[place],
        }
        _logger.info(
            f"objects of {spec.name}: AP@0.5 {tuned.ap50[place]:.3f} on the validation images "
            f"(components alone {tuned.ap50_of_components[place]:.3f}) with threshold "
            f"{rule.threshold}, marker threshold {rule.marker_threshold}, "
            f"objects from {rule.min_area} px and a mean probability of {rule.min_score}"
        )
    return replace(
        tuned.model, metrics=model.metrics | {"objects": {"tuned_by": METRIC, "classes": found}}
    )


def _save(
    config: TrainConfig,
    output: Storage,
    run_folder: Storage,
    setup: TrainingSetup,
    result: ray.train.Result,
) -> TrainResult:
    """Make the model of the best epoch, and write it.

    Its weights (BEST) and record (`Progress.best`) are in the last checkpoint.

    Its thresholds are those that suited the validation images of the best epoch. If it separates
    touching objects, all its rules are chosen once more, by the objects that they give.
    """
    with result.checkpoint.as_directory() as folder:
        saved = Storage.of(folder)
        weights, progress = saved.read(BEST), Progress.of_json(saved.read(PROGRESS))
    labelling, best = setup.sampler.labelling, progress.best
    inputs = setup.decisions.inputs
    rules = tuple(
        ObjectRule(best.thresholds[spec.name], 0.5 if config.separate else None)
        for spec in labelling.classes
    )
    model = Model(
        setup.network,
        weights,
        labelling.classes,
        setup.sampler.preprocessing,
        Postprocessing(rules, STEPS if config.separate else None),
        pixel_size_um=setup.pixel_size_um,
        training=asdict(config) | {"labelling": asdict(labelling), "run_folder": run_folder.uri},
        metrics=asdict(best),
        versions=software_versions(),
        input_channels=inputs.chosen if inputs else None,
        image_channels=inputs.image_channels if inputs else None,
    )
    if config.separate and setup.validation:
        model = _tune_separation(config, setup, model)
    save_model(model, output)
    summary = {
        "digest": model.digest,
        "output": output.uri,
        "epochs": progress.epochs,
        "best": asdict(best),
    }
    if setup.decisions.groups is not None:
        summary["split"] = describe_sides(setup.decisions)
    run_folder.write("summary.json", json.dumps(summary, indent=2).encode())
    return TrainResult(model, output.uri, run_folder.uri, progress)
