"""COCO files with damage of every kind: one line, an error of one image, or the right masks.

The files are read in a child process with a limit of memory, because a number that reaches C code
unchecked takes gigabytes or crashes.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
import resource
import subprocess
import sys
from collections import Counter
from io import BufferedReader, BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.labelled_data.alignment import choose_size
from unet_ray.labelled_data.annotations import Annotations, LabelError
from unet_ray.labelled_data.drawing import Drawing
from unet_ray.labelled_data.formats.parsing import parse_labels

CASES = 1000
MEMORY_BYTES = 6 * 2**30
CPU_S = 600
"""CPU time of the child (s), some ten times what it takes."""
SIZES = [(64, 48), (30, 90), (120, 120), (17, 200), (80, 61), (50, 50)]
"""Height and width of each image (px)."""
HOSTILE = (
    *(None, True, "", "a", "\ud800", "../../x", "\x1b]0;x\x07", [], {}, [[]], [{}], {"a": 1}),
    *(0, 1, -1, 7, 2**31, 2**63, -(2**63), 2**64, 2**70, 10**400),
    *(0.5, 1.0, -0.0, 1e9, -1e9, 1e20, 1e308, float("inf"), float("-inf"), float("nan")),
)
CHARACTERS = "0123456789:;<=>?@AOPQRSZ[\\]^_`ano~\x00é"


@pytest.mark.soak
def test_damaged_files_never_give_a_wrong_mask() -> None:
    code = "from tests.fuzz.test_coco import read_all; read_all()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes["files"].values()) == CASES
    # Each kind of damage is there, and files are read as far as they can be.
    assert min(outcomes["files"].values()) > CASES / 10
    assert outcomes["images"]["drawn"] > outcomes["images"]["refused"] > CASES / 10


def read_all() -> None:
    """Read all files, in a child process, and print how many were refused."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    files, images = Counter[str](), Counter[str]()
    original = make_document()
    expected = draw_by_name(original)
    for seed in range(CASES):
        rng = random.Random(seed)
        damaged = copy.deepcopy(original)
        for _ in range(rng.choice((1, 1, 2, 3))):
            damage(damaged, rng)
        data = re.sub(rb'"nested (\d+)"', nest, json.dumps(damaged).encode())
        if seed % 8 == 0:
            data = damage_bytes(data, rng)
        try:
            labels = read(data)
            files["refused" if labels is None else "read"] += 1
            if labels:
                images.update(check_images(json.loads(data), labels, original, expected))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    print(json.dumps({"files": files, "images": images}))


def read(data: bytes) -> Drawing | None:
    """Parse a file, and send it to another process as the child does; None where it is refused."""
    try:
        found = parse_labels(BufferedReader(BytesIO(data)), "labels.json")  # type: ignore[arg-type]
    except LabelError as error:
        message = str(error)
    else:
        found = Annotations.from_bytes(found.to_bytes())
        names = list_names(found)
        classes = tuple(ClassSpec(number, name) for number, name in enumerate(names, 1))
        places = {row: names.index(each.name) for row, each in enumerate(found.categories)}
        return pickle.loads(pickle.dumps(Drawing(found, classes, places)))
    assert message
    assert "\n" not in message
    return None


def list_names(found: Annotations) -> list[str]:
    """Return the names of the classes; a second one makes masks the same for any number."""
    names = [*dict.fromkeys(category.name for category in found.categories)]
    return names if len(names) > 1 else [*names, "another"]


def draw(drawing: Drawing, name: str, height: int, width: int) -> list[np.ndarray] | str:
    """Return the mask of each class, or why there is none."""
    row = drawing.annotations.images["name"].to_pylist().index(name)
    try:
        stated = drawing.stated_size(row) or (height, width)
        choose_size(stated, (height, width), 1, False, "its label file")
        return drawing.draw(row, (height, width))
    except ImageError as error:
        return str(error)


def check_images(
    document: Any, drawing: Drawing, original: Any, expected: dict[str, list[np.ndarray]]
) -> Counter[str]:
    """Compare all images of a file with an oracle, and undamaged ones with the original file."""
    outcomes = Counter[str]()
    sizes = {
        image["file_name"]: size for image, size in zip(original["images"], SIZES, strict=True)
    }
    for place, image in enumerate(document["images"]):
        name = image["file_name"] if is_name(image.get("file_name")) else image["path"]
        height, width = sizes.get(name, SIZES[place % len(SIZES)])
        drawn = draw(drawing, name, height, width)
        if isinstance(drawn, str):
            assert drawn.startswith("unreadable: ")
            assert "\n" not in drawn
            assert not is_undamaged(image, document, original), drawn
            outcomes["refused"] += 1
            continue
        outcomes["drawn"] += 1
        names = [spec.name for spec in drawing.classes]
        for found, wanted in zip(
            drawn, draw_slowly(document, name, names, height, width), strict=True
        ):
            assert np.array_equal(found, wanted), name
        if is_undamaged(image, document, original):
            for found, wanted in zip(drawn, expected[name], strict=True):
                assert np.array_equal(found, wanted), name
    return outcomes


def is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_undamaged(image: Any, document: Any, original: Any) -> bool:
    """Tell whether an image, its annotations and the categories are those of the original file."""

    def select(whole: Any) -> Any:
        mine = [a for a in whole["annotations"] if a.get("image_id") == image["id"]]
        return repr(mine), repr(whole["categories"])

    count = sum(each.get("file_name") == image.get("file_name") for each in document["images"])
    return count == 1 and image in original["images"] and select(document) == select(original)


# --- a file as annotation tools write it


def make_document() -> dict[str, Any]:
    """Return a COCO document of six images with polygons and run lengths of both kinds."""
    rng = random.Random(0)
    document: dict[str, Any] = {
        "info": {"year": 2026, "version": "1.0", "contributor": ""},
        "licenses": [{"id": 1, "name": "", "url": ""}],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in ((1, "cell"), (2, "fibre"), (7, "debris"))
        ],
        "images": [
            {"id": 10 + i, "file_name": f"plate/{i}.png", "height": h, "width": w, "license": 1}
            for i, (h, w) in enumerate(SIZES)
        ],
        "annotations": [],
    }
    for number in range(30):
        height, width = SIZES[number % len(SIZES)]
        polygons = [make_polygon(height, width, rng) for _ in range(rng.choice((1, 1, 2)))]
        whole = coco.merge(coco.frPyObjects(polygons, height, width))
        kinds = (
            polygons,
            {"size": [height, width], "counts": whole["counts"].decode()},
            {"size": [height, width], "counts": count_runs(coco.decode(whole))},
        )
        document["annotations"].append(
            {
                "id": number + 1,
                "image_id": 10 + number % len(SIZES),
                "category_id": rng.choice((1, 2, 7)),
                "segmentation": kinds[number // len(SIZES) % 3],
                "area": float(coco.area(whole)),
                "bbox": coco.toBbox(whole).tolist(),
                "iscrowd": 0,
            }
        )
    return document


def make_polygon(height: int, width: int, rng: random.Random) -> list[float]:
    """Return corners around a centre in the image; some lie a few pixels outside."""
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    corners = []
    for step in range(rng.randrange(3, 12)):
        angle = 6.28 * step / 12
        corners += [round(x + 9 * np.cos(angle), 2), round(y + 9 * np.sin(angle), 2)]
    return [float(corner) for corner in corners]


# --- damage


def damage(document: Any, rng: random.Random) -> None:
    """Change one thing, anywhere in the document or where numbers reach C code."""
    if rng.random() < 0.6:
        damage_segmentation(rng.choice(document["annotations"] or [{}]), rng)
        return
    parent, key = choose_place(document, rng)
    action = rng.randrange(4)
    if action == 0:
        parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif action == 1:
        del parent[key]
    elif action == 2:
        parent[key] = f"nested {rng.choice((1, 3, 400, 900, 100_000))}"
    elif isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(parent[key]))


def nest(found: re.Match[bytes]) -> bytes:
    """Return as many lists in each other as a text names."""
    depth = int(found[1])
    return b"[" * depth + b"]" * depth


def choose_place(document: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a container and a key in it, at a random depth; keep the lists of the top level."""
    parent: Any = rng.choice([document[name] for name in ("images", "categories", "annotations")])
    if not parent:
        return document, rng.choice(list(document))
    key: Any = rng.randrange(len(parent))
    while isinstance(parent[key], list | dict) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    return parent, key


def damage_segmentation(annotation: Any, rng: random.Random) -> None:
    """Change coordinates or run lengths."""
    segmentation = annotation.get("segmentation") if isinstance(annotation, dict) else None
    if isinstance(segmentation, dict) and rng.random() < 0.3:
        segmentation["size"] = rng.choice(
            [[48, 64], [64, 48, 1], [0, 0], [2**31, 2**31], [-1, -5], [1e9, 1e9], "64", None]
        )
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        segmentation["counts"] = damage_text(segmentation["counts"], rng)
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        damage_numbers(segmentation["counts"], rng)
    elif isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], list):
        damage_numbers(segmentation[rng.randrange(len(segmentation))], rng)


def damage_numbers(numbers: Any, rng: random.Random) -> None:
    if not isinstance(numbers, list) or not numbers:
        return
    place = rng.randrange(len(numbers))
    value = numbers[place]
    action = rng.randrange(4)
    if action == 0:
        numbers[place] = copy.deepcopy(rng.choice(HOSTILE))
    elif action == 1:
        del numbers[place]
    elif action == 2 and isinstance(value, int | float):
        numbers[place] = type(value)(rng.choice((value + 1, -value, value * 1000, value - 40)))
    else:
        numbers[place:] = []


def damage_text(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    rest = place + rng.randrange(3)
    return text[:place] + "".join(rng.choices(CHARACTERS, k=rng.randrange(3))) + text[rest:]


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut a file, or overwrite a few of its bytes."""
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(data))] = rng.choice(b'0123456789-.eE[]{},"\\ \x00\xff')
    return bytes(changed)


# --- a slow reader


def draw_by_name(document: Any) -> dict[str, list[np.ndarray]]:
    """Return the label image of each class, by the names of the images."""
    names = [category["name"] for category in document["categories"]]
    return {
        image["file_name"]: draw_slowly(document, image["file_name"], names, *size)
        for image, size in zip(document["images"], SIZES, strict=True)
    }


def draw_slowly(
    document: Any, image_name: str, names: list[str], height: int, width: int
) -> list[np.ndarray]:
    """Draw the objects of an image pixel by pixel, as their annotations say."""
    drawn = [np.zeros((height, width), int) for _ in names]
    ids = {
        read_id(each["id"]) for each in document["images"] if each.get("file_name") == image_name
    }
    categories = {read_id(category["id"]): category["name"] for category in document["categories"]}
    mine = [each for each in document["annotations"] if read_id(each["image_id"]) in ids]
    objects = [(each, *list_parts(each)) for each in mine]
    for annotation, parts, is_counted in sorted(objects, key=lambda each: each[2]):
        name = categories[read_id(annotation["category_id"])]
        for part in parts:
            mask = draw_part(part, height, width)
            if is_counted:
                drawn[names.index(name)][mask] = 1
            else:
                for every in drawn:
                    every[mask] = 255
    return drawn


def read_id(value: Any) -> Any:
    """Return an id as a number, where it is one."""
    return int(value) if isinstance(value, float) or str(value).isdecimal() else value


def list_parts(annotation: Any) -> tuple[list[Any], bool]:
    """Return the parts of an annotation, and whether its pixels are counted."""
    segmentation = annotation.get("segmentation")
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if parts and not isinstance(parts[0], list | dict):
        parts = [parts]
    parts = [part for part in parts if len(part) >= 6 or (part and isinstance(part, dict))]
    if parts:
        return parts, annotation.get("iscrowd") not in (1, "1")
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return [], False
    if not all(isinstance(number, int | float) for number in box) or not min(box[2:]) > 0:
        return [], False
    x, y, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    return [[x, y, right, y, right, bottom, x, bottom]], False


def draw_part(part: Any, height: int, width: int) -> np.ndarray:
    if isinstance(part, list):
        assert all(np.isfinite(float(n)) and abs(n) < 1000 for n in part), "a far coordinate"
        return coco.decode(coco.frPyObjects([[*map(float, part)]], height, width))[:, :, 0] > 0
    assert part["size"] == [height, width], "run lengths of another size"
    counts = part["counts"]
    counts = decompress(counts) if isinstance(counts, str) else counts
    pixels = [index % 2 == 1 for index, count in enumerate(counts) for _ in range(count)]
    assert all(count >= 0 for count in counts), "a negative run length"
    assert len(pixels) == height * width, "run lengths that do not fill their image"
    return np.array(pixels).reshape(width, height).T


def decompress(text: str) -> list[int]:
    """Read compressed run lengths character by character, as rleFrString of pycocotools does."""
    counts: list[int] = []
    value = digit = 0
    for character in text.encode("ascii"):
        six = character - 48
        value |= (six & 31) << 5 * digit
        digit += 1
        if not six & 32:
            value -= (six >> 4 & 1) << 5 * digit
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = digit = 0
    return counts


def count_runs(mask: np.ndarray) -> list[int]:
    """Return the plain run lengths of a mask, column-major, background first."""
    pixels = mask.T.ravel()
    changes = [0, *np.flatnonzero(np.diff(pixels, prepend=0)).tolist(), len(pixels)]
    return [int(end - start) for start, end in pairwise(changes)]
