"""Run lengths of Label Studio's brush."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet_ray.labelled_data.formats.parts.brush_runs import decode_brush

_SIZES = (3, 4, 8, 16)
"""Bits of the four kinds of counts, as Label Studio chooses them."""


def pack(*numbers: tuple[int, int]) -> list[int]:
    """Return numbers of some bits each as bytes, the highest bit first."""
    bits = "".join(f"{number:0{size}b}" for number, size in numbers)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def encode_values(values: list[int], longest_literal: int = 1) -> list[int]:
    """Encode values as `rle-pack` does: repeated ones as runs, others as they are."""
    numbers = [(len(values), 32), (7, 5), *((size - 1, 4) for size in _SIZES)]
    waiting: list[int] = []

    def write_literals() -> None:
        for start in range(0, len(waiting), longest_literal):
            piece = waiting[start : start + longest_literal]
            numbers.extend([(0, 1), (3, 2), (len(piece) - 1, 16)])
            numbers.extend((value, 8) for value in piece)
        waiting.clear()

    for value, same in groupby(values):
        count = len(list(same))
        if count == 1:
            waiting.append(value)
            continue
        write_literals()
        while count:
            kind = next((i for i, size in enumerate(_SIZES) if count <= 2**size), 3)
            length = min(count, 2 ** _SIZES[kind])
            numbers += [(1, 1), (kind, 2), (length - 1, _SIZES[kind]), (value, 8)]
            count -= length
    write_literals()
    return pack(*numbers)


def encode_brush(mask_hw: Any) -> list[int]:
    """Encode a mask as Label Studio does: each of its pixels four times."""
    return encode_values(np.repeat(np.asarray(mask_hw, np.uint8).ravel() * 255, 4).tolist())


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12)), st.integers(1, 50))
def test_a_pixel_is_inside_where_its_alpha_is_not_0(alpha_hw: Any, longest: int) -> None:
    alpha_hw = np.where(alpha_hw < 128, 0, alpha_hw)
    colours = np.arange(alpha_hw.size * 3).reshape(*alpha_hw.shape, 3) % 251
    values = np.concatenate([colours, alpha_hw[:, :, None]], axis=2).ravel().tolist()
    data = bytes(encode_values(values, longest))
    assert (decode_brush(data, *alpha_hw.shape) == (alpha_hw > 0)).all()


def test_runs_longer_than_a_count_are_in_pieces() -> None:
    mask = np.zeros((300, 400), bool)
    mask[100:, 20:] = True
    assert (decode_brush(bytes(encode_brush(mask)), 300, 400) == mask).all()


@pytest.mark.parametrize(
    ("data", "size", "message"),
    [
        ([], (3, 4), "its run lengths end too early"),
        (encode_brush(np.ones((3, 4)))[:-1], (3, 4), "its run lengths end too early"),
        (encode_values([1, 2, 3, 4], 4)[:-2], (1, 1), "its run lengths end too early"),
        (
            encode_brush(np.ones((3, 3))),
            (3, 4),
            "its run lengths have 36 values, but an image of 4×3 px",
        ),
        (pack((48, 32), (15, 5), (0, 8)), (3, 4), "its run lengths have values that are not bytes"),
    ],
)
def test_what_does_not_fill_the_image_is_refused(
    data: list[int], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_brush(bytes(data), *size)


def test_an_image_beyond_the_limit_is_refused_before_its_memory_is_taken() -> None:
    with pytest.raises(ValueError, match=r"its image has 100000×100000 px; the limit is"):
        decode_brush(b"", 100_000, 100_000)


@given(st.binary(max_size=60))
def test_noise_is_refused_or_read(noise: bytes) -> None:
    head = bytes(pack((24, 32), (7, 5), *[(2, 4)] * 4))[:6]
    try:
        mask = decode_brush(head + noise, 2, 3)
    except ValueError:
        return
    assert mask.shape == (2, 3)
