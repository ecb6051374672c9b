"""Names of files without what all names of a set have in common: suffixes and affixes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from unicodedata import normalize

from unet_ray.storage.storage import FileEntry

_INNER_SUFFIXES = frozenset({".ome", ".nii", ".lsm", ".czi", ".nd2", ".qptiff", ".rgb", ".cog"})
"""Suffixes that count as part of the one after them: `00.ome.tif` is named 00."""
_AFFIXES = frozenset(
    ("mask", "masks", "seg", "segmentation", "label", "labels", "lbl", "gt", "truth", "groundtruth")
) | frozenset(
    ("target", "annotation", "anno", "instance", "instances", "matte", "pixels", "cp", "cpmasks")
)
"""Affixes that may touch a name without a separator: `001mask.png`."""
_MOST_TOKENS = 16
"""Most parts of a name that an affix may have."""
_TOKEN = re.compile(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]")


def remove_suffix(path: str) -> str:
    """Return a path, composed (NFC), without its suffix; `.ome.tif` and the like are one suffix."""
    folder, slash, name = normalize("NFC", path).rpartition("/")
    name = name.rpartition(".")[0] or name
    if PurePosixPath(name).suffix.lower() in _INNER_SUFFIXES:
        name = name.rpartition(".")[0] or name
    return folder + slash + name


@dataclass(frozen=True)
class Affix:
    """Affix of a set of names: the texts before and after the part that tells them apart."""

    before: str = ""
    after: str = ""

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def take(self, base: str) -> str | None:
        """Return the part of a name that is left; None if it does not begin and end so."""
        is_there = base.startswith(self.before) and base.endswith(self.after)
        if not is_there or len(base) < len(self):
            return None
        return base[len(self.before) : len(base) - len(self.after)]

    def key(self, path: str) -> str | None:
        """Return a path with the part of its name that is left."""
        folder, slash, base = path.rpartition("/")
        left = self.take(base)
        # nothing is left of `mask`: it is told apart by its folder, if it has one
        return None if left is None else (folder + slash + left) or None


def cut_path(cut: Affix, path: str) -> str | None:
    """Return the key of a path, without its suffix and an affix."""
    return cut.key(remove_suffix(path))


def list_common_affixes(names: Sequence[str]) -> list[Affix]:
    """Return all affixes that a set of names has in common; the empty one comes first."""
    before = _list_affixes(names, _common_start(names))
    turned = [name[::-1] for name in names]
    after = _list_affixes(turned, _common_start(turned), is_turned=True)
    return [Affix(b, a[::-1]) for b in before for a in after]


def list_own_affixes(base: str) -> Iterator[Affix]:
    """Yield the affixes that a mask of this name may have."""
    tokens = _TOKEN.findall(base)
    for count in range(1, len(tokens)):
        before, after = "".join(tokens[:count]), "".join(tokens[-count:])
        if any(c.isalpha() for c in before):
            yield Affix(before=before)
        if any(c.isalpha() for c in after):
            yield Affix(after=after)


def _parse_affix(affix: str, names: Sequence[str]) -> Affix:
    """Return what --mask-affix means; a text without `*` is the end that most names have."""
    if "*" in affix:
        before, _, after = affix.partition("*")
        return Affix(before, after)
    ends, begins = Affix(after=affix), Affix(before=affix)
    count = [sum(cut.take(name) is not None for name in names) for cut in (ends, begins)]
    return begins if count[1] > count[0] else ends


def make_cutter(affix: str, masks: Sequence[FileEntry]) -> Callable[[str], str | None]:
    """Return a function that takes the affix of --mask-affix from a path; None: it has none."""
    cut = _parse_affix(affix, [base_name(remove_suffix(entry.path)) for entry in masks])
    return partial(cut_path, cut)


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # in order, all others lie between
    same = (a == b for a, b in zip(first, last, strict=False))
    return first[: next((i for i, is_same in enumerate(same) if not is_same), len(first))]


def _list_affixes(names: Sequence[str], common: str, is_turned: bool = False) -> list[str]:
    """Return the beginnings of a common beginning that end where a part of a name ends.

    A number is never cut: 10 and 20 are not 1 and 2 with a suffix.
    """
    found, at = [""], 0
    for token in _TOKEN.findall(names[0])[:_MOST_TOKENS]:
        at += len(token)
        if at > len(common):
            break
        # what is a whole token in one name may be cut in another
        is_cut = any(
            len(name) > at and name[at - 1].isdigit() and name[at].isdigit() for name in names
        )
        has_sense = not names[0][:at].isdigit() or any(not c.isalnum() for c in names[0][:at])
        if not is_cut and has_sense:
            found.append(names[0][:at])
    for size in range(1, len(common) + 1):
        text = common[:size][::-1] if is_turned else common[:size]
        if text.lower() in _AFFIXES and common[:size] not in found:
            found.append(common[:size])
    return found


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]
