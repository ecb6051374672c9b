"""Whether labels lie on what they outline."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unet_ray.imaging.labels.plausibility import look_misplaced, measure_edge_contrast
from unet_ray.synthetic import SIZES, draw_scene

Pair = tuple[np.ndarray, np.ndarray]
"""Image (HWC) and mask (HW)."""


def draw_scenes(count: int = 24) -> Iterator[Pair]:
    """Draw cells and fibres."""
    rng = np.random.default_rng(0)
    for index in range(count):
        yield draw_scene(*SIZES[index % len(SIZES)], rng)


def draw_lines(width: int, noise: float, count: int = 24) -> Iterator[Pair]:
    """Draw thin bright lines in noise."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        picture = Image.new("L", (256, 240))
        for _ in range(6):
            corners = [(float(x), float(y)) for x, y in rng.uniform(0, 256, (4, 2))]
            ImageDraw.Draw(picture).line(corners, fill=1, width=width)
        yield _add_noise(np.array(picture), noise, rng)


def draw_specks(noise: float, count: int = 24) -> Iterator[Pair]:
    """Draw specks of a single pixel in noise."""
    rng = np.random.default_rng(2)
    for _ in range(count):
        mask = np.zeros((240, 256), np.uint8)
        mask[rng.integers(0, 240, 60), rng.integers(0, 256, 60)] = 1
        yield _add_noise(mask, noise, rng)


def _add_noise(mask: np.ndarray, noise: float, rng: np.random.Generator) -> Pair:
    image = 100 + 30.0 * mask + rng.normal(0, noise, mask.shape)
    return image.clip(0, 255).astype(np.uint8)[:, :, None], mask


SETS: dict[str, Callable[[], Iterator[Pair]]] = {
    "scenes": draw_scenes,
    "lines": lambda: draw_lines(2, 4),
    "faint thin lines": lambda: draw_lines(1, 35),
    "specks": lambda: draw_specks(8),
}


@pytest.mark.parametrize("name", SETS)
def test_right_labels_never_look_misplaced(name: str) -> None:
    found = [measure_edge_contrast(image, [mask]) for image, mask in SETS[name]()]
    assert all(found)
    assert look_misplaced(found) is None


MOVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda mask: mask[:, ::-1],
    "upside down": lambda mask: mask[::-1],
    "turned": lambda mask: mask[::-1, ::-1],
    "shifted": lambda mask: np.roll(mask, (17, 17), (0, 1)),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", SETS)
def test_labels_beside_their_objects_look_misplaced(name: str, move: str) -> None:
    found = [
        measure_edge_contrast(image, [np.ascontiguousarray(MOVES[move](mask))])
        for image, mask in SETS[name]()
    ]
    contrast = look_misplaced(found)
    assert contrast is not None
    assert contrast < 1.1


def test_two_images_are_too_few_to_tell() -> None:
    assert look_misplaced([0.9, 0.9, None]) is None
    assert look_misplaced([0.9, 0.9, 0.9]) == pytest.approx(0.9)
