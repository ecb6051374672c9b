"""COCO files: what cannot be read is one line, or costs one image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import encode_pillow
from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec
from unet_ray.labelled_data.formats.coco import parse_coco
from unet_ray.labelled_data.labelled_set import find_labelled

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


def parse(document: Any, *classes: str) -> Any:
    specs = tuple(ClassSpec(number, name) for number, name in enumerate(classes, 1))
    return parse_coco(json.dumps(document).encode(), "labels.json", specs)


def test_objects_are_drawn_by_class() -> None:
    labels = parse(make_document())
    assert labels.classes == (ClassSpec(1, "cell"), ClassSpec(2, "fibre"))
    cell, fibre = labels.objects["a.png"].draw(6, 8)
    assert (cell.sum(), fibre.sum()) == (6, 0)
    assert cell[1:3, 1:4].all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a COCO instances JSON: Expecting property name"),
        (b"\xff\xfe{", "not a COCO instances JSON: "),
        (b"[" * 100_000, "not a COCO instances JSON: it is nested too deeply"),
        (b"[]", "not a COCO instances JSON: it has no list of categories"),
        (b'{"categories": {}}', "not a COCO instances JSON: it has no list of categories"),
    ],
)
def test_a_file_that_is_no_coco_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"labels.json: {message}") as error:
        parse_coco(content, "labels.json", ())
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
        (image(image_uri=7), r"images\[0\] has the image_uri 7; give text"),
        (image(width="8"), r"images\[0\] has the width '8'; give a number"),
        (image() | {"images": image()["images"] * 2}, r"images\[0\] and images\[1\] have the same"),
        (category(id="a"), "the category 'cell' has the id 'a'; give whole numbers from 0 to"),
        (category(id=-1), "the category 'cell' has the id -1; give whole numbers from 0 to"),
        (category(id=2**70), "the category 'cell' has the id 1180591620717411303424; give whole"),
        (category(name=5), r"categories\[0\] has the name 5; give text"),
        (annotation(image_id=9), r"annotations\[0\] has the image_id 9; that is not among the im"),
        (annotation(image_id=[1]), r"annotations\[0\] has the image_id \[1\]; give a whole number"),
        (annotation(category_id=9), r"annotations\[0\] has the category_id 9; that is not among"),
    ],
)
def test_the_first_wrong_thing_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"labels.json: {message}"):
        parse(make_document(**changes))


def test_ids_may_be_text_or_whole_floats_as_some_tools_write_them() -> None:
    objects = [{"image_id": "x", "category_id": 3.0, "segmentation": [BOX]}]
    found = parse(
        make_document(
            images=[{"id": "x", "file_name": "a.png"}],
            categories=[{"id": 3.0, "name": "cell"}],
            annotations=objects,
        )
    )
    assert found.classes == (ClassSpec(3, "cell"),)
    assert found.objects["a.png"].draw(6, 8)[0].sum() == 6


def test_categories_with_text_for_ids_are_found_by_name() -> None:
    document = make_document(
        **category(id="a"),
        annotations=[{"image_id": 1, "category_id": "a", "segmentation": [BOX]}],
    )
    assert parse(document, "cell").objects["a.png"].draw(6, 8)[0].sum() == 6


def test_objects_of_all_categories_with_one_name_are_of_one_class() -> None:
    found = parse(
        make_document(
            categories=[{"id": 0, "name": "cell"}, {"id": 1, "name": "cell"}],
            annotations=[
                {"image_id": 1, "category_id": 0, "segmentation": [BOX]},
                {"image_id": 1, "category_id": 1, "segmentation": [[n + 3 for n in BOX]]},
            ],
        )
    )
    assert found.classes == (ClassSpec(1, "cell"),)
    assert np.unique(found.objects["a.png"].draw(6, 8)[0]).tolist() == [0, 1, 2]


def test_labels_for_an_image_of_another_size_are_refused() -> None:
    """The polygons of a photograph that was labelled before it was turned are misplaced."""
    objects = parse(make_document()).objects
    with pytest.raises(ImageError, match="a width of 6 px, its labels are for 8 px"):
        objects["a.png"].draw(8, 6)
    assert len(objects["b.png"].draw(8, 6)) == 2  # the file does not say its size
    huge = parse(make_document(**image(width=10**400))).objects["a.png"]
    with pytest.raises(ImageError, match=r"its labels are for 10000+\.\.\.0+ px"):
        huge.draw(6, 8)


def test_a_bad_annotation_costs_its_image_and_is_named(tmp_path: Path) -> None:
    document = make_document()
    document["images"][0] |= {"width": 64, "height": 64}
    document["annotations"] = [
        {"id": 17, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 1e9, 5, 30, 30]]},
        {"id": 18, "image_id": 2, "category_id": 1, "segmentation": [BOX]},
    ]
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(encode_pillow(np.zeros((64, 64, 3), np.uint8)))
    (tmp_path / "labels.json").write_text(json.dumps(document))
    found = find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels.json", (), None)
    bad, good = found.items
    with pytest.raises(ImageError, match=r"unreadable: annotation 17: the coordinate 1e\+09 is"):
        bad.read(found.access)
    assert good.read(found.access)[1][0].sum() == 6
