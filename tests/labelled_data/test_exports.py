"""Exports of Label Studio and CVAT, read as a labelled set: the targets of the plain set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.labelled_data.formats import test_cvat as cvat
from tests.labelled_data.formats import test_label_studio as studio
from tests.labelled_data.test_zoo import check
from tests.labelled_data.zoo import HEIGHT, WIDTH, Scene, Zoo

SIZE = {"original_width": WIDTH, "original_height": HEIGHT}


def pair(outline: list[float]) -> list[tuple[float, float]]:
    return list(zip(outline[::2], outline[1::2], strict=True))


def list_regions(scene: Scene, kind: str) -> list[dict[str, Any]]:
    """Return a region of Label Studio for each disc, and a box around it."""
    regions = []
    for number, (outline, box) in enumerate(zip(scene.polygons, scene.boxes, strict=True), 1):
        points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in pair(outline)]
        if kind == "polygon":
            regions.append(studio.polygon(["disc"], points=points, **SIZE))
        else:
            regions.append(studio.brush(scene.ids == number, ["disc"], **SIZE))
        left, top, width, height = np.array(box) * 100 / np.array([WIDTH, HEIGHT] * 2)
        place = {"x": left, "y": top, "width": width, "height": height}
        regions.append(studio.box(**place, **SIZE) | {"type": "rectanglelabels"})
        regions[-1]["value"]["rectanglelabels"] = ["disc"]
    return regions


@pytest.mark.parametrize("kind", ["polygon", "brush"])
@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/4/cb0618f6-{}.png",
        "/data/local-files/?d=photos/{}.png",
        "s3://bucket/photos/{}.png",
        "http://host:8080/data/upload/4/cb0618f6-{}.png?token=a",
    ],
)
def test_label_studio_gives_the_targets_of_the_plain_set(
    kind: str, name: str, tmp_path: Path
) -> None:
    zoo = Zoo(tmp_path)
    zoo.save_images()
    tasks = [
        studio.task(
            studio.annotation(*list_regions(scene, kind)),
            data={"image": name.format(scene.name)},
            file_upload=None,
        )
        for scene in zoo.scenes
    ]
    notes = check(zoo, {"masks": zoo.write("export.json", tasks)})
    assert any("12 boxes around an outline" in note for note in notes)


def test_a_folder_of_one_task_per_file_gives_the_targets_of_the_plain_set(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.save_images()
    for scene in zoo.scenes:
        task = studio.simple(*list_regions(scene, "brush"), name=f"s3://b/{scene.name}.png")
        zoo.write(f"labels/{scene.name}9.json", task)
    check(zoo, {"masks": f"{tmp_path}/labels"})


@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_cvat_gives_the_targets_of_the_plain_set(kind: str, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.save_images("images/tree 1/{}.png".format)
    images = []
    for scene in zoo.scenes:
        shapes = []
        for number, outline in enumerate(scene.polygons, 1):
            left, top, width, height = scene.boxes[number - 1]
            inside = (scene.ids == number)[top : top + height, left : left + width]
            place = {"left": left, "top": top, "width": width, "height": height}
            if kind == "polygon":
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in pair(outline))
                shapes.append(cvat.polygon(points, label="disc"))
            else:
                rle = cvat.write_rle(inside)
                shapes.append(cvat.shape("mask", label="disc", rle=rle, **place))
        name = f"tree 1/{scene.name}.png"
        images.append(cvat.image(*shapes, name=name, width=WIDTH, height=HEIGHT))
    content = cvat.document(*images, meta=cvat.META.replace("leaf", "disc").replace("spot", "disc"))
    check(zoo, {"masks": zoo.write("annotations.xml", content)})
