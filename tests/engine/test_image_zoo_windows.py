"""The zoo in windows, as large images are read: each window is that part of the whole image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.builders import make_fetch
from tests.engine.image_zoo import CASES
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.tiff_directories import fetch_directories
from unet_ray.imaging.geometry import Box

BOXES = [Box(0, 0, 17, 23), Box(11, 20, 30, 44), Box(15, 0, 30, 44), Box(0, 0, 30, 44)]
"""Windows of nearly all images of the zoo; PNG and JPEG begin anew where one lies further up."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    found = Decoder()
    yield found
    found.close()


def find_images(decoder: Decoder, data: bytes) -> list[tuple[bytes | PlaneFile, RangeFile]]:
    """Return each image of a file, as it is read whole and in windows."""
    fetch = make_fetch(data)
    held, directories = fetch_directories(RangeFile(fetch, len(data), [(0, data[:65536])]))
    places = decoder.find_images(held) if directories > 1 else []
    if not places:
        return [(data, RangeFile(fetch, len(data)))]
    files = [PlaneFile(fetch, [], place) for place in places if not place.error]
    return [(file, file) for file in files]


@pytest.mark.parametrize("name", CASES)
def test_windows_are_parts_of_the_whole_image(name: str, decoder: Decoder) -> None:
    for data in CASES[name]().files.values():
        try:
            images = find_images(decoder, data)
            wholes = [decoder.decode(whole) for whole, _ in images]
        except ImageError:
            continue  # refused whole
        for (_, file), whole in zip(images, wholes, strict=True):
            try:
                size = decoder.open(file)
            except ImageError as error:
                if error.error_type == "unsupported" or whole.orientation != 1:
                    continue  # formats that are read whole only, and images that are turned
                raise
            assert size == (whole.height, whole.width)
            for box in BOXES:
                if box.bottom > whole.height or box.right > whole.width:
                    continue
                window, expected = decoder.window(box), whole.cut(box)
                if window.alpha and whole.valid is None:
                    continue  # an alpha that says nothing, which no window alone can tell
                assert np.array_equal(window.samples, expected.samples, equal_nan=True)
                assert window.samples.dtype == expected.samples.dtype
                assert window.channels == expected.channels
                valid = [
                    np.ones(found.samples.shape[:2], bool) if found.valid is None else found.valid
                    for found in (window, expected)
                ]
                assert np.array_equal(*valid)
