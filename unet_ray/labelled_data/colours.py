"""Meaning of the colours of a set of masks: from `--classes`, or from a file beside or above them.

| file | written by | line |
|---|---|---|
| `labelmap.txt` | CVAT, Datumaro | `name:r,g,b:parts:actions` |
| `class_dict.csv` | CamVid, DeepGlobe and others | `name,r,g,b` |
| `label_colors.txt` | CamVid | `r g b name` |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from reprlib import repr as shorten

from unet_ray.errors import InputError
from unet_ray.flags import (
    COLOUR,
    NAME_RULE,
    ClassSpec,
    MaskKind,
    is_colour,
    is_name,
    parse_colour,
    show_value,
)
from unet_ray.imaging.codecs.mask_samples import MOST_COLOURS, ColourTable
from unet_ray.labelled_data.folders_above import list_folders
from unet_ray.storage.backends.base import FileTooLargeError, OutsideError
from unet_ray.storage.listing import Listing
from unet_ray.storage.storage import Storage

_LARGEST_FILE = 2**20
"""Largest file of colours (bytes); one of 256 classes has some 10 KB."""
_FOLDERS_ABOVE = 2
"""Number of folders above the masks in which the file is looked for: masks may lie in
`SegmentationClass/train`."""
_NAMED = 6
_OBJECT_FOLDER = "SegmentationObject"
"""Folder of masks with a colour per object; CVAT and Pascal VOC write it beside that of classes.
Its colours are among those of classes, but mean nothing."""
_BACKGROUNDS = frozenset({"background", "_background_", "__background__", "bg"})
"""Names, in lower case, that stand for the background."""
_BLACK_BACKGROUNDS = frozenset({"void", "unlabeled", "unlabelled", "unlabel", "unknown", "none"})
"""Names that stand for the background if their colour is black."""
_IGNORED_NAMES = frozenset({"ignored", "ignore", "void"})
"""Names for pixels that are not counted; black `void` is background instead."""
_IGNORED = 255
"""Mask value of pixels that are not counted: the default of --ignore-value."""


@dataclass(frozen=True)
class ColourMap:
    """Meaning of the colours of a set of masks."""

    classes: tuple[ClassSpec, ...]
    """Classes, with their colours."""
    table: ColourTable
    """Mask values of the colours, for the decoder."""
    notes: tuple[str, ...] = ()
    """Messages about colours that were read or left out."""


@dataclass(frozen=True)
class _Line:
    """A line of a file of colours."""

    number: int
    name: str
    rgb: int | None
    """Colour 0xRRGGBB; None if the file gives the class no colour."""


def find_colour_map(
    masks: Listing,
    classes: tuple[ClassSpec, ...],
    kind: MaskKind | None,
    background: int = 0,
    ignored: int | None = None,
) -> ColourMap | None:
    """Find the meaning of the colours of masks: in --classes, or in a file of colours.

    Args:
        masks: Mask files, not of class folders.
        classes: Classes that the user named; may be empty. If they have ids, masks hold these ids,
            and no file of colours is read.
        kind: Kind of masks that the user gave, or None. Only colours of the kind `classes` have a
            meaning.
        background: Value of `--background-value`; pixels of a colour that is given here become 0.
        ignored: Value of `--ignore-value`; pixels of a colour that is given here keep it as their
            value.

    Returns:
        The meaning; None if masks are not read by colour.

    Raises:
        InputError: A file of colours cannot be read, or lacks a class that the user named.
    """
    if any(spec.colour is not None for spec in classes):
        colours = {parse_colour(spec.colour): spec.id for spec in classes if spec.colour}
        return _add_flags(ColourMap(classes, ColourTable(colours)), background, ignored)
    if kind not in (None, "classes") or any(spec.is_numbered for spec in classes):
        return None
    if _OBJECT_FOLDER in masks.root.uri.split("/"):
        return None
    for depth, place in enumerate(list_folders(masks.root, _FOLDERS_ABOVE)):
        for name, read_lines in _FORMATS.items():
            data = _read_file(place, name, is_above=depth > 0)
            if data is not None:
                where = f"{place.uri}/{name}"
                lines = _parse(where, data, read_lines)
                return _add_flags(_make_map(where, lines, classes), background, ignored)
    return None


def _add_flags(found: ColourMap, background: int, ignored: int | None) -> ColourMap:
    """Add the colours of --background-value and --ignore-value, if they are colours.

    Raises:
        InputError: A class has the same colour.
    """
    colours = dict(found.table.colours)
    if is_colour(background):
        _check_free(found, background, "--background-value")
        colours[background - COLOUR] = 0
    if ignored is not None and is_colour(ignored):
        _check_free(found, ignored, "--ignore-value")
        colours[ignored - COLOUR] = ignored
    return replace(found, table=replace(found.table, colours=colours))


def _check_free(found: ColourMap, value: int, flag: str) -> None:
    """Raise InputError if a flag gives the colour of a class."""
    for spec in found.classes:
        if spec.colour == show_value(value):
            raise InputError(f"{flag} {spec.colour} is also the colour of the class {spec.name}")


@dataclass(frozen=True)
class _Listed:
    """Lines of a file of colours, by meaning."""

    lines: Sequence[_Line]
    """All lines."""
    classes: list[_Line] = field(default_factory=list)
    """Classes that have colours."""
    background: list[_Line] = field(default_factory=list)
    """Pixels of no class."""
    ignored: list[_Line] = field(default_factory=list)
    """Pixels that are not counted."""
    colourless: list[_Line] = field(default_factory=list)
    """Classes without a colour, which no mask can show."""

    @staticmethod
    def of(lines: Sequence[_Line], wanted: Collection[str]) -> _Listed:
        """Sort lines by their names and colours; names that the user wants are classes."""
        listed = _Listed(lines)
        for line in lines:
            name = line.name.lower()
            is_black = line.rgb == 0
            is_wanted = line.name in wanted
            is_background = name in _BACKGROUNDS or (name in _BLACK_BACKGROUNDS and is_black)
            if is_background and not is_wanted:
                listed.background.append(line)
            elif name in _IGNORED_NAMES and not is_black and not is_wanted:
                listed.ignored.append(line)
            elif line.rgb is None:
                listed.colourless.append(line)
            else:
                listed.classes.append(line)
        return listed


def _make_map(where: str, lines: Sequence[_Line], wanted: tuple[ClassSpec, ...]) -> ColourMap:
    """Return the meaning that the lines of a file give to colours."""
    _refuse_repeated(where, lines)
    listed = _Listed.of(lines, {spec.name for spec in wanted})
    line_of = {line.name: line for line in listed.classes}
    specs = wanted
    if not specs:
        specs = tuple(ClassSpec(id, name) for id, name in enumerate(line_of, 1))
    missing = [spec.name for spec in specs if spec.name not in line_of]
    if missing or not specs:
        lacking = f"no colour for {', '.join(missing)}" if missing else "none for a class"
        raise InputError(
            f"{where} gives the colours of the masks, but {lacking}; its classes are "
            f"{_name_lines(listed.classes) or 'none'}; name some of these in --classes, or give "
            "ids (a=1,b=2) if the masks hold ids rather than colours"
        )
    id_of = {spec.name: spec.id for spec in specs}
    colours: dict[int, int] = {}
    for line in (*listed.background, *listed.classes):
        if line.rgb is not None:
            colours[line.rgb] = id_of.get(line.name, 0)
    for line in listed.ignored:
        if line.rgb is not None:
            colours[line.rgb] = _IGNORED
    return ColourMap(
        classes=tuple(replace(spec, colour=_show(line_of[spec.name].rgb)) for spec in specs),
        table=ColourTable(colours, _number_lines(listed, id_of, colours)),
        notes=tuple(_list_notes(where, listed, id_of)),
    )


def _list_notes(where: str, listed: _Listed, id_of: Mapping[str, int]) -> Iterator[str]:
    """Yield notes on the colours of a file and the use of its classes."""
    chosen = [line for line in listed.classes if line.name in id_of]
    yield f"the colours of the masks are those of {where}: {_name_lines(chosen)}"
    others = [line for line in listed.classes if line.name not in id_of]
    background = []
    for line in listed.background:
        is_usual = not line.rgb and line.name.lower() in _BACKGROUNDS
        if not is_usual:  # black background needs no note
            background.append(line)
    for some, what in (
        (others, "belong to no class: it is not in --classes"),
        (background, "belong to no class: it is the background"),
        (listed.ignored, f"have the value {_IGNORED}, see --ignore-value"),
        (listed.colourless, "are unknown: no colour is given"),
    ):
        if some:
            yield f"pixels of {_name_lines(some)} {what}"


def _name_lines(lines: Sequence[_Line]) -> str:
    named = []
    for line in lines[:_NAMED]:
        colour = _show(line.rgb)
        named.append(f"{line.name}={colour}" if colour else line.name)
    if len(lines) > _NAMED:
        named.append("…")
    return ", ".join(named)


def _number_lines(
    listed: _Listed, id_of: Mapping[str, int], colours: Mapping[int, int]
) -> dict[int, int]:
    """Return the mask values of grey files whose pixels are numbers of lines, as CVAT reads them.

    Grey values are read that way only if there is no doubt: line 0 is the background, and the ids
    of the classes are the numbers of their lines.

    Returns:
        Grey value → mask value; empty if there is doubt.
    """
    lines = listed.lines
    numbers = {line.name: number for number, line in enumerate(lines)}
    has_background = lines[0] in listed.background
    are_numbers = all(numbers[name] == id for name, id in id_of.items())
    if not has_background or not are_numbers:
        return {}
    found = {_IGNORED: _IGNORED}
    for number, line in enumerate(lines[: _IGNORED + 1]):
        found[number] = _IGNORED if line in listed.ignored else id_of.get(line.name, 0)
    return {grey: value for grey, value in found.items() if grey * 0x010101 not in colours}


def _show(rgb: int | None) -> str | None:
    return None if rgb is None else show_value(COLOUR + rgb)


def _refuse_repeated(where: str, lines: Sequence[_Line]) -> None:
    """Raise InputError for a name or a colour that two lines have."""
    names: dict[str, int] = {}
    colours: dict[int, _Line] = {}
    for line in lines:
        if line.name in names:
            raise InputError(
                f"{where}, line {line.number}: the name {line.name} is also in line "
                f"{names[line.name]}; give each class one line"
            )
        names[line.name] = line.number
        if line.rgb is None:
            continue
        if line.rgb in colours:
            other = colours[line.rgb]
            raise InputError(
                f"{where}, line {line.number}: {line.name} has the colour {_show(line.rgb)} of "
                f"{other.name} (line {other.number}); masks cannot tell them apart"
            )
        colours[line.rgb] = line


def _read_file(place: Storage, name: str, is_above: bool) -> bytes | None:
    """Return the content of a file of colours; None if there is none.

    Raises:
        InputError: The file cannot be read. Folders above the masks may belong to others: a file
            there without read permission is skipped.
    """
    where = f"{place.uri}/{name}"
    try:
        return place.read(name, limit=_LARGEST_FILE)
    except FileTooLargeError:
        raise InputError(
            f"{where}: the file is larger than {_LARGEST_FILE} bytes, the limit for such files"
        ) from None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OutsideError as error:
        raise InputError(
            f"{where}: a link leads out of its folder ({error.strerror}); "
            "add --follow-links to read it"
        ) from None
    except OSError as error:
        if is_above and isinstance(error, PermissionError):
            return None
        raise InputError(f"{where}: cannot be read: {error}") from None


def _parse(
    where: str, data: bytes, read_lines: Callable[[Iterable[str]], Iterator[_Line]]
) -> list[_Line]:
    """Return the lines of a file of colours; raise InputError if it cannot be used."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    found = list[_Line]()
    try:
        for line in read_lines(text.splitlines()):
            if not is_name(line.name):
                raise InputError(
                    f"{where}, line {line.number}: name {shorten(line.name)}: choose {NAME_RULE}"
                )
            if len(found) == MOST_COLOURS:
                raise InputError(f"{where}: it has more than {MOST_COLOURS} colours, the limit")
            found.append(line)
    except _LineError as error:
        raise InputError(f"{where}, line {error}") from None
    if not found:
        raise InputError(f"{where}: it names no class; remove it, or give each class a line")
    return found


class _LineError(ValueError):
    """A line of a file of colours cannot be read; the text begins with its number."""


_LABEL = re.compile(r"(.*?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")
_LABEL_WITHOUT_COLOUR = re.compile(r"([^:]*):\s*(?::.*)?")
_COLOUR_FIRST = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)")


def _read_label_map(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a labelmap.txt; if no class has a colour, they get those of Pascal VOC."""
    found = list[_Line]()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LABEL.fullmatch(text)
        if match:
            rgb = _join_colour(number, match.groups()[1:])
            found.append(_Line(number, match[1].strip(), rgb))
            continue
        match = _LABEL_WITHOUT_COLOUR.fullmatch(text)
        if not match:
            raise _LineError(f"{number}: {shorten(line)} is not NAME:R,G,B:PARTS:ACTIONS")
        found.append(_Line(number, match[1].strip(), None))
    if all(each.rgb is None for each in found):
        for index, each in enumerate(found):
            found[index] = replace(each, rgb=_find_voc_colour(index))
    yield from found


def _read_class_dict(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a CSV file with the columns name, r, g and b, in any order."""
    rows = csv.reader(lines)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        wanted = [name for name in ("name", "r", "g", "b") if name in header]
        places = {name: header.index(name) for name in wanted}
        if len(places) < 4:
            raise _LineError(
                f"1: the columns are {shorten(','.join(header))}; name,r,g,b are required"
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(places.values()):
                raise _LineError(
                    f"{rows.line_num}: it has {len(row)} columns, but the header has {len(header)}"
                )
            name = row[places["name"]].strip()
            colour = [row[places[channel]].strip() for channel in ("r", "g", "b")]
            yield _Line(rows.line_num, name, _join_colour(rows.line_num, colour))
    except csv.Error as error:
        raise _LineError(f"{rows.line_num}: {error}") from None


def _read_label_colours(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a file that has a colour and a name in each line."""
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        match = _COLOUR_FIRST.fullmatch(text.strip())
        if match is None:
            raise _LineError(f"{number}: {shorten(text)} is not R G B NAME")
        yield _Line(number, match[4], _join_colour(number, match.groups()[:3]))


_FORMATS = {
    "labelmap.txt": _read_label_map,
    "class_dict.csv": _read_class_dict,
    "label_colors.txt": _read_label_colours,
}
"""Name of a file of colours → its reader, in the order in which they are looked for."""
COLOUR_FILES = frozenset(_FORMATS)
"""Names of files of colours. They are not label files, although they may have the same suffix."""


def _join_colour(number: int, channels: Iterable[str | None]) -> int:
    """Return the colour 0xRRGGBB of three numbers, given as text.

    Raises:
        _LineError: They are not numbers of 0 to 255.
    """
    found = list(channels)
    rgb = 0
    for text in found:
        if not text or not re.fullmatch("[0-9]{1,3}", text) or int(text) > 255:
            raise _LineError(
                f"{number}: the colour {shorten(found)} is not three numbers of 0 to 255"
            )
        rgb = rgb << 8 | int(text)
    return rgb


def _find_voc_colour(index: int) -> int:
    """Return the colour that Pascal VOC gives a class.

    The bits of the class index go to red, green and blue in turn, starting at the highest bit of
    each.
    """
    rgb = 0
    for bit in range(8):
        for place, channel in enumerate((16, 8, 0)):
            value = index >> (3 * bit + place) & 1
            rgb |= value << (7 - bit + channel)
    return rgb
