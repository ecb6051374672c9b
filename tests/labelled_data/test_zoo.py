"""Labels in the forms in which people have them: read as the plain set, or refused with a remedy.

Every form goes through the flags of the command `evaluate`. It must give the targets of the plain
set (`test_it_is_read`), or end with one line whose remedy is then obeyed and works
(`test_it_is_refused_with_a_remedy_that_works`). Nothing may be read with other pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.labelled_data.zoo import HEIGHT, WIDTH, Scene, Zoo
from unet_ray.errors import ImageError, InputError
from unet_ray.evaluation.config import EvaluateConfig
from unet_ray.flags import ClassSpec
from unet_ray.imaging.labels.labelling import Labelling
from unet_ray.imaging.labels.targets import IGNORED
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.image_facts import describe_image
from unet_ray.labelled_data.interpretation import interpret_masks
from unet_ray.labelled_data.readers import FileReader
from unet_ray.labelled_data.statistics import settle_statistics

Flags = dict[str, Any]
"""Fields of `EvaluateConfig` beside the model."""
FORMS: dict[str, Callable[[Zoo], Flags | None]] = {}
REFUSED: dict[str, tuple[Callable[[Zoo], Flags | None], str, Callable[[Zoo], Flags | None]]] = {}
DISC = (ClassSpec(1, "disc"),)


def form(build: Callable[[Zoo], Flags | None]) -> Callable[[Zoo], Flags | None]:
    """Register a form that is read."""
    FORMS[build.__name__] = build
    return build


def refused(message: str, remedy: Callable[[Zoo], Flags | None]) -> Callable[..., Any]:
    """Register a form that is refused with a message; the remedy gives the flags that read it."""

    def register(build: Callable[[Zoo], Flags | None]) -> Callable[[Zoo], Flags | None]:
        REFUSED[build.__name__] = build, message, remedy
        return build

    return register


def read_set(
    flags: Flags, classes: tuple[ClassSpec, ...]
) -> tuple[dict[str, tuple[Labelling, list[np.ndarray]]], list[str]]:
    """Return what the values mean, and the masks, of each image by its name, and the notes.

    They are read as `evaluate` reads them for a model of these classes, but without Ray.
    """
    config = EvaluateConfig(model="m", **flags)
    labelled = find_labelled(config.images, config.masks, config.label_options(classes))
    files = FileReader(labelled.access, labelled.items)
    facts = []
    for index, item in enumerate(labelled.items):
        try:
            encoded: Any = item.read_encoded(labelled.access)
        except ImageError as error:
            encoded = error
        facts.append(describe_image(files, index, encoded, 16)[0])
    statistics = settle_statistics(labelled, facts, files, False)
    notes = statistics.check_readable(config.max_error_rate)
    labelling, more = interpret_masks(config, labelled, statistics)
    found = {}
    for index in statistics.usable:
        name = Path(labelled.names[index].partition("#")[0]).name.partition(".")[0]
        found[name] = labelling, statistics.reader.read(index)[1]
    return found, [*labelled.notes, *statistics.notes, *notes, *more]


def read_targets(
    zoo: Zoo, flags: Flags | None, classes: tuple[ClassSpec, ...] = DISC
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the targets (HW) of each image by its name, and the notes, as `evaluate` has them.

    They are 1, 2 and so on in the classes, 0 outside.
    """
    given = {"images": zoo.images, "masks": zoo.masks} | (flags or {})
    found, notes = read_set(given, classes)
    return {name: join_classes(each[0].targets(each[1])) for name, each in found.items()}, notes


def join_classes(planes: np.ndarray) -> np.ndarray:
    """Return the number of the class of each pixel, from a plane of targets per class."""
    numbers = np.zeros(planes.shape[1:], np.uint8)
    for number, plane in enumerate(planes, 1):
        numbers[plane == 1] = number
        numbers[plane == IGNORED] = IGNORED
    return numbers


def check(zoo: Zoo, flags: Flags | None) -> list[str]:
    """Check that a form gives the targets of the plain set; return the notes."""
    found, notes = read_targets(zoo, flags)
    wanted = {scene.name: scene.mask for scene in zoo.scenes}
    assert found.keys() == wanted.keys()
    for name, targets in found.items():
        counted = targets != IGNORED
        assert counted.mean() > 0.5
        overlap = 2 * ((targets == 1) & wanted[name]).sum()
        total = (targets == 1).sum() + (wanted[name] & counted).sum()
        assert overlap / total > 0.98, f"{name}: Dice {overlap / total:.3f}"
    return notes


@pytest.mark.parametrize("name", FORMS)
def test_it_is_read(name: str, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    check(zoo, FORMS[name](zoo))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_remedy_that_works(name: str, tmp_path: Path) -> None:
    build, message, remedy = REFUSED[name]
    zoo = Zoo(tmp_path)
    flags = build(zoo)
    with pytest.raises(InputError, match=message) as error:
        read_targets(zoo, flags)
    assert "\n" not in str(error.value)
    check(zoo, (flags or {}) | (remedy(zoo) or {}))


def test_the_zoo_is_large_and_rarely_refuses() -> None:
    assert len(FORMS) + len(REFUSED) >= 70
    assert len(REFUSED) <= 0.15 * (len(FORMS) + len(REFUSED))


# --- names of files


@form
def equal_names(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks()


@form
def upper_case_suffixes(zoo: Zoo) -> None:
    zoo.save_images("images/{}.JPG".format)
    zoo.save_masks("masks/{}.PNG".format)


@form
def masks_with_an_affix_and_images_without_masks(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/{}_mask.png".format)
    zoo.save("images/unlabelled.png", zoo.scenes[0].image)


@form
def masks_called_segmentation(zoo: Zoo) -> None:
    zoo.save_images("images/ISIC_{}.jpg".format)
    zoo.save_masks("masks/ISIC_{}_segmentation.png".format)
    zoo.scenes = [Scene(f"ISIC_{s.name}", s.image, s.ids) for s in zoo.scenes]


@form
def gif_masks(zoo: Zoo) -> None:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks(
        "masks/{}_mask.gif".format, lambda s: Image.fromarray(s.mask.astype(np.uint8) * 255)
    )


@form
def masks_with_a_prefix(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/label-{}.png".format)


@form
def images_with_an_affix(zoo: Zoo) -> None:
    zoo.save_images("images/{}_0000.png".format)
    zoo.save_masks()
    zoo.scenes = [Scene(f"{s.name}_0000", s.image, s.ids) for s in zoo.scenes]


@form
def both_with_affixes(zoo: Zoo) -> None:
    zoo.save_images("images/{}_image.png".format)
    zoo.save_masks("masks/{}_seg.png".format)
    zoo.scenes = [Scene(f"{s.name}_image", s.image, s.ids) for s in zoo.scenes]


@form
def double_suffixes(zoo: Zoo) -> None:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("masks/{}.jpg.png".format)


@form
def ome_suffixes(zoo: Zoo) -> None:
    (zoo.root / "images").mkdir()
    for scene in zoo.scenes:
        tifffile.imwrite(f"{zoo.images}/{scene.name}.ome.tif", scene.image, photometric="rgb")
    zoo.save_masks()


@form
def composed_and_decomposed_names(zoo: Zoo) -> None:
    zoo.save_images("images/Za\u0308{}.png".format)
    zoo.save_masks("masks/Z\u00e4{}.png".format)
    zoo.scenes = [Scene(f"Za\u0308{s.name}", s.image, s.ids) for s in zoo.scenes]


@form
def other_folders(zoo: Zoo) -> None:
    zoo.save_images("images/day1/{}.png".format)
    zoo.save_masks("masks/first/{}.png".format)


@form
def masks_beside_their_images(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("images/{}_mask.png".format)
    return {"masks": zoo.images}


@form
def png_masks_beside_photographs(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("images/{}.png".format)
    return {"masks": zoo.images}


@form
def masks_in_a_folder_of_the_images(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("images/labels/{}.png".format)
    return {"masks": f"{zoo.images}/labels"}


@form
def junk_among_the_images(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks()
    zoo.write("images/._00.png", b"\0\5\26\7")
    zoo.write("images/.ipynb_checkpoints/00-checkpoint.png", b"x")
    zoo.write("images/Thumbs.db", b"x")
    zoo.write("images/__MACOSX/._00.png", b"x")


@form
def an_affix_given_by_hand(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("masks/{}_m.png".format)
    zoo.save_masks("masks/{}_overlay.png".format, lambda s: s.image)
    return {"mask_affix": "_m"}


@refused("hold the same files", lambda _: {"mask_affix": "_b"})
def files_of_which_any_may_be_a_mask(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}_a.png".format)
    zoo.save_masks("images/{}_b.png".format)
    zoo.scenes = [Scene(f"{s.name}_a", s.image, s.ids) for s in zoo.scenes]
    return {"masks": zoo.images}


@form
def a_folder_per_class(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/disc/{}.png".format)


# --- mask files


@form
def masks_of_ids(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks(values=lambda s: s.ids)
    return {"mask_kind": "instances"}


def save_turned(zoo: Zoo, orientation: int, masks: str) -> None:
    """Save JPEGs that EXIF turns; masks of the stored or of the shown frame."""
    back = {3: 2, 6: 1, 8: 3}[orientation]  # quarter turns from the shown to the stored frame
    for scene in zoo.scenes:
        exif = Image.Exif()
        exif[274] = orientation
        stored = Image.fromarray(np.rot90(scene.image, back).copy())
        zoo.save(f"images/{scene.name}.jpg", stored, exif=exif, quality=95)
        mask = scene.mask.astype(np.uint8) * 255
        zoo.save(f"masks/{scene.name}.png", np.rot90(mask, back) if masks == "stored" else mask)


@form
def photographs_turned_by_exif_with_masks_as_shown(zoo: Zoo) -> None:
    save_turned(zoo, 6, "shown")


@form
def photographs_turned_by_exif_with_masks_as_stored(zoo: Zoo) -> None:
    save_turned(zoo, 8, "stored")


@refused(
    "may be in either frame; give --mask-frame shown .* stored", lambda _: {"mask_frame": "stored"}
)
def photographs_upside_down(zoo: Zoo) -> None:
    save_turned(zoo, 3, "stored")


@refused(
    "the image has 112×80 px, but its mask .* has 224×160 px; --rescale-masks scales it",
    lambda _: {"rescale_masks": True},
)
def masks_of_twice_the_size(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: s.mask.repeat(2, 0).repeat(2, 1))


# --- COCO


def save_coco(zoo: Zoo, **changes: Any) -> Flags:
    zoo.save_images()
    return {"masks": zoo.write("labels.json", zoo.coco(**changes))}


def change_names(zoo: Zoo, change: Callable[[str], str]) -> Flags:
    images = [each | {"file_name": change(each["file_name"])} for each in zoo.coco()["images"]]
    return save_coco(zoo, images=images)


def change_annotations(zoo: Zoo, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Flags:
    return save_coco(zoo, annotations=[change(each) for each in zoo.coco()["annotations"]])


@form
def coco_polygons(zoo: Zoo) -> Flags:
    return save_coco(zoo)


@form
def coco_in_a_folder(zoo: Zoo) -> Flags:
    save_coco(zoo)
    zoo.write("annotations/instances_default.json", zoo.coco())
    return {"masks": f"{zoo.root}/annotations"}


@form
def coco_names_with_folders(zoo: Zoo) -> Flags:
    return change_names(zoo, "images/{}".format)


@form
def coco_names_with_backslashes(zoo: Zoo) -> Flags:
    return change_names(zoo, "..\\..\\label-studio\\media\\upload\\4\\cb0618f6-{}".format)


@form
def coco_names_with_dots(zoo: Zoo) -> Flags:
    return change_names(zoo, "./{}".format)


@form
def coco_names_of_a_bucket(zoo: Zoo) -> Flags:
    return change_names(zoo, "s3://bucket/of/others/{}".format)


@form
def coco_names_of_a_server(zoo: Zoo) -> Flags:
    return change_names(zoo, "https://host/media/{}?token=1".format)


@form
def coco_names_of_local_files(zoo: Zoo) -> Flags:
    return change_names(zoo, "/data/local-files/?d=x/{}".format)


@form
def coco_names_percent_encoded(zoo: Zoo) -> Flags:
    zoo.scenes = [Scene(f"{s.name} a", s.image, s.ids) for s in zoo.scenes]
    return change_names(zoo, lambda name: name.replace(" ", "%20"))


@form
def coco_names_without_suffix(zoo: Zoo) -> Flags:
    return change_names(zoo, lambda name: name.removesuffix(".png"))


@form
def coco_frames_of_equal_names(zoo: Zoo) -> Flags:
    """Two videos have a frame 00.png each; the key `path` tells them apart."""
    zoo.save_images("images/a/{}.png".format)
    for scene in zoo.scenes:
        zoo.save(f"images/b/{scene.name}.png", scene.image[::-1])
    images = [each | {"path": f"/videos/a/{each['file_name']}"} for each in zoo.coco()["images"]]
    return {"masks": zoo.write("labels.json", zoo.coco(images=images))}


@refused("may be a/00.png or b/00.png", lambda z: {"images": f"{z.images}/a"})
def coco_names_of_two_images(zoo: Zoo) -> Flags:
    zoo.save_images("images/a/{}.png".format)
    zoo.save_images("images/b/{}.png".format)
    return {"masks": zoo.write("labels.json", zoo.coco())}


@form
def coco_run_lengths(zoo: Zoo) -> Flags:
    def encode(each: dict[str, Any]) -> dict[str, Any]:
        scene = zoo.scenes[each["image_id"] - 1]
        number = each["id"] - 3 * (each["image_id"] - 1)
        flat = (scene.ids == number).T.ravel()
        ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        counts = np.diff([0, *ends]).tolist()
        return each | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}, "iscrowd": 0}

    return change_annotations(zoo, encode)


@form
def coco_flat_outlines(zoo: Zoo) -> Flags:
    return change_annotations(zoo, lambda e: e | {"segmentation": e["segmentation"][0]})


@form
def coco_outlines_of_pairs(zoo: Zoo) -> Flags:
    return change_annotations(
        zoo, lambda e: e | {"segmentation": [np.reshape(e["segmentation"][0], (-1, 2)).tolist()]}
    )


@form
def coco_with_a_crowd(zoo: Zoo) -> Flags:
    crowd = {"id": 99, "image_id": 1, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 9, 9]}
    annotations = [*zoo.coco()["annotations"], crowd | {"segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}]
    return save_coco(zoo, annotations=annotations)


@pytest.mark.parametrize("empty", [[], None, [[]], {}, "absent"])
def test_a_box_without_an_outline_is_not_counted(empty: Any, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    annotations = zoo.coco()["annotations"]
    annotations[0]["segmentation"] = empty
    if empty == "absent":
        del annotations[0]["segmentation"]
    flags = save_coco(zoo, annotations=annotations)
    found, notes = read_targets(zoo, flags)
    left, top, width, height = zoo.scenes[0].boxes[0]
    assert (found["00"][top : top + height, left : left + width] == IGNORED).all()
    assert "1 boxes without an outline: their pixels are not counted" in notes
    check(zoo, flags)


@form
def coco_categories_of_one_name(zoo: Zoo) -> Flags:
    annotations = zoo.coco()["annotations"]
    for each in annotations[::2]:
        each["category_id"] = 7
    categories = [{"id": 1, "name": "disc"}, {"id": 7, "name": "disc"}]
    return save_coco(zoo, annotations=annotations, categories=categories)


@refused("12 annotations have a category_id that is not among the categories", save_coco)
def coco_of_unknown_categories(zoo: Zoo) -> Flags:
    return change_annotations(zoo, lambda e: e | {"category_id": 0})


@form
def coco_images_listed_twice(zoo: Zoo) -> Flags:
    document = zoo.coco()
    images = [*document["images"], *(each | {"id": each["id"] + 10} for each in document["images"])]
    annotations = document["annotations"]
    for each in annotations[::2]:
        each["image_id"] += 10
    return save_coco(zoo, images=images, annotations=annotations)


@form
def coco_annotations_before_images(zoo: Zoo) -> Flags:
    document = zoo.coco()
    zoo.save_images()
    keys = ("annotations", "categories", "images")
    return {"masks": zoo.write("labels.json", {key: document[key] for key in keys})}


@form
def coco_of_more_images(zoo: Zoo) -> Flags:
    more = {"id": 99, "file_name": "elsewhere.png", "width": WIDTH, "height": HEIGHT}
    return save_coco(zoo, images=[*zoo.coco()["images"], more]) | {"max_error_rate": 0.3}


@refused(
    "the image has 112×80 px, but its label file has 56×40 px; --rescale-masks scales it",
    lambda _: {"rescale_masks": True},
)
def coco_of_half_the_size(zoo: Zoo) -> Flags:
    document = zoo.coco()
    for each in document["images"]:
        each |= {"width": WIDTH // 2, "height": HEIGHT // 2}
    for each in document["annotations"]:
        each["segmentation"] = [[number / 2 for number in each["segmentation"][0]]]
    return save_coco(zoo, **document)


@form
def coco_of_the_stored_frame(zoo: Zoo) -> Flags:
    save_turned(zoo, 6, "shown")
    document = zoo.coco()
    for each in document["images"]:
        each |= {"width": HEIGHT, "height": WIDTH}
    for each in document["annotations"]:  # the shown frame, a quarter turn back
        x, y = each["segmentation"][0][::2], each["segmentation"][0][1::2]
        turned = [(b, WIDTH - a) for a, b in zip(x, y, strict=True)]
        each["segmentation"] = [[number for point in turned for number in point]]
    return {"masks": zoo.write("labels.json", document)}


@form
def coco_with_an_area(zoo: Zoo) -> Flags:
    """Only the upper 70 rows are labelled."""
    annotations = zoo.coco()["annotations"]
    for number in range(1, 5):
        box = [[0, 0, WIDTH, 0, WIDTH, 70, 0, 70]]
        more = {"id": 100 + number, "image_id": number, "category_id": 5, "segmentation": box}
        annotations.append(more)
    categories = [{"id": 1, "name": "disc"}, {"id": 5, "name": "labelled"}]
    flags = save_coco(zoo, annotations=annotations, categories=categories)
    return flags | {"area_class": "labelled"}


# --- YOLO


def yolo_lines(scene: Scene, number: int = 0) -> str:
    """Return a line for each disc."""
    lines = []
    for polygon in scene.polygons:
        shares = np.reshape(polygon, (-1, 2)) / (WIDTH, HEIGHT)
        lines.append(f"{number} " + " ".join(f"{share:.6f}" for share in shares.ravel()))
    return "\n".join(lines) + "\n"


def save_yolo(zoo: Zoo, names: str | None = "names:\n  0: disc\n", number: int = 0) -> Flags:
    zoo.save_images("images/train/{}.png".format)
    for scene in zoo.scenes:
        zoo.write(f"labels/train/{scene.name}.txt", yolo_lines(scene, number))
    if names:
        zoo.write("data.yaml", names)
    return {"masks": f"{zoo.root}/labels"}


@form
def yolo_with_its_data_yaml(zoo: Zoo) -> Flags:
    return save_yolo(zoo)


@form
def yolo_with_a_list_of_names(zoo: Zoo) -> Flags:
    return save_yolo(zoo, "train: ../train/images\nnc: 1\nnames: ['disc']\n")


@form
def yolo_without_names(zoo: Zoo) -> Flags:
    return save_yolo(zoo, None)


@form
def yolo_with_classes_txt_among_the_labels(zoo: Zoo) -> Flags:
    flags = save_yolo(zoo, None, number=1)
    zoo.write("labels/train/classes.txt", "other\ndisc\n")
    return flags


@form
def yolo_in_the_folder_of_the_images(zoo: Zoo) -> Flags:
    zoo.save_images()
    for scene in zoo.scenes:
        zoo.write(f"images/{scene.name}.txt", yolo_lines(scene))
    zoo.write("images/classes.txt", "disc\n")
    return {"masks": zoo.images}


# --- labelme


def labelme_json(scene: Scene, suffix: str = "png", **changes: Any) -> dict[str, Any]:
    shapes = [
        {
            "label": "disc",
            "points": np.reshape(polygon, (-1, 2)).tolist(),
            "group_id": None,
            "shape_type": "polygon",
            "flags": {},
        }
        for polygon in scene.polygons
    ]
    return {
        "version": "5.2.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{scene.name}.{suffix}",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    } | changes


@form
def labelme_beside_the_images(zoo: Zoo) -> Flags:
    zoo.save_images()
    for scene in zoo.scenes:
        zoo.write(f"images/{scene.name}.json", labelme_json(scene))
    return {"masks": zoo.images}


@form
def labelme_of_another_folder(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        path = f"..\\images\\{scene.name}.png"
        zoo.write(f"masks/{scene.name}.json", labelme_json(scene, imagePath=path))


@form
def labelme_circles(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        shapes = []
        for left, top, width, height in scene.boxes:
            x, y, radius = left + width / 2, top + height / 2, (width + height) / 4 + 0.4
            points = [[x, y], [x + radius, y]]
            shapes.append({"label": "disc", "shape_type": "circle", "points": points})
        zoo.write(f"masks/{scene.name}.json", labelme_json(scene, shapes=shapes))


@form
def labelme_files_called_as_their_images(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        zoo.write(f"masks/{scene.name}.png.json", labelme_json(scene))


@form
def via_project(zoo: Zoo) -> Flags:
    zoo.save_images()
    metadata = {}
    for scene in zoo.scenes:
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": polygon[::2],
                    "all_points_y": polygon[1::2],
                },
                "region_attributes": {"type": "disc"},
            }
            for polygon in scene.polygons
        ]
        entry = {"filename": f"{scene.name}.png", "size": 1, "regions": regions}
        metadata[f"{scene.name}.png1"] = entry | {"file_attributes": {}}
    attributes = {"region": {"type": {"type": "text"}}, "file": {}}
    document = {"_via_settings": {}, "_via_img_metadata": metadata, "_via_attributes": attributes}
    return {"masks": zoo.write("via.json", document)}


@form
def supervisely_json(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        objects = [
            {
                "id": 1,
                "classTitle": "disc",
                "geometryType": "polygon",
                "points": {"exterior": np.reshape(polygon, (-1, 2)).tolist(), "interior": []},
            }
            for polygon in scene.polygons
        ]
        size = {"height": HEIGHT, "width": WIDTH}
        document = {"description": "", "tags": [], "size": size, "objects": objects}
        zoo.write(f"masks/{scene.name}.png.json", document)


# --- colours, alpha and floats (more of them in test_mask_forms.py)

GREEN = (48, 112, 32)


def paint(scene: Scene, colour: tuple[int, ...] = GREEN) -> np.ndarray:
    painted = np.zeros((HEIGHT, WIDTH, len(colour)), np.uint8)
    painted[scene.mask] = colour
    return painted


@form
def colours_with_a_labelmap_above_them(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("export/SegmentationClass/{}.png".format, paint)
    zoo.write("export/labelmap.txt", "# label:color_rgb:parts:actions\ndisc:48,112,32::\n")
    return {"masks": f"{zoo.root}/export/SegmentationClass"}


@refused(
    "holds masks of classes and of objects", lambda z: {"masks": f"{z.masks}/SegmentationClass"}
)
def an_export_of_classes_and_objects(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/SegmentationClass/{}.png".format, paint)
    zoo.save_masks("masks/SegmentationObject/{}.png".format, paint)
    zoo.write("masks/labelmap.txt", "background:0,0,0::\ndisc:48,112,32::\n")


@form
def two_colours_without_names(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=paint)


@form
def white_on_transparent(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: paint(s, (255, 255, 255, 255)))


@form
def red_on_transparent(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: paint(s, (255, 0, 0, 255)))


@form
def palette_masks(zoo: Zoo) -> None:
    def make(scene: Scene) -> Image.Image:
        picture = Image.fromarray(scene.mask.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 128, 0, 0] + [224, 224, 192] * 254)
        return picture

    zoo.save_images()
    zoo.save_masks(values=make)


@form
def float_ids(zoo: Zoo) -> Flags:
    zoo.save_images()
    (zoo.root / "masks").mkdir()
    for scene in zoo.scenes:
        tifffile.imwrite(f"{zoo.masks}/{scene.name}.tif", scene.ids.astype(np.float32))
    return {"mask_kind": "instances"}


@form
def one_bit_masks(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: Image.fromarray(s.mask))


# --- Label Studio and CVAT (more of them in test_exports.py)


def studio_result(scene: Scene) -> list[dict[str, Any]]:
    """Return a polygon of Label Studio for each disc, in per cent."""
    return [
        {
            "id": f"r{number}",
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {
                "points": (np.reshape(outline, (-1, 2)) * (100 / WIDTH, 100 / HEIGHT)).tolist(),
                "closed": True,
                "polygonlabels": ["disc"],
            },
        }
        for number, outline in enumerate(scene.polygons)
    ]


def studio_tasks(zoo: Zoo, name: str) -> list[dict[str, Any]]:
    zoo.save_images()
    return [
        {
            "id": number,
            "annotations": [{"id": number, "was_cancelled": False, "result": studio_result(scene)}],
            "predictions": [],
            "data": {"image": name.format(scene.name)},
        }
        for number, scene in enumerate(zoo.scenes, 1)
    ]


@form
def label_studio_uploads(zoo: Zoo) -> Flags:
    tasks = studio_tasks(zoo, "/data/upload/4/cb0618f6-{}.png")
    return {"masks": zoo.write("project-4.json", tasks)}


@form
def label_studio_local_files(zoo: Zoo) -> Flags:
    tasks = studio_tasks(zoo, "/data/local-files/?d=photos/{}.png")
    return {"masks": zoo.write("project-4.json", tasks)}


@form
def label_studio_corrected_annotations(zoo: Zoo) -> Flags:
    """Each task has an older annotation with nothing but its first disc, and a cancelled one."""
    tasks = studio_tasks(zoo, "s3://bucket/{}.png")
    for task in tasks:
        (newest,) = task["annotations"]
        newest |= {"id": 50 + task["id"], "created_at": "2024-05-02T10:00:00Z"}
        older = newest | {"id": task["id"], "created_at": "2024-05-01T10:00:00Z"}
        cancelled = newest | {"id": 90 + task["id"], "was_cancelled": True, "result": []}
        task["annotations"] = [cancelled, newest, older | {"result": newest["result"][:1]}]
    return {"masks": zoo.write("project-4.json", tasks)}


@form
def label_studio_json_min(zoo: Zoo) -> Flags:
    zoo.save_images()
    tasks = []
    for number, scene in enumerate(zoo.scenes, 1):
        labels = [
            each["value"] | {"original_width": WIDTH, "original_height": HEIGHT}
            for each in studio_result(scene)
        ]
        image = f"/data/upload/4/cb0618f6-{scene.name}.png"
        tasks.append({"image": image, "id": number, "label": labels, "annotator": 1})
    return {"masks": zoo.write("project-4.json", tasks)}


def cvat_xml(zoo: Zoo, shape: Callable[[Scene, list[float]], str]) -> str:
    zoo.save_images()
    images = []
    for number, scene in enumerate(zoo.scenes):
        head = f'<image id="{number}" name="{scene.name}.png" width="{WIDTH}" height="{HEIGHT}">'
        images.append(head + "".join(shape(scene, each) for each in scene.polygons) + "</image>")
    label = "<labels><label><name>disc</name><color>#307020</color></label></labels>"
    text = f"<version>1.1</version><meta><task>{label}</task></meta>" + "".join(images)
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{text}</annotations>'


@form
def cvat_polygons(zoo: Zoo) -> Flags:
    def draw(_: Scene, outline: list[float]) -> str:
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in np.reshape(outline, (-1, 2)))
        return f'<polygon label="disc" source="manual" occluded="0" points="{points}" z_order="0"/>'

    return {"masks": zoo.write("annotations.xml", cvat_xml(zoo, draw))}


@refused("box|rectangle", lambda z: cvat_polygons(z))
def cvat_with_nothing_but_boxes(zoo: Zoo) -> Flags:
    def draw(_: Scene, outline: list[float]) -> str:
        x, y = outline[::2], outline[1::2]
        return f'<box label="disc" xtl="{min(x)}" ytl="{min(y)}" xbr="{max(x)}" ybr="{max(y)}"/>'

    return {"masks": zoo.write("annotations.xml", cvat_xml(zoo, draw))}


# --- features (more of them in formats/test_geojson.py and test_georeferenced.py)


def qupath_features(scene: Scene) -> list[dict[str, Any]]:
    features = []
    for outline in scene.polygons:
        ring = np.reshape(outline, (-1, 2)).tolist()
        features.append(
            {
                "type": "Feature",
                "id": f"{len(features)}",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": "disc", "color": [200, 0, 0]},
                },
            }
        )
    return features


@form
def qupath_collections(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        collection = {"type": "FeatureCollection", "features": qupath_features(scene)}
        zoo.write(f"masks/{scene.name}.geojson", collection)


@form
def qupath_lists_as_json(zoo: Zoo) -> None:
    zoo.save_images()
    for scene in zoo.scenes:
        zoo.write(f"masks/{scene.name}.json", qupath_features(scene))


@form
def features_with_a_property_of_their_own(zoo: Zoo) -> Flags:
    zoo.save_images()
    for scene in zoo.scenes:
        features = qupath_features(scene)
        for number, feature in enumerate(features):
            feature["properties"] = {"species": "disc", "note": f"n{number}"}
        zoo.write(
            f"masks/{scene.name}.geojson", {"type": "FeatureCollection", "features": features}
        )
    return {"label_property": "species"}


@form
def masks_and_a_list_of_classes_beside_the_images(zoo: Zoo) -> Flags:
    """As Roboflow exports them."""
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("images/{}_mask.png".format)
    zoo.write("images/_classes.csv", "Pixel Value, Class\n0, background\n1, disc\n")
    zoo.write("images/metadata.json", {"made": "yesterday"})
    zoo.write("images/README.txt", "notes")
    return {"masks": zoo.images}


@form
def coco_beside_the_images(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.write("images/_annotations.coco.json", zoo.coco())
    return {"masks": zoo.images}


# --- what is said


@pytest.mark.parametrize("classes", [(), DISC])
def test_a_folder_of_unusable_label_files_names_the_first(
    classes: tuple[ClassSpec, ...], tmp_path: Path
) -> None:
    zoo = Zoo(tmp_path)
    zoo.save_images()
    for scene in zoo.scenes:
        zoo.write(f"masks/{scene.name}.xml", "<annotation><object/></annotation>")
    with pytest.raises(InputError, match="none of its 4 label files can be used"):
        read_set({"images": zoo.images, "masks": zoo.masks}, classes)


@pytest.mark.parametrize("second", ["disc", "spot"])
def test_objects_drawn_on_those_of_another_class_are_both(second: str, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    document = zoo.coco()
    square = {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]], "category_id": 1, "image_id": 1}
    within = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]], "category_id": 2, "image_id": 1}
    annotations = [*document["annotations"], square | {"id": 98}, within | {"id": 99}]
    categories = [*document["categories"], {"id": 2, "name": second}]
    flags = save_coco(zoo, annotations=annotations, categories=categories)
    classes = DISC if second == "disc" else (*DISC, ClassSpec(2, "spot"))
    found, notes = read_set({"images": zoo.images} | flags, classes)
    labelling, masks = found["00"]
    assert (labelling.targets(masks)[:, 2:6, 2:6] == 1).all()
    overlaps = [note for note in notes if "to several classes" in note]
    if second == "disc":
        assert not overlaps
    else:
        assert overlaps[0].startswith("16 pixels in 1 images belong to several classes")


@pytest.mark.parametrize("name", ["labelme_beside_the_images", "coco_beside_the_images"])
def test_label_files_among_the_images_are_not_skipped(name: str, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    flags = FORMS[name](zoo)
    assert not [note for note in check(zoo, flags) if "skipped" in note]
    zoo.write("images/notes.docx", b"x")
    (note,) = (note for note in check(zoo, flags) if "skipped" in note)
    assert note.startswith("skipped 1 files in ")
