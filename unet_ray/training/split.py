"""The split of a labelled set into images to learn from and images to validate on, by groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unet_ray.errors import InputError
from unet_ray.labelled_data.grouping.groups import Grouping, find_grouping
from unet_ray.labelled_data.image_facts import ImageFacts
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.labelled_data.near_duplicates import find_near_duplicates
from unet_ray.training.config import TrainConfig
from unet_ray.training.record import DataDecisions, TrainingRecord

_MOST_LISTED = 200
"""Largest number of groups of each side that a summary names."""


@dataclass(frozen=True)
class Split:
    """Images to validate on, and the groups by which they were drawn."""

    validation: tuple[str, ...]
    """Names of the images to validate on, as in `LabelledSet.names`; all others are learnt from."""
    grouping: Grouping | None
    """Groups of all images; None if nothing is split, or an earlier version split by images."""


def choose_split(
    config: TrainConfig, labelled: LabelledSet, before: TrainingRecord | None
) -> Split:
    """Return the split of a training that is resumed, or draw one.

    Args:
        config: Flags of training.
        labelled: Labelled set.
        before: Record of the training that is resumed.

    Raises:
        InputError: --group-by does not fit the images, or all are of one group.
    """
    names = labelled.names
    if before and before.decisions:
        decisions = before.decisions
        if decisions.groups is None:
            return Split(decisions.validation, None)
        groups = tuple(decisions.groups.get(name, name) for name in names)
        return Split(decisions.validation, Grouping(decisions.grouped_by, groups))
    # windows have the name of their large image, so a single image has no validation split
    if config.val_images or not config.val_fraction or len(set(names)) < 2:
        return Split((), None)
    if before:  # of a version before 2026-12, which split by images and kept no record of it
        grouping = Grouping("image", names)
    else:
        grouping = find_grouping(config.group_by, labelled, config.images)
    kept = draw_validation(grouping, config.val_fraction, config.seed)
    if grouping.count < len(names):  # large groups can move the share far from its goal
        note = (
            f"{len(kept)} of {len(names)} images ({len(kept) / len(names):.0%}), which are "
            f"{grouping.take(kept).count} of {grouping.count} groups, are kept for validation"
        )
        grouping = replace(grouping, notes=(*grouping.notes, note))
    kept_names = {names[index] for index in kept}
    return Split(tuple(sorted(kept_names)), grouping)


def draw_validation(grouping: Grouping, share: float, seed: int) -> list[int]:
    """Return the indices of the images to validate on.

    Groups are drawn in random order, so that the share is met as nearly as possible. They are drawn
    from all images, so that an image that cannot be read today does not change the split of the
    others.

    Args:
        grouping: Groups of all images of the set.
        share: Share of the images to validate on, from 0 up to 1.
        seed: Seed of the draw.

    Raises:
        InputError: All images are in one group, so one side would be empty.
    """
    sizes = Counter(grouping.groups)  # in the order of the set
    num_images = len(grouping.groups)
    if share == 0 or num_images < 2:
        return []
    if len(sizes) < 2:
        raise InputError(
            f"all {num_images} images are in one group ({grouping.groups[0]}), so none can be "
            "kept for validation; give --val-images and --val-masks, or --val-fraction 0 to "
            "train without validation"
        )
    names = list(sizes)
    num_wanted = max(round(num_images * share), 1)
    drawn = set[str]()
    num_drawn = 0
    for place in np.random.default_rng(seed).permutation(len(names)).tolist():
        num_then = num_drawn + sizes[names[place]]
        is_nearer = abs(num_then - num_wanted) < num_wanted - num_drawn
        leaves_some = num_then < num_images or num_wanted == num_images
        if is_nearer and leaves_some:
            drawn.add(names[place])
            num_drawn = num_then
    if not drawn:
        drawn.add(min(names, key=lambda name: sizes[name]))
    return [index for index, group in enumerate(grouping.groups) if group in drawn]


def describe_sides(decisions: DataDecisions) -> dict[str, Any]:
    """Return how the images of a training are split, with the groups of each side and their sizes.

    Args:
        decisions: Decisions of a training that split its images by groups.
    """
    kept = frozenset(decisions.validation)
    learnt_sizes = Counter[str]()
    kept_sizes = Counter[str]()
    for name, group in (decisions.groups or {}).items():
        sizes = kept_sizes if name in kept else learnt_sizes
        sizes[group] += 1
    return {
        "by": decisions.grouped_by,
        "training": _describe_side(learnt_sizes),
        "validation": _describe_side(kept_sizes),
    }


def _describe_side(sizes: Counter[str]) -> dict[str, Any]:
    """Return the figures of one side of a split from its number of images per group."""
    return {
        "images": sizes.total(),
        "groups": len(sizes),
        "images_of": dict(sorted(sizes.items())[:_MOST_LISTED]),
        "groups_not_listed": max(0, len(sizes) - _MOST_LISTED),
    }


def note_near_duplicates(
    learnt: Sequence[ImageFacts], held: Sequence[ImageFacts], remedy: str
) -> list[str]:
    """Return a line about validation images that look like images to learn from, if there are any.

    Args:
        learnt: Statistics of the images to learn from.
        held: Statistics of the images to validate on.
        remedy: Advice that ends the line.
    """
    held_thumbnails = [facts.thumbnail for facts in held]
    learnt_thumbnails = [facts.thumbnail for facts in learnt]
    pairs = find_near_duplicates(held_thumbnails, learnt_thumbnails)
    if not pairs:
        return []
    one, other = pairs[0]
    return [
        f"{len(pairs)} of {len(held)} validation images look like images to learn from, such as "
        f"{held[one].uri} like {learnt[other].uri}: figures on them are too optimistic; {remedy}"
    ]
