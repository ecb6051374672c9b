"""Flags that say where labelled images are and how their labels are read."""

# No postponed annotations: configs that inherit fields have their types looked up in other modules.
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet_ray.flags import (
    MaskFrame,
    MaskKind,
    parse_channels,
    parse_mask_value,
    parse_planes,
    parse_uris,
)
from unet_ray.store_options import check_store_options, read_store_options

if TYPE_CHECKING:
    from unet_ray.flags import ClassSpec
    from unet_ray.labelled_data.labelled_set import LabelOptions


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Settings of a labelled set: images, labels, and what these mean."""

    images: str
    """Folder, glob or Parquet manifest (URI) of the labelled images."""
    masks: str
    """Folder or glob (URI) of their masks, paired by name; or a label file (COCO, Label Studio,
    CVAT, GeoJSON and others), or a folder of label files, one per image."""
    images_options: str | None = None
    """Options of the store of --images (NAME=VALUE,…), if it is not that of the AWS_* variables:
    requester_pays, anon, endpoint_url, profile, region, addressing_style, ca_bundle."""
    masks_options: str | None = None
    """Options of the store of --masks, as for --images."""
    image_roots: str | None = None
    """Folders or buckets (URIs, separated by commas) below which the files of a manifest lie.
    Default: the bucket of the manifest, or its folder on a local disk."""
    follow_links: bool = False
    """Follow symbolic links that lead out of --images or --masks; otherwise they are left out and
    counted."""
    channels: str | None = None
    """Channels of the images to use, by name or index from 0: DAPI,actin or 0,2. Default: all, or
    those that the model was trained on."""
    mask_kind: MaskKind | None = None
    """Meaning of mask values; default: inferred from all masks."""
    background_value: int | str = 0
    """Mask value, or colour as '#ffffff', of pixels that belong to no class."""
    ignore_value: int | str | None = 255
    """Mask value, or colour as '#e0e0c0', of pixels that are not counted; none: every pixel is
    counted."""
    mask_affix: str | None = None
    """Text that the names of masks add to those of their images: a suffix such as _mask, a prefix
    such as mask_, or a pattern such as mask_*_v2. Default: inferred, if all masks have the same."""
    mask_frame: MaskFrame | None = None
    """Frame in which the masks of images with an EXIF orientation were drawn: shown, as viewers
    show the images, or stored. Default: the sizes decide."""
    rescale_masks: bool = False
    """Scale labels that were drawn for another size of the same aspect ratio; otherwise such images
    cannot be used."""
    lossy_samples: bool = False
    """Round whole numbers beyond 16,777,216, which 32-bit floats do not hold; otherwise images with
    such samples cannot be used."""
    planes: str | None = None
    """Plane that was labelled, if a file of several planes has a single mask, or a single entry of
    a label file: z=7, t=0,z=7 or page=3. Planes count from 0, pages from 1."""
    label_property: str | None = None
    """Property of GeoJSON, GeoPackage and GeoParquet features that names their class; none: all are
    of one class. Default: a property that is called class, label or the like."""
    label_crs: str | None = None
    """Coordinate system of such features, if their file does not state it or may be wrong: pixels,
    or a code such as EPSG:32633."""
    area_class: str | None = None
    """Class of a label file whose objects outline the labelled area of images that are labelled
    only in part; pixels outside of them are not counted."""

    group_by: int | str | None = None
    """Images that belong together: a folder level (-1 the folder of the file, -2 the one above, 1
    the first below --images), a regular expression on the path below --images (its groups, or all
    that it finds), or a column of the manifest; none: every file by itself. Images of one file
    always belong together. Default: inferred from file names, if they suggest groups."""

    def __post_init__(self) -> None:
        check_store_options(self, "images", (self.images,))
        check_store_options(self, "masks", (self.masks,))
        parse_uris(self.image_roots, "--image-roots")
        parse_channels(self.channels)
        parse_planes(self.planes)
        parse_mask_value(self.background_value, "--background-value")
        parse_mask_value(self.ignore_value, "--ignore-value")

    @property
    def background(self) -> int:
        """Mask value of pixels that belong to no class."""
        value = parse_mask_value(self.background_value, "--background-value")
        return 0 if value is None else value

    @property
    def ignored(self) -> int | None:
        """Mask value of pixels that are not counted; None: every pixel is counted."""
        return parse_mask_value(self.ignore_value, "--ignore-value")

    def label_options(self, classes: "tuple[ClassSpec, ...]") -> "LabelOptions":
        """Return how labels are read, with the classes that are asked for."""
        from unet_ray.labelled_data.labelled_set import LabelOptions
        from unet_ray.storage.roots import Roots

        return LabelOptions(
            classes=classes,
            kind=self.mask_kind,
            roots=Roots.parse(
                self.image_roots, self.follow_links, read_store_options(self, "images")
            ),
            masks_options=read_store_options(self, "masks"),
            mask_affix=self.mask_affix,
            frame=self.mask_frame,
            rescale=self.rescale_masks,
            lossy_samples=self.lossy_samples,
            planes=parse_planes(self.planes),
            area_class=self.area_class,
            label_property=self.label_property,
            label_crs=self.label_crs,
            background=self.background,
            ignored=self.ignored,
        )
