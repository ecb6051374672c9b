"""Sizes and orientations of images and masks that belong together.

The EXIF tag of a photograph may say that it must be turned; viewers and the decoder turn it. Masks
have no such tag: they may have been drawn on the picture as viewers show it, or on the samples as
stored. If the sizes do not decide between the two, the user must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.flags import MaskFrame
from unet_ray.imaging.codecs.decode import SIDEWAYS, turn_upright
from unet_ray.imaging.codecs.pixel_size import SizeUm
from unet_ray.labelled_data.drawing import Size

Fit = Literal["plain", "shown", "stored", "either", "unstated"]
"""Frames in which masks have the size of their image: `plain` if the image is not turned,
`unstated` if a label file does not state the size, so that its masks are drawn as shown."""


class LabelledPixels(NamedTuple):
    """A labelled image and its masks in one frame."""

    image: NDArray[Any]
    """HWC, upright; 0 where a pixel is missing."""
    masks: list[NDArray[Any]]
    """HW each."""
    valid: NDArray[np.bool_] | None = None
    """True for pixels of the image that are not missing, HW; None if none is missing."""


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """A labelled image and its masks, as decoded."""

    image: NDArray[Any]
    """HWC, upright."""
    masks: list[NDArray[Any]]
    """HW each, in their own frame."""
    orientation: int = 1
    """EXIF orientation of the image, unless the masks have it as well; 1: none."""
    is_stated: bool = True
    """False if the masks were drawn at the size of the image because they state no size."""
    valid: NDArray[np.bool_] | None = None
    """True for pixels of the image that are not missing, HW; None if none is missing."""
    channels: tuple[str, ...] = ()
    """Names of the channels of the image; empty if they have none."""
    places: tuple[int, ...] = ()
    """Indices of these channels in the file."""
    file_channels: int = 0
    """Number of channels in the file."""
    pixel_size_um: SizeUm | None = None
    """Width and height of a pixel of the image (µm); None if they are not known."""

    @property
    def fit(self) -> Fit:
        """Frames in which the masks fit."""
        shown = (self.image.shape[0], self.image.shape[1])
        if self.orientation == 1:
            return "plain"
        stored = stored_size(shown, self.orientation)
        if stored == shown:
            return "either"
        if not self.is_stated:
            return "unstated"
        return "stored" if self.masks[0].shape == stored else "shown"

    def align(self, frame: MaskFrame) -> LabelledPixels:
        """Return the image and its masks, turned like the image.

        Args:
            frame: Frame in which the masks of the set were drawn.

        Raises:
            ImageError: The masks fit only in the other frame.
        """
        check_fit(self.fit, frame)
        return self._turn_masks(frame)

    def align_as_fits(self, frame: MaskFrame) -> LabelledPixels:
        """Align masks like `align`, but trust the size of masks that fit in only one frame.

        Args:
            frame: Frame of masks that fit in both.
        """
        return self._turn_masks(self.fit if self.fit in ("shown", "stored") else frame)

    def _turn_masks(self, frame: str) -> LabelledPixels:
        masks = self.masks
        if self.orientation != 1 and frame != "shown":
            masks = [turn_upright(mask, self.orientation) for mask in masks]
        return LabelledPixels(self.image, masks, self.valid)


def check_fit(fit: Fit, frame: MaskFrame) -> None:
    """Raise ImageError if masks do not fit in the frame of their set."""
    if fit == "unstated":
        if frame == "shown":
            return
        raise ImageError(
            "unreadable",
            "the image is turned by its EXIF orientation, and its labels state no size; give "
            "--mask-frame",
        )
    if fit not in ("plain", "either", frame):
        raise ImageError(
            "unreadable",
            f"by its size the mask fits the image as {fit}, but those of the set fit as {frame}",
        )


def choose_size(have: Size, shown: Size, orientation: int, rescale: bool, what: str) -> Size:
    """Choose the size of masks: that of their image, upright or as stored.

    Args:
        have: Height and width for which the masks were drawn (px).
        shown: Height and width of the upright image (px).
        orientation: EXIF orientation of the image; 1: none.
        rescale: True if masks of another size may be scaled, if the aspect ratio agrees.
        what: The mask, for the message.

    Raises:
        ImageError: `unreadable`: the sizes differ.
    """
    frames = [shown, stored_size(shown, orientation)]
    if have in frames:
        return have
    similar = [size for size in frames if _is_similar(have, size)]
    if similar and rescale:
        return similar[0]
    image_size = f"{shown[1]}×{shown[0]} px"
    mask_size = f"{have[1]}×{have[0]} px"
    remedy = "; --rescale-masks scales it" if similar else ""
    raise ImageError(
        "unreadable", f"the image has {image_size}, but {what} has {mask_size}{remedy}"
    )


def settle_frame(
    fits: Sequence[tuple[Fit | None, str]], flag: MaskFrame | None, masks: str
) -> tuple[MaskFrame, list[str]]:
    """Decide the frame in which the masks of a set were drawn.

    Args:
        fits: Fit and URI of each image; None for an image that cannot be used.
        flag: Frame that the user gave; None: the sizes decide.
        masks: Flag and URI of the masks, for messages.

    Returns:
        The frame, and notes for the user.

    Raises:
        InputError: The sizes do not decide it.
    """
    uris: dict[str, list[str]] = {fit: [] for fit in get_args(Fit)}
    for fit, uri in fits:
        if fit:
            uris[fit].append(uri)
    turned = [uri for fit, some in uris.items() if fit != "plain" for uri in some]
    if not turned:
        return flag or "shown", []
    found = f"{len(turned)} images are turned by their EXIF orientation, but their masks have none"
    ways = (
        "give --mask-frame shown if the masks were drawn on the pictures as viewers show them, "
        "--mask-frame stored if they were drawn on the samples as stored"
    )
    if flag:
        return flag, [f"{found}; --mask-frame {flag}"]
    if uris["shown"] and uris["stored"]:
        raise InputError(
            f"{masks}: {found}: by size, {len(uris['shown'])} masks fit the pictures as shown "
            f"({uris['shown'][0]}) and {len(uris['stored'])} as stored ({uris['stored'][0]}); "
            f"{ways}"
        )
    if not uris["shown"] and not uris["stored"]:
        raise InputError(
            f"{masks}: {found}, for instance {turned[0]}, and may be in either frame; {ways}"
        )
    frame: MaskFrame = "stored" if uris["stored"] else "shown"
    decided = len(uris[frame])
    return frame, [f"{found}; by the sizes of {decided} of them, masks fit the pictures as {frame}"]


def stored_size(shown: Size, orientation: int) -> Size:
    """Return the size in which an upright image is stored."""
    return shown[::-1] if orientation in SIDEWAYS else shown


def _is_similar(have: Size, size: Size) -> bool:
    """Tell whether two sizes have the same aspect ratio, within a pixel of the smaller one."""
    small = np.array(min(have, size, key=sum))
    large = np.array(size if sum(have) <= sum(size) else have)
    # height of the smaller one expected from its width, and width expected from its height
    expected = small[::-1] * large / large[::-1]
    return bool((np.abs(expected - small) <= 1).all())
