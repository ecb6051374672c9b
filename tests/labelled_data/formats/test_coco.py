"""COCO files: what cannot be read is one line, or costs one image; what is left out is counted."""

import json
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import encode_pillow
from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, LabelError
from unet_ray.labelled_data.drawing import Drawing
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.formats.parsing import parse_labels
from unet_ray.labelled_data.labelled_set import LabelledSet, LabelOptions
from unet_ray.labelled_data.readers import FileReader

BOX = [1, 1, 4, 1, 4, 3, 1, 3]
"""Polygon of 3×2 px from pixel (1, 1)."""


def make_document(**changes: Any) -> dict[str, Any]:
    """Return a COCO document with two images, two categories and an object, but for changes."""
    return {
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "fibre"}],
        "images": [
            {"id": 1, "file_name": "a.png", "width": 8, "height": 6},
            {"id": 2, "file_name": "b.png"},
        ],
        "annotations": [{"id": 17, "image_id": 1, "category_id": 1, "segmentation": [BOX]}],
    } | changes


def parse_bytes(content: bytes) -> Annotations:
    return parse_labels(BufferedReader(BytesIO(content)), "labels.json")  # type: ignore[arg-type]


def parse(document: Any) -> Annotations:
    return parse_bytes(json.dumps(document).encode())


def list_names(found: Annotations) -> list[str]:
    return found.images["name"].to_pylist()


def draw(found: Annotations, image: int = 0) -> list[np.ndarray]:
    """Return the masks of all categories, each a class of its own."""
    names = [*dict.fromkeys(category.name for category in found.categories)]
    classes = tuple(ClassSpec(number, name) for number, name in enumerate(names, 1))
    places = {row: names.index(each.name) for row, each in enumerate(found.categories)}
    return Drawing(found, classes, places).draw(image, (6, 8))


def write_set(folder: Path, document: Any, *names: str, side: int = 64) -> LabelledSet:
    """Write images and a label file, and find the set of them."""
    for name in names:
        file = folder / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_pillow(np.zeros((side, side, 3), np.uint8)))
    (folder / "labels.json").write_text(json.dumps(document))
    return find_labelled(f"{folder}/images", f"{folder}/labels.json", LabelOptions())


def test_objects_are_drawn_by_class() -> None:
    found = parse(make_document())
    assert [(each.name, each.id) for each in found.categories] == [("cell", 1), ("fibre", 2)]
    cell, fibre = draw(found)
    assert (cell.sum(), fibre.sum()) == (6, 0)
    assert cell[1:3, 1:4].all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "it is in none of the supported formats: .*COCO"),
        (b"\xff\xfe{", "it is in none of the supported formats"),
        (b"[" * 100_000, "it is in none of the supported formats"),
        (b"[]", "it is in none of the supported formats"),
        (b'{"images": [], "annotations": [', "line 1, column 32: Expecting value"),
        (b'{"images": [],\n "annotations": [\xff]}', "line 2, column 18: it is not UTF-8 text"),
        (b'{"images": [], "annotations": ' + b"[" * 100_000, "column 32: it is nested too deeply"),
        (b'{"images": [], "annotations": []}', "it has no list of categories"),
        (b'{"images": {}, "annotations": []}', r"images is \{\}; give a list"),
        (b'{"images": [' + b"9" * 5000 + b'], "annotations": []}', "column 13: Exceeds the limit"),
    ],
)
def test_a_file_that_is_no_coco_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message) as error:
        parse_bytes(content)
    assert "\n" not in str(error.value)


def image(**changes: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, "file_name": "a.png"} | changes]}


def category(**changes: Any) -> dict[str, Any]:
    return {"categories": [{"id": 1, "name": "cell"} | changes]}


def annotation(**changes: Any) -> dict[str, Any]:
    return {"annotations": [{"image_id": 1, "category_id": 1} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [7]}, r"images\[0\] is 7; give an object"),
        (image(id=[1]), r"images\[0\] has the id \[1\]; give a whole number or text"),
        (image(id=None), r"images\[0\] has the id None"),
        (image(id=True), r"images\[0\] has the id True"),
        (image(id=1.5), r"images\[0\] has the id 1.5"),
        (image(file_name=7), r"images\[0\] has the file_name 7; give text"),
        (image(file_name=""), r"images\[0\] has the file_name ''; give text"),
        (image(file_name="\ud800.png"), r"images\[0\] has the file_name '\\ud800.png'; give text"),
        (image(width="eight"), r"images\[0\] has the width 'eight'; give a number"),
        (image(width="9" * 5000), r"images\[0\] has the width '9999.*'; give a number"),
        (image(width=-8), r"images\[0\] has the width -8; give a size in px"),
        (image(width=10**400), r"images\[0\] has the width 1000.*; give a size in px"),
        (image(width=float("nan")), r"images\[0\] has the width nan; give a size in px"),
        (
            {"images": [{"id": 1, "file_name": name} for name in ("a.png", "b.png")]},
            r"images\[1\] has the id 1 of an image before it; give each its own",
        ),
        (
            {"images": [{"id": n, "file_name": "a.png", "width": n, "height": 9} for n in (1, 2)]},
            r"images\[1\]: a.png is listed twice, with \(1, 9\) and \(2, 9\) px; list each image",
        ),
        (category(name=5), r"categories\[0\] has the name 5; give text"),
        (category(name="\ud800"), r"categories\[0\] has the name '\\ud800'; give text"),
        (
            {"categories": [{"id": 1, "name": "cell"}, {"id": 1, "name": "fibre"}]},
            r"categories\[0\] and categories\[1\] have the same id 1, but the names cell and fibre",
        ),
        (annotation(image_id=9), "no annotation has an image_id .* the first has 9.* has 1; corr"),
        (annotation(image_id=[1]), r"annotations\[0\] has the image_id \[1\]; give a whole number"),
        (
            annotation(category_id=9),
            r"1 annotations have a category_id that .* the first is annotations\[0\] with 9; there "
            r"are 1 \(cell\), 2 \(fibre\); add the category or correct the ids",
        ),
        (annotation(segments_info=[]), "a COCO panoptic JSON; give its PNGs"),
    ],
)
def test_the_first_wrong_thing_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message) as error:
        parse(make_document(**changes))
    assert "\n" not in str(error.value)


def test_ids_may_be_text_or_whole_floats_as_some_tools_write_them() -> None:
    objects = [
        {"image_id": "x", "category_id": 3.0, "segmentation": [BOX]},
        {"image_id": "8", "category_id": "3", "segmentation": [[n + 3 for n in BOX]]},
    ]
    found = parse(
        make_document(
            images=[{"id": "x", "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
            categories=[{"id": 3.0, "name": "cell"}],
            annotations=objects,
        )
    )
    assert [(each.name, each.id) for each in found.categories] == [("cell", 3)]
    assert [(draw(found, row)[0] > 0).sum() for row in (0, 1)] == [6, 6]


def test_categories_with_text_for_ids_are_found_by_name(tmp_path: Path) -> None:
    document = make_document(
        images=[{"id": 1, "file_name": "a.png"}],
        categories=[{"id": "a", "name": "cell"}, {"id": -7, "name": "fibre"}],
        annotations=[{"image_id": 1, "category_id": "a", "segmentation": [BOX]}],
    )
    found = write_set(tmp_path, document, "a.png")
    assert found.classes == (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    _, (mask, _), _ = FileReader(found.access, found.items).read(0)
    assert mask.sum() == 6


def test_objects_of_all_categories_with_one_name_are_of_one_class(tmp_path: Path) -> None:
    document = make_document(
        images=[{"id": 1, "file_name": "a.png"}],
        categories=[{"id": 0, "name": "cell"}, {"id": 1, "name": "cell"}],
        annotations=[
            {"image_id": 1, "category_id": 0, "segmentation": [BOX]},
            {"image_id": 1, "category_id": 1, "segmentation": [[n + 3 for n in BOX]]},
        ],
    )
    found = write_set(tmp_path, document, "a.png")
    assert found.classes == (ClassSpec(1, "cell"),)
    _, (mask,), _ = FileReader(found.access, found.items).read(0)
    assert np.unique(mask).tolist() == [0, 2, 3]


def test_lists_may_come_in_any_order() -> None:
    document = make_document()
    for keys in (("annotations", "images", "categories"), ("categories", "annotations", "images")):
        found = parse({"info": {"a": [1]}} | {key: document[key] for key in keys})
        assert list_names(found) == ["a.png", "b.png"]
        assert draw(found)[0].sum() == 6


def test_annotations_of_images_that_are_not_listed_are_left_out_and_counted() -> None:
    document = make_document()
    document["annotations"] += [
        {"id": 18 + n, "image_id": 9, "category_id": 1, "segmentation": [BOX]} for n in range(3)
    ]
    for part in (document, dict(reversed(document.items()))):
        found = parse(part)
        assert found.left_out == {"annotations of images that are not listed": 3}
        assert list_names(found) == ["a.png", "b.png"]
        assert draw(found)[0].sum() == 6


def test_an_image_that_is_listed_twice_gets_the_objects_of_both() -> None:
    document = make_document()
    document["images"] = [
        {"id": 1, "file_name": "a.png", "width": 8, "height": 6},
        {"id": 1, "file_name": "a.png", "width": 8, "height": 6},
        {"id": 5, "file_name": "a.png", "width": 8, "height": 6},
        {"id": 6, "file_name": "a.png", "width": 8, "height": 6, "folder": "day2"},
    ]
    document["annotations"].append(
        {"image_id": 5, "category_id": 1, "segmentation": [[n + 3 for n in BOX]]}
    )
    found = parse(document)
    assert found.left_out == {
        "images that are listed twice": 1,
        "images that are listed twice: their objects are taken together": 1,
    }
    assert found.images["places"].to_pylist() == [[], ["day2/a.png"]]
    assert (draw(found)[0].sum(), draw(found, 1)[0].sum()) == (12, 0)


def test_a_crowd_is_not_counted_and_no_object() -> None:
    crowd = {"image_id": 1, "category_id": 1, "iscrowd": 1}
    runs = {"size": [6, 8], "counts": [0, 48]}
    document = make_document()
    document["annotations"].append(crowd | {"segmentation": runs})
    found = parse(document)
    assert found.left_out == {"crowds: their pixels are not counted": 1}
    cell, fibre = draw(found)
    assert np.unique(cell[1:3, 1:4]).tolist() == [1]
    assert (cell[0, 0], fibre[0, 0]) == (255, 255)


def test_what_has_neither_outline_nor_box_is_left_out_and_counted() -> None:
    nothing = [{}, {"bbox": None}, {"bbox": [1, 2]}, {"bbox": [1, 1, 0, 5]}, {"bbox": ["a"] * 4}]
    keypoints = {"keypoints": [1, 2, 2], "num_keypoints": 1, "segmentation": []}
    entries = [{"image_id": 1, "category_id": 1} | each for each in (*nothing, keypoints)]
    found = parse(make_document(annotations=entries))
    assert found.left_out == {"annotations without an outline or a box": 6}
    assert len(found.objects) == 0


def test_labels_for_an_image_of_another_size_cost_the_image(tmp_path: Path) -> None:
    """The polygons of a photograph that was labelled before it was cropped are misplaced."""
    found = write_set(tmp_path, make_document(), "a.png", "b.png")
    reader = FileReader(found.access, found.items)
    with pytest.raises(ImageError, match="64×64 px, but its label file has 8×6 px$"):
        reader.read(0)
    assert len(reader.read(1)[1]) == 2  # the file does not say its size


def test_a_bad_annotation_costs_its_image_and_is_named(tmp_path: Path) -> None:
    document = make_document()
    document["images"][0] |= {"width": 64, "height": 64}
    document["annotations"] = [
        {"id": 17, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 1e9, 5, 30, 30]]},
        {"id": 18, "image_id": 2, "category_id": 1, "segmentation": [BOX]},
    ]
    found = write_set(tmp_path, document, "a.png", "b.png")
    reader = FileReader(found.access, found.items)
    with pytest.raises(ImageError, match=r"unreadable: annotation 17: the coordinate 1e\+09 is"):
        reader.read(0)
    assert reader.read(1)[1][0].sum() == 6


def test_frames_with_equal_names_are_told_apart_by_their_places(tmp_path: Path) -> None:
    places = {
        "day1": {"path": "/datasets/old/day1/f.png"},
        "day2": {"folder": "day2"},
        "day3": {"coco_url": "http://host/day3/f.png?x=1"},
        "day4": {"s3_url": "s3://bucket/day4/f.png"},
    }
    document = make_document(
        images=[{"id": n, "file_name": "f.png"} | place for n, place in enumerate(places.values())],
        annotations=[
            {"image_id": n, "category_id": 1, "segmentation": [[x + n for x in BOX]]}
            for n in range(4)
        ],
    )
    # an image that has the name of a folder is none of them
    found = write_set(tmp_path, document, *(f"{day}/f.png" for day in places), "day2.png")
    assert found.names == tuple(f"{day}/f.png" for day in places)
    reader = FileReader(found.access, found.items)
    corners = [np.argwhere(reader.read(n)[1][0])[0].tolist() for n in range(4)]
    assert corners == [[1 + n, 1 + n] for n in range(4)]


def test_one_image_that_is_gone_does_not_end_a_set(tmp_path: Path) -> None:
    """Its name must not be taken for another image of the same name in another folder."""
    days = [f"day{n}/f.png" for n in range(4)]
    document = make_document(
        images=[{"id": n, "file_name": name} for n, name in enumerate(days)],
        annotations=[{"image_id": n, "category_id": 1, "segmentation": [BOX]} for n in range(4)],
    )
    for gone, there in ((days[:1], days[1:]), (days[1:], days[:1])):
        folder = tmp_path / str(len(gone))
        found = write_set(folder, document, *there)
        assert found.names == tuple(there)
        assert found.orphans == tuple(f"{name}: no image has its name" for name in gone)


def test_the_confined_child_reads_what_this_process_reads() -> None:
    decoder = Decoder(module="unet_ray.labelled_data.formats.parsing")

    def read(content: bytes) -> Annotations:
        arguments = {"name": "labels.json"}
        return Annotations.from_bytes(decoder.call(arguments, len(content), lambda: [content]))

    try:
        content = json.dumps(make_document()).encode()
        found, here = read(content), parse_bytes(content)
        assert (found.categories, found.left_out) == (here.categories, here.left_out)
        assert (found.images, found.objects) == (here.images, here.objects)
        for bad in (b"[" * 10**6, content[:-3], content.replace(b"17", b"1" * 10_000)):
            with pytest.raises(ImageError, match="unreadable: (it is in none|line 1, column )"):
                read(bad)
        assert read(content).images == here.images
    finally:
        decoder.close()


def test_a_set_of_no_image_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 2 images is in .*: a.png: no image has its"):
        write_set(tmp_path, make_document(), "other.png")
