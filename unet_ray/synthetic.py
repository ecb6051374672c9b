"""A small archive of synthetic micrographs with known masks, for the quickstart and for tests."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from unet_ray.storage.storage import Storage

CELL, FIBRE = 1, 2
CLASSES = "cell=1,fibre=2"
SIZES = ((256, 256), (240, 320), (300, 260), (384, 288))
"""Sizes of the images, (height, width) in px; some are not multiples of 8."""


@dataclass(frozen=True)
class SyntheticArchive:
    """Folders of one synthetic archive."""

    labelled_images: Storage
    labelled_masks: Storage
    check_images: Storage
    check_masks: Storage
    archive: Storage
    """Folder of images without masks, one of them corrupt."""


def make_archive(
    root: Storage, labelled: int, check: int, archive: int, seed: int = 0
) -> SyntheticArchive:
    """Write an archive below a folder.

    It holds PNG, JPEG and TIFF images of several sizes, PNG masks, and one corrupt file.

    Args:
        root: Folder of the archive.
        labelled: Number of images with masks to learn from.
        check: Number of images with masks to check on.
        archive: Number of images without masks.
        seed: Seed of the images.

    Returns:
        The folders of the archive.
    """
    rng = np.random.default_rng(seed)
    folders = SyntheticArchive(
        labelled_images=root.join("labelled/images"),
        labelled_masks=root.join("labelled/masks"),
        check_images=root.join("check/images"),
        check_masks=root.join("check/masks"),
        archive=root.join("archive"),
    )
    for images, masks, count in (
        (folders.labelled_images, folders.labelled_masks, labelled),
        (folders.check_images, folders.check_masks, check),
    ):
        for index in range(count):
            image, mask = draw_scene(*SIZES[index % len(SIZES)], rng)
            images.write(f"{index:04d}.png", encode(image, "png"))
            masks.write(f"{index:04d}.png", encode(mask, "png"))
    for index in range(archive):
        image, _ = draw_scene(*SIZES[index % len(SIZES)], rng)
        suffix = ("jpg", "png", "tif")[index % 3]
        folders.archive.write(f"day{index % 2 + 1}/{index:04d}.{suffix}", encode(image, suffix))
    folders.archive.write("day1/corrupt.png", encode(image, "png")[:2000])
    return folders


def draw_scene(
    height: int, width: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw cells that touch, fibres, texture, shade and noise.

    Returns:
        One RGB image, (H, W, 3), and its mask of 0, CELL and FIBRE, (H, W); both uint8.
    """
    mask = Image.new("L", (width, height))
    relief = np.zeros((height, width), np.float32)
    draw = ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(2, 5))):
        points = _curve(height, width, rng)
        draw.line(points, fill=FIBRE, width=int(rng.integers(4, 8)), joint="curve")
    for centre in _clusters(height, width, rng):
        _draw_cell(mask, relief, centre, rng)
    classes = np.asarray(mask)
    return _develop(classes, relief, rng), classes


def encode(image: NDArray[Any], suffix: str) -> bytes:
    """Return an image, (H, W) or (H, W, C), as PNG, JPEG or TIFF bytes."""
    buffer = io.BytesIO()
    if suffix == "tif":
        tifffile.imwrite(buffer, image, compression="zlib")
    else:
        Image.fromarray(image).save(buffer, {"png": "PNG", "jpg": "JPEG"}[suffix], quality=92)
    return buffer.getvalue()


def _curve(height: int, width: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the points of a wavy line across the image."""
    along = np.linspace(-0.1, 1.1, 40)
    start, end = rng.uniform(0, height, 2)
    across = (
        start
        + (end - start) * along
        + rng.uniform(6, 22) * np.sin(along * rng.uniform(3, 9) + rng.uniform(0, 6))
    )
    if width < height:
        return list(zip(across.tolist(), (along * width).tolist(), strict=True))
    return list(zip((along * width).tolist(), across.tolist(), strict=True))


def _clusters(height: int, width: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the centres of cells, in clusters of one to four cells that touch."""
    centres: list[tuple[float, float]] = []
    for _ in range(int(height * width / 9000)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        for _ in range(int(rng.integers(1, 5))):
            centres.append((x, y))
            angle = rng.uniform(0, 2 * np.pi)
            x, y = x + 22 * np.cos(angle), y + 22 * np.sin(angle)
    return centres


def _draw_cell(
    mask: Image.Image,
    relief: NDArray[np.float32],
    centre: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Draw one elliptic cell into mask and relief."""
    height, width = relief.shape
    a, b, turn = rng.uniform(8, 14), rng.uniform(8, 12), rng.uniform(0, np.pi)
    y, x = np.ogrid[:height, :width]
    u = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    v = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    distance = (u / a) ** 2 + (v / b) ** 2
    inside = distance < 1
    relief[inside] = (rng.uniform(0.7, 1.0) * (1 - 0.6 * distance))[inside]
    mask.paste(CELL, (0, 0, width, height), Image.fromarray(inside.astype(np.uint8) * 255))


def _develop(
    classes: NDArray[np.uint8], relief: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the image that a microscope would take of a mask."""
    height, width = classes.shape
    coarse = _blurred_noise(height, width, 12, rng)
    fine = _blurred_noise(height, width, 2, rng)
    texture = coarse * 34 + fine * 12
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    shade = 1 - 0.25 * np.hypot(x, y)
    base = np.array([186, 172, 178]) + texture[:, :, None]
    cell = np.array([118, 66, 140]) + (1 - relief[:, :, None]) * 60 + texture[:, :, None] * 0.5
    fibre = np.array([212, 118, 128]) + texture[:, :, None] * 0.7
    colours = np.where((classes == FIBRE)[:, :, None], fibre, base)
    colours = np.where((classes == CELL)[:, :, None], cell, colours)
    noisy = colours * shade[:, :, None] + rng.normal(0, 7, (height, width, 3))
    sharp = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.8)))


def _blurred_noise(
    height: int, width: int, radius: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return smooth noise of unit standard deviation."""
    noise = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))
    smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(radius)), np.float64)
    deviation: float = float(smooth.std()) or 1.0
    return (smooth - smooth.mean()) / deviation
