"""A labelled set: images paired with their masks or label files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec, MaskKind
from unet_ray.image_sources.encoded import find_places, is_stackable, read_encoded
from unet_ray.image_sources.names import split_page
from unet_ray.image_sources.sources import ImageSource, list_pages, page_source, whole_file
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES, decode_image, decode_label_image
from unet_ray.imaging.codecs.range_file import PageFile
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.labelled_data.formats.coco import Objects, draw_objects, parse_coco
from unet_ray.labelled_data.pairs import (
    class_folders,
    looks_like_folders,
    pair_class_folders,
    pair_files,
    pair_names,
)
from unet_ray.storage.backends.s3_requests import CONNECTIONS
from unet_ray.storage.listing import Listing, list_files
from unet_ray.storage.storage import FileEntry, Storage

Encoded = list[bytes | PageFile]
"""The files of an image and of its masks, or pages of them."""


def _page_named(entry: FileEntry, number: int, places: list[PagePlace], masks: str) -> ImageSource:
    """Return a page that a JSON names; where its stack cannot be read, the file, whose decoding will tell why."""
    if not places and is_stackable(entry):
        return whole_file(entry)
    if not 1 <= number <= len(places):
        raise InputError(
            f"--masks {masks} names page {number} of {entry.path}, and the file has {len(places)} pages"
        )
    return page_source(entry, number, places)


def _encoded(access: Storage, source: ImageSource) -> bytes | PageFile:
    return read_encoded(access, source.file_uri, source.place)


@dataclass(frozen=True)
class LabelledImage:
    """An image and its masks, as sources."""

    image: ImageSource
    masks: tuple[ImageSource, ...]
    """One, or one per class."""
    objects: Objects | None = None
    """Where the masks come from a COCO JSON: what it says of this image."""

    def read(self, access: LabelAccess) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Return the image (HWC) and its masks (HW each), decoded and of one size.

        Raises: ImageError — unreadable files, sizes that differ.
        """
        return self.decode(self.read_encoded(access))

    def read_encoded(self, access: LabelAccess) -> Encoded:
        """Return the files of image and masks, or pages of them; raise ImageError as `read`."""
        masks = [] if self.objects is not None else self.masks
        return [
            _encoded(access.images, self.image),
            *(_encoded(access.masks, mask) for mask in masks),
        ]

    def decode(self, encoded: Encoded) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Return what `read` does, out of what `read_encoded` returned."""
        image = decode_image(encoded[0])
        if self.objects is not None:
            return image, self._draw(image.shape[0], image.shape[1])
        masks = [*map(decode_label_image, encoded[1:])]
        for mask, source in zip(masks, self.masks, strict=True):
            if mask.shape != image.shape[:2]:
                sizes = f"{image.shape[1]}×{image.shape[0]}", f"{mask.shape[1]}×{mask.shape[0]}"
                raise ImageError(
                    "unreadable",
                    f"the image has {sizes[0]} px, its mask {source.uri} {sizes[1]} px",
                )
        return image, masks

    def _draw(self, height: int, width: int) -> list[NDArray[Any]]:
        """Return ids of one class, or the mask of each of several."""
        assert self.objects is not None
        labels = [draw_objects(objects, height, width) for objects in self.objects]
        return labels if len(labels) == 1 else [(ids > 0).astype(np.uint8) for ids in labels]


@dataclass(frozen=True)
class LabelAccess:
    """What opens the files of labelled images."""

    images: Storage
    masks: Storage


@dataclass(frozen=True)
class LabelledSet:
    """All labelled images of a pair of folders."""

    access: LabelAccess
    items: tuple[LabelledImage, ...]
    kind: MaskKind | None
    """`folders` where masks lie in a folder per class; else as given, or None: to be inferred from the values."""
    classes: tuple[ClassSpec, ...]
    """As named, or the folders' names."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def find_labelled(
    images: str, masks: str, classes: tuple[ClassSpec, ...], kind: MaskKind | None
) -> LabelledSet:
    """List and pair images with masks.

    Raises: InputError — missing or empty folders, images or masks without partner, stacks of different lengths.
    """
    image_list = list_files(images, IMAGE_SUFFIXES, "--images")
    if masks.lower().endswith(".json"):
        return _find_in_coco(image_list, masks, classes, kind)
    mask_list = list_files(masks, IMAGE_SUFFIXES, "--masks")
    access = LabelAccess(image_list.root, mask_list.root)
    if kind == "folders" or (kind is None and looks_like_folders(image_list, mask_list)):
        kind = "folders"
        classes = classes or tuple(
            ClassSpec(i, name) for i, name in enumerate(class_folders(mask_list), 1)
        )
        pairs = pair_class_folders(image_list, mask_list, [c.name for c in classes])
    else:
        pairs = pair_files(image_list, mask_list)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        items = pool.map(lambda p: _labelled_pages(access, p.image, p.masks), pairs)
        found = tuple(item for some in items for item in some)
    return LabelledSet(access, found, kind, classes, tuple(_others(image_list, mask_list)))


def _find_in_coco(
    images: Listing, masks: str, classes: tuple[ClassSpec, ...], kind: MaskKind | None
) -> LabelledSet:
    """Take the images that a JSON names; objects of one class have ids, of several classes each has a mask."""
    file = Storage.of(masks)
    try:
        labels, entry = parse_coco(file.read(), f"--masks {masks}", classes), file.entry()
    except OSError:
        raise InputError(f"--masks {masks}: no such file, or no permission to read it") from None
    found: MaskKind = "instances" if len(labels.classes) == 1 else "folders"
    if kind not in (None, found):
        raise InputError(
            f"--masks {masks} holds masks of the kind {found}, --mask-kind says {kind}; leave it out"
        )
    source = whole_file(entry)
    pages = {name: split_page(name) for name in labels.objects}
    uris = {path: labels.uris[name] for name, (path, _) in pages.items()}
    files = {path: uri and split_page(uri)[0] for path, uri in uris.items()}
    image_of = pair_names(images, files, f"--masks {masks}")
    stacks = sorted({path for path, page in pages.values() if page is not None})
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        places_of = dict(
            zip(
                stacks,
                pool.map(lambda path: find_places(images.root, image_of[path]), stacks),
                strict=True,
            )
        )
    items = []
    for name, (path, page) in sorted(pages.items()):
        image = (
            whole_file(image_of[path])
            if page is None
            else _page_named(image_of[path], page, places_of[path], masks)
        )
        items.append(LabelledImage(image, (source,) * len(labels.classes), labels.objects[name]))
    rest = len(images.entries) - len({entry.uri for entry in image_of.values()})
    notes = [
        f"{rest} of {len(images.entries)} images in {images.root.uri} are not in {masks}: left out"
    ] * (rest > 0)
    return LabelledSet(
        LabelAccess(images.root, file),
        tuple(items),
        found,
        labels.classes,
        (*notes, *_others(images)),
    )


def _others(*listings: Listing) -> list[str]:
    """Return a line for each listing among whose files some are no images."""
    return [
        f"{some.others} files in {some.root.uri} are no images by their suffix: left out"
        for some in listings
        if some.others
    ]


def _labelled_pages(
    access: LabelAccess, image: FileEntry, masks: tuple[FileEntry, ...]
) -> list[LabelledImage]:
    pages = list_pages(access.images, image)
    mask_pages = [list_pages(access.masks, mask) for mask in masks]
    for some, mask in zip(mask_pages, masks, strict=True):
        if len(some) != len(pages):
            raise InputError(
                f"{image.uri} has {len(pages)} pages, its mask {mask.uri} has {len(some)}"
            )
    return [LabelledImage(page, tuple(row)) for page, *row in zip(pages, *mask_pages, strict=True)]
