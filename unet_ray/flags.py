"""Values that flags take, and the parsing of their text; no Ray, torch or numpy."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from math import inf, isfinite
from typing import Any, Literal

from unet_ray.errors import InputError
from unet_ray.text import has_controls

Device = Literal["auto", "cpu", "gpu"]
Reread = Literal["stacks", "nodata"]
"""Files of earlier runs to read once more: those of several images, or those of formats that can
say which pixels hold no data."""
EtagBy = Literal["store", "content"]
MAX_SIDE_PX = 2**16
"""Largest side of a tile, a crop or a distance that a flag takes (px)."""
MAX_MINUTES = 10**6
"""Longest duration that a flag takes (min or s): two years of minutes."""
_MOST_PROCESSES = 100_000
"""Largest number of actors or workers."""


def check_fields(
    config: object, names: Iterable[str], is_allowed: Callable[[Any], bool], allowed: str
) -> None:
    """Raise InputError for the first field of a config whose value is out of bounds.

    Args:
        config: Config whose fields are flags.
        names: Fields to check; a field that is None is not given, and passes.
        is_allowed: Function that tells whether a value is within the bounds.
        allowed: The bounds in words, such as `0 to 1`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not is_allowed(value):
            raise InputError(f"--{name.replace('_', '-')} {value}: choose {allowed}")


def check_numbers(config: object) -> None:
    """Raise InputError for the first number of a config that is not finite, or much too large.

    Every config calls this after its own checks, so that a new field is never without limits.
    """
    for each in fields(config):  # type: ignore[arg-type]
        name = each.name
        value = getattr(config, name)
        if isinstance(value, float):
            check_fields(config, [name], isfinite, "a finite number")
        elif isinstance(value, int) and name != "seed":
            check_fields(config, [name], lambda n: abs(n) < 2**31, f"at most {2**31 - 1}")


def check_range(name: str, values: Iterable[float], least: float, most: float) -> None:
    """Raise InputError for the first of some values that is out of bounds, as NaN always is.

    Args:
        name: Name of the values, for the message.
        values: Values to check.
        least: Smallest value that is allowed.
        most: Largest value that is allowed.
    """
    for value in values:
        if not least <= value <= most:
            raise InputError(f"{name} {value}: choose {least} to {most}")


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Return `N` or `MIN,MAX` as a pair; raise InputError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 2  # N is N,N
    least, most = numbers if len(numbers) == 2 else (0, 0)
    if not 1 <= least <= most <= _MOST_PROCESSES:
        raise InputError(
            f"{flag} {text}: give a number from 1, or MIN,MAX with MIN ≤ MAX, "
            f"up to {_MOST_PROCESSES}"
        )
    return least, most


def parse_patterns(text: str | None, flag: str) -> tuple[str, ...]:
    """Return shell patterns that are separated by commas; none where the flag is not given.

    Raises:
        InputError: A pattern is empty, or no path of a file can match it.
    """
    if text is None:
        return ()
    patterns = tuple(part.strip() for part in text.split(","))
    for pattern in patterns:
        if not pattern or pattern.startswith("/") or pattern.endswith("/"):
            found = f"{pattern} matches no file" if pattern else "an empty pattern"
            raise InputError(
                f"{flag} {text!r}: {found}; give patterns of paths below --images or of file names,"
                " as in 'plate1/*,*_thumb.png'"
            )
    return patterns


def parse_uris(text: str | None, flag: str) -> tuple[str, ...]:
    """Return URIs that are separated by commas; none where the flag is not given.

    Raises:
        InputError: A URI is empty.
    """
    if text is None:
        return ()
    uris = tuple(part.strip() for part in text.split(","))
    if not all(uris):
        raise InputError(f"{flag} {text!r}: an empty URI; give URIs, separated by commas")
    return uris


MAX_CHANNELS = 64
"""Largest number of channels of an image."""


def parse_channels(text: str | None) -> tuple[str, ...]:
    """Return the channels of `--channels`, names or indices from 0; none where it is not given.

    Digits are an index unless a channel of the image has that name; `index:1` and `name:1` tell the
    two apart.

    Raises:
        InputError: A channel is empty, is not a name or is given twice, or there are too many.
    """
    if text is None:
        return ()
    flag = "--channels"
    tokens = tuple(part.strip() for part in text.split(","))
    for token in tokens:
        kind, colon, rest = token.partition(":")
        if not is_name(token):
            raise InputError(
                f"{flag} {text!r:.200}: an empty name, or one that is not {NAME_RULE}; give names "
                "or indices from 0, as in DAPI,actin or 0,2"
            )
        if kind == "index" and colon and not is_channel_index(rest):
            raise InputError(
                f"{flag} {token}: give an index from 0 to {MAX_CHANNELS - 1}, as in index:0"
            )
    if len({fold_channel(token) for token in tokens}) < len(tokens):
        raise InputError(f"{flag} {text}: a channel is given twice; give each once")
    if len(tokens) > MAX_CHANNELS:
        raise InputError(f"{flag}: {len(tokens)} channels; give at most {MAX_CHANNELS}")
    return tokens


_PLANES = re.compile(r"(page|s|t|z)=(0|[1-9][0-9]{0,8})")


def parse_planes(text: str | None) -> dict[str, int]:
    """Return the axes of `--planes` and their values; none where it is not given.

    Example:
        `t=0,z=7` gives {"t": 0, "z": 7}.

    Raises:
        InputError: Images in files do not have such an axis, or it is given twice.
    """
    if text is None:
        return {}
    parts = text.split(",")
    matches = [_PLANES.fullmatch(part.strip()) for part in parts]
    axes = {found[1]: int(found[2]) for found in matches if found}
    if len(axes) < len(parts):
        raise InputError(
            f"--planes {text!r:.100}: give each axis once, as in z=7, t=0,z=7 or page=3; the axes "
            "are s, t and z from 0, and page from 1"
        )
    return axes


def fold_channel(name: str) -> str:
    """Return the name of a channel as it is compared: without case, and without outer spaces."""
    return name.strip().casefold()


def is_channel_index(text: str) -> bool:
    """Tell whether a text is the index of a channel."""
    return text.isascii() and text.isdecimal() and len(text) <= 2 and int(text) < MAX_CHANNELS


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Number of seconds in each unit of an age."""


def parse_age(text: str | None, flag: str) -> float | None:
    """Return an age such as `90s`, `30m`, `1h` or `2d` in seconds; None where it is not given.

    Raises:
        InputError: The text is anything else, such as a number whose unit would be a guess.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if not found:
        raise InputError(f"{flag} {text}: give a number and its unit, as in 90s, 30m, 1h or 2d")
    return float(found[1]) * _SECONDS[found[2]]


_PIXEL_SIZES_UM = 1e-4, 1e9
"""Smallest and largest pixel size that a flag takes (µm)."""


def parse_pixel_size(text: str | None) -> float | Literal["model"] | None:
    """Return a pixel size of `--pixel-size` (µm), or `model`; None where it is not given.

    Raises:
        InputError: The text is anything else.
    """
    if text is None:
        return None
    if text == "model":
        return "model"
    try:
        size_um = float(text)
    except ValueError:
        size_um = 0.0
    least, most = _PIXEL_SIZES_UM
    if not least <= size_um <= most:
        raise InputError(
            f"--pixel-size {text}: give model, or a size in µm, {least:g} to {most:g}, as in 0.5"
        )
    return size_um


ANY_NODE = "node"
"""Name for node types without a name, and for the price of all types."""


def parse_prices(text: str) -> dict[str, float]:
    """Return the price of an hour by node type; a price without a type is for all other types.

    Example:
        `0.98`, or `0.2,cpu=0.36,gpu=0.98`.

    Raises:
        InputError: The text is anything else.
    """
    prices = {}
    for part in text.split(","):
        kind, _, price = part.rpartition("=")
        kind = kind.strip()
        try:
            prices[kind or ANY_NODE] = float(price)
        except ValueError:
            prices[kind] = -1.0
    if not all(0 <= price < inf for price in prices.values()):
        raise InputError(
            f"--node-price {text}: give a price per hour, or one and TYPE=PRICE,… as in "
            "0.2,gpu=0.98"
        )
    return prices


def check_metric(metric: str, classes: Sequence[str] = ()) -> None:
    """Raise InputError unless a metric is known and, where classes are given, names one of them."""
    name, colon, class_name = metric.partition(":")
    if name not in ("dice", "iou"):
        raise InputError(
            f"--best-by {metric}: give dice, iou, or one of them and a class, as in dice:leaf"
        )
    if colon and classes and class_name not in classes:
        raise InputError(
            f"--best-by {metric}: there is no class {class_name}; "
            f"choose one of {', '.join(classes)}"
        )


MaskKind = Literal["classes", "binary", "instances", "folders"]

MaskFrame = Literal["stored", "shown"]
"""Frame in which masks were drawn: the samples as an image file stores them, or the picture as
viewers show it, turned by its EXIF orientation."""


@dataclass(frozen=True)
class ClassSpec:
    """A class: its id in masks and tables, and its name."""

    id: int
    name: str
    colour: str | None = field(default=None, compare=False)
    """Colour of its pixels in masks with colours, `#rrggbb`; None: masks hold the id."""
    is_numbered: bool = field(default=False, compare=False)
    """True if the user gave the id; False if it is the place of the class in a list."""


MAX_CLASS_ID = 2**31 - 1
"""Largest id of a class: tables hold ids as 32-bit integers."""
COLOUR = 2**31
"""First mask value that stands for a colour, which is `COLOUR + 0xRRGGBB`. Ids end below it, so
that no colour is taken for an id."""


COLOUR_TEXT = re.compile("#[0-9a-fA-F]{6}")
"""Form of a colour in flags."""


def parse_colour(text: str) -> int:
    """Return a colour `#rrggbb` as the number 0xRRGGBB; raise ValueError for anything else."""
    if not COLOUR_TEXT.fullmatch(text):
        raise ValueError(text)
    return int(text[1:], 16)


def is_colour(value: int | None) -> bool:
    """Tell whether a mask value stands for a colour."""
    return value is not None and value >= COLOUR


def show_value(value: int | None) -> str:
    """Format a mask value: an id as a number, a colour as `#rrggbb`, and None as `none`."""
    if value is None:
        return "none"
    return f"#{value - COLOUR:06x}" if value >= COLOUR else str(value)


def parse_mask_value(value: int | str | None, flag: str) -> int | None:
    """Return the mask value of a flag that takes an id or a colour, as `#e0e0c0`.

    Raises:
        InputError: The text is not a colour.
    """
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    try:
        return COLOUR + parse_colour(value)
    except ValueError:
        raise InputError(
            f"{flag} {value}: give a number, or a colour in quotes as in '#e0e0c0'"
        ) from None


_MAX_NAME = 256
"""Longest name (characters); tables repeat names in every row, and exports name files by them."""
NAME_RULE = f"a text of 1 to {_MAX_NAME} printable characters"


def is_name(text: str) -> bool:
    """Tell whether a text can be a name: not blank, not long, and shown on one line as it is."""
    return len(text.strip()) > 0 and len(text) <= _MAX_NAME and not has_controls(text)


def check_class_names(names: Iterable[object], where: str) -> None:
    """Raise InputError for the first class name that is empty, too long or cannot be shown.

    Args:
        names: Names of classes, as a user or a file gives them.
        where: Flag and its value, or file, that holds the names.
    """
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise InputError(f"{where}: class name {reprlib.repr(name)}: choose {NAME_RULE}")


def check_classes(classes: Iterable[ClassSpec]) -> None:
    """Raise InputError unless tables and files can hold the classes and tell them apart."""
    classes = tuple(classes)
    ids = [spec.id for spec in classes]
    names = [spec.name for spec in classes]
    colours = [spec.colour for spec in classes if spec.colour is not None]
    check_range("class id", ids, 0, MAX_CLASS_ID)
    for name in names:
        if not is_name(name):
            raise InputError(f"class name {reprlib.repr(name)}: choose {NAME_RULE}")
    _check_distinct(ids, "ids and names must differ")
    _check_distinct(names, "ids and names must differ")
    _check_distinct(colours, "colours must differ")


def _check_distinct(values: Sequence[int | str], rule: str) -> None:
    for value, num_classes in Counter(values).items():
        if num_classes > 1:
            raise InputError(f"{value!r} is given to {num_classes} classes: {rule}")


def parse_classes(text: str | None) -> tuple[ClassSpec, ...]:
    """Return the classes of `--classes`: names alone, or each with its id, or each with its colour.

    Names alone, and names with colours, are numbered from 1.

    Example:
        "leaf,symptom" → leaf 1, symptom 2; "a=1,b=7" → a 1, b 7; "a=#307020,b=#c03030" → a 1, b 2,
        in masks with these colours.

    Raises:
        InputError: Classes are empty or repeated, or only some have an id or a colour.
    """
    if text is None:
        return ()
    pairs = [part.strip().partition("=") for part in text.split(",")]
    numbered = [bool(equals) for _, equals, _ in pairs]
    if any(numbered) and not all(numbered):
        raise InputError(
            f"--classes {text}: number or colour all classes or none "
            "(a,b or a=1,b=7 or a=#307020,b=#c03030)"
        )
    coloured = [value.strip().startswith("#") for _, _, value in pairs]
    if any(coloured) and not all(coloured):
        raise InputError(f"--classes {text}: give ids to all classes, or colours to all")
    classes = []
    try:
        for index, (name, equals, value) in enumerate(pairs, 1):
            given = value.strip() if equals else None
            classes.append(_parse_class(index, name.strip(), given))
        check_classes(classes)
    except InputError as error:
        raise InputError(f"--classes {text}: {error}") from None
    return tuple(classes)


def _parse_class(index: int, name: str, value: str | None) -> ClassSpec:
    """Return a class of `--classes`.

    Args:
        index: Place of the class, from 1.
        name: Name of the class.
        value: Id or colour of the class; None: it has neither.
    """
    if value is None:
        return ClassSpec(index, name)
    try:
        if value.startswith("#"):
            return ClassSpec(index, name, f"#{parse_colour(value):06x}")
        return ClassSpec(int(value), name, is_numbered=True)
    except ValueError:
        raise InputError(
            f"{value} is neither a whole number nor a colour (a=1,b=7 or a=#307020,b=#c03030)"
        ) from None


def check_day(flag: str, day: str | None) -> None:
    """Raise InputError unless the day of a partition is written YYYY-MM-DD, or not given."""
    if day is None:
        return
    try:
        is_day = date.fromisoformat(day).isoformat() == day
    except ValueError:
        is_day = False
    if not is_day:
        raise InputError(f"{flag} {day}: give a day as YYYY-MM-DD")
