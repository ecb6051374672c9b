"""What a labelled set asks of a training: what its masks mean, what is learnt from and validated on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from unet_ray.errors import InputError
from unet_ray.flags import check_metric
from unet_ray.imaging.labels.crops import CropConfig, count_crops
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.imaging.labels.notes import labelling_notes
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.readers import Reader
from unet_ray.labelled_data.statistics import DatasetStatistics
from unet_ray.network.config import UNetConfig
from unet_ray.network.model_folder import Model, state_bytes
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet
from unet_ray.training.config import TrainConfig
from unet_ray.training.crop_stream import CropSampler, plan_visits

_SHUFFLED_CROPS = 256
"""Crops that a worker shuffles among where those of one image come together."""
_AGREEING_VALUES = 4
"""How far apart the values may be from which a pixel is the class: lossy files seldom hold their extremes."""


@dataclass(frozen=True)
class TrainingSetup:
    """All that follows from the flags and from the labelled images."""

    network: UNetConfig
    initial: bytes | None
    """Weights to start from (safetensors), or None."""
    sampler: CropSampler
    shuffle_buffer: int
    """Crops that each worker shuffles among; 0: they come shuffled."""
    validation_reader: Reader
    validation: tuple[tuple[int, str], ...]
    """(index in `validation_reader`, URI) of each validation image."""


def set_up_training(
    config: TrainConfig,
    labelled: LabelledSet,
    statistics: DatasetStatistics,
    validation: DatasetStatistics | None,
    initial: Model | None,
) -> TrainingSetup:
    """Work out a training task, say what was found, and warn of what disappoints.

    Args:
        config — the flags.
        labelled, statistics — the labelled set.
        validation — of --val-images, or None: a share of the labelled set.
        initial — the model of --init-from, or None.

    Raises: InputError — images or masks that cannot be learnt from.
    """
    notes = [
        *labelled.notes,
        *statistics.check_readable(config.max_error_rate),
        *statistics.check_types(),
    ]
    if not statistics.usable:
        raise InputError(
            f"--images {config.images}: no labelled image can be read; the first: {statistics.facts[0].error}"
        )
    labelling = _labelling_of(config, labelled, statistics, notes)
    check_metric(config.best_by, [c.name for c in labelling.classes])
    learnt, held = _split(config, statistics)
    preprocessing = _preprocessing_of(config, statistics, learnt, initial)
    if validation:
        notes += validation.check_readable(config.max_error_rate)
        _check_validation(config, labelling, preprocessing, validation)
    notes += _separation_notes(config, labelling, statistics, initial)
    network = _network_of(config, len(labelling.classes), preprocessing.channels, initial)
    crops = _crops_of(config, network)
    notes += _size_notes(statistics, crops.side) + _class_notes(
        labelling, statistics, learnt, "learn from"
    )
    notes += _class_notes(labelling, statistics, held, "validate on")
    if not held and not validation:
        notes.append(_without_validation(config))
    for note in notes:
        print(f"note: {note}")
    counts = np.array(
        [
            count_crops(statistics.facts[i].height, statistics.facts[i].width, crops.side)
            for i in learnt
        ]
    )
    visits = plan_visits(counts, np.array(learnt), one_by_one=statistics.decoded_once)
    held_in = validation or statistics
    return TrainingSetup(
        network,
        _initial_weights(initial, labelling, network) if initial else None,
        CropSampler(statistics.reader, visits, labelling, preprocessing, crops, config.seed),
        0 if statistics.decoded_once else _SHUFFLED_CROPS,
        held_in.reader,
        tuple((i, held_in.facts[i].uri) for i in (validation.usable if validation else held)),
    )


def _preprocessing_of(
    config: TrainConfig, statistics: DatasetStatistics, learnt: Sequence[int], initial: Model | None
) -> Preprocessing:
    """Return that of --init-from, where the images fit it, else what the images to learn from need."""
    if initial is None:
        return statistics.preprocessing_of(config.normalise, learnt)
    statistics.check_fits(
        initial.preprocessing, f"--images {config.images} with --init-from {config.init_from}"
    )
    return initial.preprocessing


def _network_of(
    config: TrainConfig, classes: int, channels: int, initial: Model | None
) -> UNetConfig:
    """Return that of --init-from, else that of the flags; outputs are the classes, and with --separate their markers."""
    filters = classes * (2 if config.separate else 1)
    network = (
        replace(initial.network, num_classes=filters)
        if initial
        else config.network(channels, filters)
    )
    config.check_crop(network)
    return network


def _crops_of(config: TrainConfig, network: UNetConfig) -> CropConfig:
    return CropConfig(
        config.crop_px(network),
        network.margin,
        config.foreground_share,
        config.border_weight,
        config.border_sigma,
        config.separate,
    )


def _without_validation(config: TrainConfig) -> str:
    if config.patience:
        raise InputError(
            f"--patience {config.patience} needs validation images; give --val-fraction above 0"
        )
    return (
        "there are no validation images: the last epoch becomes the model, thresholds stay at 0.5"
    )


def _labelling_of(
    config: TrainConfig, labelled: LabelledSet, statistics: DatasetStatistics, notes: list[str]
) -> Labelling:
    labelling = find_labelling(
        statistics.values,
        labelled.classes,
        labelled.kind,
        config.background_value,
        config.ignore_value,
    )
    notes += labelling_notes(statistics.values, labelling, len(statistics.usable))
    names = ", ".join(f"{c.name}={c.id}" for c in labelling.classes)
    place = (
        "decoded once, kept in memory"
        if statistics.decoded_once
        else "read anew each epoch: too large for memory"
    )
    print(
        f"{len(statistics.usable)} labelled images ({place}); masks of the kind {labelling.kind}, classes {names}"
    )
    return labelling


def _separation_notes(
    config: TrainConfig, labelling: Labelling, statistics: DatasetStatistics, initial: Model | None
) -> list[str]:
    """Return a line where objects will be separated less well than could be thought.

    Raises: InputError — nothing to learn the separation of objects from.
    """
    if not config.separate:
        parts = initial is not None and initial.separation is not None
        return (
            ["the model of --init-from parts touching objects, this one will not; see --separate"]
            if parts
            else []
        )
    if labelling.kind != "instances":
        return [
            f"--separate: masks of the kind {labelling.kind} have no ids, objects that touch are learnt as one; "
            "give one id per object (--mask-kind instances) to part them"
        ]
    uncounted = {labelling.background, labelling.ignored}
    ids = [
        sum(value not in uncounted for value, _ in statistics.facts[i].values[0])
        for i in statistics.usable
    ]
    if max(ids) < 2:
        raise InputError(
            f"--separate: no mask holds more than one object ({len(ids)} masks with an id per object); "
            "give masks in which objects have ids of their own, or leave out --separate"
        )
    return []


def _split(config: TrainConfig, statistics: DatasetStatistics) -> tuple[list[int], list[int]]:
    """Return the indices of the images to learn from, and of those to validate on."""
    count, usable = len(statistics.facts), set(statistics.usable)
    wanted = 0.0 if config.val_images else config.val_fraction
    kept = max(round(count * wanted), int(wanted > 0 and count > 1))
    # over all images, so that one that cannot be read today does not change where the others go
    order = np.random.default_rng(config.seed).permutation(count).tolist()
    learnt, held = (
        sorted(usable.intersection(order[kept:])),
        sorted(usable.intersection(order[:kept])),
    )
    if not learnt:
        raise InputError(
            f"--val-fraction {config.val_fraction} of {count} images leaves none to learn from; give less"
        )
    return learnt, held


def _class_notes(
    labelling: Labelling, statistics: DatasetStatistics, indices: Sequence[int], use: str
) -> list[str]:
    """Return a line per class that none of some images holds."""
    chosen = [statistics.facts[index].values for index in indices]
    missing = [
        c.name
        for place, c in enumerate(labelling.classes)
        if chosen and not any(labelling.is_held(values, place) for values in chosen)
    ]
    return [
        f"class {name} is in none of the {len(chosen)} images to {use}; choose another --seed"
        for name in missing
    ]


def _check_validation(
    config: TrainConfig, labelling: Labelling, constants: Preprocessing, found: DatasetStatistics
) -> None:
    """Refuse validation images and masks that do not follow the training set's."""
    values = find_labelling(
        found.values,
        labelling.classes,
        labelling.kind,
        config.background_value,
        config.ignore_value,
    )
    if abs(values.foreground - labelling.foreground) > _AGREEING_VALUES:
        raise InputError(
            f"--val-masks {config.val_masks}: the class has values from {values.foreground}, in --masks from "
            f"{labelling.foreground}; give masks of one convention"
        )
    found.check_fits(constants, f"--val-images {config.val_images}")


def _size_notes(statistics: DatasetStatistics, side: int) -> list[str]:
    """Return a line on images smaller than a crop."""
    small = [f for f in statistics.facts if f.error is None and (f.height < side or f.width < side)]
    if not small:
        return []
    least = min(small, key=lambda f: min(f.height, f.width))
    return [
        f"{len(small)} of {len(statistics.usable)} images are smaller than --crop {side} (the smallest: {least.width}×"
        f"{least.height} px, {least.uri}): they are mirrored to that size, what is beyond is not counted; a smaller "
        "--crop costs less"
    ]


def _initial_weights(initial: Model, labelling: Labelling, network: UNetConfig) -> bytes:
    """Return the weights of a model with the filters of its classes that are learnt again; others are fresh."""
    torch.manual_seed(0)
    fresh = UNet(network)
    weights = load_tensors(initial.weights)
    places = {c.name: place for place, c in enumerate(initial.classes)}
    known = [
        (place, places[c.name]) for place, c in enumerate(labelling.classes) if c.name in places
    ]
    filters = list(known)
    if (
        network.num_classes > len(labelling.classes) and initial.separation
    ):  # the markers' filters follow those of the classes
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
    print(
        f"starting from a model with the same classes: {names}; fresh filters: {len(labelling.classes) - len(known)}"
    )
    return state_bytes(fresh)
