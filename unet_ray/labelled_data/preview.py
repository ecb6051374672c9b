"""Preview of a labelled set before training: a picture of its labels, and a summary of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
    """Number of its pixels."""
    share: float
    """Share of all pixels, 0 to 1."""
    objects: int | None
    """Number of its objects; None if soft edges make them uncountable."""


def summarise_classes(statistics: DatasetStatistics, labelling: Labelling) -> list[ClassSummary]:
    """Return the number of images, pixels and objects of each class in a labelled set."""
    usable = [statistics.facts[index] for index in statistics.usable]
    total = sum(facts.height * facts.width for facts in usable)
    found = []
    for index, spec in enumerate(labelling.classes):
        pixels = [_count(facts.values, labelling, index) for facts in usable]
        objects = None
        if not _has_soft_edges(statistics, labelling, index):
            objects = _count_objects(usable, labelling, index)
        summary = ClassSummary(
            name=spec.name,
            images=sum(count > 0 for count in pixels),
            pixels=sum(pixels),
            share=sum(pixels) / max(total, 1),
            objects=objects,
        )
        found.append(summary)
    return found


def draw_labels(statistics: DatasetStatistics, labelling: Labelling) -> bytes:
    """Draw up to twelve labelled images with the outlines of their labels, as a PNG.

    They show every class where it covers the most and the fewest pixels, and the largest and the
    smallest image.
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
    most, fewest = list[int](), list[int]()
    for place in range(len(labelling.classes)):
        pixels = {i: _count(statistics.facts[i].values, labelling, place) for i in usable}
        holding = [index for index in usable if pixels[index]]
        if holding:
            most.append(max(holding, key=pixels.__getitem__))
            fewest.append(min(holding, key=pixels.__getitem__))
    sizes = {i: statistics.facts[i].height * statistics.facts[i].width for i in usable}
    largest = max(usable, key=sizes.__getitem__)
    smallest = min(usable, key=sizes.__getitem__)
    places = np.linspace(0, len(usable) - 1, _MOST).astype(int)
    spread = [usable[place] for place in places]
    chosen = dict.fromkeys([*most, *fewest, largest, smallest, *spread])
    return sorted([*chosen][:_MOST])


def _read(
    statistics: DatasetStatistics, labelling: Labelling, chosen: Sequence[int]
) -> Iterator[LabelledPicture]:
    """Yield the chosen images that can be read, with their labels."""
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
"""Pairs (mask value, number of something with it) for each mask of an image."""


def _count(counts: Counts, labelling: Labelling, index: int) -> int:
    """Sum the counts of the mask values that belong to a class."""
    masks = []
    for pairs in counts:
        values = [value for value, _ in pairs]
        masks.append(np.array(values, np.int64))
    of_class = counts[index if labelling.kind == "folders" else 0]
    numbers = np.array([number for _, number in of_class], np.int64)
    return int(numbers[labelling.class_mask(masks, index)].sum())


def _count_objects(usable: Sequence[ImageFacts], labelling: Labelling, index: int) -> int | None:
    """Return the number of objects of a class: ids or components; None if they are not known."""
    total = 0
    for facts in usable:
        counts: Counts | None = facts.objects
        if labelling.kind == "instances":  # each value is an object
            counts = []
            for pairs in facts.values:
                counts.append([(value, 1) for value, _ in pairs])
        if counts is None:
            return None
        total += _count(counts, labelling, index)
    return total


def _has_soft_edges(statistics: DatasetStatistics, labelling: Labelling, index: int) -> bool:
    """Tell whether masks of a class have values between its own and that of the background.

    Components of a value are then not objects.
    """
    if labelling.kind in ("classes", "instances"):
        return False
    values = statistics.values
    own = values.of_classes[index] if values.of_classes else values
    return len(own.between) > 0 and labelling.ignored not in own.pixels
