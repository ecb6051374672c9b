"""Images and masks in one folder, distinguished by their names."""

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
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing, path_suffix

_LOSSY = frozenset({".jpg", ".jpeg", ".jpe"})
"""Suffixes of photographs; masks beside them have another suffix."""


def part_one_folder(
    images: Listing, masks: Listing, affix: str | None
) -> tuple[tuple[FileEntry, ...], tuple[FileEntry, ...], list[str]]:
    """Separate images from masks if both were listed from one folder.

    Args:
        images: Listing of --images.
        masks: Listing of --masks.
        affix: Value of --mask-affix, if given.

    Returns:
        Images, masks, and notes on how they were separated.

    Raises:
        InputError: The names do not show which files are masks.
    """
    of_masks = {entry.uri for entry in masks.entries}
    common = [entry for entry in images.entries if entry.uri in of_masks]
    if not common:
        return images.entries, masks.entries, []
    rest = tuple(entry for entry in images.entries if entry.uri not in of_masks)
    if rest and len(common) == len(masks.entries):  # masks lie in a folder of the images
        return rest, masks.entries, [f"{len(common)} files are taken as masks, not images"]
    if affix:
        key = make_cutter(affix, masks.entries)
        chosen = {entry.uri for entry in masks.entries if key(entry.path) is not None}
    else:
        chosen = _find_masks_among(images, masks)
    image_entries = tuple(entry for entry in images.entries if entry.uri not in chosen)
    mask_entries = tuple(entry for entry in masks.entries if entry.uri in chosen)
    return image_entries, mask_entries, []


def has_masks_among(files: Listing) -> bool:
    """Tell whether names show which of the files are masks of the others."""
    try:
        return bool(_find_masks_among(files, files))
    except InputError:
        return False


def _find_masks_among(images: Listing, masks: Listing) -> set[str]:
    """Return the URIs of the masks among files, each of which is an image or a mask."""
    stems_of_suffix: dict[str, set[str]] = defaultdict(set)
    for entry in masks.entries:
        stems_of_suffix[path_suffix(entry.path)].add(remove_suffix(entry.path))
    if len(stems_of_suffix) == 2:  # photographs as JPEG, masks of the same names without loss
        lossy = [suffix for suffix in stems_of_suffix if suffix in _LOSSY]
        lossless = [suffix for suffix in stems_of_suffix if suffix not in _LOSSY]
        if len(lossy) == 1 and stems_of_suffix[lossless[0]] <= stems_of_suffix[lossy[0]]:
            return {e.uri for e in masks.entries if path_suffix(e.path) == lossless[0]}
    stems = {remove_suffix(entry.path) for entry in masks.entries}
    found = _find_affixes(stems)
    if len(found) != 1:
        flags = [f"--mask-affix '{cut.before}*{cut.after}'" for cut, _ in found[:3]]
        ways = " or ".join(flags)
        raise InputError(
            f"--images {images.root.uri} and --masks {masks.root.uri} hold the same files, and "
            f"their names do not say which are masks; give {ways or '--mask-affix'}, or globs as "
            "in --images 'DIR/*.jpg' --masks 'DIR/*_mask.png'"
        )
    _, having = found[0]
    return {entry.uri for entry in masks.entries if remove_suffix(entry.path) in having}


def _find_affixes(stems: set[str]) -> list[tuple[Affix, set[str]]]:
    """Return affixes whose removal always gives the name of another file.

    Args:
        stems: Paths of the files without suffixes.

    Returns:
        Each affix with the paths that have it; the affix with most paths first.
    """
    candidates: dict[Affix, None] = {}
    for stem in sorted(stems):
        for cut in list_own_affixes(base_name(stem)):
            if cut.key(stem) in stems:
                candidates[cut] = None
    found = []
    for cut in candidates:
        having = {stem for stem in stems if cut.key(stem) is not None}
        others = stems - having
        if all(cut.key(stem) in others for stem in having):
            found.append((cut, having))
    found.sort(key=lambda each: -len(each[1]))
    return found
