"""Kinds of files in a listing: masks, and label files."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from unet_ray.errors import InputError
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.labelled_data.colours import COLOUR_FILES
from unet_ray.labelled_data.formats.parsing import SUFFIXES
from unet_ray.labelled_data.formats.yolo import CLASS_FILES
from unet_ray.labelled_data.pairing.affixes import base_name, remove_suffix
from unet_ray.labelled_data.pairing.image_names import drop_upload
from unet_ray.labelled_data.pairing.mixed_folders import has_masks_among
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing, path_suffix
from unet_ray.storage.storage import Storage
from unet_ray.store_options import StoreOptions

_NO_LABELS = frozenset({*CLASS_FILES, *COLOUR_FILES, "_classes.csv"})
"""Files that name classes or colours, and have suffixes of label files."""
_ONLY_NAMED = frozenset({".txt", ".yaml", ".yml", ".names", ".labels"})
"""Suffixes of label files that many other files also have: notes, lists, settings."""


def is_label_file(masks: str, options: StoreOptions) -> bool:
    """Tell whether a URI is that of a label file, not a glob or a manifest of masks.

    Args:
        masks: The URI.
        options: Options of its store.
    """
    suffix = path_suffix(masks)
    if suffix not in SUFFIXES or any(c in masks for c in "*?["):
        return False
    return suffix != ".parquet" or _is_geoparquet(Storage.of(masks, options))


def _is_geoparquet(file: Storage) -> bool:
    """Tell whether a Parquet file has geometries.

    A file that cannot be read counts as a manifest: reading it as one reports the reason.
    """
    try:
        with file.open() as opened:
            return b"geo" in (pq.read_schema(opened).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def part_labels(masks: Listing, images: Listing) -> tuple[Listing, Listing]:
    """Separate mask files from label files in one listing.

    Args:
        masks: Files of known suffixes at --masks.
        images: Files at --images, which may be the same folder.

    Returns:
        Mask files and label files; one of the two is empty.

    Raises:
        InputError: Both describe the images.
    """
    stems = {_base_stem(entry.path) for entry in images.entries}
    of_images = {entry.uri for entry in images.entries}
    pictures = tuple(e for e in masks.entries if path_suffix(e.path) in IMAGE_SUFFIXES)
    mask_files = [entry for entry in pictures if entry.uri not in of_images]
    labels = tuple(entry for entry in masks.entries if _may_be_labels(entry, stems))
    if pictures:  # an archive beside pictures does not hold labels
        labels = tuple(entry for entry in labels if path_suffix(entry.path) != ".zip")
    named = tuple(entry for entry in labels if _is_named(entry, stems))
    if named and mask_files:
        folder = masks.root.uri
        raise InputError(
            f"--masks {folder} holds masks and label files of the same images "
            f"({named[0].path}); give a glob, as in --masks "
            f"'{folder}/**/*{path_suffix(named[0].path)}' or --masks "
            f"'{folder}/**/*{path_suffix(mask_files[0].path)}'"
        )
    if named and pictures:
        labels = named
    elif mask_files or (pictures and has_masks_among(replace(masks, entries=pictures))):
        labels = ()  # these describe something else
    chosen = labels or pictures
    num_skipped = masks.others + len(masks.entries) - len(chosen)
    if labels:  # images are not among the files that were skipped
        num_skipped -= sum(entry.uri in of_images for entry in pictures)
    found = replace(masks, entries=chosen, others=num_skipped)
    nothing = replace(masks, entries=())
    return (nothing, found) if labels else (found, nothing)


def _may_be_labels(entry: FileEntry, stems: set[str]) -> bool:
    """Tell whether a file may hold labels: its format is known, and it does not hold class names.

    Text files count only if they have the name of an image.
    """
    suffix = path_suffix(entry.path)
    name = base_name(entry.path).lower()
    if suffix not in SUFFIXES or name in _NO_LABELS:
        return False
    return suffix not in _ONLY_NAMED or _is_named(entry, stems)


def _is_named(entry: FileEntry, stems: set[str]) -> bool:
    """Tell whether a file has the name of an image, as `a.png.json` has that of `a.png`.

    Label Studio puts the id of an upload before the name.
    """
    stem = _base_stem(entry.path)
    return not stems.isdisjoint((stem, _base_stem(stem), drop_upload(stem)))


def _base_stem(path: str) -> str:
    return base_name(remove_suffix(path))
