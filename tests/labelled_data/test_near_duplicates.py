"""Near-duplicates: copies and neighbours are found, independent images are not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from unet_ray.labelled_data.near_duplicates import draw_thumbnail, find_near_duplicates
from unet_ray.synthetic import draw_scene

RNG = np.random.default_rng(0)


def draw_image(seed: int) -> NDArray[np.uint8]:
    return draw_scene(256, 256, np.random.default_rng(seed))[0]


def encode_again(image: NDArray[np.uint8]) -> NDArray[Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


CHANGES = {
    "the same": lambda image: image,
    "JPEG": encode_again,
    "half the size": lambda image: np.asarray(
        Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2))
    ),
    "noise": lambda image: np.clip(image + RNG.normal(0, 5, image.shape), 0, 255).astype(np.uint8),
    "shifted by a pixel": lambda image: np.roll(image, (1, 1), (0, 1)),
    "16 bits": lambda image: image.astype(np.uint16) * 200 + 7,
    "grey": lambda image: image.mean(2, keepdims=True).astype(np.float32),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_among_other_images(change: str) -> None:
    others = [draw_thumbnail(draw_image(seed)) for seed in range(8)]
    copies = [draw_thumbnail(CHANGES[change](draw_image(seed))) for seed in (5, 100, 2)]
    assert find_near_duplicates(copies, others) == [(0, 5), (2, 2)]


def test_independent_images_are_no_near_duplicates() -> None:
    thumbnails = [draw_thumbnail(draw_image(seed)) for seed in range(60)]
    assert find_near_duplicates(thumbnails[:20], thumbnails[20:]) == []


def test_flat_small_and_infinite_images_are_like_none() -> None:
    flat = np.full((64, 64, 3), 7, np.uint8)
    small = RNG.integers(0, 255, (23, 64, 1), np.uint8)
    infinite = np.full((64, 64, 1), np.nan, np.float32)
    assert [draw_thumbnail(image) for image in (flat, small, infinite)] == [None] * 3
    assert find_near_duplicates([None, None], [None]) == []
    assert find_near_duplicates([], [draw_thumbnail(draw_image(0))]) == []


def test_pixels_that_are_not_there_do_not_count() -> None:
    image, valid = draw_image(0), np.arange(256)[:, None] >= np.full(256, 64)
    one, other = image.copy(), image.copy()
    one[:64], other[:64] = 0, RNG.integers(0, 255, other[:64].shape)
    assert draw_thumbnail(one, valid) == draw_thumbnail(other, valid)


def test_more_images_than_are_compared_at_once_keep_their_places() -> None:
    """Noise is like no other noise; the copy stands behind the first 4096."""
    noise = [draw_thumbnail(RNG.integers(0, 255, (24, 24, 1), np.uint8)) for _ in range(4100)]
    assert find_near_duplicates(noise[4098:4099], noise) == [(0, 4098)]
    assert find_near_duplicates(noise, noise[4098:4099]) == [(4098, 0)]
