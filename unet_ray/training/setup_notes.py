"""Notes on a labelled set that may disappoint, and errors where it cannot be learnt from."""

from __future__ import annotations

from collections.abc import Sequence

from unet_ray.errors import InputError
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.statistics import DatasetStatistics
from unet_ray.network.model_folder import Model
from unet_ray.training.config import TrainConfig
from unet_ray.training.split import Split, note_near_duplicates


def note_separation(
    config: TrainConfig, labelling: Labelling, statistics: DatasetStatistics, initial: Model | None
) -> list[str]:
    """Return a note if objects will be separated less well than a user might expect.

    Args:
        config: Flags of training.
        labelling: Meaning of the masks.
        statistics: Dataset statistics of the labelled set.
        initial: Model of --init-from, if given.

    Raises:
        InputError: The separation of objects cannot be learnt from these masks.
    """
    if not config.separate:
        if initial is None or not initial.postprocessing.separates:
            return []
        return [
            "the model of --init-from separates touching objects, but this one will not; "
            "see --separate"
        ]
    if labelling.kind != "instances":
        return [
            f"--separate: masks of the kind {labelling.kind} have no ids, so objects that touch "
            "are learnt as one; give one id per object (--mask-kind instances) to separate them"
        ]
    uncounted = {labelling.background, labelling.ignored}
    most_objects = 0
    for index in statistics.usable:
        ids = [value for value, _ in statistics.facts[index].values[0] if value not in uncounted]
        most_objects = max(most_objects, len(ids))
    if most_objects < 2:
        num_masks = len(statistics.usable)
        raise InputError(
            f"--separate: no mask holds more than one object ({num_masks} masks with an id per "
            "object); give masks in which each object has its own id, or leave out --separate"
        )
    return []


def note_missing_classes(
    labelling: Labelling, statistics: DatasetStatistics, indices: Sequence[int], use: str
) -> list[str]:
    """Return a note for each class that occurs in the set but in none of the given images.

    Args:
        labelling: Meaning of the masks.
        statistics: Dataset statistics of the labelled set.
        indices: Indices of the images.
        use: What the images are for, as in `learn from`.
    """
    chosen = [statistics.facts[index].values for index in indices]
    usable = [statistics.facts[index].values for index in statistics.usable]
    if not chosen:
        return []
    notes = []
    for place, spec in enumerate(labelling.classes):
        is_chosen = any(labelling.is_held(values, place) for values in chosen)
        occurs = any(labelling.is_held(values, place) for values in usable)
        if occurs and not is_chosen:
            notes.append(
                f"class {spec.name} is in none of the {len(chosen)} images to {use}; "
                "choose another --seed"
            )
    return notes


def note_small_images(statistics: DatasetStatistics, side: int) -> list[str]:
    """Return a note if there are images smaller than a crop.

    Args:
        statistics: Dataset statistics of the labelled set.
        side: Side of the labelled square of a crop (px).
    """
    small = [f for f in statistics.facts if f.error is None and (f.height < side or f.width < side)]
    if not small:
        return []
    least = min(small, key=lambda f: min(f.height, f.width))
    return [
        f"{len(small)} of {len(statistics.usable)} images are smaller than --crop {side} "
        f"(the smallest: {least.width}×{least.height} px, {least.uri}): they are mirrored to that "
        "size, and mirrored pixels are not counted; a smaller --crop costs less"
    ]


def note_split(
    config: TrainConfig,
    statistics: DatasetStatistics,
    split: Split,
    learnt: Sequence[int],
    held: Sequence[int],
    validation: DatasetStatistics | None,
) -> list[str]:
    """Return notes on the groups of the split, on leaks between its sides, and on an empty side.

    Args:
        config: Flags of training.
        statistics: Dataset statistics of the labelled set.
        split: Images to validate on, and how they were chosen.
        learnt: Indices of the images to learn from.
        held: Indices of the images to validate on.
        validation: Dataset statistics of --val-images; None: a share of the labelled set is used.

    Raises:
        InputError: A flag needs validation images, but there are none.
    """
    notes = [*split.grouping.notes] if split.grouping else []
    learnt_facts = [statistics.facts[index] for index in learnt]
    if validation:
        held_facts = [validation.facts[index] for index in validation.usable]
        remedy = "leave them out of --images or of --val-images"
    else:
        held_facts = [statistics.facts[index] for index in held]
        remedy = "keep images that belong together on one side with --group-by"
    notes += note_near_duplicates(learnt_facts, held_facts, remedy)
    if held or validation:
        return notes
    if config.patience:
        raise InputError(
            f"--patience {config.patience} needs validation images; give --val-fraction above 0"
        )
    notes.append(
        "there are no validation images: the last epoch becomes the model, and thresholds stay at "
        "0.5"
    )
    return notes
