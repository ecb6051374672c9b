"""A labelled set: images with their masks or the objects of label files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from unet_ray.flags import ClassSpec, MaskFrame, MaskKind
from unet_ray.image_sources.encoded import read_encoded
from unet_ray.image_sources.sources import ImageSource
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
"""Contents of the files of an image and of its masks, the image first. A `PlaneFile` is one of
several images in a file."""


@dataclass(frozen=True)
class LabelOptions:
    """Choices for labels that can be read in several ways."""

    classes: tuple[ClassSpec, ...] = ()
    """Classes that the user named; may be empty."""
    kind: MaskKind | None = None
    """Kind of masks that the user gave, or None to infer it."""
    roots: Roots = Roots()  # noqa: RUF009 (it is frozen)
    """Folders below which the files of manifests lie, whether links that lead out of the listed
    folders are followed, and the options of the store of the images."""
    masks_options: StoreOptions = StoreOptions()  # noqa: RUF009 (it is frozen)
    """Options of the store of the masks."""
    planes: Mapping[str, int] = field(default_factory=dict)
    """Axis → index of the plane that was labelled, for files of several planes with one mask or one
    entry of a label file."""
    mask_affix: str | None = None
    """Text that the names of masks add to the names of their images; None: inferred."""
    frame: MaskFrame | None = None
    """Frame of the masks of images that are turned by EXIF; None: their sizes decide."""
    rescale: bool = False
    """True to scale masks of another size if the aspect ratio agrees."""
    lossy_samples: bool = False
    """True to round whole numbers of images that float32 cannot represent."""
    label_property: str | None = None
    """Property of features that names their class; None: inferred, `none`: a single class."""
    label_crs: str | None = None
    """`pixels` or AUTHORITY:CODE, for label files that do not state their coordinate system."""
    area_class: str | None = None
    """Class of a label file for the labelled area; pixels outside its objects are not counted."""
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
    """Mask values of colours, if masks are read by colour."""
    channels: ChannelSelection | None = None
    """Channels that are taken of each image; None: all, in their order."""


@dataclass(frozen=True)
class _ChosenChannels:
    """A decoded image with the channels that are used, and their places in the file."""

    image: DecodedImage
    places: tuple[int, ...]
    """Indices of the channels in the file."""
    file_channels: int
    """Number of channels in the file."""

    def describe(self) -> dict[str, Any]:
        """Return the fields of `LabelledArrays` that describe the samples of the image."""
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
    """Masks of the image: one, or one per class. For labels from a label file, each is that
    file."""
    row: int | None = None
    """Row of the image in the label files; None if it has mask files."""
    label_sha256: str | None = None
    """SHA-256 of the label file, if there is one."""

    def read_encoded(self, access: LabelAccess) -> Encoded:
        """Return the contents of the files of image and masks.

        Raises:
            ImageError: A file cannot be read, or lacks channels that are taken.
        """
        place = take_pages(self.image.place, access.channels)
        encoded = [read_encoded(access.images, self.image.file_uri, place)]
        if self.row is None:
            for mask in self.masks:
                encoded.append(read_encoded(access.masks, mask.file_uri, mask.place))
        return encoded

    def decode(self, encoded: Encoded, access: LabelAccess) -> LabelledArrays:
        """Decode the contents that `read_encoded` returns.

        Raises:
            ImageError: A file cannot be decoded, masks do not have the size of their image, or the
                image lacks channels that are taken.
        """
        lossy_samples = access.options.lossy_samples
        decoded = process_decoder().decode(encoded[0], lossy_samples=lossy_samples)
        chosen = self.choose_channels(decoded, access)
        if self.row is not None and access.drawing:
            arrays = self._draw_masks(self.row, chosen.image, access, access.drawing)
        else:
            arrays = self._decode_masks(chosen.image, encoded[1:], access)
        return replace(arrays, **chosen.describe())

    def choose_channels(self, decoded: DecodedImage, access: LabelAccess) -> _ChosenChannels:
        """Take the channels of a decoded image that are used.

        Raises:
            ImageError: The image lacks some of them.
        """
        place = self.image.place
        held = ImageChannels.of(place if place and has_channel_pages(place) else decoded)
        places = access.channels.locate(held) if access.channels else tuple(range(held.count))
        return _ChosenChannels(take_channels(decoded, place, access.channels), places, held.count)

    def _decode_masks(
        self, image: DecodedImage, encoded_masks: Encoded, access: LabelAccess
    ) -> LabelledArrays:
        decoder = process_decoder()
        orientation = image.orientation
        masks = []
        for content, source in zip(encoded_masks, self.masks, strict=True):
            mask, own_orientation = decoder.decode_oriented_label(content, table=access.table)
            if own_orientation != 1:  # masks have the tag as well, and the decoder turns them
                orientation = 1
            have = mask.shape[0], mask.shape[1]
            size = choose_size(
                have=have,
                shown=(image.height, image.width),
                orientation=orientation,
                rescale=access.options.rescale,
                what=f"its mask {source.uri}",
            )
            masks.append(mask if size == have else resize_nearest(mask, size))
        return LabelledArrays(image.samples, masks, orientation, valid=image.valid)

    def _draw_masks(
        self, row: int, image: DecodedImage, access: LabelAccess, drawing: Drawing
    ) -> LabelledArrays:
        shown = image.height, image.width
        stated = drawing.stated_size(row)
        if stated is None and access.options.frame == "stored":
            stated = stored_size(shown, image.orientation)
        size = choose_size(
            have=stated or shown,
            shown=shown,
            orientation=image.orientation,
            rescale=access.options.rescale,
            what="its label file",
        )
        return LabelledArrays(
            image=image.samples,
            masks=drawing.draw(row, size),
            orientation=image.orientation,
            is_stated=stated is not None,
            valid=image.valid,
        )


@dataclass(frozen=True)
class LabelledSet:
    """All labelled images of a folder of images and a folder or file of masks."""

    access: LabelAccess
    items: tuple[LabelledImage, ...]
    kind: MaskKind | None
    """Kind of the masks: `folders` if they lie in a folder per class, otherwise the kind that the
    user gave; None: it is inferred from the mask values."""
    classes: tuple[ClassSpec, ...]
    """Classes that the user named, or those of the folders or the label files."""
    notes: tuple[str, ...] = ()
    """Messages about files that were left out and choices that were made."""
    orphans: tuple[str, ...] = ()
    """Masks and entries of label files that have no image or do not fit it, with the reason; each
    counts as an image that cannot be used."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each image: its path in the folder of the images, with the page of a stack."""
        return tuple(self.access.images.name_of(item.image.uri) for item in self.items)

    def with_channels(self, channels: ChannelSelection | None) -> LabelledSet:
        """Return the set with some of the channels of each image; None: all, in their order."""
        return replace(self, access=replace(self.access, channels=channels))

    @property
    def labelling(self) -> Labelling | None:
        """Meaning of masks that are drawn from label files; None for mask files."""
        return self.access.drawing.labelling if self.access.drawing else None
