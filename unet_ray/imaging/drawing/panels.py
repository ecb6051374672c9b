"""Panels small enough to look at: images, masks, and comparisons of truth and prediction."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from unet_ray.imaging.drawing.overlay import (
    FILL_SHARE,
    GREY,
    class_colour,
    contact_sheet,
    stretch_contrast,
    to_displayable,
)
from unet_ray.imaging.labels.targets import IGNORED

PANEL_PX = 512
"""Longest side of a panel (px)."""

_MIN_TITLE_PX = 400
_SMALL_PX = 384
"""Longest side up to which panels are enlarged, by a whole factor (px)."""


@dataclass(frozen=True)
class Comparison:
    """A labelled image and its prediction."""

    name: str
    dice: float
    """Mean Dice over the image's classes; NaN: undefined."""
    image_hwc: NDArray[Any]
    """Image of any sample type; with other than 1 or 3 channels, the first is shown."""
    targets_khw: NDArray[np.uint8]
    """Targets: 0, 1, or IGNORED."""
    masks_khw: NDArray[np.bool_]
    class_names: tuple[str, ...]


def draw_comparison(rows: Iterable[Comparison], title: str = "Worst validation images") -> bytes:
    """Draw a row per image: the image, the truth over it, the prediction over it.

    Args:
        rows: One or more comparisons with the same classes. They are taken one by one, so a
            generator keeps only one large image in memory.
        title: Heading above all rows.

    Returns:
        The picture as a PNG.
    """
    pictures = []
    names: tuple[str, ...] = ()
    some_ignored = False
    for row in rows:
        pictures.append(_comparison_row(row))
        names = row.class_names
        some_ignored |= bool((row.targets_khw == IGNORED).any())
    legend = [(name, class_colour(index)) for index, name in enumerate(names)]
    if some_ignored:
        legend.append(("ignored (hatched)", GREY))
    width_px = max(picture.width for picture in pictures)
    heads = [text_line([(title, None)], width_px, 20), text_line(legend, width_px, 15)]
    png = io.BytesIO()
    contact_sheet([*heads, *pictures], columns=1).save(png, format="PNG")
    return png.getvalue()


def _comparison_row(row: Comparison) -> Image.Image:
    panel = image_panel(row.image_hwc)
    wanted = [mask_panel(plane == 1) for plane in row.targets_khw]
    found = [mask_panel(plane) for plane in row.masks_khw]
    ignored = mask_panel((row.targets_khw == IGNORED).any(axis=0)) & ~np.any(wanted, axis=0)
    num_channels = row.image_hwc.shape[2]
    shown = {
        "image" if num_channels in (1, 3) else f"image (channel 1 of {num_channels})": panel,
        "truth": hatch(paint_masks(panel, wanted), ignored),
        "prediction": paint_masks(panel, found),
    }
    columns = []
    for name, painted in shown.items():
        caption = text_line([(name, None)], panel.shape[1], 13)
        columns.append(contact_sheet([caption, Image.fromarray(painted)], 1, gap_px=0))
    panels = contact_sheet(columns, 3)
    panels = panels.crop((8, 8, panels.width, panels.height))  # flush with the heading
    dice = "undefined" if np.isnan(row.dice) else f"{row.dice:.3f}"
    head = [(row.name, None), (f"mean Dice {dice}", None)]
    heading = text_line(head, max(panels.width, _MIN_TITLE_PX), 15)
    return contact_sheet([heading, panels], 1, gap_px=0)


def panel_size(height: int, width: int) -> tuple[int, int]:
    """Return the height and width at which an image is shown.

    Sides are at most PANEL_PX; small images are enlarged.

    Example:
        1024 × 2048 → 256 × 512; 64 × 48 → 384 × 288; 400 × 300 stays as it is.
    """
    longest = max(height, width)
    if longest > PANEL_PX:
        shown_height = round(height * PANEL_PX / longest)
        shown_width = round(width * PANEL_PX / longest)
        return max(1, shown_height), max(1, shown_width)
    factor = max(1, _SMALL_PX // longest)
    return height * factor, width * factor


def image_panel(image_hwc: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as a panel (`panel_size`), uint8 RGB.

    It is shrunk first, then brightened if it would look black.

    Args:
        image_hwc: Image of any sample type; with other than 1 or 3 channels, the first is
            shown.
    """
    height, width = panel_size(*image_hwc.shape[:2])
    # A large image is thinned out first, so that it is never converted as a whole.
    step = max(1, max(image_hwc.shape[:2]) // (2 * PANEL_PX))
    thinned = stretch_contrast(image_hwc[::step, ::step])
    picture = Image.fromarray(to_displayable(thinned))
    kind = Image.Resampling.NEAREST if picture.width < width else Image.Resampling.BOX
    return np.asarray(picture.resize((width, height), kind))


def mask_panel(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask as a panel (`panel_size`).

    A pixel of the panel is set if any of the pixels that it stands for is, so thin objects stay.

    Example:
        1 row of 1024 pixels with only the last set → 512 pixels with only the last set.
    """
    height, width = panel_size(*mask_hw.shape)
    if max(mask_hw.shape) <= PANEL_PX:
        taller = mask_hw.repeat(height // mask_hw.shape[0], axis=0)
        return taller.repeat(width // mask_hw.shape[1], axis=1)
    rows = _starts(mask_hw.shape[0], height)
    columns = _starts(mask_hw.shape[1], width)
    shorter = np.logical_or.reduceat(mask_hw, rows, axis=0)
    shrunk: NDArray[np.bool_] = np.logical_or.reduceat(shorter, columns, axis=1)
    return shrunk


def _starts(size: int, panel: int) -> NDArray[np.intp]:
    """Return the positions in the image at which the pixels of a panel start.

    Example:
        5 pixels to 2 → 0, 2.
    """
    return np.arange(panel) * size // panel


def paint_masks(panel: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return an RGB panel with masks painted over it, one colour per class.

    Masks are filled lightly, and have their full colour at their edges.
    """
    painted = panel.astype(np.float32)
    for index, mask in enumerate(masks):
        colour = np.array(class_colour(index), np.float32)
        painted[mask] += (colour - painted[mask]) * FILL_SHARE
        # pixels with a neighbour outside the mask; the image's border is no edge
        padded = np.pad(mask, 1, mode="edge")
        above = padded[:-2, 1:-1]
        below = padded[2:, 1:-1]
        left = padded[1:-1, :-2]
        right = padded[1:-1, 2:]
        is_edge = mask & ~(above & below & left & right)
        painted[is_edge] = colour
    return painted.round().astype(np.uint8)


def hatch(panel: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an RGB panel with diagonal grey stripes where a mask is set."""
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    hatched = panel.copy()
    hatched[mask] = hatched[mask] // 2 + 64
    hatched[mask & ((rows + columns) % 8 < 3)] = GREY
    return hatched


def text_line(
    parts: Sequence[tuple[str, tuple[int, int, int] | None]], width_px: int, size_px: int
) -> Image.Image:
    """Write parts into lines of limited width, each after a square of its colour if it has one.

    A part that is longer than a line loses its middle.

    Args:
        parts: Text of each part, and its colour; None: no square.
        width_px: Largest width of a line (px).
        size_px: Size of the font (px).
    """
    font = _font(size_px)
    line_px = round(size_px * 1.6)
    pad_px = size_px
    places = []
    left = top = 0
    for text, colour in parts:
        indent_px = round(size_px * 1.4) if colour else 0
        text = _shorten(text, font, width_px - indent_px)
        needed_px = indent_px + round(font.getlength(text))
        if left and left + needed_px > width_px:
            left = 0
            top += line_px
        places.append((left, top, indent_px, text, colour))
        left += needed_px + pad_px
    picture = Image.new("RGB", (width_px, top + line_px), "white")
    draw = ImageDraw.Draw(picture)
    for left, top, indent_px, text, colour in places:
        middle = top + line_px // 2
        if colour:
            square = left, middle - size_px // 2, left + size_px, middle + size_px // 2
            draw.rectangle(square, fill=colour)
        draw.text((left + indent_px, middle), text, font=font, fill=(32, 32, 32), anchor="lm")
    return picture


@lru_cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans: Pillow's own font lacks most letters beyond ASCII."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(file, size_px)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """Drop the middle of a text that is wider than `width_px`."""
    kept = len(text)
    shown = text
    while kept > 2 and font.getlength(shown) > width_px:
        kept -= 1
        head = text[: (kept + 1) // 2]
        tail = text[len(text) - kept // 2 :]
        shown = f"{head}…{tail}"
    return shown
