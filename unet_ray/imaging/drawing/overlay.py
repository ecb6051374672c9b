"""Regions drawn over their image, and sheets of such pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unet_ray.imaging.regions.outline_wkb import parse_wkb

COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
"""Class colours that colour-blind people can tell apart (Okabe and Ito 2008)."""

GREY = (128, 128, 128)
"""Colour of ignored pixels."""
FILL_SHARE = 0.4
"""Share of the class colour in the filling of masks."""
_LIGHT = 70
"""Opacity, of 255, of the filling of regions in an overlay."""
_DIM_RANGE = 128
_CUT_PERCENT = 0.5


def class_colour(index: int) -> tuple[int, int, int]:
    """Return the colour of the class at an index: COLOURS, then darker rounds of them."""
    red, green, blue = COLOURS[index % len(COLOURS)]
    shade = 0.6 ** (index // len(COLOURS) % 3)
    return round(red * shade), round(green * shade), round(blue * shade)


def overlay(image_hwc: NDArray[Any], regions: Any) -> Image.Image:
    """Draw regions over their image: lightly filled and outlined, with a colour per class id.

    Args:
        image_hwc: Image as decoded; other types than uint8 are stretched to it.
        regions: Rows of the regions table that belong to the image; damaged outlines are left out.
    """
    picture = Image.fromarray(to_displayable(image_hwc))
    draw = ImageDraw.Draw(picture)
    outlines = parse_wkb(regions["geometry"].to_pylist())
    for class_id, outline in zip(regions["class_id"].to_pylist(), outlines, strict=True):
        colour = class_colour(class_id - 1)
        for polygon in shapely.get_parts(outline):
            left, top, right, bottom = map(int, polygon.bounds)
            # Pixels in a hole stay as they are.
            stencil = Image.new("L", (right - left + 1, bottom - top + 1))
            for ring, light in (
                (polygon.exterior, _LIGHT),
                *((hole, 0) for hole in polygon.interiors),
            ):
                corners = shapely.get_coordinates(ring) - [left, top]
                ImageDraw.Draw(stencil).polygon(corners.ravel().tolist(), fill=light)
            picture.paste(colour, (left, top), stencil)
            for ring in (polygon.exterior, *polygon.interiors):
                draw.line(list(ring.coords), fill=colour, width=1)
    return picture


def to_displayable(image_hwc: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as RGB, HWC uint8, its samples stretched unless they are uint8.

    Images with other than 1 or 3 channels show their first channel.
    """
    image = image_hwc if image_hwc.shape[2] in (1, 3) else image_hwc[:, :, :1]
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)


def contact_sheet(pictures: list[Image.Image], columns: int, gap_px: int = 8) -> Image.Image:
    """Lay pictures out in rows on white, each row as high as its highest picture."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(p.width + gap_px for p in row) for row in rows) + gap_px
    sheet = Image.new(
        "RGB", (width, sum(max(p.height for p in row) + gap_px for row in rows) + gap_px), "white"
    )
    top = gap_px
    for row in rows:
        left = gap_px
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + gap_px
        top += max(p.height for p in row) + gap_px
    return sheet


def stretch_contrast(image: NDArray[Any]) -> NDArray[Any]:
    """Stretch samples to the range of uint8, unless they are uint8 and use much of it already.

    The extreme half per cent at either end is cut off: one hot pixel of a 16-bit image would leave
    the rest black.
    """
    low, high = np.percentile(image, (_CUT_PERCENT, 100 - _CUT_PERCENT))
    if image.dtype == np.uint8 and not 0 < high - low < _DIM_RANGE:
        return image
    if high <= low:
        low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
    return scaled.clip(0, 255).astype(np.uint8)
