"""A labelled set: images with their masks or the objects of label files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unet_ray.flags import ClassSpec, MaskFrame, MaskKind
from unet_ray.image_sources.encoded import read_encoded
from unet_ray.image_sources.sources import (
    ImageSource,
)
from unet_ray.imaging.channels import (
    ChannelSelection,
    ImageChannels,
    has_channel_pages,
    take_channels,
    take_pages,
)
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.mask_samples import ColourTable
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.labelled_data.alignment import LabelledArrays, choose_size, stored_size
from unet_ray.labelled_data.drawing import Drawing, resize_nearest
from unet_ray.storage.roots import Roots
from unet_ray.storage.storage import Storage
from unet_ray.store_options import StoreOptions

Encoded = list[bytes | PlaneFile]
"""Contents of the files of an image and of its masks, or images in them; the image comes first."""


@dataclass(frozen=True)
class LabelOptions:
    """Choices for labels that can be read in several ways."""

    classes: tuple[ClassSpec, ...] = ()
    """Classes that the user named; may be empty."""
    kind: MaskKind | None = None
    """Kind of masks that the user gave, or None to infer it."""
    roots: Roots = Roots()  # noqa: RUF009 (it is frozen)
    """Folders below which the files of manifests lie, whether links are followed that lead out of
    what is listed, and the options of the store of the images."""
    masks_options: StoreOptions = StoreOptions()  # noqa: RUF009 (it is frozen)
    """Options of the store of the masks."""
    planes: Mapping[str, int] = field(default_factory=dict)
    """Axes, and their values, of the plane that labels are of which stand for a file of several."""
    mask_affix: str | None = None
    """Affix of the names of masks beside those of their images; None: found out."""
    frame: MaskFrame | None = None
    """Frame of the masks of images that are turned by EXIF; None: their sizes decide."""
    rescale: bool = False
    """True if masks of another size are scaled where the aspect ratio agrees."""
    lossy_samples: bool = False
    """True to round whole numbers of images that float32 does not hold."""
    label_property: str | None = None
    """Property of features that names their class; None: found out, `none`: a single class."""
    label_crs: str | None = None
    """`pixels` or AUTHORITY:CODE where label files do not say what their coordinates are."""
    area_class: str | None = None
    """Class of a label file outside of which no pixel is counted."""
    background: int = 0
    """Mask value of pixels that belong to no class."""
    ignored: int | None = 255
    """Mask value of pixels that are not counted; None: every pixel is counted."""


@dataclass(frozen=True)
class LabelAccess:
    """Access to labelled images: their storages, the objects of label files, the options."""

    images: Storage
    masks: Storage
    options: LabelOptions = LabelOptions()
    drawing: Drawing | None = None
    """Objects of label files, if there are any."""
    table: ColourTable | None = None
    """Mask values of colours, if they have a meaning."""
    channels: ChannelSelection | None = None
    """Channels that are taken of each image; None: all, in their order."""


@dataclass(frozen=True)
class _ChosenChannels:
    """Channels of an image that are used, and where they stand in the file."""

    image: DecodedImage
    places: tuple[int, ...]
    file_channels: int

    def describe(self) -> dict[str, Any]:
        """Return the fields of `LabelledArrays` that tell what the image's samples are."""
        return {
            "channels": self.image.channels,
            "places": self.places,
            "file_channels": self.file_channels,
            "pixel_size_um": self.image.pixel_size_um,
        }


@dataclass(frozen=True)
class LabelledImage:
    """Sources of an image and of its masks."""

    image: ImageSource
    masks: tuple[ImageSource, ...]
    """Masks of the image: one, or one per class; of a label file, the file in their place."""
    row: int | None = None
    """Row of the image in the label files; None if it has mask files."""
    label_sha256: str | None = None
    """SHA-256 of the label file, if there is one."""

    def read_encoded(self, access: LabelAccess) -> Encoded:
        """Return the contents of the files of image and masks.

        Raises:
            ImageError: A file cannot be read, or lacks channels that are taken.
        """
        masks = self.masks if self.row is None else ()
        place = take_pages(self.image.place, access.channels)
        return [
            read_encoded(access.images, self.image.file_uri, place),
            *(_read_source(access.masks, mask) for mask in masks),
        ]

    def decode(self, encoded: Encoded, access: LabelAccess) -> LabelledArrays:
        """Decode the contents that `read_encoded` returns.

        Raises:
            ImageError: A file cannot be decoded, masks do not have the size of their image, or it
                lacks channels that are taken.
        """
        lossy_samples = access.options.lossy_samples
        decoded = process_decoder().decode(encoded[0], lossy_samples=lossy_samples)
        chosen = self.choose_channels(decoded, access)
        return replace(self._decode_masks(chosen.image, encoded, access), **chosen.describe())

    def choose_channels(self, decoded: DecodedImage, access: LabelAccess) -> _ChosenChannels:
        """Take the channels of a decoded image that are used.

        Raises:
            ImageError: It lacks some of them.
        """
        place = self.image.place
        held = ImageChannels.of(place if place and has_channel_pages(place) else decoded)
        places = access.channels.locate(held) if access.channels else tuple(range(held.count))
        return _ChosenChannels(take_channels(decoded, place, access.channels), places, held.count)

    def _decode_masks(
        self, decoded: DecodedImage, encoded: Encoded, access: LabelAccess
    ) -> LabelledArrays:
        decoder = process_decoder()
        image, orientation = decoded.samples, decoded.orientation
        shown = decoded.height, decoded.width
        if self.row is not None and access.drawing:
            return self._draw(decoded, access, access.drawing)
        masks, turned = [], False
        for content, source in zip(encoded[1:], self.masks, strict=True):
            mask, own = decoder.decode_oriented_label(content, table=access.table)
            turned = turned or own != 1
            have = mask.shape[0], mask.shape[1]
            size = choose_size(
                have,
                shown,
                1 if turned else orientation,
                access.options.rescale,
                f"its mask {source.uri}",
            )
            masks.append(mask if size == have else resize_nearest(mask, size))
        return LabelledArrays(image, masks, 1 if turned else orientation, valid=decoded.valid)

    def _draw(self, image: DecodedImage, access: LabelAccess, drawing: Drawing) -> LabelledArrays:
        assert self.row is not None
        shown, orientation = (image.height, image.width), image.orientation
        stated = drawing.stated_size(self.row)
        is_stated = stated is not None
        if access.options.frame == "stored" and not is_stated:
            stated, is_stated = stored_size(shown, orientation), True
        size = choose_size(
            stated or shown, shown, orientation, access.options.rescale, "its label file"
        )
        masks = drawing.draw(self.row, size)
        return LabelledArrays(image.samples, masks, orientation, is_stated, valid=image.valid)


def _read_source(access: Storage, source: ImageSource) -> bytes | PlaneFile:
    return read_encoded(access, source.file_uri, source.place)


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
    """Classes that the user named, or those of the folders or the label files."""
    notes: tuple[str, ...] = ()
    """Messages about what was left out, and choices that were made."""
    orphans: tuple[str, ...] = ()
    """Masks and entries of label files without an image; each counts as an image that cannot be
    used."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each image: its path in the folder of the images, with the page of a stack."""
        return tuple(self.access.images.name_of(item.image.uri) for item in self.items)

    def with_channels(self, channels: ChannelSelection | None) -> LabelledSet:
        """Return the set with some of the channels of each image; None: all, in their order."""
        return replace(self, access=replace(self.access, channels=channels))

    @property
    def labelling(self) -> Labelling | None:
        """Meaning of the masks of label files; None for mask files, whose values tell it."""
        return self.access.drawing.labelling if self.access.drawing else None
