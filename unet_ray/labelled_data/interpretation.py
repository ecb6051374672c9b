"""Meaning of the masks of a labelled set, and notes for the user."""

from __future__ import annotations

from unet_ray.errors import InputError
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.imaging.labels.mask_values import percent
from unet_ray.imaging.labels.notes import labelling_notes
from unet_ray.labelled_data.config import LabelConfig
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.palettes import check_same_colours
from unet_ray.labelled_data.statistics import DatasetStatistics
from unet_ray.storage.listing import path_suffix

_WITH_LOSS = frozenset({".jpg", ".jpeg", ".jpe"})


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
        known: Meaning that was decided in an earlier run, if there was one.

    Returns:
        The meaning, and a line for each note.

    Raises:
        InputError: Mask values are ambiguous or have no meaning, or the classes of label files
            differ from those of the earlier run.
    """
    values, num_images = statistics.values, len(statistics.usable)
    drawn = labelled.labelling
    if drawn is None:
        labelling = known or find_labelling(
            values=values,
            classes=labelled.classes,
            kind=labelled.kind,
            background=config.background,
            ignored=config.ignored,
        )
        _check_without_loss(labelled, labelling)
        _check_palettes(labelled, labelling, statistics)
        of_images = [statistics.facts[index].values for index in statistics.usable]
        return labelling, labelling_notes(values, labelling, num_images, of_images)
    if known and known.classes != drawn.classes:
        raise InputError(
            f"--masks {config.masks}: the label files have the classes {_list_ids(drawn)}, but the "
            f"training to be resumed has {_list_ids(known)}; give another --storage to "
            "train anew"
        )
    ignored = drawn.ignored
    if ignored is None or ignored not in values.pixels:
        return drawn, []
    # The note names no mask value: the user did not choose the values of drawn masks.
    return drawn, [
        f"{percent(values.share([ignored]))} of the pixels, in {values.masks[ignored]} of "
        f"{num_images * len(drawn.classes)} masks, are not counted"
    ]


def _list_ids(labelling: Labelling) -> str:
    return ", ".join(f"{spec.name}={spec.id}" for spec in labelling.classes)


def _check_palettes(
    labelled: LabelledSet, labelling: Labelling, statistics: DatasetStatistics
) -> None:
    """Raise InputError if the palettes of class masks give a value several colours.

    The colour of a single class may differ between files; that of its background may not.
    """
    if labelled.access.table is not None or labelling.kind not in ("classes", "binary"):
        return
    compared = {labelling.background}
    if len(labelling.classes) > 1:
        compared |= {spec.id for spec in labelling.classes}
    facts = [statistics.facts[index] for index in statistics.usable]
    check_same_colours([(each.mask_uri, each.colours) for each in facts], compared)


def _check_without_loss(labelled: LabelledSet, labelling: Labelling) -> None:
    """Raise InputError for object ids in JPEGs, whose compression changes ids along each edge."""
    if labelling.kind != "instances":
        return
    uris = [mask.uri for item in labelled.items for mask in item.masks]
    lossy = [uri for uri in uris if path_suffix(uri) in _WITH_LOSS]
    if lossy:
        raise InputError(
            f"{len(lossy)} masks with ids of objects are JPEGs, which make up ids along each edge "
            f"({lossy[0]}); save them as PNG or TIFF, or give --mask-kind binary if the upper half "
            "of the values is the class"
        )
