"""Groups that the names of files tell: tiles of one image, frames of one clip, wells of a plate.

Each rule takes out of a name what differs within a group; what is left is the group. For example
`scans/slide7_x0_y512.png` and `scans/slide7_x512_y0.png` are both of `scans/slide7*`.
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
"""Separators that are taken out with the part that they stand before."""

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
    # Opera, Operetta: r01c02f03p01-ch1; the group is all of a name up to the well
    r"(?<![A-Za-z0-9])r\d{2}c\d{2}(?=f\d{2}p\d{2})"
    # ImageXpress, CellVoyager, Incucyte: plate_A01_s1_w1; Cellomics: A01f00d0; IN Cell: A - 01(fld
    rf"|{_START}(?:[Ww]ell[_\- ]?)?[A-P](?: - )?(?:0[1-9]|1\d|2[0-4]|[1-9])(?=[/_\-. (]|f\d+d\d|\Z)"
)
_DEEP_ZOOM = re.compile(r"_files/\d+/\d+_\d+\Z")
_NUMBER = r"(\d{1,18})"
_BOX = re.compile(rf"(?<=[^/])[_\-]{_NUMBER}[_\-]{_NUMBER}[_\-]{_NUMBER}[_\-]{_NUMBER}\Z")
_PAIR = re.compile(rf"[_\-,/]{_NUMBER}[_\-,x]{_NUMBER}\Z")
_COUNTER = re.compile(
    r"(?<=\d)(?<!(?:19|20)\d\d[_\-.]\d\d)"  # the day of a date is none
    rf"(?:[^/\d]*/[A-Za-z_\- ]*|[^/\d]*[_\-. ]){_NUMBER}\Z"
)

_LEAST_STRIDE = 16
"""Least common divisor of offsets in pixels; smaller numbers have one by chance."""
_USUAL = 0.8
"""Share of the images, or of the steps from one number to the next, that must fit a rule which
ordinary numbering might fit as well."""

_MIN_GROUPS = 10
"""Fewest groups of a guess. With fewer, a validation on a tenth of the images is one group."""
_MAX_SHARE = 0.2
"""Largest share of the images that one group of a guess may have: it could not be kept for
validation."""


@dataclass(frozen=True)
class Guess:
    """Groups that names tell."""

    what: str
    """Name of what belongs together, in the plural, such as `frames of a clip`."""
    groups: tuple[str, ...]
    """Group of each image."""

    @property
    def is_accepted(self) -> bool:
        """True where groups are so many and so small that images can be split by them unasked."""
        sizes = Counter(self.groups)
        return len(sizes) >= _MIN_GROUPS and max(sizes.values()) <= _MAX_SHARE * len(self.groups)


def guess_groups(names: Sequence[str]) -> Guess | None:
    """Return the groups that names of files tell; None where they tell none.

    Args:
        names: Path of the file of each image; those of images of one file are equal.

    Returns:
        The first guess that is accepted, else the first of several groups. An image whose name does
        not follow the rule is in a group with the other images of its file only.
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
    found = {name: list(_WELL.finditer(stem))[place:] for name, stem in stems.items()}
    return {name: stems[name][: wells[0].end()] for name, wells in found.items() if wells}


def _find_parts(stems: Mapping[str, str]) -> dict[str, str]:
    found = {name: _PARTS.subn("*", stem) for name, stem in stems.items()}
    return {name: group for name, (group, count) in found.items() if count}


def _find_deep_zoom(stems: Mapping[str, str]) -> dict[str, str]:
    return {
        name: _DEEP_ZOOM.sub("_files/*", stem)
        for name, stem in stems.items()
        if _DEEP_ZOOM.search(stem)
    }


def _find_boxes(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that end with the edges of a tile, as `P0000_0_800_0_800`."""
    found = _match_ends(stems, _BOX)
    are_boxes = [a < b and c < d for _, (a, b, c, d) in found.values()]
    return _name_groups(found) if found and all(are_boxes) else {}


def _find_grids(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that end with the place of a tile, in pixels (`_0_512`) or in tiles (`_3_4`)."""
    found = _match_ends(stems, _PAIR)
    divisor = gcd(*(number for _, pair in found.values() for number in pair))
    places = defaultdict(list)
    for group, pair in found.values():
        places[group].append(pair)
    num_in_grids = sum(len(pairs) for pairs in places.values() if _fill_grid(pairs))
    are_tiles = divisor >= _LEAST_STRIDE or num_in_grids >= _USUAL * len(found)
    return _name_groups(found) if are_tiles else {}


def _fill_grid(places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether tiles are at least half of those of a grid of several rows and columns."""
    rows, columns = ({place[axis] for place in places} for axis in (0, 1))
    return min(len(rows), len(columns)) > 1 and 2 * len(places) >= len(rows) * len(columns)


def _find_counted(stems: Mapping[str, str]) -> dict[str, str]:
    """Find names that are an id and a number in a sequence, as `video1_000123` and `P07_02`.

    Names of classes, such as `airport_001`, hold no digit. The numbers of images that were chosen
    from a collection are irregular, and those that nobody filled up with zeros have other lengths.
    """
    found = _match_ends(stems, _COUNTER)
    lengths = {len(_COUNTER.search(stems[name])[1]) for name in found}  # type: ignore[index]
    numbers = defaultdict(list)
    for group, (number,) in found.values():
        numbers[group].append(number)
    steps = Counter(
        after - before for some in map(sorted, numbers.values()) for before, after in pairwise(some)
    )
    is_regular = steps and max(steps.values()) >= _USUAL * steps.total()
    return _name_groups(found) if len(lengths) == 1 and is_regular else {}


_Ends = dict[str, tuple[str, tuple[int, ...]]]
"""Text before the numbers at the end of each name, and the numbers."""


def _match_ends(stems: Mapping[str, str], pattern: re.Pattern[str]) -> _Ends:
    """Return the names that end as a pattern does."""
    found = {name: (stem, pattern.search(stem)) for name, stem in stems.items()}
    return {
        name: (stem[: match.start()], tuple(map(int, match.groups())))
        for name, (stem, match) in found.items()
        if match
    }


def _name_groups(found: _Ends) -> dict[str, str]:
    return {name: f"{group}*" for name, (group, _) in found.items()}


_Rule = Callable[[Mapping[str, str]], dict[str, str]]
_RULES: Iterable[tuple[str, _Rule]] = (
    ("wells of a plate", partial(_find_wells, 0)),
    ("wells of a plate", partial(_find_wells, 1)),
    ("tiles, frames or slices of an image", _find_parts),
    ("tiles of an image", _find_deep_zoom),
    ("tiles of an image", _find_boxes),
    ("tiles of an image", _find_grids),
    ("images of a numbered series", _find_counted),
)
"""Rules in the order in which they are tried, the surest first."""
