"""Finding a labelled set: which image belongs to which mask, or to which entry of a label file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, check_class_names
from unet_ray.image_sources.encoded import (
    ImageFinder,
    describe_absent,
    find_places,
    is_stackable,
)
from unet_ray.image_sources.names import image_uri, is_among, split_uri
from unet_ray.image_sources.sources import (
    ImageSource,
    header_decoders,
    image_source,
    list_images,
    whole_file,
)
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.image_place import WHOLE, ImageKey, ImagePlace
from unet_ray.labelled_data.annotations import Annotations
from unet_ray.labelled_data.colours import find_colour_map
from unet_ray.labelled_data.drawing import Drawing, count_objects
from unet_ray.labelled_data.formats.parsing import SUFFIXES
from unet_ray.labelled_data.label_classes import (
    are_numbered,
    choose_classes,
    find_class_names,
    name_categories,
)
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
from unet_ray.labelled_data.maps.georeferenced import needs_places, place_on_images
from unet_ray.labelled_data.maps.image_places import locate_images
from unet_ray.labelled_data.pairing.file_kinds import is_label_file, part_labels
from unet_ray.labelled_data.pairing.image_names import find_images
from unet_ray.labelled_data.pairing.pairs import (
    Pair,
    class_folders,
    looks_like_folders,
    pair_class_folders,
    pair_files,
)
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing, describe_links, list_files
from unet_ray.storage.storage import Storage

_SHOWN = 3
"""Names in a message."""


def find_labelled(images: str, masks: str, options: LabelOptions) -> LabelledSet:
    """List images and labels, and pair them.

    A label file may give the URIs of its images. They only choose among the images that are listed;
    nothing else is opened.

    Args:
        images: URI of the images.
        masks: URI of the masks, of a label file, or of a folder of label files.
        options: Choices for labels that can be read in several ways.

    Raises:
        InputError: A folder is missing or empty, a label file cannot be used, or the names do not
            say which labels belong to which image.
    """
    image_list = list_files(images, IMAGE_SUFFIXES, "--images", options.roots)
    named = f"--masks {masks}"
    asked = {"label_property": options.label_property}
    if is_label_file(masks, options.masks_options):
        source = Storage.of(masks, options.masks_options)
        files = [read_label_file(source, asked, named)]
        return _find_in_label_files(image_list, source, files=files, named=named, options=options)
    roots = replace(options.roots, options=options.masks_options)
    listed = list_files(masks, IMAGE_SUFFIXES | SUFFIXES, "--masks", roots)
    mask_list, label_list = part_labels(listed, image_list)
    if label_list.entries:
        source = label_list.root
        files = read_label_folder(source, label_list.entries, asked)
        return _find_in_label_files(image_list, source, files=files, named=named, options=options)
    if not mask_list.entries:
        raise InputError(
            f"{named}: there are no masks, and no label files that have the names of images: "
            f"{listed.entries[0].path}, {image_list.entries[0].path}; rename them, or give the "
            "images with which they were exported"
        )
    return _find_in_mask_files(image_list, mask_list, options)


def _find_in_mask_files(images: Listing, masks: Listing, options: LabelOptions) -> LabelledSet:
    """Return the labelled set of images with mask files."""
    access = LabelAccess(images.root, masks.root, options)
    kind, classes, notes = options.kind, options.classes, list[str]()
    if kind == "folders" or (kind is None and looks_like_folders(images, masks)):
        kind = "folders"
        if not classes:
            folders = class_folders(masks)
            classes = tuple(ClassSpec(number, name) for number, name in enumerate(folders, 1))
        names = [spec.name for spec in classes]
        check_class_names(names, f"--masks {masks.root.uri}")
        pairing = pair_class_folders(images, masks, names, options.mask_affix)
    else:
        pairing = pair_files(images, masks, options.mask_affix)
        colours = find_colour_map(
            masks, classes, kind=kind, background=options.background, ignored=options.ignored
        )
        if colours:
            classes, notes = colours.classes, [*colours.notes]
            access = replace(access, table=colours.table)
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        paired = [*pool.map(partial(_pair_planes, decoders, access), pairing.pairs)]
    items, unequal = list[LabelledImage](), list[str]()
    for found in paired:
        if isinstance(found, str):
            unequal.append(found)
        else:
            items += found
    if not items:
        reasons = [*unequal, *pairing.incomplete]
        raise InputError(f"--masks {masks.root.uri}: {reasons[0]}")
    notes += pairing.notes
    unlabelled = [entry.path for entry in pairing.unlabelled]
    if unlabelled:
        notes.append(
            f"left out: {len(unlabelled)} of {len(images.entries)} images without a mask "
            f"({_show(unlabelled)})"
        )
    notes += _note_skipped(images, masks)
    orphans = [f"{path}: no image has its name" for path in pairing.orphans]
    return LabelledSet(
        access=access,
        items=tuple(items),
        kind=kind,
        classes=classes,
        notes=tuple(notes),
        orphans=(*orphans, *pairing.incomplete, *unequal),
    )


def _find_in_label_files(
    images: Listing,
    labels: Storage,
    files: Sequence[LabelFile],
    named: str,
    options: LabelOptions,
) -> LabelledSet:
    """Return the labelled set of the images that label files name."""
    _check_any_usable(files, named)
    annotations, file_of = _join_files(images, files, named, options)
    errors = annotations.images["error"].drop_null()
    if errors and not annotations.categories:
        raise InputError(f"{named}: no label file can be used: {errors[0]}")
    annotations, notes = _name_classes(
        annotations, labels, files=files, named=named, options=options
    )
    drawing = choose_classes(annotations, options.classes, options.area_class, named)
    _check_drawing(drawing, named, options)
    rows = annotations.images.to_pylist()
    if not rows:
        raise InputError(f"{named} names no images; give the label files of the images")
    found = find_images(images.entries, map(_list_texts, rows), named)
    keys = [split_uri(row["uri"] or row["name"])[1] for row in rows]
    sources = _find_sources(images, found.entries, keys, options)
    names = [row["name"] for row in rows]
    taken = _check_once(sources, names, named)
    has_area = _find_areas(drawing)
    items, orphans, num_without_area = list[LabelledImage](), list[str](), 0
    for row, source in enumerate(sources):
        if isinstance(source, str):
            orphans.append(f"{names[row]}: {source}")
        elif drawing.area and row not in has_area:
            num_without_area += 1
        else:
            file = files[file_of[row]]
            masks = (whole_file(file.entry),) * len(drawing.classes)
            items.append(LabelledImage(source, masks, row, file.sha256))
    if not items:
        first = orphans[0] if orphans else "none has an object of --area-class"
        raise InputError(
            f"{named}: none of its {len(rows)} images is in {images.root.uri}: {first}"
        )
    notes += [
        *annotations.notes,
        *(f"{count} images were found {rule}" for rule, count in found.rules.items()),
        *_note_left_out(drawing, options, num_without_area),
        *_note_unnamed(images, taken, named),
        *_note_skipped(_without_labels(images, files)),
    ]
    items.sort(key=lambda item: item.image.uri)
    return LabelledSet(
        access=LabelAccess(images.root, labels, options, drawing),
        items=tuple(items),
        kind=drawing.labelling.kind,
        classes=drawing.classes,
        notes=tuple(notes),
        orphans=tuple(orphans),
    )


def _check_any_usable(files: Sequence[LabelFile], named: str) -> None:
    """Raise InputError if no label file can be used, for example if no format is known."""
    errors = [error for file in files for error in file.annotations.images["error"].to_pylist()]
    if errors and all(errors):
        raise InputError(
            f"{named}: none of its {len(files)} label files can be used; the first is {errors[0]}"
        )


def _join_files(
    images: Listing, files: Sequence[LabelFile], named: str, options: LabelOptions
) -> tuple[Annotations, NDArray[np.int64]]:
    """Return the annotations of all label files, in pixels, and the file of each image.

    Raises:
        InputError: The meaning of the coordinates in the files is unclear.
    """
    if len(files) == 1:
        annotations = files[0].annotations
    else:
        annotations = join_annotations([file.annotations for file in files])
    num_images = [len(file.annotations.images) for file in files]
    file_of = np.repeat(np.arange(len(files)), num_images)
    if needs_places(annotations) or options.label_crs:
        places = locate_images(images) if needs_places(annotations) else []
        placed = place_on_images(annotations, places, named, options.label_crs)
        annotations, file_of = placed.annotations, file_of[placed.origins]
    return annotations, file_of


def _name_classes(
    annotations: Annotations,
    labels: Storage,
    files: Sequence[LabelFile],
    named: str,
    options: LabelOptions,
) -> tuple[Annotations, list[str]]:
    """Return annotations whose categories have names, and a note on the source of the names."""
    if not are_numbered(annotations):
        return annotations, []
    is_file = files[0].entry.uri == labels.uri
    folder = Storage(labels.uri.rpartition("/")[0], labels.options) if is_file else labels
    if not options.roots.follow_links:
        folder = folder.confine([folder.uri])
    names, named_in = find_class_names(folder, named)
    annotations = name_categories(annotations, names, options.classes, named)
    notes = [f"names of classes from {named_in}"] if named_in else []
    return annotations, notes


def _check_once(
    sources: Sequence[ImageSource | str], names: Sequence[str], named: str
) -> dict[str, str]:
    """Return URI → name of each image; raise InputError if two names mean the same image."""
    taken: dict[str, str] = {}
    for source, name in zip(sources, names, strict=True):
        if isinstance(source, str):
            continue
        if source.uri in taken:
            raise InputError(
                f"{named}: {taken[source.uri]} and {name} are both {source.uri}; give more of the "
                "path of each in the label file, or the folder that holds all images as --images"
            )
        taken[source.uri] = name
    return taken


def _list_texts(row: Mapping[str, Any]) -> list[str]:
    """Return the texts that identify an image of a label file, the most specific first.

    Args:
        row: Row of `Annotations.images`.
    """
    name, places = row["name"], row["places"]
    uri = [row["uri"]] if row["uri"] else []
    # A place may be the folder of the image: with the name a.png, `day1` means day1/a.png rather
    # than day1.png.
    return [*uri, name, *(f"{place}/{name}" for place in places), *places]


def _check_drawing(drawing: Drawing, named: str, options: LabelOptions) -> None:
    """Check that there is something to draw, and that it is what the user expects.

    Raises:
        InputError: No class has an object, for example because all are boxes or crowds, or
            --mask-kind says another kind than that of the drawn masks.
    """
    of_class, _ = count_objects(drawing)
    if not of_class.any():
        names = ", ".join(spec.name for spec in drawing.classes)
        left_out = sorted(drawing.annotations.left_out.items())
        left = "".join(f"; {count} {what}" for what, count in left_out)
        raise InputError(
            f"{named}: no object of {names} has an outline that can be learnt{left}; export "
            "polygons or masks of objects, not boxes or crowds"
        )
    kind = drawing.labelling.kind
    if options.kind not in (None, kind):
        raise InputError(
            f"{named} holds masks of the kind {kind}, but --mask-kind is {options.kind}; omit it"
        )


def _find_areas(drawing: Drawing) -> set[int]:
    """Return the rows of the images that have an object of the area."""
    if not drawing.area:
        return set()
    objects = drawing.annotations.objects
    is_area = np.isin(objects["category"].to_numpy(), [*drawing.area])
    return set(objects["image"].to_numpy()[is_area].tolist())


def _find_sources(
    images: Listing,
    entries: Sequence[FileEntry | None],
    keys: Sequence[ImageKey],
    options: LabelOptions,
) -> list[ImageSource | str]:
    """Find the image of each row of label files, which may be one of several in a file.

    Args:
        images: Listing of the images.
        entries: File of each row; None if there is none.
        keys: Image that each row names in its file.
        options: How labels are read.

    Returns:
        The image of each row, or the reason why there is none.
    """
    stacks = {entry.uri: entry for entry in entries if entry and is_stackable(entry)}
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        places = pool.map(partial(find_places, decoders, images.root), stacks.values())
        places_of = dict(zip(stacks, places, strict=True))
    sources = list[ImageSource | str]()
    for entry, key in zip(entries, keys, strict=True):
        if entry is None:
            sources.append("no image has its name")
        else:
            sources.append(_find_source(entry, key, places_of.get(entry.uri, []), options))
    return sources


def _find_source(
    entry: FileEntry, key: ImageKey, places: Sequence[ImagePlace], options: LabelOptions
) -> ImageSource | str:
    """Return the image that a label file names, or the reason why there is none.

    If the file cannot be read, return the whole file; decoding it will report the reason.
    """
    sources = [image_source(entry, place, len(places)) for place in places]
    for source in sources:
        if source.key == key:
            return source
    if key == WHOLE and len(sources) > 1:
        return _choose_plane(sources, options)
    if key == WHOLE or (not places and is_stackable(entry)):
        return whole_file(entry)
    return describe_absent(entry.path, key, places)


def _note_left_out(drawing: Drawing, options: LabelOptions, num_without_area: int) -> list[str]:
    """Return a line for each kind of content of label files that is not learnt."""
    counts, num_others = count_objects(drawing)
    lines = []
    for what, count in drawing.annotations.left_out.items():
        states_outcome = ": " in what
        lines.append(f"{count} {what}" if states_outcome else f"left out: {count} {what}")
    if num_others:
        others = {
            category.name
            for row, category in enumerate(drawing.annotations.categories)
            if row not in drawing.place_of and row not in drawing.area
        }
        lines.append(f"left out: {num_others} objects of other classes ({_show(sorted(others))})")
    if num_without_area:
        lines.append(
            f"left out: {num_without_area} images without an object of --area-class "
            f"{options.area_class}"
        )
    empty = [spec.name for spec, num in zip(drawing.classes, counts, strict=True) if not num]
    if empty:
        lines.append(
            f"{len(empty)} classes have no object ({_show(empty)}): they can be neither learnt nor "
            "measured; name only the other classes in --classes"
        )
    return lines


def _note_unnamed(images: Listing, taken: Mapping[str, str], named: str) -> list[str]:
    """Return a line about images that label files do not name, if there are any."""
    files = {split_uri(uri)[0] for uri in taken}
    rest = [entry.path for entry in images.entries if entry.uri not in files]
    if not rest:
        return []
    return [
        f"skipped {len(rest)} of {len(images.entries)} images in {images.root.uri} "
        f"that are not in {named.removeprefix('--masks ')} ({_show(rest)})"
    ]


def _show(names: Sequence[str]) -> str:
    shown = [*names[:_SHOWN]]
    if len(names) > _SHOWN:
        shown.append("…")
    return ", ".join(shown)


def _without_labels(images: Listing, files: Sequence[LabelFile]) -> Listing:
    """Return the listing of images without counting the label files in it as skipped files."""
    folder = f"{images.root.uri}/"
    num_inside = sum(file.entry.uri.startswith(folder) for file in files)
    return replace(images, others=max(0, images.others - num_inside))


def _note_skipped(*listings: Listing) -> list[str]:
    """Return lines about files that listings skipped because of suffix, name or link."""
    others = [
        f"skipped {listing.others} files in {listing.root.uri} that do not have an image suffix"
        for listing in listings
        if listing.others
    ]
    names = [listing.note for listing in listings if listing.note]
    links = [
        f"{listing.root.uri}: {describe_links(listing.links)}"
        for listing in listings
        if listing.links
    ]
    return [*others, *names, *links]


def _pair_planes(finder: ImageFinder, access: LabelAccess, pair: Pair) -> list[LabelledImage] | str:
    """Return the images of a file with their masks, or the reason why they do not match."""
    images = list_images(finder, access.images, pair.image)
    masks = [_split_channels(list_images(finder, access.masks, mask)) for mask in pair.masks]
    if len(images) > 1 and all(len(planes) == 1 for planes in masks):
        image = _choose_plane(images, access.options)
        if isinstance(image, str):
            return f"{pair.image.uri} {image}"
        images = [image]
    for planes, mask in zip(masks, pair.masks, strict=True):
        if len(planes) != len(images):
            return (
                f"{pair.image.uri} has {len(images)} images, but its mask {mask.uri} has "
                f"{len(planes)}"
            )
        for image, plane in zip(images, planes, strict=True):
            have_axes = _has_axes(image) and _has_axes(plane)
            if len(planes) > 1 and image.key != plane.key and have_axes:
                return (
                    f"{image.uri} is paired with {plane.uri}, but their axes differ; save both "
                    "with the same axes"
                )
    items = []
    for index, image in enumerate(images):
        masks_of_image = tuple(planes[index] for planes in masks)
        items.append(LabelledImage(image, masks_of_image))
    return items


def _split_channels(masks: list[ImageSource]) -> list[ImageSource]:
    """Return the masks of a file: one per page, even if the axis of the pages is the channels.

    Programs that do not know the axis of a stack call it channels; masks have no channels.
    """
    place = masks[0].place
    if len(masks) > 1 or place is None or len(place.pages) < 2:
        return masks
    pages = range(len(place.pages))
    return [replace(masks[0], place=place.with_channels([page])) for page in pages]


def _has_axes(image: ImageSource) -> bool:
    """Tell whether an image is one of several in its file that differ in T or Z."""
    return image.key != WHOLE and image.key.page is None


def _choose_plane(images: Sequence[ImageSource], options: LabelOptions) -> ImageSource | str:
    """Return the image of a file to which its only mask belongs, or the reason for doubt."""
    found = [image for image in images if is_among(image.key, options.planes)]
    if len(found) == 1:
        return found[0]
    first = image_uri("", images[0].key).removeprefix("#")
    last = image_uri("", images[-1].key).removeprefix("#")
    held = f"holds {len(images)} images, {first} to {last}, but its labels belong to one of them"
    if not options.planes:
        return f"{held}: say which with --planes, as in --planes {first}"
    return f"{held}: --planes selects {len(found)} of them; it must select one"
