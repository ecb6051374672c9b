"""A look at a labelled set before anything is learnt: a picture of its labels, and its classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.drawing.label_sheet import LabelledPicture, draw_label_sheet
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.labelled_data.image_facts import ImageFacts
from unet_ray.labelled_data.statistics import DatasetStatistics

LABELS_PICTURE = "labels.png"
"""Name of the picture of a set's labels."""
_MOST = 12
"""Largest number of images in the picture."""


@dataclass(frozen=True)
class ClassSummary:
    """A class in a labelled set."""

    name: str
    images: int
    """Number of images that hold it."""
    pixels: int
    share: float
    """Share of all pixels, 0 to 1."""
    objects: int | None
    """Number of objects; None where soft edges do not tell them apart."""


def summarise_classes(statistics: DatasetStatistics, labelling: Labelling) -> list[ClassSummary]:
    """Return what a labelled set holds of each class."""
    usable = [statistics.facts[index] for index in statistics.usable]
    total = sum(facts.height * facts.width for facts in usable)
    found = []
    for index, spec in enumerate(labelling.classes):
        pixels = [_count(facts.values, labelling, index) for facts in usable]
        objects = _count_objects(usable, labelling, index)
        is_known = objects is not None and not _has_soft_edges(statistics, labelling, index)
        found.append(
            ClassSummary(
                spec.name,
                sum(count > 0 for count in pixels),
                sum(pixels),
                sum(pixels) / max(total, 1),
                objects if is_known else None,
            )
        )
    return found


def draw_labels(statistics: DatasetStatistics, labelling: Labelling) -> bytes:
    """Draw up to twelve labelled images with the outlines of their labels, as a PNG.

    They show every class, and the largest and smallest images and areas of each.
    """
    chosen = choose_examples(statistics, labelling)
    names = tuple(spec.name for spec in labelling.classes)
    return draw_label_sheet(_read(statistics, labelling, chosen), names)


def choose_examples(statistics: DatasetStatistics, labelling: Labelling) -> list[int]:
    """Choose up to twelve images that show every class and the extremes of size.

    Returns:
        Their indices, in the order of the set.
    """
    usable = list(statistics.usable)
    sizes = {i: statistics.facts[i].height * statistics.facts[i].width for i in usable}
    extremes: list[int] = []
    for index in range(len(labelling.classes)):
        held = {i: _count(statistics.facts[i].values, labelling, index) for i in usable}
        holding = [i for i in usable if held[i]]
        if holding:
            extremes.append(max(holding, key=held.__getitem__))
    for index in range(len(labelling.classes)):
        held = {i: _count(statistics.facts[i].values, labelling, index) for i in usable}
        holding = [i for i in usable if held[i]]
        if holding:
            extremes.append(min(holding, key=held.__getitem__))
    extremes += [max(usable, key=sizes.__getitem__), min(usable, key=sizes.__getitem__)]
    spread = [usable[place] for place in np.linspace(0, len(usable) - 1, _MOST).astype(int)]
    return sorted([*dict.fromkeys([*extremes, *spread])][:_MOST])


def _read(
    statistics: DatasetStatistics, labelling: Labelling, chosen: Sequence[int]
) -> Iterator[LabelledPicture]:
    for index in chosen:
        try:
            image, masks, valid = statistics.reader.read(index)
        except ImageError:  # it could be read a moment ago
            continue
        name = statistics.facts[index].uri.rpartition("/")[2]
        objects = tuple(
            labelling.objects(masks, place, valid) for place in range(len(labelling.classes))
        )
        ignored = (labelling.targets(masks, valid) == IGNORED).all(axis=0)
        yield LabelledPicture(name, image, objects, ignored)


Counts = Sequence[Sequence[tuple[int, int]]]
"""Pairs (mask value, number) for each mask of an image."""


def _count(counts: Counts, labelling: Labelling, index: int) -> int:
    """Add up the numbers of the mask values that belong to a class."""
    masks = [np.array([value for value, _ in found], np.int64) for found in counts]
    numbers: NDArray[Any] = np.array(
        [number for _, number in counts[index if labelling.kind == "folders" else 0]], np.int64
    )
    return int(numbers[labelling.class_mask(masks, index)].sum())


def _count_objects(usable: Sequence[ImageFacts], labelling: Labelling, index: int) -> int | None:
    """Return the number of objects of a class: of ids, or of components; None if not counted."""
    if labelling.kind == "instances":
        ids = [[[(value, 1) for value, _ in counts] for counts in each.values] for each in usable]
        return sum(_count(of_masks, labelling, index) for of_masks in ids)
    found = [each.objects for each in usable]
    if any(counts is None for counts in found):
        return None
    return sum(_count(counts, labelling, index) for counts in found if counts is not None)


def _has_soft_edges(statistics: DatasetStatistics, labelling: Labelling, index: int) -> bool:
    """Tell whether a class has several mask values whose components are not objects."""
    if labelling.kind in ("classes", "instances"):
        return False
    values = statistics.values
    own = values.of_classes[index] if values.of_classes else values
    return len(own.between) > 0 and labelling.ignored not in own.pixels
