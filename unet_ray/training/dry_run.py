"""`train --dry-run`: how a training would understand its labelled set, without training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unet_ray.cluster.session import connect, quiet_ray
from unet_ray.flags import parse_classes
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.preview import (
    LABELS_PICTURE,
    ClassSummary,
    draw_labels,
    summarise_classes,
)
from unet_ray.labelled_data.statistics import compute_both
from unet_ray.storage.storage import Storage
from unet_ray.store_options import keep_for, read_store_options
from unet_ray.training.config import TrainConfig
from unet_ray.training.setup import choose_channels, set_up_training
from unet_ray.training.split import choose_split, describe_sides
from unet_ray.training.train import find_training, find_validation, load_initial


@dataclass(frozen=True)
class DryRunResult:
    """Labelled set that `train` would learn from."""

    images: int
    """Number of labelled images that can be used."""
    unusable: int
    """Number of images, masks and entries of label files that cannot be used."""
    labelling: Labelling
    """Meaning of the masks."""
    how: str
    """Reason for the kind of the masks."""
    classes: tuple[ClassSummary, ...]
    learnt: int
    """Number of images to learn from."""
    validation: tuple[str, ...]
    """URIs of the images to validate on."""
    sides: dict[str, Any] | None
    """Groups of each side of the split, as in `summary.json`; None if nothing is split."""
    picture: str
    """URI of the picture of the labels."""


@quiet_ray()
def look_at_labels(config: TrainConfig, ray_address: str = "local") -> DryRunResult:
    """Read a labelled set as a training would, describe it, and draw its labels.

    Args:
        config: Flags of training.
        ray_address: Ray cluster to run on; `local` starts one on this machine.

    Raises:
        InputError: A training would raise it as well.
    """
    options = keep_for(config.output, read_store_options(config, "output"))
    output = Storage.of(config.output, options)
    initial = load_initial(config)
    classes = parse_classes(config.classes) or (initial.classes if initial else ())
    training = find_training(config, classes)
    validation = find_validation(config, training)
    split = choose_split(config, training, None)
    output.check_writable()
    connect(ray_address)
    channels = choose_channels(config, initial, None)
    statistics, validation_statistics = compute_both(
        training, validation, channels, count_objects=True
    )
    setup = set_up_training(
        config=config,
        labelled=training,
        statistics=statistics,
        validation=validation_statistics,
        initial=initial,
        before=None,
        split=split,
    )
    labelling = setup.decisions.labelling
    output.write(LABELS_PICTURE, draw_labels(statistics, labelling))
    num_usable = len(statistics.usable)
    return DryRunResult(
        images=num_usable,
        unusable=len(statistics.facts) - num_usable + len(statistics.orphans),
        labelling=labelling,
        how=_say_how(config, training),
        classes=tuple(summarise_classes(statistics, labelling)),
        learnt=num_usable if validation_statistics else num_usable - len(setup.validation),
        validation=tuple(uri for _, uri in setup.validation),
        sides=describe_sides(setup.decisions) if split.grouping else None,
        picture=output.uri_of(LABELS_PICTURE),
    )


def _say_how(config: TrainConfig, training: LabelledSet) -> str:
    if training.labelling is not None:
        return "drawn from label files"
    if config.mask_kind:
        return "given by --mask-kind"
    if training.kind is not None:
        return "inferred from the folders"
    return "inferred from the mask values"
