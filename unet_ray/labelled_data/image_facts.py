"""Statistics of the pixels and masks of one labelled image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.imaging.channels import ImageChannels
from unet_ray.imaging.codecs.decode import is_grey
from unet_ray.imaging.codecs.pixel_size import SizeUm
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.mask_values import mask_values
from unet_ray.imaging.labels.plausibility import measure_edge_contrast
from unet_ray.imaging.regions.components import label_values
from unet_ray.labelled_data.alignment import Fit, LabelledArrays
from unet_ray.labelled_data.labelled_set import Encoded, LabelledImage
from unet_ray.labelled_data.labelled_window import LabelledWindow
from unet_ray.labelled_data.near_duplicates import draw_thumbnail
from unet_ray.labelled_data.palettes import list_colours
from unet_ray.labelled_data.readers import FileReader


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFacts:
    """Statistics of one labelled image, or the reason why it cannot be used."""

    uri: str
    mask_uri: str
    sha256: tuple[str | None, ...] = ()
    """SHA-256 of the bytes read of the image and of each mask; None for a file that is read in
    windows. Empty if a file cannot be read."""
    error: str | None = None
    height: int = 0
    width: int = 0
    dtype: str = ""
    channels: int = 0
    """Number of channels that are used; 1 for colours that are all equal."""
    names: tuple[str, ...] = ()
    """Names of the channels that are used; empty: they have none."""
    places: tuple[int, ...] = ()
    """Indices of these channels in the file."""
    file_channels: int = 0
    """Number of channels in the file."""
    low: tuple[float, ...] = ()
    """Smallest sample of each channel, without missing pixels."""
    high: tuple[float, ...] = ()
    """Largest sample of each channel, without missing pixels."""
    samples: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0)))
    """Samples of a few pixels, drawn at random, without missing ones; (pixels, channels), in the
    type of the image."""
    values: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Pairs (mask value, pixels) for each mask of the image."""
    objects: tuple[tuple[tuple[int, int], ...], ...] | None = None
    """Pairs (mask value, 8-connected components) for each mask; None if they were not counted."""
    overlap: int = 0
    """Number of pixels of several classes, if labels come from a label file."""
    edge_contrast: float | None = None
    """Gradient along the outlines of the labels, divided by the gradient beside them."""
    colours: tuple[tuple[int, int], ...] = ()
    """Pairs (mask value, colour 0xRRGGBB) of a mask with a palette."""
    pixel_size_um: SizeUm | None = None
    """Width and height of a pixel (µm), upright; None if the file does not state it."""
    fit: Fit | None = None
    """Frames in which the masks have the size of their image; None if a file cannot be read."""
    thumbnail: bytes | None = None
    """Small grey picture for finding near-duplicates; None if it would be flat or too small."""
    has_no_data: bool = False
    """True if some pixels of the image are missing."""
    is_absent: bool = False
    """True for a window of a large image without any valid pixel; this is not an error."""

    @property
    def is_usable(self) -> bool:
        """True for an image that can be read."""
        return self.error is None and not self.is_absent

    @property
    def used(self) -> ImageChannels:
        """Channels that are used; one grey channel if all colours are equal."""
        names = self.names if len(self.names) == self.channels else ()
        return ImageChannels(self.channels, names)

    def take(self, channels: Sequence[int]) -> ImageFacts:
        """Return the statistics reduced to some of the used channels."""
        return replace(
            self,
            channels=len(channels),
            names=tuple(self.names[channel] for channel in channels),
            places=tuple(self.places[channel] for channel in channels),
            low=tuple(self.low[channel] for channel in channels),
            high=tuple(self.high[channel] for channel in channels),
            samples=self.samples[:, list(channels)],
        )


def describe_image(
    files: FileReader,
    index: int,
    encoded: Encoded | ImageError,
    sampled: int,
    count_objects: bool = False,
) -> tuple[ImageFacts, LabelledArrays | None]:
    """Compute the statistics of one labelled image.

    Args:
        files: Reader of the set.
        index: Index of the image.
        encoded: Contents of its files, or the error from reading them.
        sampled: Number of pixels to sample.
        count_objects: True to count the components of each mask value.

    Returns:
        The statistics, and the decoded image; None if it cannot be used.
    """
    item = files.items[index]
    facts = ImageFacts(uri=item.image.uri, mask_uri=item.masks[0].uri)
    try:
        if isinstance(encoded, ImageError):
            raise encoded
        facts = replace(facts, sha256=_compute_sha256(item, encoded))
        decoded = item.decode(encoded, files.access)
        if decoded.valid is not None and not decoded.valid.any():
            if isinstance(item, LabelledWindow):
                return replace(facts, is_absent=True), None
            raise ImageError("unsupported", "all pixels of the image are missing")
    except ImageError as error:
        return replace(facts, error=str(error)), None
    facts = _describe(facts, decoded, np.random.default_rng(index), sampled)
    if len(encoded) == 2 and isinstance(encoded[1], bytes):
        values = [value for value, _ in facts.values[0]]
        facts = replace(facts, colours=tuple(list_colours(encoded[1], values)))
    if count_objects:
        facts = replace(facts, objects=tuple(map(_count_components, decoded.masks)))
    if files.access.drawing:
        facts = replace(facts, overlap=_count_overlap(files.access.drawing.labelling, decoded))
    image, masks, valid = decoded.align_as_fits(files.access.options.frame or "shown")
    contrast = measure_edge_contrast(image, masks)
    return replace(facts, edge_contrast=contrast, has_no_data=valid is not None), decoded


def _count_overlap(labelling: Labelling, decoded: LabelledArrays) -> int:
    """Return the number of pixels that belong to several classes."""
    some = np.zeros(decoded.masks[0].shape, bool)
    several = np.zeros_like(some)
    for index in range(len(labelling.classes)):
        inside = labelling.class_mask(decoded.masks, index)
        several |= some & inside
        some |= inside
    return int(several.sum())


def _count_components(mask_hw: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    """Return pairs (mask value other than 0, number of its 8-connected components)."""
    components = label_values(mask_hw)
    _, first = np.unique(components, return_index=True)
    value_of_component = mask_hw.ravel()[first]
    inside = value_of_component[value_of_component != 0]
    values, counts = np.unique(inside, return_counts=True)
    return tuple(zip(values.tolist(), counts.tolist(), strict=True))


def _compute_sha256(item: LabelledImage, encoded: Encoded) -> tuple[str | None, ...]:
    """Return the field `ImageFacts.sha256` of an image."""
    of_labels = [item.label_sha256] * len(item.masks)
    if isinstance(item, LabelledWindow):
        return (None, *of_labels)
    found = list[str | None]()
    for content in encoded:
        if isinstance(content, PlaneFile):
            sha256 = hashlib.sha256()
            for _, data in content.pieces:
                sha256.update(data)
        else:
            sha256 = hashlib.sha256(content)
        found.append(sha256.hexdigest())
    if item.label_sha256 is not None:  # the masks come from one file, which is not in `encoded`
        found += of_labels
    return tuple(found)


def _describe(
    facts: ImageFacts, decoded: LabelledArrays, rng: np.random.Generator, sampled: int
) -> ImageFacts:
    """Add the statistics that are computed from the pixels of an image."""
    image_hwc = decoded.image
    num_channels = image_hwc.shape[2]
    are_colours = ImageChannels(num_channels, decoded.channels).is_colour
    num_used = 1 if are_colours and is_grey(image_hwc) else num_channels
    pixels = image_hwc.reshape(-1, num_channels)[:, :num_used]
    if decoded.valid is not None:
        pixels = pixels[decoded.valid.ravel()]
    return replace(
        facts,
        height=image_hwc.shape[0],
        width=image_hwc.shape[1],
        dtype=str(image_hwc.dtype),
        channels=num_used,
        names=decoded.channels,
        places=decoded.places,
        file_channels=decoded.file_channels,
        low=tuple(pixels.min(0).tolist()),
        high=tuple(pixels.max(0).tolist()),
        samples=pixels[rng.integers(0, len(pixels), sampled)],
        values=tuple(tuple(mask_values(mask).items()) for mask in decoded.masks),
        pixel_size_um=decoded.pixel_size_um,
        fit=decoded.fit,
        thumbnail=draw_thumbnail(image_hwc, decoded.valid),
    )
