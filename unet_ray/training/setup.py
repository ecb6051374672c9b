"""Set-up of a training from its flags and labelled set.

It settles the meaning of the masks, the split into training and validation images, the network and
the crops. Findings that may disappoint become notes (`setup_notes`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unet_ray.errors import InputError
from unet_ray.flags import check_metric, parse_channels, parse_range
from unet_ray.imaging.channels import ChannelSelection, ChosenChannels, InputChannels
from unet_ray.imaging.codecs.decoded_image import COLOURS
from unet_ray.imaging.codecs.pixel_size import SizeUm, format_pixel_size
from unet_ray.imaging.labels.crop_config import CropConfig
from unet_ray.imaging.labels.crops import count_crops
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.labelled_data.interpretation import interpret_masks
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.readers import Reader
from unet_ray.labelled_data.statistics import DatasetStatistics
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.training.config import TrainConfig
from unet_ray.training.crop_stream import CropSampler, plan_visits
from unet_ray.training.initial_weights import adapt_weights
from unet_ray.training.record import DataDecisions
from unet_ray.training.setup_notes import (
    note_missing_classes,
    note_separation,
    note_small_images,
    note_split,
)
from unet_ray.training.split import Split

_logger = logging.getLogger("unet_ray")

_SHUFFLED_CROPS = 256
"""Number of crops that a worker shuffles among, if the crops of an image come together."""
_AGREEING_VALUES = 4
"""Largest difference between the smallest foreground values of training and validation masks; files
with lossy compression rarely hold their extreme values."""


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that a training derives from its flags and labelled images."""

    network: UNetConfig
    """Architecture of the network."""
    initial: bytes | None
    """Weights to start from as safetensors. None: weights are drawn at random."""
    sampler: CropSampler
    """Draws the crops."""
    crops_per_epoch: int
    """Crops per epoch of all workers together; enough for at least one step of all workers."""
    shuffle_buffer: int
    """Number of crops that each worker shuffles among; 0: crops come shuffled."""
    validation_reader: Reader
    """Reads the validation images."""
    validation: tuple[tuple[int, str], ...]
    """Index in `validation_reader` and URI of each validation image."""
    decisions: DataDecisions
    """Decisions about the labelled images; a training that resumes keeps them."""
    pixel_size_um: SizeUm | None
    """Median width and height of the pixels of the images to learn from (µm), if most state it."""


def choose_channels(
    config: TrainConfig, initial: Model | None, before: DataDecisions | None
) -> ChannelSelection | None:
    """Return the channels that a training takes of each image.

    Args:
        config: Flags of training.
        initial: Model of --init-from, if given.
        before: Decisions of the training that is resumed, if any.

    Returns:
        Channels of `--channels`, else of the resumed training or of the model. None: all channels,
        which must be the same in all images.

    Raises:
        InputError: `--channels` names more or fewer channels than the model of --init-from takes.
    """
    if config.channels and initial is None:
        return ChosenChannels(parse_channels(config.channels))
    if config.channels is None and before and before.inputs:
        return before.inputs
    return initial.select_channels(config.channels) if initial else None


def set_up_training(
    config: TrainConfig,
    labelled: LabelledSet,
    statistics: DatasetStatistics,
    validation: DatasetStatistics | None,
    initial: Model | None,
    before: DataDecisions | None,
    split: Split,
) -> TrainingSetup:
    """Set up a training, log what was found, and log notes on what may disappoint.

    Args:
        config: Flags of training.
        labelled: Labelled set.
        statistics: Dataset statistics of the labelled set.
        validation: Dataset statistics of --val-images. None: a share of the labelled set is used.
        initial: Model of --init-from, if given.
        before: Decisions of the training that is resumed. None: all is decided anew.
        split: Images to validate on.

    Raises:
        InputError: The images or masks cannot be learnt from.
    """
    statistics.check_readable(config.max_error_rate)
    notes = [*labelled.notes, *statistics.check_types()]
    _check_any_usable(config, statistics)
    known = before.labelling if before else None
    labelling, more = interpret_masks(config, labelled, statistics, known)
    notes += [*statistics.notes, *more]
    if config.normalise != "percentile" and not initial:
        notes += statistics.note_sample_ranges()
    if not config.dry_run:
        _log_labelling(labelling, statistics)
    check_metric(config.best_by, [c.name for c in labelling.classes])
    # Images with extreme samples are known only by the range that the images to learn from have.
    training_indices, _ = _split_images(config, labelled.names, statistics.usable, split)
    preprocessing = _choose_preprocessing(config, statistics, training_indices, initial, before)
    statistics = statistics.exclude_extremes(preprocessing)
    notes += statistics.check_readable(config.max_error_rate)
    training_indices, validation_indices = _split_images(
        config, labelled.names, statistics.usable, split
    )
    if validation:
        _check_validation(config, labelling, preprocessing, statistics, validation)
        notes += validation.notes
        validation = validation.exclude_extremes(preprocessing)
        notes += validation.check_readable(config.max_error_rate)
    notes += note_separation(config, labelling, statistics, initial)
    network = _choose_network(config, len(labelling.classes), preprocessing.channels, initial)
    inputs = _settle_inputs(statistics, training_indices, network, initial, before)
    notes += note_small_images(statistics, config.crop_px(network))
    notes += note_missing_classes(labelling, statistics, training_indices, "learn from")
    notes += note_missing_classes(labelling, statistics, validation_indices, "validate on")
    notes += note_split(config, statistics, split, training_indices, validation_indices, validation)
    pixel_size_um = statistics.find_pixel_size(training_indices)
    _log_notes(notes, pixel_size_um)
    sampler = _make_sampler(config, statistics, training_indices, labelling, preprocessing, network)
    decisions = DataDecisions(labelling, preprocessing, split.validation, inputs)
    decisions = decisions.with_grouping(labelled.names, split.grouping)
    most_workers = parse_range(config.workers, "--workers")[1]
    validation_set = validation or statistics
    if validation:
        validation_indices = [*validation.usable]
    return TrainingSetup(
        network=network,
        initial=adapt_weights(initial, labelling, network) if initial else None,
        sampler=sampler,
        crops_per_epoch=max(sampler.crops_per_epoch, config.batch_size * most_workers),
        shuffle_buffer=0 if statistics.decoded_once else _SHUFFLED_CROPS,
        validation_reader=validation_set.reader,
        validation=tuple((i, validation_set.facts[i].uri) for i in validation_indices),
        decisions=decisions,
        pixel_size_um=pixel_size_um,
    )


def _log_notes(notes: Sequence[str], pixel_size_um: SizeUm | None) -> None:
    for note in notes:
        _logger.info(f"note: {note}")
    if pixel_size_um:
        _logger.info(f"pixel size: {format_pixel_size(pixel_size_um)}, the median of the images")


def _settle_inputs(
    statistics: DatasetStatistics,
    training_indices: Sequence[int],
    network: UNetConfig,
    initial: Model | None,
    before: DataDecisions | None,
) -> InputChannels:
    """Return the channels that the network takes, and log them unless they are plain."""
    inputs = before.inputs if before and before.inputs else statistics.find_inputs(training_indices)
    if initial and inputs.count != network.in_channels:  # all images are grey
        inputs = initial.inputs
    if inputs.chosen and inputs.names != COLOURS:
        _logger.info(f"the network takes {inputs}")
    return inputs


def _check_any_usable(config: TrainConfig, statistics: DatasetStatistics) -> None:
    """Raise InputError if no labelled image can be read."""
    if not statistics.usable:
        raise InputError(
            f"--images {config.images}: no labelled image can be read; "
            f"the first: {statistics.facts[0].error}"
        )


def _split_images(
    config: TrainConfig, names: Sequence[str], usable: Sequence[int], split: Split
) -> tuple[list[int], list[int]]:
    """Return the indices of the images to learn from, and of those to validate on.

    Raises:
        InputError: No image is left to learn from.
    """
    kept_names = frozenset(split.validation)
    training_indices = [index for index in usable if names[index] not in kept_names]
    validation_indices = [index for index in usable if names[index] in kept_names]
    if not training_indices:
        raise InputError(
            f"--val-fraction {config.val_fraction} of {len(names)} images leaves none "
            "to learn from; give less"
        )
    return training_indices, validation_indices


def _make_sampler(
    config: TrainConfig,
    statistics: DatasetStatistics,
    training_indices: Sequence[int],
    labelling: Labelling,
    preprocessing: Preprocessing,
    network: UNetConfig,
) -> CropSampler:
    """Return the sampler that draws crops of the images to learn from."""
    crops = CropConfig(
        side=config.crop_px(network),
        margin=network.margin,
        foreground_share=config.foreground_share,
        border_weight=config.border_weight,
        border_sigma=config.border_sigma,
        markers=config.separate,
    )
    facts = [statistics.facts[index] for index in training_indices]
    counts = np.array([count_crops(fact.height, fact.width, crops.side) for fact in facts])
    return CropSampler(
        reader=statistics.reader,
        visits=plan_visits(counts, np.array(training_indices), one_by_one=statistics.decoded_once),
        labelling=labelling,
        preprocessing=preprocessing,
        config=crops,
        seed=config.seed,
        has_no_data=any(fact.has_no_data for fact in facts),
    )


def _choose_preprocessing(
    config: TrainConfig,
    statistics: DatasetStatistics,
    training_indices: Sequence[int],
    initial: Model | None,
    before: DataDecisions | None,
) -> Preprocessing:
    """Return the preprocessing: resumed, of --init-from, or made from the training images."""
    if before:
        return before.preprocessing
    if initial is None:
        return statistics.preprocessing_of(config.normalise, training_indices)
    statistics.check_fits(
        initial.preprocessing, f"--images {config.images} with --init-from {config.init_from}"
    )
    return initial.preprocessing


def _choose_network(
    config: TrainConfig, classes: int, channels: int, initial: Model | None
) -> UNetConfig:
    """Return the network of --init-from, or that of the flags.

    Its outputs are the classes and, with --separate, their markers.
    """
    num_filters = 2 * classes if config.separate else classes
    if initial:
        network = replace(initial.network, num_classes=num_filters)
    else:
        network = config.network(channels, num_filters)
    config.check_crop(network)
    return network


def _log_labelling(labelling: Labelling, statistics: DatasetStatistics) -> None:
    names = ", ".join(f"{c.name}={c.id}" for c in labelling.classes)
    place = "read again in each epoch: too large for memory"
    if statistics.decoded_once:
        place = "decoded once, kept in memory"
    _logger.info(
        f"{len(statistics.usable)} labelled images ({place}); "
        f"masks of the kind {labelling.kind}, classes {names}"
    )


def _check_validation(
    config: TrainConfig,
    labelling: Labelling,
    preprocessing: Preprocessing,
    statistics: DatasetStatistics,
    found: DatasetStatistics,
) -> None:
    """Raise InputError if validation images or masks differ in kind from those of training."""
    if found.drawn or statistics.drawn:
        if found.drawn != labelling:
            raise InputError(
                f"--val-masks {config.val_masks}: its classes or the form of its masks differ from "
                "those of --masks; give both as mask files or both as label files with the same "
                "classes"
            )
        found.check_fits(preprocessing, f"--val-images {config.val_images}")
        return
    values = find_labelling(
        values=found.values,
        classes=labelling.classes,
        kind=labelling.kind,
        background=labelling.background,
        ignored=config.ignored,
    )
    if abs(values.foreground - labelling.foreground) > _AGREEING_VALUES:
        raise InputError(
            f"--val-masks {config.val_masks}: the class has values from {values.foreground}, but "
            f"in --masks from {labelling.foreground}; use the same values in both"
        )
    found.check_fits(preprocessing, f"--val-images {config.val_images}")
