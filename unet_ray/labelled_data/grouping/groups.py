"""Groups of labelled images: what stands on one side of a split, and is drawn together.

Images of one file are always of one group, whatever is asked for.
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
"""Value of `--group-by` for no groups but those of files with several images."""
_LEVEL = re.compile(r"-?[0-9]{1,4}")


@dataclass(frozen=True)
class Grouping:
    """Groups of the images of a labelled set."""

    by: str
    """Name of what groups are: `image`, `file`, `--group-by -2` or `wells of a plate`."""
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
    """Return the groups that are asked for, or else those that names of files tell.

    Args:
        group_by: Value of `--group-by`; None: not given.
        labelled: Labelled set.
        images: Value of `--images`, which may be a manifest.

    Raises:
        InputError: An image has no group by what is asked for, all are in one, or it can be
            understood in two ways.
    """
    uris = [item.image.file_uri for item in labelled.items]
    names = [labelled.access.images.name_of(uri) for uri in uris]
    plain = "file" if len(set(names)) < len(labelled.names) else "image"
    if group_by == NO_GROUPS:
        _check_no_column(group_by, labelled, images)
        return Grouping(plain, tuple(names))
    if group_by is None:
        return _take_guess(guess_groups(names), names, plain)
    groups = _group_by(str(group_by), labelled, images, uris, names)
    if len(set(groups)) < 2:
        raise InputError(
            f"--group-by {group_by}: all {len(groups)} images are in one group, {groups[0]}; "
            "group by something in which they differ"
        )
    by = f"--group-by {group_by}"
    return Grouping(by, tuple(groups), (f"{by}: {_show_groups(names, groups)}",))


def _take_guess(guess: Guess | None, names: Sequence[str], plain: str) -> Grouping:
    """Return groups that names tell where they can be relied on, else a group for each file."""
    if guess and guess.is_accepted:
        note = (
            f"names look like those of {guess.what}, which stay together: "
            f"{_show_groups(names, guess.groups)}; --group-by none takes them {plain} by {plain}"
        )
        return Grouping(guess.what, guess.groups, (note,))
    looks = ""
    if guess:
        looks = (
            f"; names look like those of {guess.what} ({_show_groups(names, guess.groups)}), which "
            "are too few or too large to be taken unasked"
        )
    note = (
        f"images are taken {plain} by {plain}; where some belong together (tiles of a slide, "
        f"frames of a clip, images of a patient), --group-by keeps them together{looks}"
    )
    return Grouping(plain, tuple(names), (note,) if len(set(names)) > 1 else ())


def _show_groups(names: Sequence[str], groups: Sequence[str]) -> str:
    """Return how many groups there are, and two files of one, if some are of one."""
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
    _check_all(groups, names, f"--group-by {text}", "have no value in that column", "fill it in")
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
    """Return the folder of each file at a level: from the file if below 0, else from the top."""
    groups = []
    for name in names:
        folders = name.split("/")[:-1]
        depth = level if level > 0 else len(folders) + 1 + level
        groups.append("/".join(folders[:depth]) or "." if 0 <= depth <= len(folders) else "")
    _check_all(
        groups,
        names,
        f"--group-by {level}",
        "lie less deep below --images",
        "give a level that all have, or a folder further up as --images",
    )
    return groups


def _group_by_expression(text: str, names: Sequence[str]) -> list[str]:
    """Return what an expression finds in each path: its groups, or all of it if it has none."""
    try:
        groups = _match(text, names)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"--group-by {text}: neither none, nor a level of folders (-1), nor a column of a "
            f"manifest, nor a regular expression: {error}"
        ) from None
    _check_all(
        groups,
        names,
        f"--group-by {text}",
        "have nothing that this regular expression finds in their paths",
        "widen it",
    )
    return groups


def _match(text: str, names: Sequence[str]) -> list[str]:
    expression = re.compile(text)
    found = [expression.search(name) for name in names]
    return [
        "/".join(filter(None, match.groups() if expression.groups else [match[0]])) if match else ""
        for match in found
    ]


def _is_expression_of(text: str, names: Sequence[str]) -> bool:
    """Tell whether a text also makes sense as an expression: it groups all of the paths."""
    try:
        groups = set(_match(text, names))
    except (re.error, OverflowError, RecursionError):
        return False
    return "" not in groups and len(groups) > 1


def _read_column(text: str, labelled: LabelledSet, images: str) -> dict[str, str] | None:
    """Return a column of the manifest by URI of the file; None if there is none."""
    if not images.endswith(".parquet"):
        return None
    manifest = Manifest.open(images, f"--images {images}", labelled.access.options.roots)
    return manifest.read_column(text)


def _check_no_column(text: str, labelled: LabelledSet, images: str) -> None:
    if _read_column(text, labelled, images) is not None:
        raise InputError(
            f"--group-by {text} has a meaning of its own, and is a column of the manifest as well; "
            "rename the column"
        )


def _check_all(
    groups: Sequence[str], names: Sequence[str], flag: str, fault: str, remedy: str
) -> None:
    """Raise InputError if files have no group."""
    without = sorted({name for name, group in zip(names, groups, strict=True) if not group})
    if without:
        raise InputError(
            f"{flag}: {len(without)} of {len(set(names))} files {fault}, the first is "
            f"{without[0]}; {remedy}"
        )
