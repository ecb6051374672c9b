"""Labels as public data sets, labelling tools and hands leave them: read, or refused with a remedy.

The classes of `test_zoo` are of one class each; here there are sets of two classes as well, so that
an exchange of classes is seen.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.labelled_data.test_zoo import Flags, check, read_targets
from tests.labelled_data.zoo import HEIGHT, WIDTH, Scene, Zoo
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, parse_classes
from unet_ray.imaging.labels.targets import IGNORED

Build = Callable[[Zoo], Flags | None]
FORMS: dict[str, Build] = {}
OF_TWO_CLASSES: dict[str, Build] = {}
REFUSED: dict[str, tuple[Build, str, Build | None]] = {}
LEAF, SYMPTOM = (32, 112, 48), (192, 48, 48)


def form(build: Build) -> Build:
    """Register a form that is read."""
    FORMS[build.__name__] = build
    return build


def two_classes(build: Build) -> Build:
    """Register a form of two classes that is read; flags say what `classes` asks for."""
    OF_TWO_CLASSES[build.__name__] = build
    return build


def refused(message: str, remedy: Build | None = None) -> Callable[[Build], Build]:
    """Register a form that is refused with a message; the remedy, if any, gives flags for it."""

    def register(build: Build) -> Build:
        REFUSED[build.__name__] = build, message, remedy
        return build

    return register


def rename(zoo: Zoo, name: str) -> None:
    """Rename the scenes."""
    zoo.scenes = [Scene(name.format(s.name), s.image, s.ids) for s in zoo.scenes]


def classes_of(scene: Scene) -> NDArray[np.uint8]:
    """Return 1 in the first disc, 2 in the others."""
    return np.minimum(scene.ids, 2).astype(np.uint8)


def paint(values: NDArray[Any], *colours: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an image of the colours of values."""
    return np.array(colours, np.uint8)[values]


def white(scene: Scene) -> NDArray[np.uint8]:
    """Return 255 in discs."""
    return scene.mask.astype(np.uint8) * 255


def with_palette(values: NDArray[Any], *colours: tuple[int, int, int]) -> Image.Image:
    """Return a palette image."""
    picture = Image.fromarray(values.astype(np.uint8), mode=None).convert("L")
    picture = picture.copy()
    picture.putpalette([part for colour in colours for part in colour])
    return picture


def save_tiff(zoo: Zoo, path: str, values: NDArray[Any], **options: Any) -> None:
    """Save a TIFF as tifffile writes it."""
    file = zoo.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, values, **options)


@pytest.mark.parametrize("name", FORMS)
def test_it_is_read(name: str, tmp_path: Any) -> None:
    zoo = Zoo(tmp_path)
    check(zoo, FORMS[name](zoo))


@pytest.mark.parametrize("name", OF_TWO_CLASSES)
def test_classes_are_kept_apart(name: str, tmp_path: Any) -> None:
    zoo = Zoo(tmp_path)
    flags = OF_TWO_CLASSES[name](zoo) or {}
    classes = flags.pop("classes", ("leaf", "symptom"))
    specs = tuple(ClassSpec(i, c) if isinstance(c, str) else c for i, c in enumerate(classes, 1))
    found, _ = read_targets(zoo, flags, specs)
    assert found.keys() == {scene.name for scene in zoo.scenes}
    for scene in zoo.scenes:
        targets, wanted = found[scene.name], classes_of(scene)
        counted = targets != IGNORED
        assert counted.mean() > 0.5
        assert (targets == wanted)[counted].mean() > 0.99


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_a_remedy(name: str, tmp_path: Any) -> None:
    build, message, remedy = REFUSED[name]
    zoo = Zoo(tmp_path)
    flags = build(zoo)
    with pytest.raises(InputError, match=message) as error:
        read_targets(zoo, flags)
    assert "\n" not in str(error.value)
    if remedy:
        check(zoo, (flags or {}) | (remedy(zoo) or {}))


# --- public data sets


@form
def carvana(zoo: Zoo) -> Flags:
    rename(zoo, "fff9b3a5373f_{}")
    zoo.save_images("train/{}.jpg".format)
    zoo.save_masks("train_masks/{}_mask.gif".format, lambda s: Image.fromarray(white(s)))
    return {"images": f"{zoo.root}/train", "masks": f"{zoo.root}/train_masks"}


@form
def isic_2018(zoo: Zoo) -> Flags:
    rename(zoo, "ISIC_00000{}")
    given, truth = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"
    zoo.save_images((given + "/{}.jpg").format)
    zoo.save_masks((truth + "/{}_segmentation.png").format, white)
    for folder in (given, truth):
        zoo.write(f"{folder}/ATTRIBUTION.txt", "a")
        zoo.write(f"{folder}/LICENSE.txt", "a")
    return {"images": f"{zoo.root}/{given}", "masks": f"{zoo.root}/{truth}"}


@form
def isic_2017_with_superpixels(zoo: Zoo) -> Flags:
    rename(zoo, "ISIC_00000{}")
    zoo.save_images("ISIC-2017_Training_Data/{}.jpg".format)
    zoo.save_masks("ISIC-2017_Training_Data/{}_superpixels.png".format, lambda s: s.image)
    zoo.write("ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv", "image_id,age\n")
    zoo.save_masks("masks/{}_segmentation.png".format, white)
    return {"images": f"{zoo.root}/ISIC-2017_Training_Data"}


@refused("no mask in .* has the name of an image")
def dsb_2018(zoo: Zoo) -> Flags:
    for scene in zoo.scenes:
        zoo.save(f"stage1_train/{scene.name}ab/images/{scene.name}ab.png", scene.image)
        for number in (1, 2, 3):
            mask = (scene.ids == number).astype(np.uint8) * 255
            zoo.save(f"stage1_train/{scene.name}ab/masks/{number}c{scene.name}.png", mask)
    root = f"{zoo.root}/stage1_train"
    return {"images": f"{root}/*/images/*.png", "masks": f"{root}/*/masks/*.png"}


@refused("hold the same files, and their names do not say which are masks")
def dsb_2018_as_folders(zoo: Zoo) -> Flags:
    dsb_2018(zoo)
    return {"images": f"{zoo.root}/stage1_train", "masks": f"{zoo.root}/stage1_train"}


@form
def livecell_with_annotations_by_id(zoo: Zoo) -> Flags:
    rename(zoo, "A172_Phase_A7_1_00d00h00m_{}")
    zoo.save_images("images/livecell_train_val_images/A172/{}.tif".format)
    coco = zoo.coco()
    for each in coco["images"]:
        each["file_name"] = each["file_name"].replace(".png", ".tif")
        each["url"] = "https://darwin.v7labs.com/api/images/52456/original"
    notes = {str(each["id"]): each for each in coco["annotations"]}
    return {"masks": zoo.write("train.json", coco | {"annotations": notes})}


def save_cityscapes(zoo: Zoo) -> None:
    rename(zoo, "aachen_0000{}_000019")
    images = "leftImg8bit/train/aachen/{}_leftImg8bit.png"
    zoo.save_images(images.format)
    base = "gtFine/train/aachen/{}_gtFine_"
    zoo.save_masks((base + "labelIds.png").format)
    zoo.save_masks((base + "instanceIds.png").format, lambda s: s.ids)
    zoo.save_masks((base + "color.png").format, lambda s: paint(s.mask * 1, (0, 0, 0), LEAF))
    for s in zoo.scenes:
        polygons = [
            {"label": "disc", "polygon": np.reshape(p, (-1, 2)).tolist()} for p in s.polygons
        ]
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": polygons}
        zoo.write((base + "polygons.json").format(s.name), content)
    rename(zoo, "{}_leftImg8bit")


@refused(
    "no mask in .* has the name of an image .* globs",
    lambda z: {"masks": f"{z.root}/gtFine/**/*_labelIds.png"},
)
def cityscapes(zoo: Zoo) -> Flags:
    save_cityscapes(zoo)
    return {"images": f"{zoo.root}/leftImg8bit", "masks": f"{zoo.root}/gtFine"}


@form
def cityscapes_by_a_glob(zoo: Zoo) -> Flags:
    save_cityscapes(zoo)
    glob = f"{zoo.root}/gtFine/**/*_labelIds.png"
    return {"images": f"{zoo.root}/leftImg8bit", "masks": glob}


@refused("none of its 4 label files can be used; the first .* it begins with .*imgHeight")
def cityscapes_polygons(zoo: Zoo) -> Flags:
    save_cityscapes(zoo)
    glob = f"{zoo.root}/gtFine/**/*_polygons.json"
    return {"images": f"{zoo.root}/leftImg8bit", "masks": glob}


def border(scene: Scene, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return values with a thin line of 255 around objects."""
    mask = scene.mask
    edge = mask & ~(np.roll(mask, 1, 0) & np.roll(mask, -1, 0))
    return np.where(edge, 255, values).astype(np.uint8)


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0)] + [(i, i, i) for i in range(3, 255)] + [(224, 224, 192)]


def save_voc(zoo: Zoo) -> Flags:
    rename(zoo, "2007_0000{}")
    root = "VOCdevkit/VOC2012"
    zoo.save_images((root + "/JPEGImages/{}.jpg").format)
    zoo.save(f"{root}/JPEGImages/2008_1.jpg", zoo.scenes[0].image)
    for folder, values in (
        ("SegmentationClass", classes_of),
        ("SegmentationObject", lambda s: s.ids),
    ):
        zoo.save_masks(
            (f"{root}/{folder}/" + "{}.png").format,
            lambda s, v=values: with_palette(border(s, v(s)), *VOC),
        )
    for s in zoo.scenes:
        zoo.write(f"{root}/Annotations/{s.name}.xml", "<annotation></annotation>")
    zoo.write(f"{root}/ImageSets/Segmentation/train.txt", "2007_000001\n")
    path = f"{zoo.root}/{root}"
    return {"images": f"{path}/JPEGImages", "masks": f"{path}/SegmentationClass"}


@two_classes
def voc_classes(zoo: Zoo) -> Flags:
    return save_voc(zoo)


@form
def voc_objects(zoo: Zoo) -> Flags:
    flags = save_voc(zoo)
    masks = flags["masks"].replace("Class", "Object")
    return flags | {"masks": masks, "mask_kind": "instances"}


@refused(r"\*\*/\*\.png'")
def voc_masks_of_both_kinds(zoo: Zoo) -> Flags:
    flags = save_voc(zoo)
    return flags | {"masks": flags["masks"].removesuffix("/SegmentationClass")}


@two_classes
def camvid(zoo: Zoo) -> Flags:
    rename(zoo, "0001TP_0066{}")
    zoo.save_images("701_StillsRaw_full/{}.png".format)
    zoo.save_masks(
        "LabeledApproved_full/{}_L.png".format,
        lambda s: paint(classes_of(s), (0, 0, 0), LEAF, SYMPTOM),
    )
    text = "0 0 0\t\tVoid\r\n32 112 48\t\tleaf\r\n192 48 48\t\tsymptom\r\n64 0 64\tSignSymbol\r\n"
    zoo.write("label_colors.txt", text)
    root = zoo.root
    return {"images": f"{root}/701_StillsRaw_full", "masks": f"{root}/LabeledApproved_full"}


@two_classes
def camvid_of_fastai(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("labels/{}_P.png".format, classes_of)
    zoo.write("labels/codes.txt", "Void\nleaf\nsymptom\n")
    return {"masks": f"{zoo.root}/labels"}


@two_classes
def camvid_of_segnet(zoo: Zoo) -> Flags:
    zoo.save_images("train/{}.png".format)
    zoo.save_masks("trainannot/{}.png".format, classes_of)
    zoo.write("train.txt", "/SegNet/CamVid/train/00.png /SegNet/CamVid/trainannot/00.png\n")
    return {"images": f"{zoo.root}/train", "masks": f"{zoo.root}/trainannot"}


@two_classes
def camvid_class_dict(zoo: Zoo) -> Flags:
    zoo.save_images("train/{}.png".format)
    zoo.save_masks(
        "train_labels/{}_L.png".format, lambda s: paint(classes_of(s), (0, 0, 0), LEAF, SYMPTOM)
    )
    zoo.write("class_dict.csv", "name,r,g,b\nVoid,0,0,0\nleaf,32,112,48\nsymptom,192,48,48\n")
    return {"images": f"{zoo.root}/train", "masks": f"{zoo.root}/train_labels"}


@two_classes
def ade20k_of_the_benchmark(zoo: Zoo) -> Flags:
    rename(zoo, "ADE_train_000000{}")
    zoo.save_images("images/training/{}.jpg".format)
    zoo.save_masks("annotations/training/{}.png".format, classes_of)
    return {"masks": f"{zoo.root}/annotations"}


@refused(
    r"--mask-affix '\*_parts_1' or --mask-affix '\*_seg'", lambda _: {"mask_affix": "_parts_1"}
)
def ade20k_in_full(zoo: Zoo) -> Flags:
    rename(zoo, "ADE_train_000000{}")
    zoo.save_images("images/training/b/bar/{}.jpg".format)
    zoo.save_masks(
        "images/training/b/bar/{}_seg.png".format,
        lambda s: paint(s.ids, (0, 0, 0), (10, 2, 1), (10, 2, 2), (10, 2, 3)),
    )
    zoo.save_masks("images/training/b/bar/{}_parts_1.png".format)
    for s in zoo.scenes:
        zoo.write(f"images/training/b/bar/{s.name}_atr.txt", '001 # 0 # 0 # wall # wall # ""\n')
    return {"masks": zoo.images}


@two_classes
def bdd_train_ids(zoo: Zoo) -> Flags:
    """Class 0 is a class; 255 is no class."""
    zoo.save_images("images/10k/train/{}.jpg".format)
    zoo.save_masks(
        "labels/sem_seg/masks/train/{}.png".format, lambda s: classes_of(s) - np.uint8(1)
    )
    return {
        "images": f"{zoo.root}/images/10k/train",
        "masks": f"{zoo.root}/labels/sem_seg/masks/train",
        "background_value": 255,
        "ignore_value": "none",
        "classes": (ClassSpec(0, "leaf"), ClassSpec(1, "symptom")),
    }


def save_pets(zoo: Zoo) -> Flags:
    rename(zoo, "Abyssinian_{}")
    zoo.save_images("images/{}.jpg".format)
    zoo.write("images/Abyssinian_100.mat", b"x")
    for s in zoo.scenes:
        values = np.where(s.mask, 1, 2).astype(np.uint8)
        zoo.save(f"annotations/trimaps/{s.name}.png", np.where(border(s, values) == 255, 3, values))
        zoo.write(f"annotations/trimaps/._{s.name}.png", b"\0\5\26\7")
    zoo.write("annotations/list.txt", "#Image CLASS-ID SPECIES BREED ID\n")
    return {"masks": f"{zoo.root}/annotations/trimaps"}


@refused(
    r"3 values \(1, 2, 3\), which may be classes or objects: give --classes",
    lambda _: {"background_value": 2, "ignore_value": 3},
)
def oxford_pets(zoo: Zoo) -> Flags:
    return save_pets(zoo)


@form
def drive(zoo: Zoo) -> Flags:
    zoo.save_images("training/images/{}_training.tif".format)
    zoo.save_masks("training/1st_manual/{}_manual1.gif".format, lambda s: Image.fromarray(white(s)))
    rename(zoo, "{}_training")
    root = f"{zoo.root}/training"
    return {"images": f"{root}/images", "masks": f"{root}/1st_manual"}


@refused(
    "give --mask-kind binary to count values from 128 as the class",
    lambda _: {"mask_kind": "binary"},
)
def kvasir_with_jpeg_masks(zoo: Zoo) -> None:
    rename(zoo, "cju0qkwl35piu0993l0dewei{}")
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("masks/{}.jpg".format, lambda s: np.stack([white(s)] * 3, -1), quality=75)
    zoo.write("kavsir_bboxes.json", {})


@form
def clinicdb(zoo: Zoo) -> Flags:
    zoo.save_images("CVC-ClinicDB/Original/{}.tif".format)
    zoo.save_masks(
        "CVC-ClinicDB/Ground Truth/{}.tif".format, lambda s: np.stack([white(s)] * 3, -1)
    )
    root = f"{zoo.root}/CVC-ClinicDB"
    return {"images": f"{root}/Original", "masks": f"{root}/Ground Truth"}


@refused("none of its 4 label files can be used; .* it begins with .*Annotations")
def monuseg(zoo: Zoo) -> Flags:
    rename(zoo, "TCGA-A7-A13E-01Z-00-DX{}")
    zoo.save_images("Tissue Images/{}.tif".format)
    for s in zoo.scenes:
        points = "".join(
            f'<Vertex X="{x}" Y="{y}" Z="0.0"/>' for x, y in np.reshape(s.polygons[0], (-1, 2))
        )
        zoo.write(
            f"Annotations/{s.name}.xml",
            '<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.252"><Annotation Id="1">'
            "<Regions>"
            f'<Region Id="1"><Vertices>{points}</Vertices></Region></Regions></Annotation>'
            "</Annotations>",
        )
    return {"images": f"{zoo.root}/Tissue Images", "masks": f"{zoo.root}/Annotations"}


@refused("none with a known image suffix")
def tissuenet(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.write("masks/tissuenet_v1.1_train.npz", b"PK\3\4")


@form
def neurips_cells(zoo: Zoo) -> Flags:
    rename(zoo, "cell_000{}")
    for s, suffix in zip(zoo.scenes, ("png", "bmp", "tif", "jpg"), strict=True):
        zoo.save(f"images/{s.name}.{suffix}", s.image)
        save_tiff(zoo, f"labels/{s.name}_label.tiff", s.ids, compression="zlib")
    return {"masks": f"{zoo.root}/labels", "mask_kind": "instances"}


@two_classes
def loveda(zoo: Zoo) -> Flags:
    """0 is no data, 1 is background."""
    zoo.save_images("Train/Rural/images_png/{}.png".format)

    def values(s: Scene) -> NDArray[np.uint8]:
        found = classes_of(s) + np.uint8(1)
        found[:2] = 0
        return found

    zoo.save_masks("Train/Rural/masks_png/{}.png".format, values)
    return {
        "images": f"{zoo.root}/Train/*/images_png/*.png",
        "masks": f"{zoo.root}/Train/*/masks_png/*.png",
        "background_value": 1,
        "ignore_value": 0,
        "classes": (ClassSpec(2, "leaf"), ClassSpec(3, "symptom")),
    }


@form
def inria(zoo: Zoo) -> Flags:
    rename(zoo, "austin{}")
    for s in zoo.scenes:
        save_tiff(zoo, f"AerialImageDataset/train/images/{s.name}.tif", s.image, photometric="rgb")
        save_tiff(zoo, f"AerialImageDataset/train/gt/{s.name}.tif", white(s))
    root = f"{zoo.root}/AerialImageDataset/train"
    return {"images": f"{root}/images", "masks": f"{root}/gt"}


@form
def isaid(zoo: Zoo) -> Flags:
    rename(zoo, "P00{}")
    zoo.save_images()
    zoo.save_masks(
        "masks/{}_instance_color_RGB.png".format,
        lambda s: paint(s.mask * 1, (0, 0, 0), (0, 0, 63)),
    )
    return None


@two_classes
def isaid_of_two_classes(zoo: Zoo) -> Flags:
    rename(zoo, "P00{}")
    zoo.save_images()
    zoo.save_masks(
        "masks/{}_instance_color_RGB.png".format,
        lambda s: paint(classes_of(s), (0, 0, 0), (0, 0, 63), (0, 127, 127)),
    )

    return {"classes": parse_classes("leaf=#00003f,symptom=#007f7f")}


@form
def massachusetts_roads(zoo: Zoo) -> Flags:
    rename(zoo, "102289{}_15")
    zoo.save_images("tiff/train/{}.tiff".format)
    zoo.save_masks("tiff/train_labels/{}.tif".format, white)
    return {"images": f"{zoo.root}/tiff/train", "masks": f"{zoo.root}/tiff/train_labels"}


@form
def cell_tracking_challenge(zoo: Zoo) -> Flags:
    for s in zoo.scenes:
        save_tiff(zoo, f"01/t0{s.name}.tif", s.image[..., 0])
        save_tiff(zoo, f"01_GT/SEG/man_seg0{s.name}.tif", s.ids)
    rename(zoo, "t0{}")
    root = zoo.root
    return {"images": f"{root}/01", "masks": f"{root}/01_GT/SEG", "mask_kind": "instances"}


@two_classes
def nnunet(zoo: Zoo) -> Flags:
    zoo.save_images("Dataset001/imagesTr/case_{}_0000.png".format)
    zoo.save_masks("Dataset001/labelsTr/case_{}.png".format, classes_of)
    labels = {"background": 0, "leaf": 1, "symptom": 2}
    zoo.write("Dataset001/dataset.json", {"labels": labels, "file_ending": ".png"})
    rename(zoo, "case_{}_0000")
    root = f"{zoo.root}/Dataset001"
    return {"images": f"{root}/imagesTr", "masks": f"{root}/labelsTr"}


@two_classes
def mmsegmentation(zoo: Zoo) -> Flags:
    zoo.save_images("data/img_dir/train/{}.jpg".format)
    zoo.save_masks("data/ann_dir/train/{}_labelTrainIds.png".format, classes_of)
    return {"images": f"{zoo.root}/data/img_dir", "masks": f"{zoo.root}/data/ann_dir"}


@refused("it begins with .*EncodedPixels")
def kaggle_run_lengths(zoo: Zoo) -> Flags:
    zoo.save_images()
    lines = "".join(f"{s.name}.png,1,100 5 180 7\n" for s in zoo.scenes)
    return {"masks": zoo.write("train.csv", "ImageId,ClassId,EncodedPixels\n" + lines)}


@refused("no mask in .* has the name of an image")
def open_images(zoo: Zoo) -> None:
    zoo.save_images()
    for s in zoo.scenes:
        for number in (1, 2):
            mask = Image.fromarray(s.ids == number)
            zoo.save(f"masks/{s.name}_m0k4j_{number}fe{number}a.png", mask)


@two_classes
def coco_stuff(zoo: Zoo) -> Flags:
    rename(zoo, "0000000004{}")
    zoo.save_images("train2017/{}.jpg".format)
    zoo.save_masks("stuffthingmaps/{}.png".format, lambda s: border(s, classes_of(s)))
    return {"images": f"{zoo.root}/train2017", "masks": f"{zoo.root}/stuffthingmaps"}


@refused("a COCO panoptic JSON; give its PNGs")
def coco_panoptic(zoo: Zoo) -> Flags:
    zoo.save_images()
    coco = zoo.coco(
        annotations=[
            {
                "image_id": i,
                "file_name": f"{s.name}.png",
                "segments_info": [
                    {"id": 1, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 2, 2], "area": 4}
                ],
            }
            for i, s in enumerate(zoo.scenes, 1)
        ]
    )
    return {"masks": zoo.write("panoptic_train2017.json", coco)}


# --- labelling tools


def rf(name: str) -> str:
    """Return a name as Roboflow changes it."""
    return f"{name}_jpg.rf.{zlib.crc32(name.encode()):08x}a1b2"


def save_roboflow(zoo: Zoo) -> None:
    zoo.scenes = [Scene(rf(s.name), s.image, s.ids) for s in zoo.scenes]


def plain(zoo: Zoo) -> None:
    """Name scenes as `read_targets` names them: up to the first dot."""
    # names of Roboflow have a dot: their hashes are cut off there
    rename(zoo, "{}")
    zoo.scenes = [Scene(s.name.partition(".")[0], s.image, s.ids) for s in zoo.scenes]


@form
def roboflow_coco(zoo: Zoo) -> Flags:
    save_roboflow(zoo)
    zoo.save_images("train/{}.jpg".format)
    coco = zoo.coco()
    for each in coco["images"]:
        each["file_name"] = each["file_name"].replace(".png", ".jpg")
        each["extra"] = {"name": "a.jpg"}
    coco["categories"] = [
        {"id": 0, "name": "discs-x1y2", "supercategory": "none"},
        {"id": 1, "name": "disc", "supercategory": "discs-x1y2"},
    ]
    file = zoo.write("train/_annotations.coco.json", coco)
    plain(zoo)
    return {"images": f"{zoo.root}/train", "masks": file}


@form
def roboflow_coco_by_its_folder(zoo: Zoo) -> Flags:
    flags = roboflow_coco(zoo)
    return flags | {"masks": flags["images"]}


def yolo_lines(scene: Scene, two: bool = False) -> str:
    """Return a line for each disc."""
    lines = []
    for number, polygon in enumerate(scene.polygons):
        points = (np.reshape(polygon, (-1, 2)) / (WIDTH, HEIGHT)).ravel()
        lines.append(" ".join([str(min(number, 1) if two else 0), *map(repr, points.tolist())]))
    return "\n".join(lines)


def save_roboflow_yolo(zoo: Zoo) -> Flags:
    save_roboflow(zoo)
    zoo.save_images("train/images/{}.jpg".format)
    for s in zoo.scenes:
        zoo.write(f"train/labels/{s.name}.txt", yolo_lines(s, True))
    zoo.write(
        "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['leaf', 'symptom']\n\nroboflow:\n  workspace: w\n  project: p\n  version: 1\n",
    )
    zoo.write("README.roboflow.txt", "x")
    plain(zoo)
    return {"images": f"{zoo.root}/train/images", "masks": f"{zoo.root}/train/labels"}


@two_classes
def roboflow_yolo(zoo: Zoo) -> Flags:
    return save_roboflow_yolo(zoo)


@two_classes
def roboflow_yolo_as_a_whole(zoo: Zoo) -> Flags:
    save_roboflow_yolo(zoo)
    return {"images": f"{zoo.root}", "masks": f"{zoo.root}"}


@two_classes
def roboflow_masks(zoo: Zoo) -> Flags:
    save_roboflow(zoo)
    zoo.save_images("train/{}.jpg".format)
    zoo.save_masks("train/{}_mask.png".format, classes_of)
    zoo.write("train/_classes.csv", "Pixel Value, Class\n0, background\n1, leaf\n2, symptom\n")
    plain(zoo)
    return {"images": f"{zoo.root}/train", "masks": f"{zoo.root}/train"}


@two_classes
def yolo_with_names_by_number_and_indents(zoo: Zoo) -> Flags:
    zoo.save_images("images/train/{}.png".format)
    for s in zoo.scenes:
        zoo.write(f"labels/train/{s.name}.txt", yolo_lines(s, True).replace("\n", "\r\n") + "\r\n")
    zoo.write(
        "coco8-seg.yaml",
        "path: ../datasets/x # root\ntrain: images/train\nnames:\n  0: leaf\n  1: symptom\n",
    )
    return {"images": f"{zoo.images}/train", "masks": f"{zoo.root}/labels/train"}


@form
def yolo_of_label_studio_with_upload_names(zoo: Zoo) -> Flags:
    zoo.save_images()
    for s in zoo.scenes:
        zoo.write(f"labels/cb0618f6-{s.name}.txt", yolo_lines(s))
    zoo.write("classes.txt", "disc\n")
    zoo.write("notes.json", {"categories": [{"id": 0, "name": "disc"}], "info": {"year": 2024}})
    return {"masks": f"{zoo.root}/labels"}


@form
def label_studio_coco(zoo: Zoo) -> Flags:
    rename(zoo, "cb0618f6-{}")
    zoo.save_images("images/{}.jpg".format)
    coco = zoo.coco()
    for each in coco["images"]:
        each["file_name"] = "images\\" + each["file_name"].replace(".png", ".jpg")
    for each in coco["annotations"]:
        each |= {"ignore": 0, "category_id": 0}
    coco["categories"] = [{"id": 0, "name": "disc"}]
    coco["info"] = {"year": 2024, "version": "1.0", "contributor": "Label Studio"}
    return {"masks": zoo.write("result.json", coco)}


@refused("no mask in .* has the name of an image")
def label_studio_pngs(zoo: Zoo) -> None:
    zoo.save_images()
    for number, s in enumerate(zoo.scenes, 1):
        name = f"masks/task-{number}-annotation-{number + 4}-by-1-tag-disc-0.png"
        zoo.save(name, white(s))


@refused("it begins with .*annotation_id")
def label_studio_csv(zoo: Zoo) -> Flags:
    zoo.save_images()
    content = "annotation_id,annotator,id,image,label\n1,1,1,/data/upload/1/cb0618f6-00.png,[]\n"
    return {"masks": zoo.write("project-1.csv", content)}


def bitmap(mask: NDArray[np.bool_]) -> str:
    """Return a bitmap as Supervisely writes it."""
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", transparency=0, optimize=0)
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


def save_supervisely(zoo: Zoo) -> None:
    zoo.save_images("project/ds/img/{}.png".format)
    for s in zoo.scenes:
        objects = []
        for number, (left, top, width, height) in enumerate(s.boxes, 1):
            part = (s.ids == number)[top : top + height, left : left + width]
            objects.append(
                {
                    "id": number,
                    "geometryType": "bitmap",
                    "classTitle": "leaf" if number == 1 else "symptom",
                    "tags": [],
                    "bitmap": {"data": bitmap(part), "origin": [left, top]},
                }
            )
        size = {"height": HEIGHT, "width": WIDTH}
        content = {"description": "", "tags": [], "size": size, "objects": objects}
        zoo.write(f"project/ds/ann/{s.name}.png.json", content)
    zoo.write(
        "project/meta.json",
        {"classes": [{"title": "leaf", "shape": "bitmap", "color": "#207030"}], "tags": []},
    )


@two_classes
def supervisely_bitmaps(zoo: Zoo) -> Flags:
    save_supervisely(zoo)
    return {"images": f"{zoo.root}/project/ds/img", "masks": f"{zoo.root}/project/ds/ann"}


@two_classes
def supervisely_as_a_whole(zoo: Zoo) -> Flags:
    save_supervisely(zoo)
    return {"images": f"{zoo.root}/project", "masks": f"{zoo.root}/project"}


@two_classes
def supervisely_masks_for_machines(zoo: Zoo) -> Flags:
    zoo.save_images("project/ds/img/{}.jpg".format)
    zoo.save_masks("project/ds/masks_machine/{}.png".format, classes_of)
    zoo.write("project/obj_class_to_machine_color.json", {"leaf": [1, 1, 1], "symptom": [2, 2, 2]})
    root = f"{zoo.root}/project/ds"
    return {"images": f"{root}/img", "masks": f"{root}/masks_machine"}


@refused("give a whole number or text")
def hasty(zoo: Zoo) -> Flags:
    zoo.save_images()
    images = [
        {
            "image_id": s.name,
            "image_name": f"{s.name}.png",
            "dataset_name": "d",
            "width": WIDTH,
            "height": HEIGHT,
            "labels": [
                {"id": "a", "class_name": "disc", "polygon": np.reshape(p, (-1, 2)).tolist()}
                for p in s.polygons
            ],
        }
        for s in zoo.scenes
    ]
    content = {
        "project_name": "p",
        "create_date": "2022-01-01",
        "export_format_version": "1.1",
        "label_classes": [{"class_name": "disc"}],
        "images": images,
    }
    return {"masks": zoo.write("hasty.json", content)}


@refused("it begins with .*data_row")
def labelbox(zoo: Zoo) -> Flags:
    zoo.save_images()
    line = '{"data_row":{"id":"a","external_id":"00.png"},"projects":{}}\n'
    return {"masks": zoo.write("export.ndjson", line)}


@refused("it begins with .*DataRow")
def labelbox_as_json(zoo: Zoo) -> Flags:
    zoo.save_images()
    rows = [
        {
            "ID": "a",
            "DataRow ID": "b",
            "Labeled Data": "https://x/00.png",
            "Label": {"objects": [{"value": "disc", "instanceURI": "https://api/m/1"}]},
            "External ID": "00.png",
        }
    ]
    return {"masks": zoo.write("export.json", rows)}


@form
def labelbox_masks(zoo: Zoo) -> None:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks(values=lambda s: paint(s.mask * 1, (0, 0, 0, 255), (255, 255, 255, 255)))


@refused("globs for --images and --masks", lambda z: {"masks": f"{z.root}/masks/*_semantic.png"})
def segments_ai(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/{}_label_ground-truth.png".format, lambda s: s.ids)
    zoo.save_masks("masks/{}_label_ground-truth_semantic.png".format)
    zoo.save_masks(
        "masks/{}_label_ground-truth_colored.png".format,
        lambda s: paint(s.mask * 1, (0, 0, 0), LEAF),
    )


@refused("none of its 4 label files can be used; .* it begins with .*darwin")
def darwin(zoo: Zoo) -> Flags:
    zoo.save_images()
    for s in zoo.scenes:
        paths = [[{"x": x, "y": y} for x, y in np.reshape(p, (-1, 2))] for p in s.polygons]
        notes = [{"id": "a", "name": "disc", "polygon": {"paths": [path]}} for path in paths]
        item = {"name": f"{s.name}.png", "path": "/", "slots": [{"width": WIDTH}]}
        content = {"version": "2.0", "schema_ref": "https://darwin-public", "item": item}
        zoo.write(f"labels/{s.name}.json", content | {"annotations": notes})
    return {"masks": f"{zoo.root}/labels"}


@form
def make_sense_coco(zoo: Zoo) -> Flags:
    zoo.save_images()
    coco = zoo.coco(info={"description": "my-project-name"})
    for number, each in enumerate(coco["annotations"]):
        each["id"] = number
    return {"masks": zoo.write("labels_my-project-name_2024-05-01-10-00-00.json", coco)}


@form
def make_sense_via(zoo: Zoo) -> Flags:
    zoo.save_images()
    content = {}
    for s in zoo.scenes:
        regions = {
            str(number): {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [*polygon[::2], polygon[0]],
                    "all_points_y": [*polygon[1::2], polygon[1]],
                },
                "region_attributes": {"label": "disc"},
            }
            for number, polygon in enumerate(s.polygons)
        }
        content[f"{s.name}.png"] = {
            "fileref": "",
            "size": 1234,
            "filename": f"{s.name}.png",
            "base64_img_data": "",
            "file_attributes": {},
            "regions": regions,
        }
    return {"masks": zoo.write("labels.json", content)}


@refused("no object of disc has an outline that can be learnt; 12 crowds")
def coco_of_brush_strokes_that_are_all_crowds(zoo: Zoo) -> Flags:
    """Some converters write each mask as a crowd."""
    zoo.save_images()
    coco = zoo.coco()
    for each in coco["annotations"]:
        each["iscrowd"] = 1
        each["attributes"] = {"occluded": False}
        scene = zoo.scenes[each["image_id"] - 1]
        flat = (scene.ids == (each["id"] - 1) % 3 + 1).T.ravel()
        ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
        each["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": np.diff(ends).tolist()}
    return {"masks": zoo.write("annotations/instances_default.json", coco)}


@refused("no object of disc has an outline that can be learnt; 12 boxes")
def coco_of_boxes_only(zoo: Zoo) -> Flags:
    zoo.save_images()
    coco = zoo.coco()
    for each in coco["annotations"]:
        each["segmentation"] = []
    return {"masks": zoo.write("_annotations.coco.json", coco)}


@refused("category_id None")
def coco_of_captions(zoo: Zoo) -> Flags:
    zoo.save_images()
    notes = [{"id": 1, "image_id": 1, "caption": "a disc"}]
    return {"masks": zoo.write("captions_val.json", zoo.coco(annotations=notes))}


@refused("categories is .* give a list")
def datumaro(zoo: Zoo) -> Flags:
    zoo.save_images()
    content = {
        "dm_format_version": "1.0",
        "info": {},
        "categories": {"label": {"labels": [{"name": "disc", "parent": "", "attributes": []}]}},
        "items": [{"id": "00", "annotations": [], "image": {"path": "00.png", "size": [80, 112]}}],
    }
    return {"masks": zoo.write("annotations/default.json", content)}


@refused("none of its 4 label files can be used; .* it begins with .*annotation")
def boxes_of_labelimg(zoo: Zoo) -> Flags:
    zoo.save_images()
    for s in zoo.scenes:
        zoo.write(
            f"labels/{s.name}.xml",
            f"<annotation><folder>x</folder><filename>{s.name}.png</filename><object><name>disc</name>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            "</annotation>",
        )
    return {"masks": f"{zoo.root}/labels"}


def labelme_shape(polygon: list[float], **more: Any) -> dict[str, Any]:
    """Return a shape of labelme."""
    points = np.reshape(polygon, (-1, 2)).tolist()
    return {
        "label": "disc",
        "points": points,
        "group_id": None,
        "shape_type": "polygon",
        "flags": {},
    } | more


@form
def labelme_4_on_windows(zoo: Zoo) -> Flags:
    zoo.save_images()
    for s in zoo.scenes:
        data = BytesIO()
        Image.fromarray(s.image).save(data, "PNG")
        shapes = [labelme_shape(p) for p in s.polygons]
        zoo.write(
            f"labels/{s.name}.json",
            {
                "version": "4.5.6",
                "flags": {},
                "shapes": shapes,
                "imagePath": f"..\\..\\fotos\\{s.name}.png",
                "imageData": base64.b64encode(data.getvalue()).decode(),
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            },
        )
    return {"masks": f"{zoo.root}/labels"}


@form
def labelme_3_with_colours_and_without_a_size(zoo: Zoo) -> Flags:
    zoo.save_images()
    for s in zoo.scenes:
        shapes = []
        for p in s.polygons:
            shape = labelme_shape(p, line_color=None, fill_color=None)
            del shape["group_id"], shape["flags"], shape["shape_type"]
            shapes.append(shape)
        zoo.write(
            f"images/{s.name}.json",
            {
                "flags": {},
                "shapes": shapes,
                "lineColor": [0, 255, 0, 128],
                "fillColor": [255, 0, 0, 128],
                "imagePath": f"{s.name}.png",
                "imageData": None,
            },
        )
    return {"masks": zoo.images}


@two_classes
def labelme_to_voc(zoo: Zoo) -> Flags:
    zoo.save_images("data_voc/JPEGImages/{}.jpg".format)
    zoo.save_masks(
        "data_voc/SegmentationClass/{}.png".format, lambda s: with_palette(classes_of(s), *VOC)
    )
    zoo.save_masks("data_voc/SegmentationClassVisualization/{}.jpg".format, lambda s: s.image)
    for s in zoo.scenes:
        zoo.write(f"data_voc/SegmentationClassNpy/{s.name}.npy", b"x")
    zoo.write("data_voc/class_names.txt", "_background_\nleaf\nsymptom\n")
    root = f"{zoo.root}/data_voc"
    return {"images": f"{root}/JPEGImages", "masks": f"{root}/SegmentationClass"}


@form
def qupath_labels(zoo: Zoo) -> None:
    for s in zoo.scenes:
        save_tiff(zoo, f"images/{s.name}.ome.tif", s.image, photometric="rgb")
        zoo.save(f"masks/{s.name}-labels.png", s.mask.astype(np.uint8))


@form
def qupath_tiles_with_their_places(zoo: Zoo) -> Flags:
    rename(zoo, "slide [x=2048,y={},w=112,h=80]")
    zoo.save_images("tiles/{}.jpg".format)
    zoo.save_masks("tiles/{}.png".format)
    return {"images": f"{zoo.root}/tiles", "masks": f"{zoo.root}/tiles"}


@form
def qupath_tiles_of_one_suffix(zoo: Zoo) -> Flags:
    rename(zoo, "slide [x=2048,y={},w=112,h=80]")
    zoo.save_images("tiles/{}.tif".format)
    zoo.save_masks("tiles/{}-labelled.tif".format)
    return {"images": f"{zoo.root}/tiles", "masks": f"{zoo.root}/tiles"}


@form
def fiji_masks_with_an_inverting_table(zoo: Zoo) -> None:
    """Process, Binary, Convert to Mask: 255 is the object, and is shown as black."""
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        save_tiff(
            zoo,
            f"masks/{s.name}.tif",
            white(s),
            photometric="miniswhite",
            description="ImageJ=1.53t\nmin=0.0\nmax=255.0\n",
            metadata=None,
        )


@form
def fiji_ids_with_a_palette(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.tif".format)
    table = np.random.default_rng(0).integers(0, 2**16, (3, 256), np.uint16)
    for s in zoo.scenes:
        ids = s.ids.astype(np.uint8)
        save_tiff(zoo, f"masks/{s.name}.tif", ids, photometric="palette", colormap=table)
    return {"mask_kind": "instances"}


@form
def fiji_ids_of_16_bits(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        save_tiff(
            zoo, f"masks/{s.name}-lbl-morpho.tif", s.ids, imagej=True, metadata={"axes": "YX"}
        )
    return {"mask_kind": "instances"}


@refused("a ZIP archive; unzip it")
def fiji_regions(zoo: Zoo) -> Flags:
    zoo.save_images()
    return {"masks": zoo.write("RoiSet.zip", b"PK\3\4")}


@form
def cellpose(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        save_tiff(zoo, f"images/{s.name}_cp_masks.tif", s.ids)
        zoo.write(f"images/{s.name}_seg.npy", b"x")
        zoo.write(f"images/{s.name}_cp_outlines.txt", "1,2,3,4\n")
        zoo.write(f"images/{s.name}_rois.zip", b"PK")
    return {"masks": zoo.images, "mask_kind": "instances"}


@refused(r"--mask-affix '\*_cp_masks' or", lambda _: {"mask_affix": "_cp_masks"})
def cellpose_with_flows(zoo: Zoo) -> Flags:
    flags = cellpose(zoo)
    for s in zoo.scenes:
        save_tiff(zoo, f"images/{s.name}_flows.tif", s.image, photometric="rgb")
    return flags


@refused("give --background-value 1 or 2", lambda _: {"background_value": 2})
def ilastik(zoo: Zoo) -> None:
    """The first label is 1, the second 2."""
    zoo.save_images()
    zoo.save_masks(
        "masks/{}_Simple Segmentation.png".format,
        lambda s: np.where(s.mask, 1, 2).astype(np.uint8),
    )


@form
def ilastik_objects(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        save_tiff(zoo, f"masks/{s.name}_Object Identities.tiff", s.ids.astype(np.uint32))
    return {"mask_kind": "instances"}


@form
def napari_labels(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        save_tiff(zoo, f"masks/{s.name}_labels.tif", s.ids.astype(np.int64), compression="zlib")
    return {"mask_kind": "instances"}


@form
def photoshop_tiff_with_alpha(zoo: Zoo) -> None:
    zoo.save_images("images/{}.tif".format)
    for s in zoo.scenes:
        values = np.stack([white(s)] * 3 + [np.full_like(white(s), 255)], -1)
        save_tiff(
            zoo, f"masks/{s.name}.tif", values, photometric="rgb", extrasamples=["unassalpha"]
        )


@form
def gimp_palette_of_white_and_black(zoo: Zoo) -> None:
    """GIMP and others number colours as they come: here white, the disc, is 0."""
    zoo.save_images()
    zoo.save_masks(values=lambda s: with_palette(~s.mask * 1, (255, 255, 255), (0, 0, 0)))


def renumber(scene: Scene) -> Image.Image:
    """Return a palette image whose colours are numbered as they are met, other for each scene."""
    order = [0, 1, 2] if scene.name in ("00", "02") else [0, 2, 1]
    colours = [((0, 0, 0), LEAF, SYMPTOM)[value] for value in order]
    return with_palette(np.argsort(order)[classes_of(scene)], *colours)


@two_classes
def palettes_numbered_anew_in_each_file_with_colours_named(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks(values=renumber)
    return {"classes": parse_classes("leaf=#207030,symptom=#c03030")}


def test_palettes_that_are_numbered_anew_in_each_file_are_refused(tmp_path: Any) -> None:
    zoo = Zoo(tmp_path)
    zoo.save_images()
    zoo.save_masks(values=renumber)
    with pytest.raises(InputError, match="palettes .* differ: 1 is #207030 in .* #c03030"):
        read_targets(zoo, None, (ClassSpec(1, "leaf"), ClassSpec(2, "symptom")))


@form
def palette_of_black_and_white(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: with_palette(s.mask * 1, (0, 0, 0), (255, 255, 255)))


@form
def bitmaps_of_one_bit(zoo: Zoo) -> None:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("masks/{}.bmp".format, lambda s: Image.fromarray(s.mask))


@form
def bitmaps_of_one_bit_with_white_first(zoo: Zoo) -> None:
    """A BMP of one bit has a palette, which may begin with white."""
    zoo.save_images("images/{}.jpg".format)
    for s in zoo.scenes:
        file = BytesIO()
        Image.fromarray(~s.mask).save(file, "BMP")
        data = bytearray(file.getvalue())
        data[54:62] = b"\xff\xff\xff\0\0\0\0\0"
        zoo.write(f"masks/{s.name}.bmp", bytes(data))


@form
def faxes_of_one_bit_with_white_as_zero(zoo: Zoo) -> None:
    """Group 4 TIFFs are mostly written with white as 0."""
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks(
        "masks/{}.tif".format,
        lambda s: Image.fromarray(s.mask),
        compression="group4",
        tiffinfo={262: 0},
    )


@form
def qgis_float_raster(zoo: Zoo) -> None:
    for s in zoo.scenes:
        save_tiff(zoo, f"images/{s.name}.tif", s.image, photometric="rgb")
        nodata = [(42113, "s", 0, "-3.40282346600000016e+38", True)]
        save_tiff(zoo, f"masks/{s.name}.tif", s.mask.astype(np.float32), extratags=nodata)


@refused("the mask value -9999 at row 0, column 0")
def qgis_raster_with_nodata_outside(zoo: Zoo) -> None:
    for s in zoo.scenes:
        save_tiff(zoo, f"images/{s.name}.tif", s.image, photometric="rgb")
        nodata = [(42113, "s", 0, "-9999", True)]
        values = np.where(s.mask, 1, -9999).astype(np.float32)
        save_tiff(zoo, f"masks/{s.name}.tif", values, extratags=nodata)


@refused("none with a known image suffix")
def shapefile(zoo: Zoo) -> Flags:
    zoo.save_images()
    for suffix in ("dbf", "shx", "prj"):
        zoo.write(f"labels.{suffix}", b"x")
    return {"masks": zoo.write("labels.shp", b"\0\0\x27\x0a")}


@refused(
    r"give .* or --mask-affix '\*_watershed_mask'", lambda _: {"mask_affix": "_watershed_mask"}
)
def pixel_annotation_tool(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("images/{}_mask.png".format)
    zoo.save_masks("images/{}_watershed_mask.png".format)
    zoo.save_masks("images/{}_color_mask.png".format, lambda s: paint(s.mask * 1, LEAF, SYMPTOM))
    return {"masks": zoo.images}


@form
def matlab_labeler(zoo: Zoo) -> Flags:
    zoo.save_images("images/image_{}.jpg".format)
    zoo.save_masks("PixelLabelData/Label_1_image_{}.png".format)
    rename(zoo, "image_{}")
    return {"masks": f"{zoo.root}/PixelLabelData"}


@form
def rectlabel(zoo: Zoo) -> Flags:
    zoo.save_images("images/{}.jpg".format)
    zoo.save_masks("masks/{}-all-objects.png".format, lambda s: with_palette(s.ids, *VOC))
    return {"mask_kind": "instances"}


# --- hands


@form
def half_of_the_images_labelled(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.scenes = zoo.scenes[:2]
    zoo.save_masks()


@form
def an_archive_from_a_mac(zoo: Zoo) -> Flags:
    zoo.save_images("data/images/{}.png".format)
    zoo.save_masks("data/masks/{}.png".format)
    for s in zoo.scenes:
        zoo.write(f"__MACOSX/data/images/._{s.name}.png", b"\0\5\26\7")
        zoo.write(f"data/masks/._{s.name}.png", b"\0\5\26\7")
        zoo.write(f"data/images/__MACOSX/._{s.name}.png", b"\0\5\26\7")
    zoo.write("data/images/.DS_Store", b"x")
    zoo.write("data/images/desktop.ini", b"x")
    return {"images": f"{zoo.root}/data/images", "masks": f"{zoo.root}/data/masks"}


@form
def a_folder_in_a_folder(zoo: Zoo) -> None:
    zoo.save_images("images/images/{}.png".format)
    zoo.save_masks("masks/masks/masks/{}.png".format)


@form
def copies_of_windows(zoo: Zoo) -> None:
    zoo.save_images("images/Blatt ({}).JPG".format)
    zoo.save_masks("masks/Blatt ({}) - Kopie.png".format)
    rename(zoo, "Blatt ({})")


@form
def umlauts_of_two_systems(zoo: Zoo) -> None:
    zoo.save_images("images/Gru\u0308n {}.jpeg".format)
    zoo.save_masks("masks/Gr\u00fcn {}_Maske.png".format)
    rename(zoo, "Gru\u0308n {}")


@form
def masks_of_several_suffixes(zoo: Zoo) -> None:
    zoo.save_images("images/{}.jpg".format)
    for s, suffix in zip(zoo.scenes, ("png", "PNG", "tif", "bmp"), strict=True):
        zoo.save(f"masks/{s.name}.{suffix}", white(s))


@refused("no mask in .* has the name of an image")
def numbers_with_and_without_zeros(zoo: Zoo) -> None:
    zoo.scenes = [Scene(str(i), s.image, s.ids) for i, s in enumerate(zoo.scenes, 8)]
    zoo.save_images()
    for s in zoo.scenes:
        zoo.save(f"masks/{int(s.name):03}.png", white(s))


@form
def numbered_images_and_masks(zoo: Zoo) -> None:
    zoo.save_images("images/image_{}.png".format)
    zoo.save_masks("masks/mask_{}.png".format)
    rename(zoo, "image_{}")


@form
def rendered_images_and_masks(zoo: Zoo) -> None:
    zoo.save_images("images/rgb_{}.png".format)
    zoo.save_masks(
        "masks/semantic_segmentation_{}.png".format,
        lambda s: paint(s.mask * 1, (0, 0, 0, 255), (*LEAF, 255)),
    )
    rename(zoo, "rgb_{}")


@form
def masks_of_16_bits(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: s.mask.astype(np.uint16) * 65535)


@form
def masks_with_an_opaque_alpha(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(
        values=lambda s: np.stack([white(s), np.full((HEIGHT, WIDTH), 255, np.uint8)], -1)
    )


@refused(
    "give --mask-kind binary to count values from 128 as the class",
    lambda _: {"mask_kind": "binary"},
)
def masks_called_png_that_are_jpeg(zoo: Zoo) -> None:
    zoo.save_images()
    for s in zoo.scenes:
        file = BytesIO()
        Image.fromarray(white(s)).save(file, "JPEG")
        zoo.write(f"masks/{s.name}.png", file.getvalue())


@refused("JPEGs, which make up ids")
def ids_saved_as_jpeg(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks("masks/{}.jpg".format, lambda s: (s.ids * 60).astype(np.uint8), quality=75)
    return {"mask_kind": "instances"}


@refused("the masks hold 153 values")
def classes_saved_as_jpeg(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/{}.jpg".format, lambda s: classes_of(s) * np.uint8(100), quality=75)


@refused("too many for classes")
def colours_saved_as_jpeg(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks("masks/{}.jpg".format, lambda s: paint(classes_of(s), (0, 0, 0), LEAF, SYMPTOM))


@form
def one_mask_of_another_size_among_many(zoo: Zoo) -> Flags:
    zoo.save_images()
    zoo.save_masks()
    zoo.save("images/odd.png", zoo.scenes[0].image)
    zoo.save("masks/odd.png", white(zoo.scenes[0])[::2, ::3])
    return {"max_error_rate": 0.3}


@refused("--rescale-masks scales it", lambda _: {"rescale_masks": True})
def masks_for_a_large_copy_of_the_images(zoo: Zoo) -> None:
    zoo.save_images()
    zoo.save_masks(values=lambda s: white(s).repeat(3, 0).repeat(3, 1))


@form
def coco_split_into_files_of_a_folder(zoo: Zoo) -> Flags:
    zoo.save_images("train/{}.png".format)
    coco = zoo.coco()
    for part, ids in (("train", (1, 2)), ("val", (3, 4))):
        content = coco | {
            "images": [each for each in coco["images"] if each["id"] in ids],
            "annotations": [each for each in coco["annotations"] if each["image_id"] in ids],
        }
        zoo.write(f"annotations/instances_{part}.json", content)
    return {"images": f"{zoo.root}/train", "masks": f"{zoo.root}/annotations"}


@form
def coco_with_a_byte_order_mark(zoo: Zoo) -> Flags:
    zoo.save_images()
    return {"masks": zoo.write("labels.json", "\ufeff" + json.dumps(zoo.coco()))}


@refused("it is UTF-16 text: save it as UTF-8", lambda z: {"masks": z.write("8.json", z.coco())})
def coco_in_utf_16(zoo: Zoo) -> Flags:
    zoo.save_images()
    return {"masks": zoo.write("labels.json", json.dumps(zoo.coco()).encode("utf-16"))}


@form
def coco_with_text_ids_and_numbers_as_text(zoo: Zoo) -> Flags:
    zoo.save_images()
    coco = zoo.coco()
    for each in coco["images"]:
        each["id"] = f"im{each['id']}"
    for each in coco["annotations"]:
        each["image_id"] = f"im{each['image_id']}"
        each["id"] = f"a{each['id']}"
    return {"masks": zoo.write("labels.json", coco)}


@form
def coco_with_images_last(zoo: Zoo) -> Flags:
    zoo.save_images()
    coco = zoo.coco()
    content = {key: coco[key] for key in ("categories", "annotations", "images")}
    return {"masks": zoo.write("labels.json", content)}
