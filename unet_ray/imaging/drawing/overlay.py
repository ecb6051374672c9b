"""Regions drawn over their image, and sheets of such pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unet_ray.imaging.regions.outline_wkb import parse_wkb

if TYPE_CHECKING:
    import pyarrow as pa

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


def overlay(image_hwc: NDArray[Any], regions: pa.Table) -> Image.Image:
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
            left = int(polygon.bounds[0])
            top = int(polygon.bounds[1])
            picture.paste(colour, (left, top), _draw_stencil(polygon))
            for ring in (polygon.exterior, *polygon.interiors):
                draw.line(list(ring.coords), fill=colour, width=1)
    return picture


def _draw_stencil(polygon: shapely.Polygon) -> Image.Image:
    """Draw the opacity of a polygon over its bounding box; pixels in a hole stay as they are."""
    left, top, right, bottom = (int(bound) for bound in polygon.bounds)
    stencil = Image.new("L", (right - left + 1, bottom - top + 1))
    draw = ImageDraw.Draw(stencil)
    corners = shapely.get_coordinates(polygon.exterior) - [left, top]
    draw.polygon(corners.ravel().tolist(), fill=_LIGHT)
    for hole in polygon.interiors:
        corners = shapely.get_coordinates(hole) - [left, top]
        draw.polygon(corners.ravel().tolist(), fill=0)
    return stencil


def to_displayable(image_hwc: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image as RGB, HWC uint8, its samples stretched unless they are uint8.

    Images with other than 1 or 3 channels show their first channel.
    """
    image = image_hwc if image_hwc.shape[2] in (1, 3) else image_hwc[:, :, :1]
    if image.dtype != np.uint8:
        low = float(image.min())
        high = float(image.max())
        stretch = 255 / max(high - low, 1e-9)
        image = ((image - low) * stretch).astype(np.uint8)
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image)


def contact_sheet(pictures: list[Image.Image], columns: int, gap_px: int = 8) -> Image.Image:
    """Lay pictures out in rows on white, each row as high as its highest picture."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    row_widths: list[int] = []
    row_heights: list[int] = []
    for row in rows:
        row_widths.append(sum(picture.width + gap_px for picture in row))
        row_heights.append(max(picture.height for picture in row) + gap_px)
    size = max(row_widths) + gap_px, sum(row_heights) + gap_px
    sheet = Image.new("RGB", size, "white")
    top = gap_px
    for row, row_height in zip(rows, row_heights, strict=True):
        left = gap_px
        for picture in row:
            sheet.paste(picture, (left, top))
            left += picture.width + gap_px
        top += row_height
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
        low = float(image.min())
        high = float(image.max())
    stretch = 255 / max(high - low, 1e-9)
    stretched = (image.astype(np.float32) - low) * stretch
    return stretched.clip(0, 255).astype(np.uint8)
