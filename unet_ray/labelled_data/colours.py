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
from dataclasses import dataclass, replace
from itertools import islice
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
"""Folders above that of the masks in which the file is looked for: masks may lie in
`SegmentationClass/train`."""
_NAMED = 6
_OBJECT_FOLDER = "SegmentationObject"
"""Folder of masks with a colour per object, as CVAT and Pascal VOC have it beside that of classes.
Their colours are those of classes, but mean nothing."""
_BACKGROUNDS = frozenset({"background", "_background_", "__background__", "bg"})
"""Names of no class, in lower case."""
_BLACK_BACKGROUNDS = frozenset({"void", "unlabeled", "unlabelled", "unlabel", "unknown", "none"})
"""Names of no class if their colour is black."""
_IGNORED_NAMES = frozenset({"ignored", "ignore", "void"})
"""Names of pixels that are not counted; black `void` is background instead."""
_IGNORED = 255
"""Value of such pixels: the default of --ignore-value."""


@dataclass(frozen=True)
class ColourMap:
    """Meaning of the colours of a set of masks."""

    classes: tuple[ClassSpec, ...]
    """Classes, with their colours."""
    table: ColourTable
    """Mask values of the colours, for the decoder."""
    notes: tuple[str, ...] = ()
    """Messages about what was read, and what is left out."""


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
    """Find the meaning of the colours of masks, if it was given.

    Args:
        masks: Mask files, not of class folders.
        classes: Classes that the user named; may be empty. Where they have ids, those of the files
            are meant, so that no file of colours is read.
        kind: Kind of masks that the user gave, or None. Other kinds than `classes` have no colours
            with a meaning.
        background: Value of `--background-value`; one that is a colour becomes 0.
        ignored: Value of `--ignore-value`; one that is a colour keeps its value.

    Raises:
        InputError: A file of colours that cannot be read, or does not have the named classes.
    """
    if any(spec.colour is not None for spec in classes):
        colours = {parse_colour(spec.colour): spec.id for spec in classes if spec.colour}
        return _add_flags(ColourMap(classes, ColourTable(colours)), background, ignored)
    if kind not in (None, "classes") or any(spec.is_numbered for spec in classes):
        return None
    if _OBJECT_FOLDER in masks.root.uri.split("/"):
        return None
    found = _find_file(masks.root)
    if found is None:
        return None
    where, lines = found
    return _add_flags(_make_map(where, lines, classes), background, ignored)


def _add_flags(found: ColourMap, background: int, ignored: int | None) -> ColourMap:
    """Add the colours that flags name; raise InputError for one that is also that of a class."""
    colours = dict(found.table.colours)
    flags = ((background, 0, "--background-value"), (ignored, ignored, "--ignore-value"))
    for value, meaning, flag in flags:
        if value is None or meaning is None or not is_colour(value):
            continue
        for spec in found.classes:
            if spec.colour == show_value(value):
                raise InputError(
                    f"{flag} {spec.colour} is also the colour of the class {spec.name}"
                )
        colours[value - COLOUR] = meaning
    return replace(found, table=replace(found.table, colours=colours))


@dataclass(frozen=True)
class _Listed:
    """Lines of a file of colours, by what they stand for."""

    lines: tuple[_Line, ...]
    """All lines."""
    classes: tuple[_Line, ...]
    """Classes that have colours."""
    background: tuple[_Line, ...]
    """Pixels of no class."""
    ignored: tuple[_Line, ...]
    """Pixels that are not counted."""
    colourless: tuple[_Line, ...]
    """Classes without a colour, which no mask can show."""

    @staticmethod
    def of(lines: Sequence[_Line], wanted: Collection[str]) -> _Listed:
        """Sort lines by their names and colours; those that the user wants are classes."""
        found: dict[str, list[_Line]] = {"class": [], "background": [], "ignored": [], "none": []}
        for line in lines:
            name, is_black = line.name.lower(), line.rgb == 0
            if line.name in wanted:
                kind = "class" if line.rgb is not None else "none"
            elif name in _BACKGROUNDS or (name in _BLACK_BACKGROUNDS and is_black):
                kind = "background"
            elif name in _IGNORED_NAMES and not is_black:
                kind = "ignored"
            else:
                kind = "class" if line.rgb is not None else "none"
            found[kind].append(line)
        return _Listed(tuple(lines), *map(tuple, found.values()))


def _make_map(where: str, lines: Sequence[_Line], wanted: tuple[ClassSpec, ...]) -> ColourMap:
    """Return the meaning of the colours that the lines of a file give."""
    _refuse_repeated(where, lines)
    listed = _Listed.of(lines, {spec.name for spec in wanted})
    line_of = {line.name: line for line in listed.classes}
    specs = wanted or tuple(ClassSpec(i, name) for i, name in enumerate(line_of, 1))
    missing = [spec.name for spec in specs if spec.name not in line_of]
    if missing or not specs:
        raise InputError(
            f"{where} gives the colours of the masks, but of no class "
            f"{', '.join(missing) or 'at all'}; it has {_name_lines(listed.classes) or 'none'}; "
            "name some of these in --classes, or give ids (a=1,b=2) if the masks hold ids rather "
            "than colours"
        )
    id_of = {spec.name: spec.id for spec in specs}
    values = {line.rgb: id_of.get(line.name, 0) for line in (*listed.background, *listed.classes)}
    values |= dict.fromkeys((line.rgb for line in listed.ignored), _IGNORED)
    colours = {rgb: value for rgb, value in values.items() if rgb is not None}
    return ColourMap(
        tuple(replace(spec, colour=_show(line_of[spec.name].rgb)) for spec in specs),
        ColourTable(colours, _number_lines(listed, id_of, colours)),
        tuple(_list_notes(where, listed, id_of)),
    )


def _list_notes(where: str, listed: _Listed, id_of: Mapping[str, int]) -> Iterator[str]:
    """Yield lines about what a file says, and what becomes of its classes."""
    chosen = [line for line in listed.classes if line.name in id_of]
    yield f"the colours of the masks are those of {where}: {_name_lines(chosen)}"
    others = [line for line in listed.classes if line.name not in id_of]
    # black background needs no word
    background = [b for b in listed.background if b.rgb or b.name.lower() not in _BACKGROUNDS]
    for some, what in (
        (others, "belong to no class: it is not in --classes"),
        (background, "belong to no class: it is the background"),
        (listed.ignored, f"have the value {_IGNORED}, see --ignore-value"),
        (listed.colourless, "are unknown: no colour is given"),
    ):
        if some:
            yield f"pixels of {_name_lines(some)} {what}"


def _name_lines(lines: Sequence[_Line]) -> str:
    named = (line.name if line.rgb is None else f"{line.name}={_show(line.rgb)}" for line in lines)
    return ", ".join(islice(named, _NAMED)) + ", …" * (len(lines) > _NAMED)


def _number_lines(
    listed: _Listed, id_of: Mapping[str, int], colours: Mapping[int, int]
) -> dict[int, int]:
    """Return the mask values of grey files that hold the numbers of lines, as CVAT reads them.

    They are read so only where that is beyond doubt: line 0 is the background, and the ids of the
    classes are the numbers of their lines.
    """
    lines = listed.lines
    numbers = {line.name: number for number, line in enumerate(lines)}
    if lines[0] not in listed.background or any(numbers[n] != id for n, id in id_of.items()):
        return {}
    found = {_IGNORED: _IGNORED}
    for number, line in enumerate(lines[: _IGNORED + 1]):
        found[number] = _IGNORED if line in listed.ignored else id_of.get(line.name, 0)
    return {grey: value for grey, value in found.items() if grey * 0x010101 not in colours}


def _show(rgb: int | None) -> str | None:
    return None if rgb is None else show_value(COLOUR + rgb)


def _refuse_repeated(where: str, lines: Sequence[_Line]) -> None:
    """Raise InputError for a name or a colour that two lines have."""
    names, colours = dict[str, int](), dict[int, _Line]()
    for line in lines:
        if line.name in names:
            raise InputError(
                f"{where}, line {line.number}: the name {line.name} stands in line "
                f"{names[line.name]} as well; give each class one line"
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


def _find_file(folder: Storage) -> tuple[str, list[_Line]] | None:
    """Return the nearest file of colours, and its lines; None if there is none."""
    for depth, place in enumerate(list_folders(folder, _FOLDERS_ABOVE)):
        for name, read_lines in _FORMATS.items():
            where = f"{place.uri}/{name}"
            try:
                data = place.read(name, limit=_LARGEST_FILE)
            except FileTooLargeError:
                raise InputError(
                    f"{where}: more than {_LARGEST_FILE} bytes, which no list of colours has"
                ) from None
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OutsideError as error:
                raise InputError(
                    f"{where}: a link leads out of its folder ({error.strerror}); "
                    "add --follow-links to read it"
                ) from None
            except OSError as error:
                if depth and isinstance(error, PermissionError):
                    continue  # folders above may be those of others
                raise InputError(f"{where}: cannot be read: {error}") from None
            return where, _parse(where, data, read_lines)
    return None


def _parse(
    where: str, data: bytes, read_lines: Callable[[Iterable[str]], Iterator[_Line]]
) -> list[_Line]:
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
                raise InputError(f"{where}: more than {MOST_COLOURS} colours")
            found.append(line)
    except _LineError as error:
        raise InputError(f"{where}, line {error}") from None
    if not found:
        raise InputError(f"{where}: it names no class; remove it, or give each class a line")
    return found


class _LineError(ValueError):
    """A line has another form; the text begins with its number."""


_LABEL = re.compile(r"(.*?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?::.*)?")
_LABEL_WITHOUT_COLOUR = re.compile(r"([^:]*):\s*(?::.*)?")
_COLOUR_FIRST = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)")


def _read_label_map(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a labelmap.txt; where no class has a colour, they are those of VOC."""
    found = list[_Line]()
    for number, text in enumerate(lines, 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        if match := _LABEL.fullmatch(text.strip()):
            rgb = _join_colour(number, match.groups()[1:])
            found.append(_Line(number, match[1].strip(), rgb))
        elif match := _LABEL_WITHOUT_COLOUR.fullmatch(text.strip()):
            found.append(_Line(number, match[1].strip(), None))
        else:
            raise _LineError(f"{number}: {shorten(text)} is not NAME:R,G,B:PARTS:ACTIONS")
    if all(line.rgb is None for line in found):
        found = [replace(line, rgb=_find_voc_colour(i)) for i, line in enumerate(found)]
    yield from found


def _read_class_dict(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a CSV file with the columns name, r, g and b, in any order."""
    rows = csv.reader(lines)
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        places = {name: header.index(name) for name in ("name", "r", "g", "b") if name in header}
        if len(places) < 4:
            raise _LineError(
                f"1: the columns are {shorten(','.join(header))}; name,r,g,b is needed"
            )
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(places.values()):
                raise _LineError(f"{rows.line_num}: {len(row)} of {len(header)} columns")
            name, *colour = (row[place].strip() for place in places.values())
            yield _Line(rows.line_num, name, _join_colour(rows.line_num, colour))
    except csv.Error as error:
        raise _LineError(f"{rows.line_num}: {error}") from None


def _read_label_colours(lines: Iterable[str]) -> Iterator[_Line]:
    """Yield the lines of a file with a colour and a name in each."""
    for number, text in enumerate(lines, 1):
        if text.strip():
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
"""Names of files of colours, which are no label files although they may have their suffix."""


def _join_colour(number: int, channels: Iterable[str | None]) -> int:
    """Return the colour 0xRRGGBB of three numbers as text."""
    found = list(channels)
    if not all(text and re.fullmatch("[0-9]{1,3}", text) and int(text) < 256 for text in found):
        raise _LineError(f"{number}: the colour {shorten(found)} is not three numbers of 0 to 255")
    red, green, blue = (int(text or "") for text in found)
    return red << 16 | green << 8 | blue


def _find_voc_colour(index: int) -> int:
    """Return the colour that Pascal VOC gives a class: its bits in turn, from the highest down."""
    rgb = 0
    for bit in range(8):
        for place, channel in enumerate((16, 8, 0)):
            rgb |= (index >> (3 * bit + place) & 1) << (7 - bit + channel)
    return rgb
