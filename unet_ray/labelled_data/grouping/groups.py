"""Groups of labelled images: a group stays on one side of a split, and is resampled as a whole.

Images of one file always belong to one group, even if the user asks for other groups.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unet_ray.errors import InputError
from unet_ray.labelled_data.grouping.names import Guess, guess_groups
from unet_ray.labelled_data.labelled_set import LabelledSet
from unet_ray.storage.manifest import Manifest

NO_GROUPS = "none"
"""Value of `--group-by` for no groups other than those of files with several images."""
_LEVEL = re.compile(r"-?[0-9]{1,4}")


@dataclass(frozen=True)
class Grouping:
    """Groups of the images of a labelled set."""

    by: str
    """Reason why images belong together: `image`, `file`, `--group-by -2` or `wells of a plate`."""
    groups: tuple[str, ...]
    """Group of each image, in the order of the set."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Messages on how groups were found."""

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(set(self.groups))

    def take(self, indices: Sequence[int]) -> Grouping:
        """Return the groups of some of the images."""
        return replace(self, groups=tuple(self.groups[index] for index in indices))


def find_grouping(group_by: int | str | None, labelled: LabelledSet, images: str) -> Grouping:
    """Return the groups that the user asks for, or else those that file names suggest.

    Args:
        group_by: Value of `--group-by`; None: not given.
        labelled: Labelled set.
        images: Value of `--images`, which may be a manifest.

    Raises:
        InputError: `group_by` gives an image no group, puts all images in one group, or has two
            meanings.
    """
    uris = [item.image.file_uri for item in labelled.items]
    names = [labelled.access.images.name_of(uri) for uri in uris]
    plain = "file" if len(set(names)) < len(labelled.names) else "image"
    if group_by == NO_GROUPS:
        _check_no_column(group_by, labelled, images)
        return Grouping(plain, tuple(names))
    if group_by is None:
        return _take_guess(guess_groups(names), names, plain)
    by = f"--group-by {group_by}"
    groups = _group_by(str(group_by), labelled, images=images, uris=uris, names=names)
    if len(set(groups)) < 2:
        raise InputError(
            f"{by}: all {len(groups)} images are in one group, {groups[0]}; "
            "group by something in which they differ"
        )
    return Grouping(by, tuple(groups), (f"{by}: {_show_groups(names, groups)}",))


def _take_guess(guess: Guess | None, names: Sequence[str], plain: str) -> Grouping:
    """Return the groups of a guess if it is reliable, else a group for each file."""
    if guess and guess.is_accepted:
        note = (
            f"names look like those of {guess.what}, which stay together: "
            f"{_show_groups(names, guess.groups)}; --group-by none makes each {plain} its own group"
        )
        return Grouping(guess.what, guess.groups, (note,))
    if len(set(names)) < 2:
        return Grouping(plain, tuple(names))
    note = (
        f"each {plain} is a group of its own; if some belong together (tiles of a slide, frames of "
        "a clip, images of a patient), --group-by keeps them together"
    )
    if guess:
        note += (
            f"; names look like those of {guess.what} ({_show_groups(names, guess.groups)}), which "
            "are too few or too large to be taken without --group-by"
        )
    return Grouping(plain, tuple(names), (note,))


def _show_groups(names: Sequence[str], groups: Sequence[str]) -> str:
    """Return the number of groups, with two files of one group as an example if possible."""
    text = f"{len(set(groups))} groups of {len(groups)} images"
    first: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        if first.setdefault(group, name) != name:
            return f"{text}, for example {first[group]} with {name}"
    return f"{text}, for example {groups[0]}"


def _group_by(
    text: str, labelled: LabelledSet, images: str, uris: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Return the group of each image by a folder, a column or an expression."""
    level = _parse_level(text)
    if level is not None:
        _check_no_column(text, labelled, images)
        return _group_by_folder(level, names)
    column = _read_column(text, labelled, images)
    if column is None:
        return _group_by_expression(text, names)
    if _is_expression_of(text, names):
        raise InputError(
            f"--group-by {text} is a column of the manifest, and as a regular expression it groups "
            f"the paths as well; write (?:{text}) for the expression, or rename the column"
        )
    groups = [column.get(uri) or "" for uri in uris]
    _check_all(
        groups,
        names,
        flag=f"--group-by {text}",
        fault="have no value in that column",
        remedy="fill it in",
    )
    return groups


def _parse_level(group_by: str) -> int | None:
    """Return the level of folders that `--group-by` asks for; None if it is something else."""
    if not _LEVEL.fullmatch(group_by):
        return None
    level = int(group_by)
    if level == 0:
        raise InputError(
            "--group-by 0: give -1 for the folder of each file, -2 for the one above it, or 1 for "
            "the first one below --images"
        )
    return level


def _group_by_folder(level: int, names: Sequence[str]) -> list[str]:
    """Return the folder of each file at a level, counted from the file if it is negative."""
    groups = []
    for name in names:
        folders = name.split("/")[:-1]
        depth = level if level > 0 else len(folders) + 1 + level
        is_there = 0 <= depth <= len(folders)
        group = "/".join(folders[:depth]) or "."
        groups.append(group if is_there else "")
    _check_all(
        groups,
        names,
        flag=f"--group-by {level}",
        fault="have no folder at that level",
        remedy="give a level that all files have, or a folder further up as --images",
    )
    return groups


def _group_by_expression(text: str, names: Sequence[str]) -> list[str]:
    """Return the group of each path by an expression (see `_match`)."""
    try:
        groups = _match(text, names)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"--group-by {text} is neither none, nor a level of folders (-1), nor a column of a "
            f"manifest, nor a regular expression: {error}"
        ) from None
    _check_all(
        groups,
        names,
        flag=f"--group-by {text}",
        fault="do not match this regular expression",
        remedy="widen it",
    )
    return groups


def _match(text: str, names: Sequence[str]) -> list[str]:
    """Return the part of each path that an expression matches: its groups, or else all of it."""
    expression = re.compile(text)
    found = []
    for name in names:
        match = expression.search(name)
        if match is None:
            found.append("")
        elif expression.groups:
            found.append("/".join(text for text in match.groups() if text))
        else:
            found.append(match[0])
    return found


def _is_expression_of(text: str, names: Sequence[str]) -> bool:
    """Tell whether a text that names a column is also an expression that groups all paths."""
    try:
        groups = set(_match(text, names))
    except (re.error, OverflowError, RecursionError):
        return False
    return "" not in groups and len(groups) > 1


def _read_column(text: str, labelled: LabelledSet, images: str) -> dict[str, str] | None:
    """Return a column of the manifest, by URI of the file; None if there is no such column."""
    if not images.endswith(".parquet"):
        return None
    manifest = Manifest.open(images, f"--images {images}", labelled.access.options.roots)
    return manifest.read_column(text)


def _check_no_column(text: str, labelled: LabelledSet, images: str) -> None:
    if _read_column(text, labelled, images) is not None:
        raise InputError(
            f"--group-by {text} has a meaning of its own, but is also a column of the manifest; "
            "rename the column"
        )


def _check_all(
    groups: Sequence[str], names: Sequence[str], flag: str, fault: str, remedy: str
) -> None:
    """Raise InputError, with the fault and its remedy, if a file has no group."""
    without = sorted({name for name, group in zip(names, groups, strict=True) if not group})
    if without:
        raise InputError(
            f"{flag}: {len(without)} of {len(set(names))} files {fault}, the first is "
            f"{without[0]}; {remedy}"
        )
