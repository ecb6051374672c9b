"""Images and masks that lie in one folder, told apart by their names."""

from __future__ import annotations

from collections import defaultdict

from unet_ray.errors import InputError
from unet_ray.labelled_data.pairing.affixes import (
    Affix,
    base_name,
    list_own_affixes,
    make_cutter,
    remove_suffix,
)
from unet_ray.storage.listing import Listing, path_suffix
from unet_ray.storage.storage import FileEntry

_LOSSY = frozenset({".jpg", ".jpeg", ".jpe"})
"""Suffixes of photographs, which no mask has that lies beside one."""


def part_one_folder(
    images: Listing, masks: Listing, affix: str | None
) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...], list[str]]:
    """Tell images from masks where both were listed from one folder.

    Returns:
        Images, masks, and how they were told apart.

    Raises:
        InputError: The names do not say which are which.
    """
    of_masks = {entry.uri for entry in masks.entries}
    common = [entry for entry in images.entries if entry.uri in of_masks]
    if not common:
        return images.entries, masks.entries, []
    rest = tuple(entry for entry in images.entries if entry.uri not in of_masks)
    if rest and len(common) == len(masks.entries):  # masks lie in a folder of the images
        return rest, masks.entries, [f"{len(common)} files are masks, and no images"]
    if affix:
        key = make_cutter(affix, masks.entries)
        chosen = {e.uri for e in masks.entries if key(e.path) is not None}
    else:
        chosen = _find_masks_among(images, masks)
    return (
        tuple(entry for entry in images.entries if entry.uri not in chosen),
        tuple(entry for entry in masks.entries if entry.uri in chosen),
        [],
    )


def has_masks_among(files: Listing) -> bool:
    """Tell whether names say which of some files are the masks of the others."""
    try:
        return bool(_find_masks_among(files, files))
    except InputError:
        return False


def _find_masks_among(images: Listing, masks: Listing) -> set[str]:
    """Return the URIs of the masks among files of which each is an image or a mask."""
    entries = masks.entries
    by_suffix: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        by_suffix[path_suffix(entry.path)].add(remove_suffix(entry.path))
    if len(by_suffix) == 2:  # photographs as JPEG, masks of the same names without loss
        lossy = [suffix for suffix in by_suffix if suffix in _LOSSY]
        lossless = [suffix for suffix in by_suffix if suffix not in _LOSSY]
        if len(lossy) == 1 and by_suffix[lossless[0]] <= by_suffix[lossy[0]]:
            return {e.uri for e in entries if path_suffix(e.path) == lossless[0]}
    stems = {remove_suffix(entry.path) for entry in entries}
    affixes: dict[Affix, int] = defaultdict(int)
    for stem in sorted(stems):
        for cut in list_own_affixes(base_name(stem)):
            key = cut.key(stem)
            if key is not None and key in stems:
                affixes[cut] += 1
    whole = []
    for cut in affixes:
        having = {stem for stem in stems if cut.key(stem) is not None}
        if all(cut.key(stem) in stems - having for stem in having):
            whole.append((cut, having))
    whole.sort(key=lambda each: -len(each[1]))
    if len(whole) != 1:
        ways = " or ".join(f"--mask-affix '{cut.before}*{cut.after}'" for cut, _ in whole[:3])
        raise InputError(
            f"--images {images.root.uri} and --masks {masks.root.uri} hold the same files, and "
            f"their names do not say which are masks; give {ways or '--mask-affix'}, or globs as "
            "in --images 'DIR/*.jpg' --masks 'DIR/*_mask.png'"
        )
    having = whole[0][1]
    return {entry.uri for entry in entries if remove_suffix(entry.path) in having}
