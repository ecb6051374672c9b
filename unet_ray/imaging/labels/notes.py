"""Notes about a set's labels before training or evaluation: no errors, but rarely intended."""

from __future__ import annotations

from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.mask_values import MaskValues, percent


def labelling_notes(values: MaskValues, labelling: Labelling, number_of_masks: int) -> list[str]:
    """Return a line for each note.

    Each line gives what was found, with numbers, and what happens or what the user can do.

    Args:
        values: Mask values of the whole set.
        labelling: Labelling that `find_labelling` made from the values.
        number_of_masks: Number of masks of the set; for class folders, of one class.
    """
    notes = _note_absent_classes(values, labelling, number_of_masks)
    if labelling.kind in ("binary", "folders"):
        notes += _note_soft_edges(values, labelling)
    if labelling.background not in values.pixels and not _is_split_by_foreground(values, labelling):
        notes.append(_note_missing_background(values, labelling))
    if labelling.ignored is not None and labelling.ignored in values.pixels:
        notes.append(
            f"{percent(values.share([labelling.ignored]))} of the pixels, in "
            f"{values.masks[labelling.ignored]} of {number_of_masks} masks, have the "
            f"--ignore-value {labelling.ignored} and are not counted"
        )
    return notes


def _note_absent_classes(
    values: MaskValues, labelling: Labelling, number_of_masks: int
) -> list[str]:
    if labelling.kind == "classes":
        absent = [f"{c.name}={c.id}" for c in labelling.classes if c.id not in values.pixels]
    elif labelling.kind == "folders" and values.of_classes:
        pairs = zip(labelling.classes, values.of_classes, strict=True)
        absent = [c.name for c, own in pairs if not set(own.pixels) - {labelling.background}]
    else:
        absent = []
    return [
        f"class {name} occurs in none of the {number_of_masks} masks: it can be neither learnt nor "
        "measured; check the masks, or omit it from --classes"
        for name in absent
    ]


def _note_soft_edges(values: MaskValues, labelling: Labelling) -> list[str]:
    counted = f"values from {labelling.foreground} count"
    if labelling.background >= labelling.foreground:
        counted = (
            f"values below {labelling.foreground} count (--background-value {labelling.background})"
        )
    name = labelling.classes[0].name if labelling.kind == "binary" else "the class"
    if values.between and (labelling.kind == "binary" or values.most_distinct > 2):
        return [f"masks with anti-aliased edges: {values.show_between()}; {counted} as {name}"]
    return [f"{counted} as {name}"] if labelling.background >= labelling.foreground else []


def _is_split_by_foreground(values: MaskValues, labelling: Labelling) -> bool:
    """Tell whether the foreground value alone separates the class from its background."""
    return labelling.kind in ("binary", "folders") and min(values.pixels) < labelling.foreground


def _note_missing_background(values: MaskValues, labelling: Labelling) -> str:
    lowest = min(set(values.pixels) - {labelling.ignored})
    what = "an object" if labelling.kind == "instances" else "a class"
    again = " and name the classes without it" if labelling.kind == "classes" else ""
    return (
        f"no pixel of the masks has the background value {labelling.background}, so every pixel "
        f"belongs to {what}; if {lowest} is the background, give "
        f"--background-value {lowest}{again}"
    )
