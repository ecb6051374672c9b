"""TIFF files whose headers were changed at random cost an error each, or are read as they are."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest

from tests.builders import make_fetch
from tests.imaging.codecs.test_tiff import PAGES, WRITERS, opened, pillow_stack, written
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.geo_tags import GeoTags
from unet_ray.imaging.codecs.image_place import ImagePlace
from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.tiff_directories import fetch_directories

CASES = 2000
_HOSTILE = (0, 1, 2, 0x7F, 0x80, 0xFF)
_NUMBERS = (0, 1, 8, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def real_files() -> list[bytes]:
    """Return stacks and single images as libraries write them, with georeferences."""
    geo = [
        (33550, "d", 3, (0.5, 0.5, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32632), True),
    ]
    small = PAGES[:4, :50, :60]
    stacks = [written(name, small) for name in WRITERS]
    return [*stacks, pillow_stack(), *(written(name, small[:1], extratags=geo) for name in WRITERS)]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes or numbers, mostly of the directories, or cut the file."""
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    wide = data[2:4] in (b"+\0", b"\0+")
    first = int(struct.unpack_from(order + ("Q" if wide else "I"), data, 8 if wide else 4)[0])
    for _ in range(int(rng.integers(1, 8))):
        near = rng.random() < 0.8
        at = int(first + rng.integers(0, 300) if near else rng.integers(0, len(data)))
        at = min(at, len(data) - 4)
        if rng.random() < 0.5:
            changed[at] = int(rng.choice(_HOSTILE) if rng.random() < 0.5 else rng.integers(256))
        else:
            struct.pack_into(order + "I", changed, at, int(rng.choice(_NUMBERS)))
    return bytes(changed[: rng.integers(8, len(data))] if rng.random() < 0.1 else changed)


def read(decoder: Decoder, data: bytes) -> str:
    """Do with a file what planning, decoding and an export do; return how it ends."""
    held, directories = fetch_directories(opened(data, 2**16))
    places: list[ImagePlace] = []
    if directories > 1:
        try:
            places = decoder.find_images(held)
        except ImageError as error:
            check_bounded(error)
    tags = None
    try:
        tags = decoder.read_geo_tags(RangeFile(make_fetch(data), len(data)))
    except ImageError as error:
        check_bounded(error)
    assert tags is None or np.isfinite(GeoTags.from_json(vars(tags)).affine).all()
    sources: list[bytes | PlaneFile] = [data]
    if places:
        sources = [PlaneFile(make_fetch(data), [], place) for place in places[:4]]
    ends = []
    for source in sources:
        try:
            image = decoder.decode(source, 2**25)
            assert min(image.samples.shape) > 0
            ends.append("read")
        except ImageError as error:
            check_bounded(error)
            ends.append(error.error_type)
    return ends[0]


def check_bounded(error: ImageError) -> None:
    """A file neither uses up its time nor crashes the decoder, and every fault is the file's."""
    assert error.error_type in ("unreadable", "unsupported", "too_large", "changed"), error
    assert "longer than" not in error.message, error
    assert "crashed" not in error.message, error


@pytest.mark.soak
def test_changed_headers_cost_an_error_or_nothing() -> None:
    rng, files, decoder = np.random.default_rng(30), real_files(), Decoder()
    children, ends = set(), Counter[str]()
    for index in range(CASES):
        ends[read(decoder, mutate(files[index % len(files)], rng))] += 1
        assert decoder._child is not None
        children.add(decoder._child.pid)
    decoder.close()
    assert len(children) == 1, "a file ended the decoder's child"
    assert ends["read"] > CASES / 10
    assert ends["unreadable"] > CASES / 10
