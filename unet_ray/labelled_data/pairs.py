"""Images and their masks: paired by relative path without suffix, one to one, nothing left over in silence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.storage.listing import Listing
from unet_ray.storage.storage import FileEntry


@dataclass(frozen=True)
class Pair:
    """One labelled file."""

    image: FileEntry
    masks: tuple[FileEntry, ...]
    """One, or one per class where masks lie in a folder per class."""


def looks_like_folders(images: Listing, masks: Listing) -> bool:
    """Tell whether masks lie as `masks/<class>/<path>`, each class with the paths of the images."""
    stems = set(_by_stem(images.entries, "--images"))
    mask_stems = set(_by_stem(masks.entries, "--masks"))
    return not stems & mask_stems and all(
        "/" in s and s.partition("/")[2] in stems for s in mask_stems
    )


def pair_files(images: Listing, masks: Listing) -> list[Pair]:
    """Pair each image with the one mask of its relative path without suffix.

    Raises: InputError — an image without mask, a mask without image, two files of one name.
    """
    image_of = _by_stem(images.entries, "--images")
    mask_of = _by_stem(masks.entries, "--masks")
    _refuse_missing(image_of.keys() - mask_of.keys(), "images without mask", masks.root.uri)
    _refuse_missing(mask_of.keys() - image_of.keys(), "masks without image", images.root.uri)
    return [Pair(image, (mask_of[stem],)) for stem, image in sorted(image_of.items())]


def pair_class_folders(images: Listing, masks: Listing, classes: list[str]) -> list[Pair]:
    """Pair each image with its mask in the folder of each class.

    Args:
        classes — folder names; empty: all there are, sorted.

    Raises: InputError — as `pair_files`, and a class without folder.
    """
    folders: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in masks.entries:
        folder, _, path = entry.path.partition("/")
        folders[folder].append(FileEntry(path, entry.uri, entry.etag, entry.size))
    names = classes or sorted(folders)
    absent = [name for name in names if name not in folders]
    if absent:
        raise InputError(
            f"--masks {masks.root.uri}: no folder for {', '.join(absent)} (there are {', '.join(folders)})"
        )
    per_class = [
        pair_files(images, Listing(masks.root.join(n), tuple(folders[n]), 0)) for n in names
    ]
    return [
        Pair(row[0].image, tuple(pair.masks[0] for pair in row))
        for row in zip(*per_class, strict=True)
    ]


def class_folders(masks: Listing) -> list[str]:
    """Return the names of the folders that masks lie in, sorted."""
    return sorted({entry.path.partition("/")[0] for entry in masks.entries})


def pair_names(images: Listing, names: dict[str, str | None], where: str) -> dict[str, FileEntry]:
    """Return the image of each name that labels have in a file of their own, as COCO has them.

    It is the one of the URI that the name came from; where that is unknown or elsewhere, the one whose path ends in the
    name, with its suffix or else without.

    Args:
        images — to choose from; those without name are left over.
        names — path → URI that it came from, or None.
        where — they come from, for messages.

    Raises: InputError — a name that no image has, or several.
    """
    by_uri, by_stem = {entry.uri: entry for entry in images.entries}, defaultdict(list)
    for entry in images.entries:
        by_stem[_stem(entry.path).rpartition("/")[2]].append(entry)

    found = {
        name: [by_uri[uri]]
        if uri in by_uri
        else _ending_in(name, by_stem[_stem(name).rpartition("/")[2]])
        for name, uri in names.items()
    }
    _refuse_missing(
        {name for name, entries in found.items() if not entries},
        f"names of {where} without image",
        images.root.uri,
    )
    for name, entries in found.items():
        if len(entries) > 1:
            raise InputError(
                f"{where}: {name} may be {entries[0].path} or {entries[1].path}; give more of its path"
            )
    return {name: entries[0] for name, entries in found.items()}


def _ending_in(name: str, entries: list[FileEntry]) -> list[FileEntry]:
    exactly = [entry for entry in entries if f"/{entry.path}".endswith(f"/{name}")]
    return exactly or [
        entry for entry in entries if f"/{_stem(entry.path)}".endswith(f"/{_stem(name)}")
    ]


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _by_stem(entries: Iterable[FileEntry], flag: str) -> dict[str, FileEntry]:
    stems: dict[str, FileEntry] = {}
    for entry in entries:
        stem = _stem(entry.path)
        if stem in stems:
            raise InputError(
                f"{flag}: {stems[stem].path} and {entry.path} differ only in their suffix; keep one"
            )
        stems[stem] = entry
    return stems


def _refuse_missing(stems: set[str], what: str, where: str) -> None:
    if stems:
        first = sorted(stems)
        shown = ", ".join(first[:3]) + (", …" if len(first) > 3 else "")
        raise InputError(
            f"{len(first)} {what} in {where}: {shown}; pairs share their relative path without suffix"
        )
