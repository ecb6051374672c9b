"""A labelled set: images paired with their masks or label files."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec, MaskKind, check_class_names
from unet_ray.image_sources.encoded import PageFinder, find_places, is_stackable, read_encoded
from unet_ray.image_sources.names import split_page
from unet_ray.image_sources.sources import (
    ImageSource,
    header_decoders,
    list_pages,
    page_source,
    whole_file,
)
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.range_file import PageFile
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.imaging.codecs.tiff import PagePlace
from unet_ray.labelled_data.formats.coco import ImageObjects, parse_coco
from unet_ray.labelled_data.pairs import (
    class_folders,
    looks_like_folders,
    pair_class_folders,
    pair_files,
    pair_names,
)
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.listing import Listing, describe_links, list_files
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import FileEntry, Storage

Encoded = list[bytes | PageFile]
"""Contents of the files of an image and of its masks, or pages of them; the image comes first."""


def _find_named_page(
    entry: FileEntry, number: int, places: list[PagePlace], masks: str
) -> ImageSource:
    """Return the page that a JSON names.

    If the stack cannot be read, return the whole file; decoding it will report the reason.
    """
    if not places and is_stackable(entry):
        return whole_file(entry)
    if not 1 <= number <= len(places):
        raise InputError(
            f"--masks {masks} names page {number} of {entry.path}, but the file has "
            f"{len(places)} pages"
        )
    return page_source(entry, number, places)


def _read_source(access: Storage, source: ImageSource) -> bytes | PageFile:
    return read_encoded(access, source.file_uri, source.place)


@dataclass(frozen=True)
class LabelledImage:
    """Sources of an image and of its masks."""

    image: ImageSource
    masks: tuple[ImageSource, ...]
    """Masks of the image: one, or one per class."""
    objects: ImageObjects | None = None
    """Objects of the image if the masks come from a COCO JSON, else None."""
    label_sha256: str | None = None
    """SHA-256 of the COCO JSON, if there is one."""

    def read(self, access: LabelAccess) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Return the image (HWC) and its masks (HW each), decoded and of the same size.

        Raises:
            ImageError: A file cannot be read, or the sizes differ.
        """
        return self.decode(self.read_encoded(access))

    def read_encoded(self, access: LabelAccess) -> Encoded:
        """Return the contents of the files of image and masks; raise ImageError as `read` does."""
        masks = [] if self.objects is not None else self.masks
        return [
            _read_source(access.images, self.image),
            *(_read_source(access.masks, mask) for mask in masks),
        ]

    def decode(self, encoded: Encoded) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Decode the contents that `read_encoded` returns to the result of `read`."""
        decoder = process_decoder()
        image = decoder.decode(encoded[0])
        if self.objects is not None:
            return image, self._draw(image.shape[0], image.shape[1])
        masks = [*map(decoder.decode_label, encoded[1:])]
        for mask, source in zip(masks, self.masks, strict=True):
            if mask.shape != image.shape[:2]:
                sizes = f"{image.shape[1]}×{image.shape[0]}", f"{mask.shape[1]}×{mask.shape[0]}"
                raise ImageError(
                    "unreadable",
                    f"the image has {sizes[0]} px, but its mask {source.uri} has {sizes[1]} px",
                )
        return image, masks

    def _draw(self, height: int, width: int) -> list[NDArray[Any]]:
        """Return one mask with the object ids of a single class, or a binary mask per class."""
        assert self.objects is not None
        labels = self.objects.draw(height, width)
        return labels if len(labels) == 1 else [(ids > 0).astype(np.uint8) for ids in labels]


@dataclass(frozen=True)
class LabelAccess:
    """Storages that open the files of labelled images."""

    images: Storage
    masks: Storage


@dataclass(frozen=True)
class LabelledSet:
    """All labelled images of a folder of images and a folder or file of masks."""

    access: LabelAccess
    items: tuple[LabelledImage, ...]
    kind: MaskKind | None
    """Kind of the masks.

    It is `folders` if masks lie in a folder per class, otherwise the given kind. None means that it
    is inferred from the mask values.
    """
    classes: tuple[ClassSpec, ...]
    """Classes that the user named, or those of the folders or the JSON."""
    notes: tuple[str, ...] = ()
    """Messages about files that were skipped."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each image: its path in the folder of the images, with the page of a stack."""
        return tuple(self.access.images.name_of(item.image.uri) for item in self.items)


def find_labelled(
    images: str,
    masks: str,
    classes: tuple[ClassSpec, ...],
    kind: MaskKind | None,
    roots: Roots = Roots(),  # noqa: B008 (it is frozen)
) -> LabelledSet:
    """List images and masks, and pair them.

    A label file may give the URIs of its images. They choose among the images that are listed, so
    that nothing else is opened.

    Args:
        images: URI of the images.
        masks: URI of the masks, or of a COCO JSON.
        classes: Classes that the user named; may be empty.
        kind: Kind of masks that the user gave, or None to infer it.
        roots: Folders below which the files of manifests lie, and whether links are followed that
            lead out of what is listed.

    Raises:
        InputError: A folder is missing or empty, an image or a mask has no partner, or a stack and
            its mask have different numbers of pages.
    """
    image_list = list_files(images, IMAGE_SUFFIXES, "--images", roots)
    if masks.lower().endswith(".json"):
        return _find_in_coco(image_list, masks, classes, kind)
    mask_list = list_files(masks, IMAGE_SUFFIXES, "--masks", roots)
    access = LabelAccess(image_list.root, mask_list.root)
    if kind == "folders" or (kind is None and looks_like_folders(image_list, mask_list)):
        kind = "folders"
        classes = classes or tuple(
            ClassSpec(i, name) for i, name in enumerate(class_folders(mask_list), 1)
        )
        check_class_names((spec.name for spec in classes), f"--masks {masks}")
        pairs = pair_class_folders(image_list, mask_list, [c.name for c in classes])
    else:
        pairs = pair_files(image_list, mask_list)
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        items = pool.map(lambda p: _pair_pages(decoders, access, p.image, p.masks), pairs)
        found = tuple(item for some in items for item in some)
    return LabelledSet(access, found, kind, classes, tuple(_note_skipped(image_list, mask_list)))


def _find_in_coco(
    images: Listing, masks: str, classes: tuple[ClassSpec, ...], kind: MaskKind | None
) -> LabelledSet:
    """Return the labelled set of the images that a COCO JSON names.

    Objects of a single class become ids; several classes become one mask each.
    """
    file = Storage.of(masks)
    try:
        data, entry = file.read(), file.entry()
    except OSError:
        raise InputError(f"--masks {masks}: no such file, or no permission to read it") from None
    labels, sha256 = parse_coco(data, f"--masks {masks}", classes), hashlib.sha256(data).hexdigest()
    found: MaskKind = "instances" if len(labels.classes) == 1 else "folders"
    if kind not in (None, found):
        raise InputError(
            f"--masks {masks} holds masks of the kind {found}, but --mask-kind is {kind}; omit it"
        )
    source = whole_file(entry)
    pages = {name: split_page(name) for name in labels.objects}
    uris = {path: labels.uris[name] for name, (path, _) in pages.items()}
    files = {path: uri and split_page(uri)[0] for path, uri in uris.items()}
    image_of = pair_names(images, files, f"--masks {masks}")
    stacks = sorted({path for path, page in pages.values() if page is not None})
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        places = pool.map(lambda p: find_places(decoders, images.root, image_of[p]), stacks)
        places_of = dict(zip(stacks, places, strict=True))
    items = []
    for name, (path, page) in sorted(pages.items()):
        image = (
            whole_file(image_of[path])
            if page is None
            else _find_named_page(image_of[path], page, places_of[path], masks)
        )
        sources = (source,) * len(labels.classes)
        items.append(LabelledImage(image, sources, labels.objects[name], sha256))
    rest = len(images.entries) - len({entry.uri for entry in image_of.values()})
    notes = [
        f"skipped {rest} of {len(images.entries)} images in {images.root.uri} "
        f"that are not in {masks}"
    ] * (rest > 0)
    return LabelledSet(
        LabelAccess(images.root, file),
        tuple(items),
        found,
        labels.classes,
        (*notes, *_note_skipped(images)),
    )


def _note_skipped(*listings: Listing) -> list[str]:
    """Return lines about files that listings skipped, for their suffix, their name or a link."""
    others = [
        f"skipped {some.others} files in {some.root.uri} that do not have an image suffix"
        for some in listings
        if some.others
    ]
    links = [f"{some.root.uri}: {describe_links(some.links)}" for some in listings if some.links]
    return [*others, *(some.note for some in listings if some.note), *links]


def _pair_pages(
    finder: PageFinder, access: LabelAccess, image: FileEntry, masks: tuple[FileEntry, ...]
) -> list[LabelledImage]:
    pages = list_pages(finder, access.images, image)
    mask_pages = [list_pages(finder, access.masks, mask) for mask in masks]
    for some, mask in zip(mask_pages, masks, strict=True):
        if len(some) != len(pages):
            raise InputError(
                f"{image.uri} has {len(pages)} pages, but its mask {mask.uri} has {len(some)}"
            )
    return [LabelledImage(page, tuple(row)) for page, *row in zip(pages, *mask_pages, strict=True)]
