"""Set-up of a training from its flags and labelled set.

It settles the meaning of the masks, the split into training and validation images, the network and
the crops.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.flags import check_metric, parse_channels
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
from unet_ray.network.model_folder import Model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.network.weights import load_weights
from unet_ray.training.config import TrainConfig
from unet_ray.training.crop_stream import CropSampler, plan_visits
from unet_ray.training.record import DataDecisions
from unet_ray.training.split import Split, note_near_duplicates

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
        before: What a training decided that is resumed.

    Returns:
        Those of `--channels`, else those of the training that is resumed or of the model; None:
        all channels, in which the images must agree.

    Raises:
        InputError: `--channels` names more or fewer than the model of --init-from takes.
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
    """Set a training up, log what was found, and log notes on what may disappoint.

    Args:
        config: Flags of training.
        labelled: Labelled set.
        statistics: Dataset statistics of the labelled set.
        validation: Dataset statistics of --val-images. None: a share of the labelled set is used.
        initial: Model of --init-from, if given.
        before: What a training decided that is resumed; None decides anew.
        split: Images to validate on.

    Raises:
        InputError: Images or masks that cannot be learnt from.
    """
    statistics.check_readable(config.max_error_rate)
    notes = [*labelled.notes, *statistics.check_types()]
    if not statistics.usable:
        raise InputError(
            f"--images {config.images}: no labelled image can be read; "
            f"the first: {statistics.facts[0].error}"
        )
    labelling, more = interpret_masks(
        config, labelled, statistics, before.labelling if before else None
    )
    notes += [*statistics.notes, *more]
    if config.normalise != "percentile" and not initial:
        notes += statistics.note_sample_ranges()
    if not config.dry_run:
        _log_labelling(labelling, statistics)
    check_metric(config.best_by, [c.name for c in labelling.classes])
    learnt, held = _split_images(config, labelled.names, statistics.usable, split.validation)
    preprocessing = _choose_preprocessing(config, statistics, learnt, initial, before)
    statistics = statistics.exclude_extremes(preprocessing)
    notes += statistics.check_readable(config.max_error_rate)
    learnt, held = _split_images(config, labelled.names, statistics.usable, split.validation)
    if validation:
        is_drawn = statistics.drawn is not None
        _check_validation(config, labelling, is_drawn, preprocessing, validation)
        notes += validation.notes
        validation = validation.exclude_extremes(preprocessing)
        notes += validation.check_readable(config.max_error_rate)
    notes += _separation_notes(config, labelling, statistics, initial)
    network = _choose_network(config, len(labelling.classes), preprocessing.channels, initial)
    inputs = _settle_inputs(statistics, learnt, network, initial, before)
    crops = _configure_crops(config, network)
    notes += _size_notes(statistics, crops.side) + _class_notes(
        labelling, statistics, learnt, "learn from"
    )
    notes += _class_notes(labelling, statistics, held, "validate on")
    notes += _split_notes(config, statistics, split, learnt, held, validation)
    pixel_size_um = statistics.find_pixel_size(learnt)
    _log_notes(notes, pixel_size_um)
    visits = _plan_visits(statistics, learnt, crops.side)
    has_no_data = any(statistics.facts[index].has_no_data for index in learnt)
    seed, reader = config.seed, statistics.reader
    held_in = validation or statistics
    return TrainingSetup(
        network,
        _initial_weights(initial, labelling, network) if initial else None,
        CropSampler(reader, visits, labelling, preprocessing, crops, seed, has_no_data),
        0 if statistics.decoded_once else _SHUFFLED_CROPS,
        held_in.reader,
        tuple((i, held_in.facts[i].uri) for i in (validation.usable if validation else held)),
        _record_decisions(labelling, preprocessing, inputs, labelled.names, split),
        pixel_size_um,
    )


def _record_decisions(
    labelling: Labelling,
    preprocessing: Preprocessing,
    inputs: InputChannels,
    names: Sequence[str],
    split: Split,
) -> DataDecisions:
    decisions = DataDecisions(labelling, preprocessing, split.validation, inputs)
    if split.grouping is None:
        return decisions
    groups = dict(zip(names, split.grouping.groups, strict=True))
    return replace(decisions, groups=groups, grouped_by=split.grouping.by)


def _note_leaks(
    statistics: DatasetStatistics,
    learnt: Sequence[int],
    held: Sequence[int],
    validation: DatasetStatistics | None,
) -> list[str]:
    """Return a line about validation images that nearly are images to learn from, if any are."""
    held_facts = (
        [validation.facts[index] for index in validation.usable]
        if validation
        else [statistics.facts[index] for index in held]
    )
    remedy = (
        "leave them out of --images or of --val-images"
        if validation
        else "keep images that belong together on one side with --group-by"
    )
    return note_near_duplicates([statistics.facts[index] for index in learnt], held_facts, remedy)


def _split_notes(
    config: TrainConfig,
    statistics: DatasetStatistics,
    split: Split,
    learnt: Sequence[int],
    held: Sequence[int],
    validation: DatasetStatistics | None,
) -> list[str]:
    """Return notes on the groups of the split, on leaks between its sides, and on an empty side."""
    notes = [*split.grouping.notes] if split.grouping else []
    notes += _note_leaks(statistics, learnt, held, validation)
    if not held and not validation:
        notes.append(_note_no_validation(config))
    return notes


def _log_notes(notes: Sequence[str], pixel_size_um: SizeUm | None) -> None:
    for note in notes:
        _logger.info(f"note: {note}")
    if pixel_size_um:
        _logger.info(f"pixel size: {format_pixel_size(pixel_size_um)}, the median of the images")


def _settle_inputs(
    statistics: DatasetStatistics,
    learnt: Sequence[int],
    network: UNetConfig,
    initial: Model | None,
    before: DataDecisions | None,
) -> InputChannels:
    """Return the channels that the network takes, and log them unless they are plain."""
    inputs = before.inputs if before and before.inputs else statistics.find_inputs(learnt)
    if initial and inputs.count != network.in_channels:  # all images are grey
        inputs = initial.inputs
    if inputs.chosen and inputs.names != COLOURS:
        _logger.info(f"the network takes {inputs}")
    return inputs


def _split_images(
    config: TrainConfig, names: Sequence[str], usable: Sequence[int], kept: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Return the indices of the images to learn from, and of those to validate on.

    Raises:
        InputError: No image is left to learn from.
    """
    kept_names = frozenset(kept)
    learnt = [index for index in usable if names[index] not in kept_names]
    held = [index for index in usable if names[index] in kept_names]
    if not learnt:
        raise InputError(
            f"--val-fraction {config.val_fraction} of {len(names)} images leaves none "
            "to learn from; give less"
        )
    return learnt, held


def _plan_visits(
    statistics: DatasetStatistics, learnt: Sequence[int], side: int
) -> NDArray[np.int64]:
    """Return the visits of the images to learn from, for crops of a side in px."""
    chosen = [statistics.facts[index] for index in learnt]
    counts = np.array([count_crops(fact.height, fact.width, side) for fact in chosen])
    return plan_visits(counts, np.array(learnt), one_by_one=statistics.decoded_once)


def _choose_preprocessing(
    config: TrainConfig,
    statistics: DatasetStatistics,
    learnt: Sequence[int],
    initial: Model | None,
    before: DataDecisions | None,
) -> Preprocessing:
    """Return the preprocessing of what is resumed, of --init-from, or of the training images."""
    if before:
        return before.preprocessing
    if initial is None:
        return statistics.preprocessing_of(config.normalise, learnt)
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
    filters = classes * (2 if config.separate else 1)
    network = (
        replace(initial.network, num_classes=filters)
        if initial
        else config.network(channels, filters)
    )
    config.check_crop(network)
    return network


def _configure_crops(config: TrainConfig, network: UNetConfig) -> CropConfig:
    return CropConfig(
        config.crop_px(network),
        network.margin,
        config.foreground_share,
        config.border_weight,
        config.border_sigma,
        config.separate,
    )


def _note_no_validation(config: TrainConfig) -> str:
    """Return the note that there are no validation images; raise InputError if they are needed."""
    if config.patience:
        raise InputError(
            f"--patience {config.patience} needs validation images; give --val-fraction above 0"
        )
    return (
        "there are no validation images: the last epoch becomes the model, thresholds stay at 0.5"
    )


def _log_labelling(labelling: Labelling, statistics: DatasetStatistics) -> None:
    names = ", ".join(f"{c.name}={c.id}" for c in labelling.classes)
    place = (
        "decoded once, kept in memory"
        if statistics.decoded_once
        else "read again in each epoch: too large for memory"
    )
    _logger.info(
        f"{len(statistics.usable)} labelled images ({place}); "
        f"masks of the kind {labelling.kind}, classes {names}"
    )


def _separation_notes(
    config: TrainConfig, labelling: Labelling, statistics: DatasetStatistics, initial: Model | None
) -> list[str]:
    """Return a note if objects will be separated less well than a user might expect.

    Raises:
        InputError: Masks that the separation of objects cannot be learnt from.
    """
    if not config.separate:
        separates = initial is not None and initial.postprocessing.separates
        return (
            [
                "the model of --init-from separates touching objects, this one will not; "
                "see --separate"
            ]
            if separates
            else []
        )
    if labelling.kind != "instances":
        return [
            f"--separate: masks of the kind {labelling.kind} have no ids, objects that touch are "
            "learnt as one; give one id per object (--mask-kind instances) to separate them"
        ]
    uncounted = {labelling.background, labelling.ignored}
    ids = [
        sum(value not in uncounted for value, _ in statistics.facts[i].values[0])
        for i in statistics.usable
    ]
    if max(ids) < 2:
        raise InputError(
            f"--separate: no mask holds more than one object ({len(ids)} masks with an id per "
            "object); give masks in which each object has its own id, or leave out --separate"
        )
    return []


def _class_notes(
    labelling: Labelling, statistics: DatasetStatistics, indices: Sequence[int], use: str
) -> list[str]:
    """Return a note for each class that is in none of the given images, but in another."""
    chosen = [statistics.facts[index].values for index in indices]
    usable = [statistics.facts[index].values for index in statistics.usable]
    missing = [
        c.name
        for place, c in enumerate(labelling.classes)
        if chosen
        and not any(labelling.is_held(values, place) for values in chosen)
        and any(labelling.is_held(values, place) for values in usable)
    ]
    return [
        f"class {name} is in none of the {len(chosen)} images to {use}; choose another --seed"
        for name in missing
    ]


def _check_validation(
    config: TrainConfig,
    labelling: Labelling,
    is_drawn: bool,
    constants: Preprocessing,
    found: DatasetStatistics,
) -> None:
    """Raise InputError if validation images or masks differ in kind from those of training."""
    if found.drawn or is_drawn:
        if found.drawn != labelling:
            raise InputError(
                f"--val-masks {config.val_masks}: its classes or the form of its masks differ from "
                "those of --masks; give both as mask files or both as label files with the same "
                "classes"
            )
        found.check_fits(constants, f"--val-images {config.val_images}")
        return
    values = find_labelling(
        found.values,
        labelling.classes,
        labelling.kind,
        labelling.background,
        config.ignored,
    )
    if abs(values.foreground - labelling.foreground) > _AGREEING_VALUES:
        raise InputError(
            f"--val-masks {config.val_masks}: the class has values from {values.foreground}, in "
            f"--masks from {labelling.foreground}; give masks of one convention"
        )
    found.check_fits(constants, f"--val-images {config.val_images}")


def _size_notes(statistics: DatasetStatistics, side: int) -> list[str]:
    """Return a note if there are images smaller than a crop."""
    small = [f for f in statistics.facts if f.error is None and (f.height < side or f.width < side)]
    if not small:
        return []
    least = min(small, key=lambda f: min(f.height, f.width))
    return [
        f"{len(small)} of {len(statistics.usable)} images are smaller than --crop {side} "
        f"(the smallest: {least.width}×{least.height} px, {least.uri}): they are mirrored to that "
        "size, and mirrored pixels are not counted; a smaller --crop costs less"
    ]


def _initial_weights(initial: Model, labelling: Labelling, network: UNetConfig) -> bytes:
    """Return the weights to start from as safetensors.

    They are those of a model, with its filters for the classes that it shares with the new network
    and freshly drawn filters for the others.
    """
    torch.manual_seed(0)
    fresh = UNet(network)
    weights = load_weights(initial.weights, initial.network)
    places = {c.name: place for place, c in enumerate(initial.classes)}
    known = [
        (place, places[c.name]) for place, c in enumerate(labelling.classes) if c.name in places
    ]
    filters = list(known)
    # The filters of the markers follow those of the classes.
    if network.num_classes > len(labelling.classes) and initial.postprocessing.separates:
        filters += [
            (place + len(labelling.classes), before + len(places)) for place, before in known
        ]
    for name in ("head.weight", "head.bias"):
        head = fresh.state_dict()[name]
        for place, before in filters:
            head[place] = weights[name][before]
        weights[name] = head
    fresh.load_state_dict(weights)
    names = ", ".join(labelling.classes[place].name for place, _ in known) or "none"
    _logger.info(
        f"starting from a model with the same classes: {names}; "
        f"fresh filters: {len(labelling.classes) - len(known)}"
    )
    return state_bytes(fresh)
