"""Meaning of the colours that masks hold, as far as a set of masks shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.flags import COLOUR, ClassSpec, MaskKind, is_colour, parse_colour, show_value
from unet_ray.imaging.labels.mask_values import MaskValues, percent

_MOST_FREQUENT = 8
"""Largest number of colours between which others may lie by interpolation."""
_FREQUENT_SHARE = 0.002
"""Smallest share of the pixels that such colours have."""
_APART = 48
"""Smallest distance between such colours, in units of a channel."""
_NEAR = 24
"""Largest distance of interpolated colours from the line between two colours; JPEG adds noise."""
_NEAR_SHARE = 0.9
"""Smallest share of the colours that must lie so near."""
_MANY_BETWEEN = 8
"""Smallest number of colours that are taken for interpolation."""
_MANY_COLOURS = 20
"""Largest number of colours that may be classes, if nothing else decides."""
_NAMED = 6
LABEL_MAP = "a labelmap.txt with lines NAME:R,G,B:: beside or above the masks"
"""Text about what gives colours their meaning, for messages."""
VOC_VOID = COLOUR + 0xE0E0C0
"""Colour of pixels that are not counted, as in Pascal VOC."""


def find_value(colour: int, values: MaskValues, *, is_known: bool) -> int:
    """Return the value that pixels of a flag's colour have in a set of masks.

    Black is 0, unless it was drawn on a transparent background. If the meaning of colours is not
    given, a grey pixel has its grey value.

    Args:
        colour: Value of the flag; an id stays as it is.
        values: Values of the masks.
        is_known: True if the meaning of the colours was given.
    """
    grey = colour & 0xFF
    if colour in values.pixels or colour != COLOUR + grey * 0x010101:
        return colour
    return colour if is_known and grey else grey


def infer_kind(
    values: MaskValues, classes: tuple[ClassSpec, ...], kind: MaskKind | None
) -> MaskKind:
    """Return the kind of masks that hold colours whose meaning was not given.

    Two colours are a class and its background.

    Raises:
        InputError: There are more colours; the message names them and how to give their meaning.
    """
    colours = values.with_grey_colours()
    if kind == "folders" and values.most_distinct > 2:
        raise InputError(
            "masks in class folders hold two values, but one of them holds "
            f"{values.most_distinct} colours: {colours.show(colours.pixels)}; resize masks with "
            "nearest neighbour and save them as PNG"
        )
    if kind in ("instances", "folders"):
        return kind
    if len(values.pixels) == 2 and len(classes) < 2 and kind != "classes":
        return "binary"
    if len(values.pixels) == 1:
        raise InputError(colours.nothing_to_learn)
    raise InputError(_describe_colours(colours, classes))


def choose_background(values: MaskValues, background: int) -> int:
    """Return the background of two colours: the given one, else black, else the more frequent."""
    for value in (background, 0):
        if value in values.pixels:
            return value
    return max(values.pixels, key=lambda value: (values.pixels[value], -value))


def _describe_colours(values: MaskValues, classes: tuple[ClassSpec, ...]) -> str:
    colours = [value for value in values.pixels if is_colour(value)]
    found = f"the masks hold {len(values.pixels)} colours: {values.show(values.pixels)}"
    rare = _find_interpolated(values, colours)
    if rare:
        return (
            f"{found}; {_explain_interpolation(values, rare)}; or, if each object has its own "
            "colour, give --mask-kind instances"
        )
    used_bits = 0
    for colour in colours:
        used_bits |= colour - COLOUR
    channels = [name for name, bits in _CHANNELS if not used_bits & ~bits]
    if channels and len(colours) > 1:
        return (
            f"{found}; they have only the channel {channels[0]}, which looks like ids in that "
            f"channel: save it as a grey image, or {_name_ways(values, classes)}"
        )
    if len(colours) > _MANY_COLOURS:
        return (
            f"{found}, too many for classes; if each object has its own colour, give --mask-kind "
            "instances; ids coded as colours (as in COCO panoptic or ADE20K) must be saved as ids"
        )
    return f"{found}; {_name_ways(values, classes)}"


_CHANNELS = (("red", 0xFF0000), ("green", 0xFF00), ("blue", 0xFF))


def _name_ways(values: MaskValues, classes: tuple[ClassSpec, ...]) -> str:
    """Return the ways to give the meaning of colours."""
    colours = sorted(filter(is_colour, values.pixels), key=lambda value: -values.pixels[value])
    void = ""
    if VOC_VOID in colours:
        colours.remove(VOC_VOID)
        void = f" --ignore-value '{show_value(VOC_VOID)}'"
    names = [spec.name for spec in classes] or ["NAME"] * len(colours)
    pairs = []
    for name, colour in zip(names[:_NAMED], colours, strict=False):
        pairs.append(f"{name}={show_value(colour)}")
    more = ",…" if len(colours) > len(pairs) else ""
    black = " (black is background)" if 0 in values.pixels else ""
    return (
        f"give --classes {','.join(pairs)}{more}{void} with a name for each colour{black}, or "
        f"{LABEL_MAP}, or --mask-kind instances if each object has its own colour"
    )


def _find_interpolated(values: MaskValues, colours: list[int]) -> list[int]:
    """Return the colours that interpolation made between frequent ones; empty if it made none.

    Args:
        values: Values of the masks.
        colours: Colours whose meaning is not known.
    """
    frequent = _find_frequent(values)
    rest = [value for value in colours if value not in frequent]
    if len(rest) < _MANY_BETWEEN or len(frequent) < 2:
        return []
    points = _to_points(rest)
    ends = _to_points(frequent)
    distance = np.full(len(rest), np.inf)
    for index, end in enumerate(ends):
        for other in ends[:index]:
            line = other - end
            place = np.clip((points - end) @ line / (line @ line), 0, 1)
            off = np.linalg.norm(points - end - place[:, None] * line, axis=1)
            distance = np.minimum(distance, off)
    return rest if np.mean(distance <= _NEAR) >= _NEAR_SHARE else []


def _find_frequent(values: MaskValues) -> list[int]:
    """Return the most frequent values, by decreasing pixels, that are well apart as colours."""
    found = list[int]()
    ranked = sorted(values.pixels, key=lambda value: -values.pixels[value])
    for value in ranked[: _MOST_FREQUENT**2]:
        is_shown = value == 0 or is_colour(value)
        if values.share([value]) < _FREQUENT_SHARE or len(found) == _MOST_FREQUENT:
            break
        (point,) = _to_points([value])
        distances = np.linalg.norm(_to_points(found) - point, axis=1)
        if is_shown and np.all(distances >= _APART):
            found.append(value)
    return found


def _to_points(values: list[int]) -> NDArray[np.float64]:
    """Return colours as rows of red, green and blue; black for 0."""
    rgb = np.array(values, np.int64)
    red = rgb >> 16 & 255
    green = rgb >> 8 & 255
    blue = rgb & 255
    return np.stack([red, green, blue], axis=1).astype(np.float64)


def _explain_interpolation(values: MaskValues, rare: list[int]) -> str:
    """Return the cause of rare colours, and the remedy."""
    return (
        f"interpolation (resizing or JPEG) produces such colours, here {len(rare)} with "
        f"{percent(values.share(rare))} of the pixels: resize masks with nearest neighbour and "
        "save them as PNG"
    )


def check_known_colours(
    values: MaskValues, classes: tuple[ClassSpec, ...], background: int, ignored: int | None
) -> int:
    """Check that masks hold no colour but those of the classes.

    A single other colour is the background of a single class, if no pixel has the given background.
    Pixels of a colour that is given as the background are 0 by now, as black ones are.

    Returns:
        Value of the background.

    Raises:
        InputError: There are other colours; the message names them and the remedies.
    """
    if is_colour(background) and background not in values.pixels:
        background = 0
    counted = {spec.id for spec in classes} | {background, ignored}
    unknown = [value for value in values.pixels if is_colour(value) and value not in counted]
    if len(unknown) == 1 and len(classes) == 1 and background not in values.pixels:
        return unknown[0]
    if not unknown:
        return background
    known = ", ".join(f"{spec.name}={spec.colour}" for spec in classes)
    found = f"colours without a class: {values.show(unknown)}; the known ones are {known}"
    named = {spec.id: COLOUR + parse_colour(spec.colour) for spec in classes if spec.colour}
    pixels = {named.get(value, value): count for value, count in values.pixels.items()}
    rare = _find_interpolated(replace(values, pixels=pixels), unknown)
    if rare:
        raise InputError(f"{found}; {_explain_interpolation(values, rare)}")
    if VOC_VOID in unknown:
        raise InputError(
            f"{found}; give --ignore-value '{show_value(VOC_VOID)}' to leave out the pixels of "
            "VOC's void"
        )
    grey = ""
    if all(value == COLOUR + (value & 0xFF) * 0x010101 for value in unknown):
        ids = ",".join(f"{spec.name}={spec.id}" for spec in classes[:_NAMED])
        grey = f"; if grey values are ids rather than colours, give them: --classes {ids}"
    most_frequent = show_value(max(unknown, key=lambda value: values.pixels[value]))
    ways = [f"name them in --classes or in the label map{grey}"]
    if background not in values.pixels:
        ways.append(f"give --background-value '{most_frequent}' if that is the background")
    ways.append(f"give --ignore-value '{most_frequent}' if its pixels are not counted")
    raise InputError(f"{found}; {', or '.join(ways)}")
