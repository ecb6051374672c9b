"""Real labelled sets in the forms of labelling tools: every form gives the same pixels.

They need the environment variable UNET_RAY_DATA, a folder of real sets (tests/README.md).
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from scipy.ndimage import binary_fill_holes
from skimage.measure import find_contours, regionprops
from skimage.measure import label as label_components

from tests.labelled_data.test_zoo import Flags, read_set
from unet_ray.flags import ClassSpec
from unet_ray.imaging.regions.run_lengths import encode_rle

DATA = os.environ.get("UNET_RAY_DATA", "")
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not DATA, reason="needs UNET_RAY_DATA, a folder of real labelled sets"),
]
NUM_NUCLEI, NUM_LEAVES = 40, 20
"""Numbers of images taken of each set."""
LEAST_DICE = 0.98
"""Least Dice of outlines with the masks that they were traced from, over all pixels of a class."""
Ring = NDArray[np.float64]
"""Corners of an outline, (corners, 2), x and y (px)."""


@dataclass(frozen=True, eq=False)
class Object:
    """An object of an image."""

    class_name: str
    mask: NDArray[np.bool_]
    """HW, its pixels."""

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height (px)."""
        rows, columns = np.nonzero(self.mask)
        top, left = int(rows.min()), int(columns.min())
        return left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1

    @cached_property
    def crop(self) -> NDArray[np.bool_]:
        """Its pixels in its box."""
        left, top, width, height = self.box
        return self.mask[top : top + height, left : left + width]

    @cached_property
    def outlines(self) -> list[Ring]:
        """Outline of each part, without holes, in hundredths of pixels as tools write them.

        Corners are a little off the middles of pixels' sides, where rounding decides.
        """
        left, top, _, _ = self.box
        filled = np.pad(binary_fill_holes(self.crop), 1).astype(float)
        return [
            (ring[:-1, ::-1] - 1 + 0.5 + (left, top) + 0.03).round(2)
            for ring in find_contours(filled, 0.5)
        ]


@dataclass(frozen=True, eq=False)
class Picture:
    """A labelled image."""

    file: Path
    objects: list[Object]
    """All objects, none over another."""
    outlined: list[Object]
    """The same as people outline them: what lies within an object is part of it."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height (px)."""
        height, width = self.objects[0].mask.shape
        return width, height

    def paint(self, values: dict[str, int]) -> NDArray[np.uint8]:
        """Return a mask with the value of each class."""
        mask = np.zeros(self.objects[0].mask.shape, np.uint8)
        for each in self.objects:
            mask[each.mask] = values[each.class_name]
        return mask


@dataclass(frozen=True, eq=False)
class RealSet:
    """A labelled set in a folder of its own, in which a form of it is built."""

    root: Path
    pictures: list[Picture]
    names: tuple[str, ...]
    """Names of the classes."""

    @property
    def values(self) -> dict[str, int]:
        """Value of each class in masks."""
        return {name: value for value, name in enumerate(self.names, 1)}

    def copy_images(self, folder: str = "images") -> str:
        """Copy the images to a folder; return it."""
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for each in self.pictures:
            shutil.copy(each.file, self.root / folder / each.file.name)
        return str(self.root / folder)

    def write(self, path: str, content: str | bytes | dict[str, Any] | list[Any]) -> str:
        """Write a file below the root, as JSON unless it is text; return its path."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict | list):
            content = json.dumps(content)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    def save_masks(
        self, path: str, make: Callable[[Picture], NDArray[Any] | Image.Image]
    ) -> dict[str, str]:
        """Save a picture of the labels of each image; return where images and masks lie."""
        for each in self.pictures:
            file = self.root / path.format(each.file.stem)
            file.parent.mkdir(parents=True, exist_ok=True)
            mask = make(each)
            (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(file)
        return {"images": self.copy_images(), "masks": str((self.root / path).parent)}


@cache
def load_nuclei() -> list[Picture]:
    """Load nuclei of several microscopes, each an object."""
    masks = sorted((Path(DATA) / "dsb2018_nuclei/masks_instances").iterdir())
    chosen = np.random.default_rng(0).choice(len(masks), NUM_NUCLEI, replace=False)
    pictures = []
    for file in (masks[i] for i in sorted(chosen.tolist())):
        ids = np.array(Image.open(file))
        objects = [Object("nucleus", ids == number) for number in np.unique(ids[ids > 0])]
        (image,) = (file.parents[1] / "images").glob(f"{file.stem}.*")
        pictures.append(Picture(image, objects, objects))
    return pictures


@cache
def load_leaves() -> list[Picture]:
    """Load photographs of leaves; people outline a leaf with the symptoms on it."""
    masks = sorted((Path(DATA) / "coffee_leaf/val/masks").iterdir())[:NUM_LEAVES]
    pictures = []
    for file in masks:
        classes = np.array(Image.open(file))
        components = label_components(classes == 2, connectivity=1)
        spots = [
            Object("symptom", components == region.label) for region in regionprops(components)
        ]
        (image,) = (file.parents[1] / "images").glob(f"{file.stem}.*")
        leaf, whole = Object("leaf", classes == 1), Object("leaf", classes > 0)
        pictures.append(Picture(image, [leaf, *spots], [whole, *spots]))
    return pictures


SETS = {
    "nuclei": (load_nuclei, ("nucleus",)),
    "leaves": (load_leaves, ("leaf", "symptom")),
}
Form = Callable[[RealSet], Flags]
EXACT: dict[str, Form] = {}
"""Forms that hold the pixels themselves."""
OUTLINED: dict[str, Form] = {}
"""Forms that hold outlines."""


def exact(build: Form) -> Form:
    """Register a form that holds pixels."""
    EXACT[build.__name__] = build
    return build


def outlined(build: Form) -> Form:
    """Register a form that holds outlines."""
    OUTLINED[build.__name__] = build
    return build


def make_set(name: str, root: Path) -> RealSet:
    """Return a set in a new folder."""
    load, names = SETS[name]
    return RealSet(root, load(), names)


def read(labelled: RealSet, flags: Flags) -> dict[str, tuple[Any, list[NDArray[Any]]]]:
    """Return what the values mean, and the masks, of each image."""
    classes = tuple(ClassSpec(value, name) for name, value in labelled.values.items())
    found, _ = read_set(flags, classes)
    assert found.keys() == {each.file.stem for each in labelled.pictures}
    return found


def draw_outlines(picture: Picture, names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Draw outlines with pycocotools alone; (classes, H, W) of 0 and 1."""
    width, height = picture.size
    drawn = np.zeros((len(names), height, width), np.uint8)
    for each in picture.outlined:
        rings = [ring.ravel().tolist() for ring in each.outlines]
        for code in coco.frPyObjects(rings, height, width):
            drawn[names.index(each.class_name)] |= coco.decode(code)
    return drawn


# --- files of pixels


@exact
def masks_with_an_affix_beside_the_images(labelled: RealSet) -> Flags:
    flags = labelled.save_masks("images/{}_mask.png", lambda each: each.paint(labelled.values))
    return flags | {"mask_kind": "classes"}


@exact
def palette_masks(labelled: RealSet) -> Flags:
    def make(each: Picture) -> Image.Image:
        picture = Image.fromarray(each.paint(labelled.values), "P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224, 224, 192] * 253)
        return picture

    return labelled.save_masks("masks/{}.png", make) | {"mask_kind": "classes"}


@exact
def colours_with_a_labelmap(labelled: RealSet) -> Flags:
    colours = np.array([(0, 0, 0), (48, 112, 32), (192, 48, 48)], np.uint8)
    lines = [f"{name}:{','.join(map(str, colours[i]))}::" for name, i in labelled.values.items()]
    labelled.write("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines]))
    return labelled.save_masks(
        "SegmentationClass/{}.png", lambda each: colours[each.paint(labelled.values)]
    )


def paint_class(labelled: RealSet, value: int, picture: Picture) -> NDArray[np.uint8]:
    return (picture.paint(labelled.values) == value) * np.uint8(255)


@exact
def class_folders(labelled: RealSet) -> Flags:
    flags: dict[str, str] = {}
    for name, value in labelled.values.items():
        flags = labelled.save_masks(
            f"masks/{name}/{{}}.png",
            partial(paint_class, labelled, value),
        )
    return flags | {"masks": str(labelled.root / "masks")}


@exact
def float32_class_ids(labelled: RealSet) -> Flags:
    (labelled.root / "masks").mkdir()
    for each in labelled.pictures:
        mask = each.paint(labelled.values).astype(np.float32)
        tifffile.imwrite(labelled.root / f"masks/{each.file.stem}.tif", mask)
    masks = str(labelled.root / "masks")
    return {"images": labelled.copy_images(), "masks": masks, "mask_kind": "classes"}


def float32_object_ids(labelled: RealSet) -> Flags:
    (labelled.root / "masks").mkdir()
    for each in labelled.pictures:
        mask = np.zeros(each.objects[0].mask.shape, np.float32)
        for number, one in enumerate(each.objects, 1):
            mask[one.mask] = number
        tifffile.imwrite(labelled.root / f"masks/{each.file.stem}.tif", mask)
    masks = str(labelled.root / "masks")
    return {"images": labelled.copy_images(), "masks": masks, "mask_kind": "instances"}


# --- COCO


def save_coco(
    labelled: RealSet, of: Callable[[Picture], list[Object]], draw: Callable[[Object], Any]
) -> Flags:
    images, annotations = [], []
    for number, each in enumerate(labelled.pictures, 1):
        width, height = each.size
        name = each.file.name
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for one in of(each):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": labelled.values[one.class_name],
                    "iscrowd": 0,
                    "segmentation": draw(one),
                    "bbox": list(one.box),
                    "area": int(one.mask.sum()),
                }
            )
    categories = [{"id": value, "name": name} for name, value in labelled.values.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return {"images": labelled.copy_images(), "masks": labelled.write("instances.json", document)}


def list_objects(picture: Picture) -> list[Object]:
    return picture.objects


def list_outlined(picture: Picture) -> list[Object]:
    return picture.outlined


def count_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Return run lengths along a flat mask, those outside first."""
    steps = np.flatnonzero(np.diff(mask, prepend=False))
    return np.diff([0, *steps.tolist(), mask.size]).tolist()  # type: ignore[no-any-return]


@exact
def coco_run_lengths(labelled: RealSet) -> Flags:
    def draw(one: Object) -> dict[str, Any]:
        return {"size": list(one.mask.shape), "counts": count_runs(one.mask.T.ravel())}

    return save_coco(labelled, list_objects, draw)


@exact
def coco_compressed_run_lengths(labelled: RealSet) -> Flags:
    def draw(one: Object) -> dict[str, Any]:
        return {"size": list(one.mask.shape), "counts": encode_rle(one.mask).decode()}

    return save_coco(labelled, list_objects, draw)


@outlined
def coco_polygons(labelled: RealSet) -> Flags:
    return save_coco(
        labelled, list_outlined, lambda one: [ring.ravel().tolist() for ring in one.outlines]
    )


# --- YOLO


def save_yolo(labelled: RealSet, write: Callable[[float], str]) -> Flags:
    for each in labelled.pictures:
        lines = [
            f"{labelled.values[one.class_name] - 1} "
            + " ".join(map(write, (ring / each.size).ravel().tolist()))
            for one in each.outlined
            for ring in one.outlines
        ]
        labelled.write(f"labels/train/{each.file.stem}.txt", "\n".join(lines) + "\n")
    names = "".join(f"  {value - 1}: {name}\n" for name, value in labelled.values.items())
    labelled.write("data.yaml", f"path: .\ntrain: images/train\nnames:\n{names}")
    images = labelled.copy_images("images/train")
    return {"images": images, "masks": str(labelled.root / "labels/train")}


@outlined
def yolo_of_full_precision(labelled: RealSet) -> Flags:
    return save_yolo(labelled, repr)


@outlined
def yolo_of_six_decimals(labelled: RealSet) -> Flags:
    return save_yolo(labelled, "{:.6f}".format)


# --- labelme, VIA, Supervisely


def save_labelme(
    labelled: RealSet,
    of: Callable[[Picture], list[Object]],
    draw: Callable[[Object], Iterator[dict[str, Any]]],
) -> Flags:
    images = labelled.copy_images()
    for each in labelled.pictures:
        shapes = [
            {"label": one.class_name, "group_id": number, "flags": {}, "description": ""} | shape
            for number, one in enumerate(of(each))
            for shape in draw(one)
        ]
        width, height = each.size
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": each.file.name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        labelled.write(f"images/{each.file.stem}.json", document)
    return {"images": images, "masks": images}


@outlined
def labelme_polygons(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[dict[str, Any]]:
        for ring in one.outlines:
            yield {"shape_type": "polygon", "points": ring.tolist()}

    return save_labelme(labelled, list_outlined, draw)


@exact
def labelme_masks(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[dict[str, Any]]:
        left, top, width, height = one.box
        png = base64.b64encode(encode_png(one.crop)).decode()
        points = [[left, top], [left + width - 1, top + height - 1]]
        yield {"shape_type": "mask", "points": points, "mask": png}

    return save_labelme(labelled, list_objects, draw)


def encode_png(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


@outlined
def via_project(labelled: RealSet) -> Flags:
    metadata = {}
    for each in labelled.pictures:
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": ring[:, 0].tolist(),
                    "all_points_y": ring[:, 1].tolist(),
                },
                "region_attributes": {"class": one.class_name},
            }
            for one in each.outlined
            for ring in one.outlines
        ]
        size = each.file.stat().st_size
        entry = {"filename": each.file.name, "size": size, "regions": regions}
        metadata[f"{each.file.name}{size}"] = entry | {"file_attributes": {}}
    file = labelled.write("via_export_json.json", metadata)
    return {"images": labelled.copy_images(), "masks": file}


def save_supervisely(
    labelled: RealSet,
    of: Callable[[Picture], list[Object]],
    draw: Callable[[Object], Iterator[dict[str, Any]]],
) -> Flags:
    for each in labelled.pictures:
        objects = [
            {"id": number, "classTitle": one.class_name, "tags": []} | shape
            for number, one in enumerate(of(each))
            for shape in draw(one)
        ]
        width, height = each.size
        size = {"height": height, "width": width}
        document = {"description": "", "tags": [], "size": size, "objects": objects}
        labelled.write(f"ds/ann/{each.file.name}.json", document)
    return {"images": labelled.copy_images("ds/img"), "masks": str(labelled.root / "ds/ann")}


@outlined
def supervisely_polygons(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[dict[str, Any]]:
        for ring in one.outlines:
            points = {"exterior": ring.tolist(), "interior": []}
            yield {"geometryType": "polygon", "points": points}

    return save_supervisely(labelled, list_outlined, draw)


@exact
def supervisely_bitmaps(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[dict[str, Any]]:
        data = base64.b64encode(zlib.compress(encode_png(one.crop))).decode()
        bitmap = {"data": data, "origin": list(one.box[:2])}
        points: dict[str, Any] = {"exterior": [], "interior": []}
        yield {"geometryType": "bitmap", "bitmap": bitmap, "points": points}

    return save_supervisely(labelled, list_objects, draw)


# --- Label Studio


def save_studio(
    labelled: RealSet,
    of: Callable[[Picture], list[Object]],
    draw: Callable[[Picture, Object], Iterator[dict[str, Any]]],
) -> Flags:
    tasks = []
    for number, each in enumerate(labelled.pictures, 1):
        width, height = each.size
        result = [
            {
                "id": f"r{place}",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
            }
            | region
            for place, one in enumerate(of(each))
            for region in draw(each, one)
        ]
        for place, region in enumerate(result):
            region["id"] = f"r{place}"
        annotation = {"id": number, "was_cancelled": False, "result": result}
        image = {"image": f"/data/upload/4/cb0618f6-{each.file.name}"}
        tasks.append({"id": number, "annotations": [annotation], "predictions": [], "data": image})
    return {"images": labelled.copy_images(), "masks": labelled.write("project-4.json", tasks)}


@outlined
def label_studio_polygons(labelled: RealSet) -> Flags:
    def draw(each: Picture, one: Object) -> Iterator[dict[str, Any]]:
        for ring in one.outlines:
            points = (ring * 100 / each.size).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [one.class_name]}
            yield {"type": "polygonlabels", "value": value}

    return save_studio(labelled, list_outlined, draw)


@exact
def label_studio_brush(labelled: RealSet) -> Flags:
    def draw(_: Picture, one: Object) -> Iterator[dict[str, Any]]:
        value = {"format": "rle", "rle": encode_brush(one.mask), "brushlabels": [one.class_name]}
        yield {"type": "brushlabels", "value": value}

    return save_studio(labelled, list_objects, draw)


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask as Label Studio does: each of its pixels four times, in runs up to 65536."""
    bits = [f"{4 * mask.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    for number, count in enumerate(count_runs(mask.ravel())):
        left = 4 * count
        while left:
            length = min(left, 2**16)
            bits.append(f"111{length - 1:016b}{255 * (number % 2):08b}")
            left -= length
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


# --- CVAT


def save_cvat(
    labelled: RealSet,
    of: Callable[[Picture], list[Object]],
    draw: Callable[[Object], Iterator[str]],
) -> Flags:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    labels = "".join(f"<label><name>{name}</name></label>" for name in labelled.names)
    lines.append(f"<meta><task><labels>{labels}</labels></task></meta>")
    for number, each in enumerate(labelled.pictures):
        width, height = each.size
        head = f'<image id="{number}" name={quoteattr(each.file.name)}'
        lines.append(f'{head} width="{width}" height="{height}">')
        for group, one in enumerate(of(each), 1):
            for shape in draw(one):
                lines.append(
                    f'{shape} label="{one.class_name}" source="manual" occluded="0" z_order="0" '
                    f'group_id="{group}"/>'
                )
        lines.append("</image>")
    file = labelled.write("annotations.xml", "\n".join([*lines, "</annotations>"]))
    return {"images": labelled.copy_images(), "masks": file}


@outlined
def cvat_polygons(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[str]:
        for ring in one.outlines:
            yield '<polygon points="' + ";".join(f"{x:.2f},{y:.2f}" for x, y in ring) + '"'

    return save_cvat(labelled, list_outlined, draw)


@exact
def cvat_masks(labelled: RealSet) -> Flags:
    def draw(one: Object) -> Iterator[str]:
        left, top, width, height = one.box
        runs = ", ".join(map(str, count_runs(one.crop.ravel())))
        box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
        yield f'<mask rle="{runs}" {box}'

    return save_cvat(labelled, list_objects, draw)


# --- features


@outlined
def qupath_features(labelled: RealSet) -> Flags:
    for each in labelled.pictures:
        features = []
        for one in each.outlined:
            rings = [[*ring.tolist(), ring[0].tolist()] for ring in one.outlines]
            geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
            kind = {"name": one.class_name, "color": [200, 0, 0]}
            properties = {"objectType": "annotation", "classification": kind}
            feature = {"type": "Feature", "id": f"{len(features)}", "geometry": geometry}
            features.append(feature | {"properties": properties})
        collection = {"type": "FeatureCollection", "features": features}
        labelled.write(f"labels/{each.file.stem}.geojson", collection)
    return {"images": labelled.copy_images(), "masks": str(labelled.root / "labels")}


WITH_OBJECTS = [
    coco_run_lengths,
    coco_compressed_run_lengths,
    labelme_masks,
    supervisely_bitmaps,
    label_studio_brush,
    cvat_masks,
]


# --- tests


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("form", EXACT)
def test_pixels_come_back_as_they_are(form: str, name: str, tmp_path: Path) -> None:
    labelled = make_set(name, tmp_path)
    found = read(labelled, EXACT[form](labelled))
    for each in labelled.pictures:
        labelling, masks = found[each.file.stem]
        painted = each.paint(labelled.values)
        targets = labelling.targets(masks)
        for plane, value in zip(targets, labelled.values.values(), strict=True):
            assert (plane == (painted == value)).all(), each.file.name


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("form", OUTLINED)
def test_outlines_are_the_same_in_every_form(form: str, name: str, tmp_path: Path) -> None:
    labelled = make_set(name, tmp_path)
    found = read(labelled, OUTLINED[form](labelled))
    for each in labelled.pictures:
        labelling, masks = found[each.file.stem]
        targets = labelling.targets(masks)
        wrong = (targets != draw_outlines(each, labelled.names)).sum()
        assert wrong == 0, f"{each.file.name}: {wrong} pixels differ"


@pytest.mark.parametrize("name", SETS)
def test_outlines_cover_the_masks_they_were_traced_from(name: str, tmp_path: Path) -> None:
    labelled = make_set(name, tmp_path)
    for place, class_name in enumerate(labelled.names):
        overlap = total = 0
        for each in labelled.pictures:
            drawn = draw_outlines(each, labelled.names)[place].astype(bool)
            wanted = np.zeros(drawn.shape, bool)
            for one in (one for one in each.outlined if one.class_name == class_name):
                wanted |= one.mask
            overlap += int((drawn & wanted).sum())
            total += int(drawn.sum() + wanted.sum())
        print(f"{name} {class_name}: Dice {2 * overlap / total:.4f}")
        assert 2 * overlap / total > LEAST_DICE


@pytest.mark.parametrize("form", [float32_object_ids, *WITH_OBJECTS])
def test_nuclei_that_touch_stay_apart(form: Form, tmp_path: Path) -> None:
    labelled = make_set("nuclei", tmp_path)
    found = read(labelled, form(labelled))
    for each in labelled.pictures:
        labelling, masks = found[each.file.stem]
        objects = labelling.objects(masks, 0)
        pairs = [np.unique(objects[one.mask]).tolist() for one in each.objects]
        assert all(len(ids) == 1 for ids in pairs)
        assert len({ids[0] for ids in pairs}) == len(each.objects)
