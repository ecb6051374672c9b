"""The picture of a labelled set."""

import io

import numpy as np
from PIL import Image

from unet_ray.imaging.drawing.label_sheet import LabelledPicture, draw_label_sheet
from unet_ray.imaging.drawing.overlay import class_colour


def count_pixels(sheet: np.ndarray, index: int) -> int:
    """Return the number of pixels in the colour of a class."""
    return int((sheet == class_colour(index)).all(axis=2).sum())


def test_outlines_and_counts_have_the_colours_of_their_classes() -> None:
    objects = np.zeros((2, 120, 400), np.int32)
    objects[0, 20:60, 20:60], objects[0, 20:60, 60:100] = 1, 2
    picture = LabelledPicture(
        "a.png", np.full((120, 400, 3), 90, np.uint8), tuple(objects), np.zeros((120, 400), bool)
    )
    png = draw_label_sheet([picture], ("leaf", "symptom"))
    sheet = np.array(Image.open(io.BytesIO(png)))
    # two squares that touch: the line between them too, and two squares of legend and caption
    assert count_pixels(sheet, 0) > 2 * (4 * 40 - 4)
    only_legend = count_pixels(sheet, 1)
    objects[1, 80:90, 80:90] = 1
    with_symptom = np.array(
        Image.open(io.BytesIO(draw_label_sheet([picture], ("leaf", "symptom"))))
    )
    assert with_symptom.shape == sheet.shape
    # the outline of the symptom, and the square before its number
    assert count_pixels(with_symptom, 1) > only_legend + 36
