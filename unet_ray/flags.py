"""Values that flags take, and the parsing of their text; no Ray, torch or numpy."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from math import inf, isfinite
from typing import Any, Literal, get_args

from unet_ray.errors import InputError
from unet_ray.text import has_controls

Device = Literal["auto", "cpu", "gpu"]
Reread = Literal["stacks", "nodata"]
EtagBy = Literal["store", "content"]
"""Files of earlier versions that are read once more: those of several images, or those of formats
that can say which pixels hold no data."""
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
        names: Fields to check; those that are None are not given, and pass.
        is_allowed: Tells whether a value is within the bounds.
        allowed: The bounds in words: `0 to 1`.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not is_allowed(value):
            raise InputError(f"--{name.replace('_', '-')} {value}: choose {allowed}")


def check_numbers(config: object) -> None:
    """Raise InputError for the first number of a config that is no number or has no place here.

    Every config calls this after its own limits, so that a new field has some.
    """
    for each in fields(config):  # type: ignore[arg-type]
        value = getattr(config, each.name)
        if isinstance(value, float):
            check_fields(config, [each.name], isfinite, "a finite number")
        elif isinstance(value, int) and each.name != "seed":
            check_fields(config, [each.name], lambda n: abs(n) < 2**31, f"at most {2**31 - 1}")


def check_range(name: str, values: Iterable[float], least: float, most: float) -> None:
    """Raise InputError for the first of some values that is not within the bounds, as NaN never is.

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
    least, most = (numbers * 2)[:2] if len(numbers) in (1, 2) else (0, 0)
    if not 1 <= least <= most <= _MOST_PROCESSES:
        raise InputError(
            f"{flag} {text}: give a number from 1, or MIN,MAX with MIN ≤ MAX, "
            f"up to {_MOST_PROCESSES}"
        )
    return least, most


def parse_patterns(text: str | None, flag: str) -> tuple[str, ...]:
    """Return shell patterns that are separated by commas; none where the flag is not given.

    Raises:
        InputError: An empty pattern, or one that no path of a file can match.
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
        InputError: An empty URI.
    """
    if text is None:
        return ()
    uris = tuple(part.strip() for part in text.split(","))
    if not all(uris):
        raise InputError(f"{flag} {text!r}: an empty URI; give URIs, separated by commas")
    return uris


AddressingStyle = Literal["auto", "path", "virtual"]
"""Place of the bucket's name in requests: in the path, in the host name, or as the SDK decides."""


@dataclass(frozen=True)
class StoreOptions:
    """Options of the store of one flag's URI, where it is not that of the others. None is secret.

    They come before what variables and shared files of the driver say.
    """

    requester_pays: bool = False
    """Agree to pay for requests, and for what they transfer."""
    anon: bool = False
    """Send no signature, even where there are keys: for public buckets."""
    endpoint_url: str | None = None
    """Address of the store, `https://HOST[:PORT]`."""
    profile: str | None = None
    """Profile of the shared AWS files, on all nodes."""
    region: str | None = None
    addressing_style: AddressingStyle | None = None
    ca_bundle: str | None = None
    """File of this machine with the certificates by which the store is known."""


_SECRETS = re.compile(r"key|secret|token|passw|user|credential|signature", re.IGNORECASE)
"""Part of the names of options that would hold secrets."""


def parse_store_options(text: str | None, flag: str) -> StoreOptions:
    """Return the options of a store, NAME=VALUE separated by commas; by default none.

    Example:
        `requester_pays=true,region=us-west-2`.

    Raises:
        InputError: An option that is not known, is secret, is given twice, or has no such value.
    """
    found: dict[str, Any] = {}
    for part in [] if text is None else text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if _SECRETS.search(name):
            raise InputError(
                f"{flag} {name}=…: secrets do not stand in flags, which others can see; put them "
                "into AWS_* variables, or into a profile of the shared files, and give profile=NAME"
            )
        kinds = {each.name: each.type for each in fields(StoreOptions)}
        if name not in kinds or not equals or not value:
            shown = f"{name!r:.100}: " if not equals or name not in kinds else f"{name} is empty: "
            raise InputError(f"{flag}: {shown}give NAME=VALUE of {', '.join(kinds)}")
        if name in found:
            raise InputError(f"{flag}: {name} is given twice; give it once")
        found[name] = _parse_store_option(name, value, flag)
    if found.get("anon") and "profile" in found:
        raise InputError(
            f"{flag}: anon sends no signature, and profile names one; give one of them"
        )
    return StoreOptions(**found)


def read_store_options(config: object, name: str) -> StoreOptions:
    """Return the options of the store of one URI of a config.

    Args:
        config: Config whose fields are flags.
        name: Field of the URI: for `images`, the options stand in `images_options`.

    Raises:
        InputError: Same as `parse_store_options`.
    """
    return parse_store_options(getattr(config, f"{name}_options"), f"--{name}-options")


def check_store_options(config: object, name: str, uris: Iterable[str | None]) -> None:
    """Raise InputError for options of a config that are none, or that no URI of it is for.

    Args:
        config: Config whose fields are flags.
        name: Name of the options: `images` for `images_options`.
        uris: URIs to which they apply; those at `s3://` have options, and files of a manifest may.
    """
    if read_store_options(config, name) == StoreOptions():
        return
    given = [uri for uri in uris if uri]
    if not any(uri.startswith("s3://") or uri.endswith(".parquet") for uri in given):
        found = ", ".join(given) or "none is given"
        raise InputError(
            f"--{name}-options: only URIs at s3:// have options ({found}); leave them out"
        )


def keep_for(uri: str, options: StoreOptions) -> StoreOptions | None:
    """Return options for a URI whose store has some, where several URIs share them; else None."""
    return options if uri.startswith("s3://") else None


def _parse_store_option(name: str, value: str, flag: str) -> str | bool:
    """Return the value of an option of a store as what it is."""
    if name in ("requester_pays", "anon"):
        if value.lower() not in ("true", "false"):
            raise InputError(f"{flag} {name}={value!r:.100}: choose true or false")
        return value.lower() == "true"
    if name == "addressing_style" and value not in get_args(AddressingStyle):
        raise InputError(
            f"{flag} {name}={value!r:.100}: choose {', '.join(get_args(AddressingStyle))}"
        )
    if name == "endpoint_url" and not _ENDPOINT.fullmatch(value):
        raise InputError(
            f"{flag} {name}=…: give https://HOST or http://HOST:PORT, without a user, a password "
            "or a query"
        )
    if not is_name(value):
        raise InputError(f"{flag} {name}={value!r:.100}: choose {NAME_RULE}")
    return value


_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._/-]*)?")
"""Form of the address of a store."""


MAX_CHANNELS = 64
"""Largest number of channels of an image."""


def parse_channels(text: str | None) -> tuple[str, ...]:
    """Return the channels of `--channels`, names or indices from 0; none where it is not given.

    Digits are an index unless a channel of the image has that name; `index:1` and `name:1` tell the
    two apart.

    Raises:
        InputError: A channel that is empty, no name, or given twice, or too many of them.
    """
    if text is None:
        return ()
    tokens, flag = tuple(part.strip() for part in text.split(",")), "--channels"
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
        InputError: An axis that images in files do not have, or that is given twice.
    """
    if text is None:
        return {}
    parts = [_PLANES.fullmatch(part.strip()) for part in text.split(",")]
    axes = {part[1]: int(part[2]) for part in parts if part}
    if None in parts or len(axes) < len(parts):
        raise InputError(
            f"--planes {text!r:.100}: give each axis once, as in z=7, t=0,z=7 or page=3; the axes "
            "are s, t and z from 0, and page from 1"
        )
    return axes


def fold_channel(name: str) -> str:
    """Return the name of a channel as it is compared: without case and without spaces around it."""
    return name.strip().casefold()


def is_channel_index(text: str) -> bool:
    """Tell whether a text is the index of a channel."""
    return text.isascii() and text.isdecimal() and len(text) <= 2 and int(text) < MAX_CHANNELS


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds in each unit of an age."""


def parse_age(text: str | None, flag: str) -> float | None:
    """Return an age such as `90s`, `30m`, `1h` or `2d` in seconds; None where it is not given.

    Raises:
        InputError: Anything else; a number without its unit could mean any of them.
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
        InputError: Anything else.
    """
    if text is None or text == "model":
        return text  # type: ignore[return-value]
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
"""Name of a node type that has no name, and of a price for all types."""


def parse_prices(text: str) -> dict[str, float]:
    """Return the price of an hour by node type; one without a type is that of all others, `node`.

    Example:
        `0.98`, or `0.2,cpu=0.36,gpu=0.98`.

    Raises:
        InputError: Anything else.
    """
    prices = {}
    for part in text.split(","):
        kind, _, price = (piece.strip() for piece in part.rpartition("="))
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
            f"--best-by {metric}: there is no class {class_name}; there are {', '.join(classes)}"
        )


MaskKind = Literal["classes", "binary", "instances", "folders"]

MaskFrame = Literal["stored", "shown"]
"""Frame in which masks were drawn: that of the samples as an image file stores them, or that of the
picture as viewers show it, turned by its EXIF orientation."""


@dataclass(frozen=True)
class ClassSpec:
    """A class: its id in masks and tables, and its name."""

    id: int
    name: str
    colour: str | None = field(default=None, compare=False)
    """Colour of its pixels in masks with colours, `#rrggbb`; None: masks hold the id."""
    is_numbered: bool = field(default=False, compare=False)
    """True if the user gave the id, False if it is the class's place in a list."""


MAX_CLASS_ID = 2**31 - 1
"""Largest id of a class: tables hold ids as 32-bit integers."""
COLOUR = 2**31
"""First mask value that stands for a colour: `COLOUR + 0xRRGGBB`. Ids end below it, so that a
colour is never taken for an id."""


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
        InputError: A text that is no colour.
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
"""Longest name (characters); tables repeat it in every row, exports put it into file names."""
NAME_RULE = f"a text of 1 to {_MAX_NAME} printable characters"


def is_name(text: str) -> bool:
    """Tell whether a text can be a name: not blank, not long, and shown on one line as it is."""
    return len(text.strip()) > 0 and len(text) <= _MAX_NAME and not has_controls(text)


def check_class_names(names: Iterable[object], where: str) -> None:
    """Raise InputError for the first class name that is empty, too long or cannot be shown.

    Args:
        names: Names of classes, as somebody wrote them.
        where: Flag and value, or file, that holds the names.
    """
    for name in names:
        if not isinstance(name, str) or not is_name(name):
            raise InputError(f"{where}: class name {reprlib.repr(name)}: choose {NAME_RULE}")


def check_classes(classes: Iterable[ClassSpec]) -> None:
    """Raise InputError unless tables and files can hold the classes, and tell them apart."""
    classes = tuple(classes)
    check_range("class id", [spec.id for spec in classes], 0, MAX_CLASS_ID)
    for spec in classes:
        if not is_name(spec.name):
            raise InputError(f"class name {reprlib.repr(spec.name)}: choose {NAME_RULE}")
    for values, rule in (
        ([spec.id for spec in classes], "ids and names must differ"),
        ([spec.name for spec in classes], "ids and names must differ"),
        ([spec.colour for spec in classes if spec.colour is not None], "colours must differ"),
    ):
        for value, count in Counter[int | str](values).items():
            if count > 1:
                raise InputError(f"{count} classes are {value!r}: {rule}")


def parse_classes(text: str | None) -> tuple[ClassSpec, ...]:
    """Return the classes of `--classes`: names, with the id or the colour of each or of none.

    Names alone number from 1, and so do names with colours.

    Example:
        "leaf,symptom" → leaf 1, symptom 2; "a=1,b=7" → a 1, b 7; "a=#307020,b=#c03030" → a 1, b 2,
        in masks with these colours.

    Raises:
        InputError: Empty, repeated, half-numbered or half-coloured classes.
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
        raise InputError(f"--classes {text}: give all classes their ids or all their colours")
    try:
        classes = tuple(
            _parse_class(index, name.strip(), value.strip() if equals else None)
            for index, (name, equals, value) in enumerate(pairs, 1)
        )
        check_classes(classes)
    except InputError as error:
        raise InputError(f"--classes {text}: {error}") from None
    return classes


def _parse_class(index: int, name: str, value: str | None) -> ClassSpec:
    """Return a class of `--classes`, which is at a place from 1 and has an id, a colour or none."""
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
    try:
        is_day = day is None or date.fromisoformat(day).isoformat() == day
    except ValueError:
        is_day = False
    if not is_day:
        raise InputError(f"{flag} {day}: give a day as YYYY-MM-DD")
