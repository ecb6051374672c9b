"""Windows of large labelled images, each of which is used like an image of its own.

A large TIFF with its mask or annotations is never decoded whole, so memory does not grow with it:

    image  ─▶ windows on a grid ─▶ samples of a window (its tiles are fetched and decoded)
    mask   ─▶ the same window, if the file can be read in parts; else decoded whole, once
    labels ─▶ the same window of the drawing

A window shows nothing beyond its edges, although cut objects continue there. All windows of a file
have the name of the file, so they stay on the same side of a split.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.image_sources.encoded import open_encoded, read_encoded
from unet_ray.image_sources.sources import ImageSource, header_decoders
from unet_ray.imaging.channels import take_pages
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.sandbox import DecoderPool, process_decoder
from unet_ray.imaging.geometry import Box
from unet_ray.labelled_data.alignment import LabelledArrays, choose_size
from unet_ray.labelled_data.drawing import Size, resize_nearest
from unet_ray.labelled_data.labelled_set import (
    Encoded,
    LabelAccess,
    LabelledImage,
    LabelledSet,
)
from unet_ray.limits import LABELLED_WINDOW_PX, MAX_PIXELS_PER_BYTE, WHOLE_PIXELS
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.listing import path_suffix


@dataclass(frozen=True, kw_only=True)
class LabelledWindow(LabelledImage):
    """Window of a large labelled image."""

    window: Box
    """Window in pixels of the image."""
    size: Size
    """Height and width of the whole image (px)."""

    def read_encoded(self, access: LabelAccess) -> Encoded:  # noqa: ARG002
        """Return nothing: the bytes of a window are fetched while it is decoded."""
        return []

    def decode(self, encoded: Encoded, access: LabelAccess) -> LabelledArrays:  # noqa: ARG002
        """Read and decode the window.

        Raises:
            ImageError: Same as `LabelledImage.read_encoded` and `LabelledImage.decode`.
        """
        place = take_pages(self.image.place, access.channels)
        file = open_encoded(access.images, self.image.file_uri, place)
        decoder = process_decoder()
        size = decoder.open(file, lossy_samples=access.options.lossy_samples)
        if size != self.size:
            raise ImageError("changed", f"the image now has {size[1]}×{size[0]} px")
        chosen = self.choose_channels(decoder.window(self.window), access)
        drawing = access.drawing
        if self.row is None or drawing is None:
            masks = [self._read_mask(access, source) for source in self.masks]
        else:
            mask_size = choose_size(
                have=drawing.stated_size(self.row) or self.size,
                shown=self.size,
                orientation=1,
                rescale=access.options.rescale,
                what="its label file",
            )
            masks = drawing.draw(self.row, mask_size, self.window)
        valid = chosen.image.valid
        return LabelledArrays(chosen.image.samples, masks, valid=valid, **chosen.describe())

    def _read_mask(self, access: LabelAccess, source: ImageSource) -> NDArray[Any]:
        if access.table is None and path_suffix(source.file_uri) in TIFF_SUFFIXES:
            file = open_encoded(access.masks, source.file_uri, source.place)
            decoder = process_decoder()
            try:
                if decoder.open(file) == self.size:
                    return decoder.label_window(self.window)
            except ImageError as error:
                if error.error_type != "unsupported":
                    raise
        mask = _whole_masks.read(access, source, self.size)
        window = self.window
        return mask[window.top : window.bottom, window.left : window.right]


class _WholeMasks:
    """Holds the last mask that was decoded whole; the next window of its image needs it again."""

    def __init__(self) -> None:
        self._key: object = None
        self._mask: NDArray[Any] | None = None

    def read(self, access: LabelAccess, source: ImageSource, size: Size) -> NDArray[Any]:
        """Return a mask, HW, scaled to the size of its image if that is allowed."""
        key = (source, access.table and access.table.to_json(), size)
        if self._mask is not None and self._key == key:
            return self._mask
        self._mask = None  # frees its memory before the next one is decoded
        content = read_encoded(access.masks, source.file_uri, source.place)
        mask, _ = process_decoder().decode_oriented_label(content, table=access.table)
        have = mask.shape[0], mask.shape[1]
        wanted = choose_size(
            have=have,
            shown=size,
            orientation=1,
            rescale=access.options.rescale,
            what=f"its mask {source.uri}",
        )
        self._key = key
        self._mask = mask if have == wanted else resize_nearest(mask, wanted)
        return self._mask


_whole_masks = _WholeMasks()


def cut_large_images(
    labelled: LabelledSet,
    crop_px: int = 0,
    whole_px: int = WHOLE_PIXELS,
    side_px: int = LABELLED_WINDOW_PX,
) -> LabelledSet:
    """Replace the large TIFF images of a set by their windows.

    Args:
        labelled: Labelled set.
        crop_px: Side of a crop, which must fit in a window (px).
        whole_px: Largest image that stays whole (px).
        side_px: Side of the windows (px).

    Returns:
        The set, with a note on what was cut.
    """
    side_px = max(side_px, crop_px)
    find_size = partial(_find_large_size, labelled, whole_px)
    with header_decoders() as decoders, ThreadPoolExecutor(CONNECTIONS) as pool:
        sizes = [*pool.map(partial(find_size, decoders), labelled.items)]
    items = list[LabelledImage]()
    for item, size in zip(labelled.items, sizes, strict=True):
        items += [*_cut(item, size, side_px)] if size else [item]
    num_large = sum(size is not None for size in sizes)
    if not num_large:
        return labelled
    num_windows = len(items) - (len(sizes) - num_large)
    note = (
        f"{num_large} of {len(sizes)} images have more than {whole_px} px: they are read in "
        f"{num_windows} windows of at least {side_px}² px, each counted as an image"
    )
    return replace(labelled, items=tuple(items), notes=(*labelled.notes, note))


def _find_large_size(
    labelled: LabelledSet, whole_px: int, decoders: DecoderPool, item: LabelledImage
) -> Size | None:
    """Return the height and width of a large TIFF image (px); None for all other images.

    None also stands for an image that cannot be read: decoding it will report the reason.
    """
    source = item.image
    is_tiff = path_suffix(source.file_uri) in TIFF_SUFFIXES
    if not is_tiff or source.size * MAX_PIXELS_PER_BYTE <= whole_px:
        return None
    try:
        file = open_encoded(labelled.access.images, source.file_uri, source.place)
        height, width = decoders.measure(file)
    except ImageError:
        return None
    return (height, width) if height * width > whole_px else None


def _cut(item: LabelledImage, size: Size, side_px: int) -> Iterator[LabelledWindow]:
    """Yield the windows of an image; those at the right and bottom edge include the remainder."""
    height, width = size
    num_down = max(1, height // side_px)
    num_across = max(1, width // side_px)
    for down in range(num_down):
        for across in range(num_across):
            top, left = down * side_px, across * side_px
            bottom = height if down == num_down - 1 else top + side_px
            right = width if across == num_across - 1 else left + side_px
            yield LabelledWindow(
                image=item.image,
                masks=item.masks,
                row=item.row,
                label_sha256=item.label_sha256,
                window=Box(top, left, bottom, right),
                size=size,
            )
