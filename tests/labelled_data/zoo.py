"""A plain labelled set of discs, and what turns it into the forms in which people have labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import find_contours

HEIGHT, WIDTH = 80, 112
"""Size of all images (px); sides differ, so that an exchange of axes is seen."""


@dataclass(frozen=True)
class Scene:
    """One image of the set."""

    name: str
    """Name without suffix."""
    image: NDArray[np.uint8]
    """HWC."""
    ids: NDArray[np.uint16]
    """HW ids of the discs, 0 outside."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels of discs."""
        return self.ids > 0

    @property
    def polygons(self) -> list[list[float]]:
        """Outline of each disc, x and y in turn; the first pixel covers 0 to 1."""
        return [outline(self.ids == number) for number in range(1, int(self.ids.max()) + 1)]

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, width, height of each disc."""
        found = []
        for number in range(1, int(self.ids.max()) + 1):
            rows, columns = np.nonzero(self.ids == number)
            top, left = int(rows.min()), int(columns.min())
            found.append((left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1))
        return found


def outline(mask: NDArray[np.bool_]) -> list[float]:
    """Return the outline of a mask, x and y in turn."""
    rows_columns = find_contours(np.pad(mask, 1).astype(float), 0.5)[0][:-1] - 1
    return (rows_columns[:, ::-1] + 0.5).round(2).ravel().tolist()  # type: ignore[no-any-return]


def draw_scenes(count: int = 4, seed: int = 0) -> list[Scene]:
    """Return images of bright discs, three each, that do not touch."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    scenes = []
    for number in range(count):
        ids = np.zeros((HEIGHT, WIDTH), np.uint16)
        for place in range(3):
            y, x = rng.integers(16, HEIGHT - 16), 20 + 36 * place + rng.integers(-4, 4)
            ids[(rows - y) ** 2 + (columns - x) ** 2 < rng.integers(9, 14) ** 2] = place + 1
        image = rng.integers(40, 80, (HEIGHT, WIDTH, 3)) + 120 * (ids > 0)[:, :, None]
        scenes.append(Scene(f"{number:02}", image.astype(np.uint8), ids))
    return scenes


@dataclass
class Zoo:
    """A folder in which a form of the set is built."""

    root: Path
    scenes: list[Scene] = field(default_factory=draw_scenes)

    @property
    def images(self) -> str:
        """Folder of the images."""
        return f"{self.root}/images"

    @property
    def masks(self) -> str:
        """Folder of the masks."""
        return f"{self.root}/masks"

    def save(self, path: str, array: NDArray[Any] | Image.Image, **options: Any) -> None:
        """Save an image at a path of the folder."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
        picture.save(file, **options)

    def write(self, path: str, content: str | bytes | dict[str, Any] | list[Any]) -> str:
        """Write a file at a path of the folder, as JSON unless it is text; return the path."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict | list):
            content = json.dumps(content)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    def save_images(self, name: Callable[[str], str] = "images/{}.png".format) -> None:
        """Save all images."""
        for scene in self.scenes:
            self.save(name(scene.name), scene.image)

    def save_masks(
        self,
        name: Callable[[str], str] = "masks/{}.png".format,
        values: Callable[[Scene], Any] = lambda scene: scene.mask.astype(np.uint8),
        **options: Any,
    ) -> None:
        """Save a mask file for each image."""
        for scene in self.scenes:
            self.save(name(scene.name), values(scene), **options)

    def coco(self, **changes: Any) -> dict[str, Any]:
        """Return a COCO JSON with a polygon for each disc, but for changes of its lists."""
        images, annotations = [], []
        for number, scene in enumerate(self.scenes, 1):
            size = {"width": WIDTH, "height": HEIGHT}
            images.append({"id": number, "file_name": f"{scene.name}.png"} | size)
            for polygon, box in zip(scene.polygons, scene.boxes, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "iscrowd": 0,
                        "segmentation": [polygon],
                        "bbox": list(box),
                        "area": box[2] * box[3],
                    }
                )
        categories = [{"id": 1, "name": "disc"}]
        return {"images": images, "annotations": annotations, "categories": categories} | changes
