"""Palettes whose colours are numbered anew in each file."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unet_ray.errors import InputError
from unet_ray.labelled_data.palettes import check_same_colours, list_colours

VALUES = np.array([[0, 1], [2, 2]], np.uint8)


def encode(values: np.ndarray, *colours: int, kind: str = "PNG", **options: Any) -> bytes:
    picture = Image.fromarray(values).copy()
    picture.putpalette([part for colour in colours for part in colour.to_bytes(3, "big")])
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_colours_of_values_are_those_of_the_palette() -> None:
    png = encode(VALUES, 0, 0x207030, 0xC03030, 0xFFFFFF)
    assert list_colours(png, {0, 2}) == [(0, 0), (2, 0xC03030)]


def test_an_exchanged_black_is_the_colour_of_0() -> None:
    assert list_colours(encode(VALUES % 2, 0xFFFFFF, 0), {0, 1}) == [(0, 0), (1, 0xFFFFFF)]


def test_files_without_a_palette_have_no_colours() -> None:
    png = encode(VALUES, 0, 1, 2)
    grey = BytesIO()
    Image.fromarray(VALUES).save(grey, "PNG")
    transparent = encode(VALUES, 0, 1, 2, transparency=0)
    for data in (b"", png[:20], png[:40], grey.getvalue(), encode(VALUES, 0, 1, kind="BMP")):
        assert list_colours(data, {0, 1, 2}) == []
    assert list_colours(transparent, {0, 1, 2}) == []


def test_a_value_of_two_colours_is_named_with_both_files() -> None:
    files = [("a", [(0, 0), (1, 0xFF0000)]), ("b", [(0, 0), (1, 0x00FF00)])]
    check_same_colours(files, {0})
    with pytest.raises(InputError, match="1 is #ff0000 in a, #00ff00 in b, .* --classes"):
        check_same_colours(files, {0, 1})
