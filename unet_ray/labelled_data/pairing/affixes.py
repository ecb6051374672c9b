"""Suffixes of file names, and affixes common to all names of a set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from unicodedata import normalize

from unet_ray.storage.file_entry import FileEntry

_INNER_SUFFIXES = frozenset({".ome", ".nii", ".lsm", ".czi", ".nd2", ".qptiff", ".rgb", ".cog"})
"""Suffixes that count as part of the one after them: `00.ome.tif` is named 00."""
_AFFIXES = frozenset(
    ("mask", "masks", "seg", "segmentation", "label", "labels", "lbl", "gt", "truth", "groundtruth")
) | frozenset(
    ("target", "annotation", "anno", "instance", "instances", "matte", "pixels", "cp", "cpmasks")
)
"""Affixes that may touch a name without a separator: `001mask.png`."""
_MOST_TOKENS = 16
"""Largest number of parts of a name that an affix may have."""
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
    """Affix of a set of names: the texts before and after the part that differs."""

    before: str = ""
    after: str = ""

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    def take(self, base: str) -> str | None:
        """Return a name without the affix; None if it does not have it."""
        is_there = base.startswith(self.before) and base.endswith(self.after)
        if not is_there or len(base) < len(self):
            return None
        return base[len(self.before) : len(base) - len(self.after)]

    def key(self, path: str) -> str | None:
        """Return a path without the affix of its name; None if the name does not have it."""
        folder, slash, base = path.rpartition("/")
        left = self.take(base)
        if left is None:
            return None
        # If the name is the affix itself, only the folder, if any, distinguishes images.
        return folder + slash + left or None


def cut_path(cut: Affix, path: str) -> str | None:
    """Return a path without its suffix and an affix; None if it does not have the affix."""
    return cut.key(remove_suffix(path))


def list_common_affixes(names: Sequence[str]) -> list[Affix]:
    """Return all affixes that a set of names has in common; the empty one comes first."""
    starts = _list_affixes(names, _common_start(names))
    turned = [name[::-1] for name in names]
    turned_ends = _list_affixes(turned, _common_start(turned), is_turned=True)
    ends = [end[::-1] for end in turned_ends]
    return [Affix(start, end) for start in starts for end in ends]


def list_own_affixes(base: str) -> Iterator[Affix]:
    """Yield the affixes that a mask of this name may have."""
    tokens = _TOKEN.findall(base)
    for count in range(1, len(tokens)):
        before = "".join(tokens[:count])
        after = "".join(tokens[-count:])
        if any(c.isalpha() for c in before):
            yield Affix(before=before)
        if any(c.isalpha() for c in after):
            yield Affix(after=after)


def make_cutter(affix: str, masks: Sequence[FileEntry]) -> Callable[[str], str | None]:
    """Return `cut_path` for the affix that --mask-affix names.

    Without `*`, it is a suffix or a prefix of names, whichever fits most masks.
    """
    if "*" in affix:
        before, _, after = affix.partition("*")
        return partial(cut_path, Affix(before, after))
    names = [base_name(remove_suffix(entry.path)) for entry in masks]
    end, beginning = Affix(after=affix), Affix(before=affix)
    num_with_end = sum(end.take(name) is not None for name in names)
    num_with_beginning = sum(beginning.take(name) is not None for name in names)
    cut = beginning if num_with_beginning > num_with_end else end
    return partial(cut_path, cut)


def _common_start(names: Sequence[str]) -> str:
    first, last = min(names), max(names)  # all others sort between these
    size = 0
    for one, other in zip(first, last, strict=False):
        if one != other:
            break
        size += 1
    return first[:size]


def _list_affixes(names: Sequence[str], common: str, is_turned: bool = False) -> list[str]:
    """Return the affixes that names may begin with, the empty one first.

    They end at the end of a part of a name, or are one of the known affixes. A number is never cut:
    10 and 20 are not 1 and 2 with a suffix.

    Args:
        names: Names of the set.
        common: Text that all of them begin with.
        is_turned: True if all texts are reversed.
    """
    found, at = [""], 0
    for token in _TOKEN.findall(names[0])[:_MOST_TOKENS]:
        at += len(token)
        if at > len(common):
            break
        affix = names[0][:at]
        # a token that is whole in one name may be cut in another
        is_cut = any(
            len(name) > at and name[at - 1].isdigit() and name[at].isdigit() for name in names
        )
        if not is_cut and not affix.isdigit():
            found.append(affix)
    for size in range(1, len(common) + 1):
        affix = common[:size]
        text = affix[::-1] if is_turned else affix
        if text.lower() in _AFFIXES and affix not in found:
            found.append(affix)
    return found


def base_name(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]
