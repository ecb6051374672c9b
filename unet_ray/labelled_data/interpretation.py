"""Meaning of the masks of a labelled set, and notes for the user."""

from __future__ import annotations

from unet_ray.errors import InputError
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.imaging.labels.mask_values import percent
from unet_ray.imaging.labels.notes import labelling_notes
from unet_ray.labelled_data.config import LabelConfig
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.statistics import DatasetStatistics


def interpret_masks(
    config: LabelConfig,
    labelled: LabelledSet,
    statistics: DatasetStatistics,
    known: Labelling | None = None,
) -> tuple[Labelling, list[str]]:
    """Decide what the masks of a set mean.

    Args:
        config: Flags of the labels.
        labelled: Labelled set.
        statistics: Dataset statistics of the set.
        known: Meaning that was decided before, if it was.

    Returns:
        The meaning, and a line for each note.

    Raises:
        InputError: Mask values that can be read in several ways, or that have no meaning; or label
            files whose classes are others than those that were decided before.
    """
    values, count = statistics.values, len(statistics.usable)
    drawn = labelled.labelling
    if drawn is None:
        labelling = known or find_labelling(
            values, labelled.classes, labelled.kind, config.background, config.ignored
        )
        of_images = [statistics.facts[index].values for index in statistics.usable]
        return labelling, labelling_notes(values, labelling, count, of_images)
    if known and known.classes != drawn.classes:
        there, before = (
            ", ".join(f"{spec.name}={spec.id}" for spec in each.classes) for each in (drawn, known)
        )
        raise InputError(
            f"--masks {config.masks}: the label files have the classes {there}, the training that "
            f"would be resumed has {before}; give another --storage to train anew"
        )
    ignored = drawn.ignored
    if ignored is None or ignored not in values.pixels:
        return drawn, []
    # Values of drawn masks are no flags of the user.
    return drawn, [
        f"{percent(values.share([ignored]))} of the pixels, in {values.masks[ignored]} of "
        f"{count * len(drawn.classes)} masks, are not counted"
    ]
