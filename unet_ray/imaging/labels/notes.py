"""Notes about a set's labels before training or evaluation: no errors, but rarely intended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unet_ray.flags import COLOUR, is_colour, show_value
from unet_ray.imaging.labels.colour_values import VOC_VOID
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.mask_values import MaskValues, percent

_FILLED = 0.95
"""Share of an image's pixels above which a class looks like a background."""


def labelling_notes(
    values: MaskValues,
    labelling: Labelling,
    number_of_masks: int,
    of_images: Sequence[Sequence[Sequence[tuple[int, int]]]] = (),
) -> list[str]:
    """Return a line for each note.

    Each line gives what was found, with numbers, and what happens or what the user can do.

    Args:
        values: Mask values of the whole set.
        labelling: Labelling that `find_labelling` made from the values.
        number_of_masks: Number of masks of the set; for class folders, of one class.
        of_images: Pairs (value, pixels) of each mask of each image, for notes on inverted masks.
    """
    notes = _note_absent_classes(values, labelling, number_of_masks)
    if values.has_colours:
        notes += _note_colours(values, labelling)
    elif labelling.kind in ("binary", "folders"):
        notes += _note_soft_edges(values, labelling)
    # The foreground value alone may separate the class from its background.
    has_foreground_value = labelling.kind in ("binary", "folders")
    is_split = has_foreground_value and min(values.pixels) < labelling.foreground
    if labelling.background not in values.pixels and not is_split:
        notes.append(_note_missing_background(values, labelling))
    notes += _note_inverted(labelling, of_images)
    if labelling.ignored is not None and labelling.ignored in values.pixels:
        notes.append(
            f"{percent(values.share([labelling.ignored]))} of the pixels, in "
            f"{values.masks[labelling.ignored]} of {number_of_masks} masks, have the "
            f"--ignore-value {show_value(labelling.ignored)} and are not counted"
        )
    elif is_colour(labelling.ignored):
        notes.append(f"no pixel has the --ignore-value {show_value(labelling.ignored)}")
    return notes


def _note_colours(values: MaskValues, labelling: Labelling) -> list[str]:
    """Return notes on what was decided about colours."""
    background = labelling.background
    if labelling.kind == "classes" and is_colour(background):
        return [f"{values.show([background])} is the background: no pixel is black"]
    if labelling.kind == "instances" and VOC_VOID in set(values.pixels) - {labelling.ignored}:
        return [
            f"pixels of the colour {show_value(VOC_VOID)} count as an object; if they are VOC's "
            f"void, give --ignore-value '{show_value(VOC_VOID)}'"
        ]
    if labelling.kind != "binary" or len(values.pixels) != 2:
        return []
    (found,) = set(values.pixels) - {background}
    name = labelling.classes[0].name
    if COLOUR in values.pixels:
        return [f"the masks are black on transparent: black is the class {name}"]
    return [
        f"the masks hold two colours whose meaning is not given: {_show_colour(found)} "
        f"({values.pixels[found]} px) is taken as the class {name}, {_show_colour(background)} "
        f"({values.pixels[background]} px) as the background; to swap them, give --classes "
        f"{name}={_show_colour(background)}"
    ]


def _show_colour(value: int) -> str:
    """Format the value of a mask with colours, whose grey values are colours too."""
    return show_value(value if is_colour(value) else COLOUR + value * 0x010101)


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


def _note_inverted(
    labelling: Labelling, of_images: Sequence[Sequence[Sequence[tuple[int, int]]]]
) -> list[str]:
    """Return a note for each class that nearly fills most images, as inverted masks do."""
    has_several = labelling.kind == "classes" and len(labelling.classes) > 1
    if labelling.kind == "instances" or has_several:
        return []
    notes = []
    for index, spec in enumerate(labelling.classes):
        shares = [labelling.measure_share(values, index) for values in of_images]
        filled = sum(share > _FILLED for share in shares)
        if 2 * filled > len(shares):
            notes.append(
                f"class {spec.name} covers more than {_FILLED:.0%} of the pixels in {filled} of "
                f"{len(shares)} images; if the masks are inverted, give "
                f"{_suggest_inverse(labelling, index, of_images)}"
            )
    return notes


def _suggest_inverse(
    labelling: Labelling, index: int, of_images: Sequence[Sequence[Sequence[tuple[int, int]]]]
) -> str:
    """Return the flags that make the background of a class its pixels."""
    spec = labelling.classes[index]
    place = index if labelling.kind == "folders" else 0
    pixels = Counter[int]()
    for values in of_images:
        pixels.update(dict(values[place]))
    if spec.colour is not None or (labelling.kind == "binary" and is_colour(max(pixels))):
        return f"--classes {spec.name}={_show_colour(labelling.background)}"
    in_class = []
    for value in pixels:
        of_masks = [[(value, 1)]] * (place + 1)
        if labelling.is_held(of_masks, index):
            in_class.append(value)
    most_frequent = show_value(max(in_class, key=lambda value: pixels[value]))
    if most_frequent.startswith("#"):
        most_frequent = f"'{most_frequent}'"
    again = f" --classes {spec.name}={labelling.background}" if labelling.kind == "classes" else ""
    return f"--background-value {most_frequent}{again}"


def _note_missing_background(values: MaskValues, labelling: Labelling) -> str:
    if any(spec.colour is not None for spec in labelling.classes):
        return (
            "no pixel of the masks is black, so every pixel belongs to a class; if one of the "
            "colours is the background, give it as --background-value '#rrggbb' and name the "
            "classes without it"
        )
    lowest = min(set(values.pixels) - {labelling.ignored})
    if values.has_colours:
        most = max(values.pixels, key=lambda value: values.pixels[value])
        return (
            "no pixel of the masks is black, so every pixel belongs to an object; if "
            f"{_show_colour(most)} is the background, give --background-value "
            f"'{_show_colour(most)}'"
        )
    what = "an object" if labelling.kind == "instances" else "a class"
    again = " and name the classes without it" if labelling.kind == "classes" else ""
    return (
        f"no pixel of the masks has the background value {labelling.background}, so every pixel "
        f"belongs to {what}; if {lowest} is the background, give "
        f"--background-value {lowest}{again}"
    )
