"""A sheet of labelled images with the outlines of their labels, to see whether they fit."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unet_ray.imaging.drawing.overlay import GREY, class_colour, contact_sheet
from unet_ray.imaging.drawing.panels import hatch, image_panel, mask_panel, text_line

_COLUMNS = 3
_MIN_TITLE_PX = 384
_FILL_SHARE = 0.15
"""Share of the class colour inside of outlines: what lies below must stay visible."""


@dataclass(frozen=True)
class LabelledPicture:
    """A labelled image and its objects."""

    name: str
    image_hwc: NDArray[Any]
    """Image of any sample type; with other than 1 or 3 channels, the first is shown."""
    objects: tuple[NDArray[Any], ...]
    """Label image (HW) of each class, 0 outside."""
    ignored_hw: NDArray[np.bool_]
    """Pixels that are not counted for any class."""


def draw_label_sheet(rows: Iterable[LabelledPicture], class_names: tuple[str, ...]) -> bytes:
    """Draw labelled images in rows of three, the outline of each object in the class's colour.

    Args:
        rows: One or more images. They are taken one by one, so a generator keeps only one large
            image in memory.
        class_names: Names of the classes.

    Returns:
        The picture as a PNG.
    """
    pictures = []
    some_ignored = False
    for row in rows:
        pictures.append(_draw_picture(row))
        some_ignored |= bool(row.ignored_hw.any())
    legend = [(name, class_colour(index)) for index, name in enumerate(class_names)]
    if some_ignored:
        legend.append(("not counted (hatched)", GREY))
    sheet = contact_sheet(pictures, min(_COLUMNS, len(pictures)))
    heads = [text_line([("Labels", None)], sheet.width, 20), text_line(legend, sheet.width, 15)]
    png = io.BytesIO()
    contact_sheet([*heads, sheet], columns=1).save(png, format="PNG")
    return png.getvalue()


def _draw_picture(row: LabelledPicture) -> Image.Image:
    panel = image_panel(row.image_hwc)
    painted = hatch(panel, mask_panel(row.ignored_hw)).astype(np.float32)
    for index, objects in enumerate(row.objects):
        colour = np.array(class_colour(index), np.float32)
        inside = mask_panel(objects > 0)
        painted[inside] += (colour - painted[inside]) * _FILL_SHARE
        painted[mask_panel(_find_outlines(objects))] = colour
    height, width = row.image_hwc.shape[:2]
    shown = Image.fromarray(painted.round().astype(np.uint8))
    head = [(row.name, None), (f"{width}×{height} px", None), *_count_objects(row)]
    heading = text_line(head, max(shown.width, _MIN_TITLE_PX), 13)
    return contact_sheet([heading, shown], 1, gap_px=0)


def _count_objects(row: LabelledPicture) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Return the number of objects of each class that the image has, each with its colour."""
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for index, objects in enumerate(row.objects):
        num_objects = int(np.count_nonzero(np.unique(objects)))
        if num_objects:
            found.append((f"{num_objects} object{'s' * (num_objects > 1)}", class_colour(index)))
    return found or [("no objects", None)]


def _find_outlines(objects: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of objects that have a neighbour of another object, or of none."""
    down = objects[1:] != objects[:-1]
    right = objects[:, 1:] != objects[:, :-1]
    outline = np.zeros(objects.shape, bool)
    outline[1:] |= down
    outline[:-1] |= down
    outline[:, 1:] |= right
    outline[:, :-1] |= right
    return outline & (objects > 0)
