"""Finding a labelled set: which image belongs to which mask, or to which entry of a label file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, MaskKind, check_class_names
from unet_ray.image_sources.encoded import PageFinder, find_places, is_stackable
from unet_ray.image_sources.names import split_page
from unet_ray.image_sources.sources import (
    ImageSource,
    header_decoders,
    list_pages,
    page_source,
    whole_file,
)
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.labelled_data.annotations import Annotations
from unet_ray.labelled_data.drawing import Drawing, count_objects
from unet_ray.labelled_data.formats.parsing import SUFFIXES
from unet_ray.labelled_data.image_names import find_images
from unet_ray.labelled_data.label_files import (
    LabelFile,
    join_annotations,
    read_label_file,
    read_label_folder,
)
from unet_ray.labelled_data.labelled_set import (
    LabelAccess,
    LabelledImage,
    LabelledSet,
    LabelOptions,
)
from unet_ray.labelled_data.pairs import (
    Pair,
    Pairing,
    class_folders,
    looks_like_folders,
    pair_class_folders,
    pair_files,
    remove_suffix,
)
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.listing import Listing, describe_links, list_files, path_suffix
from unet_ray.storage.storage import FileEntry, Storage

_SHOWN = 3
"""Names in a message."""


def find_labelled(images: str, masks: str, options: LabelOptions) -> LabelledSet:
    """List images and labels, and pair them.

    A label file may give the URIs of its images. They choose among the images that are listed, so
    that nothing else is opened.

    Args:
        images: URI of the images.
        masks: URI of the masks, of a label file, or of a folder of label files.
        options: How labels are read where they can be read in several ways.

    Raises:
        InputError: A folder is missing or empty, a label file cannot be used, or the names do not
            say which labels belong to which image.
    """
    image_list = list_files(images, IMAGE_SUFFIXES, "--images", options.roots)
    if path_suffix(masks) in SUFFIXES and not any(c in masks for c in "*?["):
        source = Storage.of(masks)
        file = read_label_file(source, {}, f"--masks {masks}")
        return _find_in_label_files(image_list, source, [file], f"--masks {masks}", options)
    mask_list = list_files(masks, IMAGE_SUFFIXES | SUFFIXES, "--masks", options.roots)
    mask_list, label_list = _part_labels(mask_list, image_list)
    if label_list.entries:
        files = read_label_folder(label_list.root, label_list.entries, {})
        return _find_in_label_files(image_list, label_list.root, files, f"--masks {masks}", options)
    return _find_in_mask_files(image_list, mask_list, options)


def _find_in_mask_files(images: Listing, masks: Listing, options: LabelOptions) -> LabelledSet:
    access = LabelAccess(images.root, masks.root, options)
    kind, classes = options.kind, options.classes
    if kind == "folders" or (kind is None and looks_like_folders(images, masks)):
        kind = "folders"
        classes = classes or tuple(
            ClassSpec(i, name) for i, name in enumerate(class_folders(masks), 1)
        )
        check_class_names((spec.name for spec in classes), f"--masks {masks.root.uri}")
        names = [spec.name for spec in classes]
        pairing = pair_class_folders(images, masks, names, options.mask_affix)
    else:
        pairing = pair_files(images, masks, options.mask_affix)
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        pairs = pool.map(partial(_pair_pages, decoders, access), pairing.pairs)
        pages = [*pairs]
    items = tuple(item for some in pages if not isinstance(some, str) for item in some)
    unequal = [some for some in pages if isinstance(some, str)]
    notes = [*pairing.notes, *_note_unlabelled(pairing, images), *_note_skipped(images, masks)]
    orphans = tuple(f"{path}: no image has its name" for path in pairing.orphans)
    if not items:
        raise InputError(f"--masks {masks.root.uri}: {unequal[0]}")
    return LabelledSet(access, items, kind, classes, tuple(notes), (*orphans, *unequal))


def _find_in_label_files(
    images: Listing,
    labels: Storage,
    files: Sequence[LabelFile],
    named: str,
    options: LabelOptions,
) -> LabelledSet:
    """Return the labelled set of the images that label files name."""
    annotations = (
        files[0].annotations
        if len(files) == 1
        else join_annotations([file.annotations for file in files])
    )
    drawing = _choose_classes(annotations, options, named)
    _check_kind(drawing, options.kind, named)
    file_of = np.repeat(np.arange(len(files)), [len(f.annotations.images) for f in files])
    rows = annotations.images.to_pylist()
    found = find_images(images.entries, map(_list_texts, rows), named)
    pages = [split_page(row["uri"] or row["name"])[1] for row in rows]
    sources = _find_sources(images, found.entries, pages, named)
    has_area = _find_areas(drawing)
    items, taken, left = [], dict[str, str](), 0
    for row, source in enumerate(sources):
        if source is None:
            continue
        name = rows[row]["name"]
        if source.uri in taken:
            raise InputError(
                f"{named}: {taken[source.uri]} and {name} are both {source.uri}; give more of the "
                "path of each in the label file, or the folder that holds all images as --images"
            )
        taken[source.uri] = name
        if drawing.area and row not in has_area:
            left += 1
            continue
        file = files[file_of[row]]
        masks = (whole_file(file.entry),) * len(drawing.classes)
        items.append(LabelledImage(source, masks, row, file.sha256))
    orphans = [
        f"{rows[row]['name']}: no image has its name"
        for row, entry in enumerate(found.entries)
        if entry is None
    ]
    if not items:
        first = orphans[0] if orphans else "it names no image"
        raise InputError(
            f"{named}: none of its {len(rows)} images is in {images.root.uri}: {first}"
        )
    notes = [
        *annotations.notes,
        *(f"{count} images were found {rule}" for rule, count in found.rules.items()),
        *_note_left_out(drawing, options, left),
        *_note_unnamed(images, taken, named),
        *_note_skipped(images),
    ]
    items.sort(key=lambda item: item.image.uri)
    kind = drawing.labelling.kind
    access = LabelAccess(images.root, labels, options, drawing)
    return LabelledSet(access, tuple(items), kind, drawing.classes, tuple(notes), tuple(orphans))


def _list_texts(row: Mapping[str, object]) -> list[str]:
    """Return what a label file says about which image it means, the most telling first."""
    name, places = str(row["name"]), [str(place) for place in row["places"]]  # type: ignore[attr-defined]
    uri = [str(row["uri"])] if row["uri"] else []
    # a place may be a folder: day1 is no image day1.png where there is day1/a.png
    return [*uri, name, *(f"{place}/{name}" for place in places), *places]


def _choose_classes(annotations: Annotations, options: LabelOptions, named: str) -> Drawing:
    """Return what draws the classes that the user named, or all.

    Raises:
        InputError: A class is missing, or has no name that can be shown.
    """
    names = [category.name for category in annotations.categories]
    check_class_names(names, named)
    there = ", ".join(dict.fromkeys(names))
    area = options.area_class
    for name in [*(spec.name for spec in options.classes), *([area] if area else [])]:
        if name not in names:
            raise InputError(f"{named}: no category {name}; there are {there}")
    classes = options.classes or _list_classes(annotations, area)
    if not classes:
        raise InputError(f"{named}: it has no category of objects")
    places = {spec.name: place for place, spec in enumerate(classes)}
    place_of = {row: places[name] for row, name in enumerate(names) if name in places}
    rows = frozenset(row for row, name in enumerate(names) if name == area)
    return Drawing(annotations, classes, place_of, rows)


def _list_classes(annotations: Annotations, area: str | None) -> tuple[ClassSpec, ...]:
    """Return a class for each name of a category, in the order of their ids.

    A name may have several ids, as some tools write them; the last one is that of the class. Where
    a category has no id of its own, all are numbered from 1.
    """
    chosen = [each for each in annotations.categories if each.name != area]
    ids = {each.name: each.id for each in sorted(chosen, key=lambda each: each.id or 0)}
    if any(number is None for number in ids.values()):
        ids = {name: number for number, name in enumerate(ids, 1)}
    return tuple(ClassSpec(number or 0, name) for name, number in ids.items())


def _check_kind(drawing: Drawing, kind: MaskKind | None, named: str) -> None:
    found = drawing.labelling.kind
    if kind not in (None, found):
        raise InputError(
            f"{named} holds masks of the kind {found}, but --mask-kind is {kind}; omit it"
        )


def _find_areas(drawing: Drawing) -> set[int]:
    """Return the rows of the images that have an object of the area."""
    if not drawing.area:
        return set()
    objects = drawing.annotations.objects
    is_area = np.isin(objects["category"].to_numpy(), [*drawing.area])
    return set(objects["image"].to_numpy()[is_area].tolist())


def _find_sources(
    images: Listing, entries: Sequence[FileEntry | None], pages: Sequence[int | None], named: str
) -> list[ImageSource | None]:
    """Return the image, or the page of a stack, that each row of label files means.

    Raises:
        InputError: A stack has no such page.
    """
    stacks = {
        entry.uri: entry
        for entry, page in zip(entries, pages, strict=True)
        if entry and page is not None
    }
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        places = pool.map(lambda entry: find_places(decoders, images.root, entry), stacks.values())
        places_of = dict(zip(stacks, places, strict=True))
    return [
        None
        if entry is None
        else whole_file(entry)
        if page is None
        else _find_page(entry, page, places_of[entry.uri], named)
        for entry, page in zip(entries, pages, strict=True)
    ]


def _find_page(entry: FileEntry, number: int, places: list[PagePlace], named: str) -> ImageSource:
    """Return the page that a label file names.

    If the stack cannot be read, return the whole file; decoding it will report the reason.
    """
    if not places and is_stackable(entry):
        return whole_file(entry)
    if not 1 <= number <= len(places):
        raise InputError(
            f"{named} names page {number} of {entry.path}, but the file has {len(places)} pages"
        )
    return page_source(entry, number, places)


def _part_labels(masks: Listing, images: Listing) -> tuple[Listing, Listing]:
    """Tell mask files from label files in one listing; one of the two is empty.

    Raises:
        InputError: Both describe the images.
    """
    labels = [entry for entry in masks.entries if path_suffix(entry.path) in SUFFIXES]
    others = tuple(entry for entry in masks.entries if path_suffix(entry.path) in IMAGE_SUFFIXES)
    stems = {remove_suffix(entry.path).rpartition("/")[2] for entry in images.entries}
    named = [entry for entry in labels if remove_suffix(entry.path).rpartition("/")[2] in stems]
    of_images = {entry.uri for entry in images.entries}
    has_masks = any(entry.uri not in of_images for entry in others)
    if named and has_masks:
        suffixes = sorted({path_suffix(entry.path) for entry in named})
        raise InputError(
            f"--masks {masks.root.uri} holds masks and label files of the same images "
            f"({named[0].path}); give a glob, as in --masks '{masks.root.uri}/**/*{suffixes[0]}' "
            f"or --masks '{masks.root.uri}/**/*.png'"
        )
    if has_masks or not labels:
        return replace(masks, entries=others, others=masks.others + len(labels)), replace(
            masks, entries=()
        )
    if not named and len(labels) == 1:  # a folder that holds one file for the whole set
        return replace(masks, entries=()), replace(masks, entries=tuple(labels))
    return replace(masks, entries=()), replace(
        masks, entries=tuple(named), others=masks.others + len(labels) - len(named)
    )


def _note_left_out(drawing: Drawing, options: LabelOptions, without_area: int) -> list[str]:
    """Return a line for each kind of thing that label files hold and that is not learnt."""
    counts, others = count_objects(drawing)
    left = dict(drawing.annotations.left_out)
    names = sorted(
        {
            category.name
            for row, category in enumerate(drawing.annotations.categories)
            if row not in drawing.place_of and row not in drawing.area
        }
    )
    lines = [f"left out: {count} {what}" for what, count in left.items()]
    if others:
        lines.append(f"left out: {others} objects of other classes ({_show(names)})")
    if without_area:
        lines.append(
            f"left out: {without_area} images without an object of --area-class "
            f"{options.area_class}"
        )
    lines += [
        f"class {spec.name} has no object: it can be neither learnt nor measured"
        for spec, count in zip(drawing.classes, counts, strict=True)
        if not count
    ]
    return lines


def _note_unlabelled(pairing: Pairing, images: Listing) -> list[str]:
    """Return a line about images without masks, if there are any."""
    if not pairing.unlabelled:
        return []
    return [
        f"left out: {len(pairing.unlabelled)} of {len(images.entries)} images without a mask "
        f"({_show([entry.path for entry in pairing.unlabelled])})"
    ]


def _note_unnamed(images: Listing, taken: Mapping[str, str], named: str) -> list[str]:
    """Return a line about images that label files do not name, if there are any."""
    files = {split_page(uri)[0] for uri in taken}
    rest = [entry.path for entry in images.entries if entry.uri not in files]
    if not rest:
        return []
    return [
        f"skipped {len(rest)} of {len(images.entries)} images in {images.root.uri} "
        f"that are not in {named.removeprefix('--masks ')} ({_show(rest)})"
    ]


def _show(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _note_skipped(*listings: Listing) -> list[str]:
    """Return lines about files that listings skipped, for their suffix, their name or a link."""
    others = [
        f"skipped {some.others} files in {some.root.uri} that do not have an image suffix"
        for some in listings
        if some.others
    ]
    links = [f"{some.root.uri}: {describe_links(some.links)}" for some in listings if some.links]
    return [*others, *(some.note for some in listings if some.note), *links]


def _pair_pages(finder: PageFinder, access: LabelAccess, pair: Pair) -> list[LabelledImage] | str:
    """Return the images of a file with their masks, or why they do not belong together."""
    pages = list_pages(finder, access.images, pair.image)
    mask_pages = [list_pages(finder, access.masks, mask) for mask in pair.masks]
    for some, mask in zip(mask_pages, pair.masks, strict=True):
        if len(some) != len(pages):
            return (
                f"{pair.image.uri} has {len(pages)} pages, but its mask {mask.uri} has {len(some)}"
            )
    return [LabelledImage(page, tuple(row)) for page, *row in zip(pages, *mask_pages, strict=True)]
