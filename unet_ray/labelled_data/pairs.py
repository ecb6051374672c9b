"""Pairing of images and masks by their relative path without suffix.

Pairs are one to one. A file without a partner is an error, unless it is reported as skipped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from unet_ray.errors import InputError
from unet_ray.storage.listing import Listing
from unet_ray.storage.storage import FileEntry


@dataclass(frozen=True)
class Pair:
    """One image file and its mask files."""

    image: FileEntry
    masks: tuple[FileEntry, ...]
    """Masks of the image: one, or one per class if masks lie in a folder per class."""


def looks_like_folders(images: Listing, masks: Listing) -> bool:
    """Tell whether masks lie at `masks/<class>/<path>`, with the same paths as the images."""
    stems = set(_index_by_stem(images.entries, "--images"))
    mask_stems = set(_index_by_stem(masks.entries, "--masks"))
    return not stems & mask_stems and all(
        "/" in s and s.partition("/")[2] in stems for s in mask_stems
    )


def pair_files(images: Listing, masks: Listing) -> list[Pair]:
    """Pair each image with the one mask that has the same relative path without suffix.

    Raises:
        InputError: An image has no mask, a mask has no image, or two files differ only in suffix.
    """
    image_of = _index_by_stem(images.entries, "--images")
    mask_of = _index_by_stem(masks.entries, "--masks")
    _refuse_missing(image_of.keys() - mask_of.keys(), "images without mask", masks.root.uri)
    _refuse_missing(mask_of.keys() - image_of.keys(), "masks without image", images.root.uri)
    return [Pair(image, (mask_of[stem],)) for stem, image in sorted(image_of.items())]


def pair_class_folders(images: Listing, masks: Listing, classes: list[str]) -> list[Pair]:
    """Pair each image with its mask in the folder of each class.

    Args:
        images: Image files.
        masks: Mask files, in a folder per class.
        classes: Names of the folders; an empty list means all folders, sorted.

    Raises:
        InputError: Same as `pair_files`, or a class has no folder.
    """
    folders: dict[str, list[FileEntry]] = defaultdict(list)
    for entry in masks.entries:
        folder, _, path = entry.path.partition("/")
        folders[folder].append(FileEntry(path, entry.uri, entry.etag, entry.size))
    names = classes or sorted(folders)
    absent = [name for name in names if name not in folders]
    if absent:
        raise InputError(
            f"--masks {masks.root.uri}: no folder for {', '.join(absent)} "
            f"(there are {', '.join(folders)})"
        )
    per_class = [
        pair_files(images, Listing(masks.root.join(n), tuple(folders[n]), 0)) for n in names
    ]
    return [
        Pair(row[0].image, tuple(pair.masks[0] for pair in row))
        for row in zip(*per_class, strict=True)
    ]


def class_folders(masks: Listing) -> list[str]:
    """Return the sorted names of the folders that hold the masks."""
    return sorted({entry.path.partition("/")[0] for entry in masks.entries})


def pair_names(images: Listing, names: dict[str, str | None], where: str) -> dict[str, FileEntry]:
    """Return the image for each name in a label file such as a COCO JSON.

    The image is the one at the URI that the label file gives for the name. If there is no such URI,
    or no image there, it is the one whose path ends in the name, compared with suffixes first and
    then without.

    Args:
        images: Images to choose from; images that have no name in the label file are not returned.
        names: Path of each image in the label file → URI given for it, or None.
        where: Label file, for messages.

    Raises:
        InputError: No image fits a name, or several do.
    """
    by_uri, by_stem = {entry.uri: entry for entry in images.entries}, defaultdict(list)
    for entry in images.entries:
        by_stem[_remove_suffix(entry.path).rpartition("/")[2]].append(entry)

    found = {
        name: [by_uri[uri]]
        if uri in by_uri
        else _match_path_end(name, by_stem[_remove_suffix(name).rpartition("/")[2]])
        for name, uri in names.items()
    }
    _refuse_missing(
        {name for name, entries in found.items() if not entries},
        f"names in {where} without image",
        images.root.uri,
    )
    for name, entries in found.items():
        if len(entries) > 1:
            raise InputError(
                f"{where}: {name} may be {entries[0].path} or {entries[1].path}; "
                "give more of its path"
            )
    return {name: entries[0] for name, entries in found.items()}


def _match_path_end(name: str, entries: list[FileEntry]) -> list[FileEntry]:
    exactly = [entry for entry in entries if f"/{entry.path}".endswith(f"/{name}")]
    return exactly or [
        entry
        for entry in entries
        if f"/{_remove_suffix(entry.path)}".endswith(f"/{_remove_suffix(name)}")
    ]


def _remove_suffix(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)


def _index_by_stem(entries: Iterable[FileEntry], flag: str) -> dict[str, FileEntry]:
    stems: dict[str, FileEntry] = {}
    for entry in entries:
        stem = _remove_suffix(entry.path)
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
            f"{len(first)} {what} in {where}: {shown}; both files of a pair need the same relative "
            "path without suffix"
        )
