"""Groups that names of files suggest: tiles of one image, frames of one clip, wells of a plate.

Each rule removes from a name what differs within a group; what is left names the group. For example
`scans/slide7_x0_y512.png` and `scans/slide7_x512_y0.png` both belong to `scans/slide7*`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import gcd

_SUFFIX = re.compile(r"(?:\.ome)?\.[^./]+\Z", re.IGNORECASE)
_START = r"(?<![^/_\-. ])"
"""Beginning of a part of a name."""
_END = r"(?![^/_\-. ])"
"""End of a part of a name."""
_BEFORE = r"[_\-. ]*"
"""Separators that are removed with the part that follows them."""

_PARTS = re.compile(
    "|".join(
        (
            # QuPath: slide [d=4,x=0,y=512,w=512,h=512]
            rf"{_BEFORE}\[(?:d=[\d.]+,)?x=-?\d+,y=-?\d+,w=\d+,h=\d+[^\]/]*\]",
            # slide_x0_y512, slide-X0Y512, slide_y0_x512_w256_h256
            rf"{_BEFORE}(?<![a-z])x[=_]?-?\d+[_\-, ]*y[=_]?-?\d+(?:_?[wh][=_]?\d+){{0,2}}{_END}",
            rf"{_BEFORE}(?<![a-z])y[=_]?-?\d+[_\-, ]*x[=_]?-?\d+(?:_?[wh][=_]?\d+){{0,2}}{_END}",
            # slide_r03_c12, slide-row3-col12
            rf"{_BEFORE}{_START}r(?:ow)?[_\-]?\d+[_\-, ]*c(?:ol(?:umn)?)?[_\-]?\d+{_END}",
            # slide_tile_0012, slide_patch3_4, slide-crop-7
            rf"{_BEFORE}{_START}(?:tile|patch|crop|chip)s?[_\- ]?\d+(?:[_\-,x]\d+)*{_END}",
            # DOTA's splitting tool: P0000__1.0__0___512
            rf"__\d+(?:\.\d+)?__-?\d+___-?\d+{_END}",
            # clip_frame0001, frame_000001
            rf"{_BEFORE}(?<![a-z])(?:frame|frm)[_\-. ]?\d+{_END}",
            # Micro-Manager, ImageJ, OME: _t012, _time000000003, _z03, _slice12, _ch1
            rf"{_BEFORE}{_START}(?:t|tp|time|timepoint)[_\-]?\d+{_END}",
            rf"{_BEFORE}{_START}(?:z|slice|plane|page|section)[_\-]?\d+{_END}",
            rf"{_BEFORE}{_START}(?:ch|channel)[_\-]?\d+{_END}",
            # Incucyte: _00d12h30m
            rf"{_BEFORE}{_START}\d+d\d+h\d+m{_END}",
        )
    ),
    re.IGNORECASE,
)
_WELL = re.compile(
    # Opera, Operetta: r01c02f03p01-ch1; the group is the beginning of a name, up to the well
    r"(?<![A-Za-z0-9])r\d{2}c\d{2}(?=f\d{2}p\d{2})"
    # ImageXpress, CellVoyager, Incucyte: plate_A01_s1_w1; Cellomics: A01f00d0; IN Cell: A - 01(fld
    rf"|{_START}(?:[Ww]ell[_\- ]?)?[A-P](?: - )?(?:0[1-9]|1\d|2[0-4]|[1-9])(?=[/_\-. (]|f\d+d\d|\Z)"
)
_DEEP_ZOOM = re.compile(r"_files/\d+/\d+_\d+\Z")
_NUMBER = r"(\d{1,18})"
_BOX = re.compile(rf"(?<=[^/])[_\-]{_NUMBER}[_\-]{_NUMBER}[_\-]{_NUMBER}[_\-]{_NUMBER}\Z")
_PAIR = re.compile(rf"[_\-,/]{_NUMBER}[_\-,x]{_NUMBER}\Z")
_COUNTER = re.compile(
    r"(?<=\d)(?<!(?:19|20)\d\d[_\-.]\d\d)"  # the day of a date is not a counter
    rf"(?:[^/\d]*/[A-Za-z_\- ]*|[^/\d]*[_\-. ]){_NUMBER}\Z"
)

_LEAST_STRIDE = 16
"""Smallest common divisor of numbers that are taken as offsets in pixels; other numbers may have a
smaller one by chance."""
_USUAL = 0.8
"""Share of the images, or of the steps from one number to the next, that must fit a rule which
ordinary numbering may fit as well."""

_MIN_GROUPS = 10
"""Smallest number of groups of an accepted guess. With fewer, a validation on a tenth of the images
would be a single group."""
_MAX_SHARE = 0.2
"""Largest share of the images in one group of an accepted guess; a larger group could not be kept
for validation."""


@dataclass(frozen=True)
class Guess:
    """Groups that names suggest."""

    what: str
    """Name of the members of a group, in the plural, such as `frames of a clip`."""
    groups: tuple[str, ...]
    """Group of each image."""

    @property
    def is_accepted(self) -> bool:
        """True if groups are numerous and small enough to be used without --group-by."""
        sizes = Counter(self.groups)
        if len(sizes) < _MIN_GROUPS:
            return False
        return max(sizes.values()) <= _MAX_SHARE * len(self.groups)


def guess_groups(names: Sequence[str]) -> Guess | None:
    """Return the groups that names of files suggest; None if they suggest none.

    Args:
        names: Path of the file of each image; those of images of one file are equal.

    Returns:
        The first guess that is accepted, else the first one with several groups. An image whose
        name does not follow the rule is grouped only with the other images of its file.
    """
    stems = {name: _SUFFIX.sub("", name) for name in names}
    first = None
    for what, find in _RULES:
        found = find(stems)
        groups = tuple(found.get(name, name) for name in names)
        if len(set(groups)) == len(stems):  # no two files belong together
            continue
        guess = Guess(what, groups)
        if guess.is_accepted:
            return guess
        if len(set(groups)) > 1:
            first = first or guess
    return first


def _find_wells(place: int, stems: Mapping[str, str]) -> dict[str, str]:
    """Find names with a well; `place` is its index among the parts that look like one (P1_A01)."""
    groups = {}
    for name, stem in stems.items():
        wells = list(_WELL.finditer(stem))
        if len(wells) > place:
            groups[name] = stem[: wells[place].end()]
    return groups


def _replace_in_names(
    pattern: re.Pattern[str], replacement: str, stems: Mapping[str, str]
) -> dict[str, str]:
    """Find names that hold a pattern; the groups are the names with it replaced."""
    groups = {}
    for name, stem in stems.items():
        group, num_found = pattern.subn(replacement, stem)
        if num_found:
            groups[name] = group
    return groups


def _find_boxes(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that end with the edges of a tile, as `P0000_0_800_0_800`."""
    found = _match_ends(stems, _BOX)
    for _, (left, right, top, bottom) in found.values():
        if left >= right or top >= bottom:
            return {}
    return _name_groups(found)


def _find_grids(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that end with the place of a tile, in pixels (`_0_512`) or in tiles (`_3_4`)."""
    found = _match_ends(stems, _PAIR)
    numbers = [number for _, pair in found.values() for number in pair]
    places = defaultdict(list)
    for group, pair in found.values():
        places[group].append(pair)
    num_in_grids = sum(len(pairs) for pairs in places.values() if _fill_grid(pairs))
    are_offsets = gcd(*numbers) >= _LEAST_STRIDE
    are_grids = num_in_grids >= _USUAL * len(found)
    return _name_groups(found) if are_offsets or are_grids else {}


def _fill_grid(places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether tiles make up at least half of a grid of several rows and columns."""
    num_rows = len({row for row, _ in places})
    num_columns = len({column for _, column in places})
    is_grid = min(num_rows, num_columns) > 1
    return is_grid and 2 * len(places) >= num_rows * num_columns


def _find_counted(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that are an id and a number in a sequence, as `video1_000123` and `P07_02`.

    Other numbers do not fit: names of classes, such as `airport_001`, have no digit before them;
    numbers of images that were chosen from a collection have irregular steps; and numbers without
    leading zeros differ in length.
    """
    found = _match_ends(stems, _COUNTER)
    lengths = set()
    numbers = defaultdict(list)
    for name, (group, (number,)) in found.items():
        numbers[group].append(number)
        match = _COUNTER.search(stems[name])
        assert match is not None
        lengths.add(len(match[1]))
    steps = Counter[int]()
    for of_group in numbers.values():
        steps.update(after - before for before, after in pairwise(sorted(of_group)))
    is_regular = steps and max(steps.values()) >= _USUAL * steps.total()
    return _name_groups(found) if len(lengths) == 1 and is_regular else {}


_Ends = dict[str, tuple[str, tuple[int, ...]]]
"""Name → the text before the numbers at its end, and the numbers."""


def _match_ends(stems: Mapping[str, str], pattern: re.Pattern[str]) -> _Ends:
    """Return the names whose ends match a pattern."""
    ends = {}
    for name, stem in stems.items():
        match = pattern.search(stem)
        if match:
            numbers = tuple(int(number) for number in match.groups())
            ends[name] = stem[: match.start()], numbers
    return ends


def _name_groups(found: _Ends) -> dict[str, str]:
    return {name: f"{group}*" for name, (group, _) in found.items()}


_Rule = Callable[[Mapping[str, str]], dict[str, str]]
_RULES: Iterable[tuple[str, _Rule]] = (
    ("wells of a plate", partial(_find_wells, 0)),
    ("wells of a plate", partial(_find_wells, 1)),
    ("tiles, frames or slices of an image", partial(_replace_in_names, _PARTS, "*")),
    ("tiles of an image", partial(_replace_in_names, _DEEP_ZOOM, "_files/*")),
    ("tiles of an image", _find_boxes),
    ("tiles of an image", _find_grids),
    ("images of a numbered series", _find_counted),
)
"""Rules in the order in which they are tried, the surest first."""
