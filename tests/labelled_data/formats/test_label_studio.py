"""Label Studio's exports: what its versions write, exactly, and what is refused."""

import json
import random
from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.builders import encode_pillow
from tests.labelled_data.formats.label_files import (
    Parse,
    check_refused_or_read,
    list_images,
    list_objects,
    list_pixels,
    make_confined_parser,
    parse_here,
)
from tests.labelled_data.formats.parts.test_brush_runs import encode_brush
from unet_ray.errors import ImageError
from unet_ray.labelled_data.annotations import LabelError

WIDTH, HEIGHT = 200, 50
UPLOAD = "/data/upload/4/cb0618f6-00.png"
PERCENT = [[10, 20], [50, 20], [50, 80.5]]
CORNERS = [20, 10, 100, 10, 100, 40.25]
"""The same in pixels."""
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[10:20, 30:60] = True
MASK[12:15, 35:40] = False
TIMES = ("2024-05-01T10:00:00.000001Z", "2024-05-02T10:00:00.000001Z", "2024-05-03T10:00:00Z")

parse_confined = pytest.fixture(make_confined_parser)


def result(kind: str, labels: list[str] | None = None, /, **value: Any) -> dict[str, Any]:
    """Return a result as Label Studio writes it; its value has the labels under its kind."""
    of_result = ("id", "item_index", "to_name", "original_width", "original_height", "type")
    of_result += ("image_rotation",)
    head = {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "id": f"id{random.random()}",
        "from_name": "tag",
        "to_name": "img",
        "type": kind,
        "origin": "manual",
    }
    head |= {key: value.pop(key) for key in of_result if key in value}
    return head | {"value": value | ({kind: labels} if labels is not None else {})}


def polygon(labels: list[str] | None = None, /, **value: Any) -> dict[str, Any]:
    value = {"points": PERCENT, "closed": True} | value
    return result("polygonlabels", ["leaf"] if labels is None else labels, **value)


def brush(mask_hw: Any = MASK, labels: list[str] | None = None, /, **value: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_brush(mask_hw)} | value
    return result("brushlabels", ["leaf"] if labels is None else labels, **value)


def box(**value: Any) -> dict[str, Any]:
    place = {"x": 10, "y": 20, "width": 40, "height": 60, "rotation": 0}
    return result("rectanglelabels", ["leaf"], **place | value)


def annotation(*results: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": 11,
        "completed_by": 1,
        "result": [*results],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": TIMES[0],
        "updated_at": TIMES[0],
        "draft_created_at": None,
        "lead_time": 12.5,
        "prediction": {},
        "result_count": 0,
        "task": 5,
        "project": 4,
    } | changes


def task(*annotations: Any, data: Any = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "annotations": [*annotations],
        "file_upload": "cb0618f6-00.png",
        "drafts": [],
        "predictions": [],
        "data": {"image": UPLOAD} if data is None else data,
        "meta": {},
        "created_at": TIMES[0],
        "inner_id": 1,
        "total_annotations": len(annotations),
        "cancelled_annotations": 0,
        "project": 4,
    } | changes


def simple(*results: Any, name: str = "a.png") -> dict[str, Any]:
    """Return a task of an image with one annotation."""
    return task(annotation(*results), data={"image": name}, file_upload=None)


def parse(*tasks: Any, name: str = "project-4.json") -> Any:
    return parse_here(json.dumps([*tasks], indent=2).encode(), name)


def test_polygons_and_brush_strokes_are_read_in_pixels() -> None:
    found = parse(task(annotation(polygon(), brush(MASK, ["spot"]))))
    (row,) = found.images.to_pylist()
    assert (row["name"], row["places"]) == (UPLOAD, ["cb0618f6-00.png"])
    assert (row["width"], row["height"], row["is_normalised"]) == (WIDTH, HEIGHT, False)
    assert list_objects(found, UPLOAD) == [("leaf", CORNERS), ("spot", list_pixels(MASK))]
    assert found.left_out == {}
    assert found.notes == ()


def test_an_outline_and_its_labels_may_be_results_of_their_own() -> None:
    geometry = {"points": PERCENT, "closed": True}
    found = parse(
        simple(
            result("polygon", None, id="r1", **geometry),
            result("labels", ["leaf"], id="r1", **geometry),
            result("choices", None, id="r1", choices=["ill"], **geometry),
            result("brush", None, id="r2", format="rle", rle=encode_brush(MASK)),
            result("labels", ["spot"], id="r2", format="rle", rle=encode_brush(MASK)),
        )
    )
    assert list_objects(found, "a.png") == [("leaf", CORNERS), ("spot", list_pixels(MASK))]


def test_a_region_with_several_labels_is_an_object_of_each() -> None:
    found = parse(simple(polygon(["leaf", "ill"])))
    assert list_objects(found, "a.png") == [("leaf", CORNERS), ("ill", CORNERS)]
    assert found.left_out == {"regions with several labels: taken as an object of each": 1}


def test_without_labels_all_are_objects_and_beside_labels_they_are_not_counted() -> None:
    bare = result("polygon", None, points=PERCENT)
    assert list_objects(parse(simple(bare)), "a.png") == [("object", CORNERS)]
    found = parse(simple(bare, polygon()))
    assert list_objects(found, "a.png") == [("leaf", CORNERS), ("ignored None", CORNERS)]
    assert found.left_out == {"outlines without a label: their pixels are not counted": 1}
    assert [each.name for each in found.categories] == ["leaf"]


def test_an_ellipse_is_turned_in_pixels() -> None:
    value = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 8, "rotation": 90}
    found = parse(simple(result("ellipselabels", ["leaf"], **value)))
    ((_, corners),) = list_objects(found, "a.png")
    x, y = corners[::2], corners[1::2]  # radii of 20 and 4 px
    assert (min(x), max(x), min(y), max(y)) == pytest.approx((96, 104, 5, 45), abs=0.05)


def test_boxes_and_keypoints_are_no_outlines() -> None:
    keypoint = result("keypointlabels", ["leaf"], x=1, y=2, width=0.3)
    turned = box(x=50, y=50, width=10, height=20, rotation=90)
    found = parse(simple(polygon(), keypoint, box(), turned))
    assert list_objects(found, "a.png") == [
        ("leaf", CORNERS),
        ("ignored leaf", [100, 25, 100, 45, 90, 45, 90, 25]),
    ]
    assert found.left_out == {
        "keypoints": 1,
        "boxes around an outline": 1,
        "boxes without an outline: their pixels are not counted": 1,
    }


def test_a_project_of_boxes_only_is_refused_with_what_to_draw() -> None:
    with pytest.raises(LabelError, match="it has 2 boxes and no outlines; .*: draw brush strokes"):
        parse(simple(box()), simple(box(), name="b.png"))


def encode_bitmask(alpha_hw: Any) -> str:
    pixels = np.zeros((*alpha_hw.shape, 4), np.uint8)
    pixels[:, :, 3] = alpha_hw
    return "data:image/png;base64," + b64encode(encode_pillow(Image.fromarray(pixels))).decode()


def test_bitmasks_are_read() -> None:
    url = encode_bitmask(MASK * 255)
    found = parse(simple(result("bitmasklabels", ["leaf"], imageDataURL=url)))
    assert list_objects(found, "a.png") == [("leaf", list_pixels(MASK))]


def test_closed_vector_paths_are_read_and_others_counted() -> None:
    vertices = [
        {"id": str(i), "x": x, "y": y, "isBezier": False} for i, (x, y) in enumerate(PERCENT)
    ]
    curved = [{**vertices[0], "isBezier": True}, *vertices[1:]]
    found = parse(
        simple(
            result("vectorlabels", ["leaf"], vertices=vertices, closed=True),
            result("vectorlabels", ["leaf"], vertices=vertices, closed=False),
            result("vectorlabels", ["leaf"], vertices=curved, closed=True),
        )
    )
    assert list_objects(found, "a.png") == [("leaf", CORNERS)]
    assert found.left_out == {"vector paths that are open or have curves": 2}


def test_what_has_no_pixels_is_counted() -> None:
    found = parse(
        simple(
            polygon(),
            polygon(points=PERCENT[:2]),
            polygon(closed=False),
            brush(np.zeros((HEIGHT, WIDTH))),
            result("choices", None, choices=["good"]),
            {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
            result("videorectangle", None, sequence=[]),
        )
    )
    assert list_objects(found, "a.png") == [("leaf", CORNERS)]
    assert found.left_out == {
        "outlines of fewer than three points": 1,
        "polygons that were not closed": 1,
        "brush strokes without pixels": 1,
        "answers that are not regions": 1,
        "relations": 1,
        "tracks of a video": 1,
    }


def test_of_several_annotations_the_newest_submitted_is_taken() -> None:
    old = annotation(polygon(["old"]), created_at=TIMES[0], updated_at=TIMES[0])
    new = annotation(polygon(["new"]), created_at=TIMES[0], updated_at=TIMES[1])
    skipped = annotation(polygon(["skipped"]), updated_at=TIMES[2], was_cancelled=True)
    found = parse(task(new, old, skipped, data={"image": "a.png"}))
    assert list_objects(found, "a.png") == [("new", CORNERS)]
    assert found.notes == (
        "tasks with several submitted annotations: 1; the newest of each is taken",
    )
    twin = new | {"id": 12, "result": [polygon(["twin"])]}
    found = parse(task(twin, new, data={"image": "a.png"}))
    assert list_objects(found, "a.png") == [("twin", CORNERS)]
    found = parse(task(old, skipped, data={"image": "a.png"}))
    assert list_objects(found, "a.png") == [("old", CORNERS)]
    assert found.notes == ()


def test_completions_of_old_versions_are_read() -> None:
    first = {"id": 1, "created_at": 1_600_000_000, "lead_time": 3.5, "result": [polygon(["a"])]}
    second = first | {"created_at": 1_600_000_100, "result": [polygon(["b"])]}
    third = first | {"created_at": 1_600_000_200, "skipped": True, "was_cancelled": True}
    old = {"id": 0, "completions": [second, first, third], "data": {"image": "a.png"}}
    assert list_objects(parse(old), "a.png") == [("b", CORNERS)]


def test_unlabelled_tasks_are_left_out_and_empty_ones_are_images_without_objects() -> None:
    predicted = {"model_version": "m", "score": 0.5, "result": [polygon()]}
    found = parse(
        simple(),
        task(data={"image": "b.png"}, predictions=[predicted]),
        task(annotation(polygon(), was_cancelled=True), data={"image": "c.png"}),
        task(data={"image": "d.png"}, drafts=[annotation(polygon())]),
    )
    assert [*list_images(found)] == ["a.png"]
    assert list_objects(found, "a.png") == []
    assert found.left_out == {"tasks without a submitted annotation": 3, "predictions": 1}
    with pytest.raises(LabelError, match="none of its 2 tasks has a submitted annotation"):
        parse(task(predictions=[predicted]), task())


@pytest.mark.parametrize(
    ("data", "changes", "name", "places"),
    [
        ({"image": "s3://bucket/a/b.png"}, {}, "s3://bucket/a/b.png", ["cb0618f6-00.png"]),
        (
            {"image": "/data/local-files/?d=plants%20x/a.jpg"},
            {"file_upload": None, "storage_filename": "plants x/a.jpg"},
            "/data/local-files/?d=plants%20x/a.jpg",
            ["plants x/a.jpg"],
        ),
        ({"img": "http://h/a.JPG?sig=1"}, {"file_upload": ""}, "http://h/a.JPG?sig=1", []),
        ({"ocr": "a.tif", "text": "a leaf"}, {"file_upload": None}, "a.tif", []),
        ({"$undefined$": UPLOAD}, {"file_upload": None}, UPLOAD, []),
        ({"image": "http://host/blob/17"}, {"file_upload": None}, "http://host/blob/17", []),
        (
            {"filename": "leaf 1.png", "image": UPLOAD, "thumb": "t.png"},
            {"file_upload": None},
            UPLOAD,
            ["leaf 1.png"],
        ),
        (
            {"image": UPLOAD, "mask_path": "m.png", "source_path": "x/leaf 1.png"},
            {"file_upload": None},
            UPLOAD,
            ["x/leaf 1.png"],
        ),
        ({"thumb": "t.png", "img": "a.png"}, {"file_upload": None}, "a.png", []),
        ({"file_name": "a.png", "path": "x/a.png"}, {"file_upload": None}, "a.png", ["x/a.png"]),
        ({"text": "no image"}, {}, "cb0618f6-00.png", []),
    ],
)
def test_the_name_of_the_image_is_found(data: Any, changes: Any, name: str, places: Any) -> None:
    found = parse(task(annotation(polygon()), data=data, **changes))
    ((known, row),) = list_images(found).items()
    assert (known, row["places"]) == (name, places)
    assert list_objects(found, name) == [("leaf", CORNERS)]


def test_a_task_without_a_name_is_counted() -> None:
    for data in ({"text": "a"}, {"image": "data:image/png;base64,AAAA"}, {"image": {"a": 1}}):
        found = parse(task(annotation(polygon()), data=data, file_upload=None))
        assert found.left_out == {"tasks without the name of an image": 1}
        assert len(found.images) == 0


def test_regions_of_two_images_go_where_they_were_drawn() -> None:
    data = {"left": "a.png", "right": "b.png"}
    found = parse(
        task(
            annotation(polygon(to_name="left"), polygon(["x"], to_name="right")),
            data=data,
            file_upload=None,
        )
    )
    assert list_objects(found, "a.png") == [("leaf", CORNERS)]
    assert list_objects(found, "b.png") == [("x", CORNERS)]
    message = r"\[0\], task 5: its regions may be drawn on left \('a.png'\) or on right"
    with pytest.raises(LabelError, match=message):
        parse(task(annotation(polygon()), data=data, file_upload=None))


def test_pages_are_told_apart_by_item_index() -> None:
    pages = ["s3://b/p0.png", "s3://b/p1.png", "s3://b/p2.png"]
    results = [polygon(item_index=1), polygon(["x"], item_index=0)]
    found = parse(task(annotation(*results), data={"pages": pages}))
    assert [*list_images(found)] == pages
    assert list_objects(found, pages[0]) == [("x", CORNERS)]
    assert list_objects(found, pages[1]) == [("leaf", CORNERS)]
    assert list_objects(found, pages[2]) == []
    with pytest.raises(LabelError, match="is drawn on image 7 of img, which has 3 images"):
        parse(task(annotation(polygon(item_index=7)), data={"pages": pages}))


def test_shares_are_kept_where_the_size_is_not_stated() -> None:
    unsized = {"original_width": None, "original_height": None}
    ellipse = {"x": 50, "y": 40, "radiusX": 10, "radiusY": 20}
    found = parse(
        simple(polygon(**unsized), result("ellipselabels", ["leaf"], **ellipse, **unsized))
    )
    assert list_images(found)["a.png"]["is_normalised"]
    first, second = list_objects(found, "a.png")
    assert first == ("leaf", [0.1, 0.2, 0.5, 0.2, 0.5, 0.805])
    x, y = second[1][::2], second[1][1::2]
    assert (min(x), max(x), min(y), max(y)) == pytest.approx((0.4, 0.6, 0.2, 0.6), abs=1e-3)


def test_a_view_that_was_turned_is_noted() -> None:
    found = parse(simple(polygon(image_rotation=90)))
    assert list_objects(found, "a.png") == [("leaf", CORNERS)]
    assert found.notes[0].startswith("images that were turned in Label Studio's view: 1; ")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (polygon(points=[[1, 2], [3, 4], [5, "x"]]), "'x' is not a number"),
        (polygon(points=[[1, 2], [3, 4], [5]]), "its points are"),
        (polygon(points=[[1, 2], [3, 4], [5, float("nan")]]), "the number nan"),
        (polygon(points=[[1, 2], [3, 4], [5, 10**400]]), "1000"),
        (polygon(points="1,2"), "its points are '1,2'"),
        (polygon(original_width=0), "its image has 0×50 px"),
        (polygon(original_width="wide"), "'wide' is not a number"),
        (brush(rle=[1, 2, 300]), "its run lengths are [1, 2, 300]; they must be bytes"),
        (brush(rle=[1, 2]), "its run lengths end too early"),
        (brush(rle=[]), "it has no run lengths (rle)"),
        (brush(rle="AQI="), "it has no run lengths (rle)"),
        (
            brush(MASK[:40]),
            "its run lengths have 32000 values, but an image of 200×50 px has 40000",
        ),
        (brush(original_width=None), "its image has no known size"),
        (box(original_width=None, rotation=5), "it is turned, but its image has no known size"),
        (result("bitmasklabels", ["a"], imageDataURL="http://x"), "its bitmask is 'http://x'; it"),
        (
            result("bitmasklabels", ["a"], imageDataURL="data:image/png;base64,AAAA"),
            "its mask cannot be read: not an image",
        ),
        (
            result("bitmasklabels", ["a"], imageDataURL=encode_bitmask(np.ones((5, 6)))),
            "its bitmask has 6×5 px, but the image has 200×50 px",
        ),
    ],
)
def test_a_region_that_cannot_be_drawn_costs_its_image_and_is_named(
    region: Any, message: str
) -> None:
    found = parse(simple(region | {"id": "r1"}), simple(polygon(), name="b.png"))
    ((_, error),) = list_objects(found, "a.png")
    assert error.startswith(message)
    assert found.objects["label"][0].as_py() == "[0], task 5, region 'r1'"
    assert list_objects(found, "b.png") == [("leaf", CORNERS)]


def test_regions_for_images_of_several_sizes_cost_their_image() -> None:
    found = parse(simple(polygon(), polygon(original_width=100)))
    assert list_images(found)["a.png"]["error"] == (
        "its regions are for images of several sizes: 100×50 px, 200×50 px"
    )


def test_an_image_of_two_tasks_is_taken_once_or_refused() -> None:
    found = parse(simple(polygon()), simple(polygon()), simple())
    assert list_objects(found, "a.png") == [("leaf", CORNERS)]
    assert found.left_out == {"images that are listed twice, with the same labels or none": 2}
    message = r"\[1\], task 5: a.png has other labels in \[0\], task 5; they may be two images"
    with pytest.raises(LabelError, match=message):
        parse(simple(polygon()), simple(polygon(["spot"])))


def record(number: int, image: str, time: str = TIMES[0], **results: Any) -> dict[str, Any]:
    """Return a record of JSON-MIN."""
    return {"image": image, "id": number} | results | {
        "annotator": 1,
        "annotation_id": 9,
        "created_at": time,
        "updated_at": time,
        "lead_time": 3.0,
    }  # fmt: skip


def minimise(region: dict[str, Any]) -> dict[str, Any]:
    """Return a region as JSON-MIN writes it."""
    keys = ("original_width", "original_height")
    return region["value"] | {key: region[key] for key in keys if key in region}


def test_json_min_is_read() -> None:
    outline = minimise(result("polygon", None, points=PERCENT))
    found = parse(
        record(1, "a.png", tag=[minimise(polygon()), minimise(brush(MASK, ["spot"]))], kind="good"),
        record(2, "b.png", TIMES[1], tag=[minimise(polygon(["new"]))], kind="bad"),
        record(2, "b.png", TIMES[0], tag=[minimise(polygon(["old"]))]),
        record(3, "c.png"),
        record(4, "d.png", outline=[outline], label=[outline | {"labels": ["leaf"]}]),
        record(5, "e.png") | {"annotation_id": None},
    )
    assert [*list_images(found)] == ["a.png", "b.png", "c.png", "d.png"]
    assert list_objects(found, "a.png") == [("leaf", CORNERS), ("spot", list_pixels(MASK))]
    assert list_objects(found, "b.png") == [("new", CORNERS)]
    assert list_objects(found, "c.png") == []
    assert list_objects(found, "d.png") == [("leaf", CORNERS)]
    assert found.left_out == {"tasks without a submitted annotation": 1}
    assert found.notes == (
        "tasks with several submitted annotations: 1; the newest of each is taken",
    )


def test_one_task_per_file_lines_and_stored_annotations_are_read() -> None:
    whole = simple(polygon())
    stored = annotation(polygon(), task={"id": 5, "data": {"image": "a.png"}})
    lines = "\n".join([json.dumps(whole), "", json.dumps(simple(name="b.png"))])
    for content, name in (
        (json.dumps(whole), "5.json"),
        (json.dumps(whole, indent=1), "5.json"),
        (json.dumps(stored), "11.json"),
        (json.dumps([stored]), "all.json"),
        (lines, "all.jsonl"),
        ("\ufeff" + lines + "\n", "all.ndjson"),
        (lines, "all.json"),
    ):
        found = parse_here(content.encode(), name)
        assert list_objects(found, "a.png") == [("leaf", CORNERS)], name
        assert len(found.images) == (2 if content.count("\n\n") else 1)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ('[{"data": {"image": "a"}, "annotations": [', "a.json", r"line 1, column \d+: "),
        ('{"data": {}, "annotations": []}\n{"data', "a.jsonl", "line 2, column 2: Unterminated"),
        ('{"data": {}, "annotations": []}\n\n7', "a.jsonl", "line 3 is 7; give a task"),
        ('["data", "annotations"]', "a.json", r"\[0\] is 'data'; give a task of Label Studio"),
        (
            '[{"to_name": 1}]',
            "a.json",
            r"\[0\] has neither the data of a task nor an annotation_id",
        ),
        (
            '[{"id": 3, "data": {"image": "a.png"}, "annotations": [4]}]',
            "a.json",
            r"\[0\], task 3 has the annotations \[4\]; give objects",
        ),
        (
            '[{"id": 3, "data": {"image": "a.png"}, "annotations": [{"result": {"a": 1}}]}]',
            "a.json",
            r"\[0\], task 3 has the result {'a': 1}; give a list",
        ),
        (
            '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": {"points": '
            + "[" * 5_000
            + "]" * 5_000
            + "}}]}]}]",
            "a.json",
            "nested too deeply",
        ),
        (
            '[{"data": {"image": "a.png"}, "annotations": [{"result": [5]}]}]',
            "a.json",
            r"\[0\]: result 0 is 5; give an object",
        ),
        (
            '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": '
            '{"points": [], "polygonlabels": ["\\ud800"]}}]}]}]',
            "a.json",
            r"\[0\] has the label '\\ud800'; give text",
        ),
    ],
)
def test_what_is_no_export_is_refused_with_its_place(content: str, name: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_here(content.encode(), name)


def change(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with something in it replaced by something else."""
    strange = (None, True, -1, 2**70, 1e308, float("nan"), "", "x", "\ud800", [], {}, [[]], [None])
    if rng.random() < 0.1 or not isinstance(value, dict | list) or not value:
        return rng.choice(strange)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if isinstance(copy, dict) and rng.random() < 0.1:
        del copy[key]
    else:
        copy[key] = change(value[key], rng)
    return copy


def test_a_damaged_export_is_refused_or_read() -> None:
    small = brush(MASK, rle=encode_brush(MASK)[:60])
    url = encode_bitmask(MASK * 255)
    results = [polygon(), small, box(), result("bitmasklabels", ["leaf"], imageDataURL=url)]
    results += [result("ellipselabels", ["leaf"], x=5, y=5, radiusX=2, radiusY=3, rotation=9)]
    tasks = [
        task(annotation(*results), annotation(polygon()), predictions=[{"result": []}]),
        simple(polygon(item_index=0)),
        record(3, "c.png", tag=[minimise(each) for each in results]),
    ]
    rng = random.Random(3)
    for _ in range(600):
        changed: Any = tasks
        for _ in range(rng.randint(1, 3)):
            changed = change(changed, rng)
        content = json.dumps(changed).encode()
        if rng.random() < 0.1:
            content = content[: rng.randrange(len(content))]
        check_refused_or_read(content, "a.json")


def test_the_decoders_child_reads_it(parse_confined: Parse) -> None:
    bitmask = result("bitmasklabels", ["leaf"], imageDataURL=encode_bitmask(MASK * 255))
    two = task(annotation(polygon()), annotation(brush(), bitmask, updated_at=TIMES[1]))
    found = parse_confined(json.dumps([two]).encode(), "a.json")
    assert list_objects(found, UPLOAD) == [("leaf", list_pixels(MASK))] * 2
    with pytest.raises(ImageError, match=r"unreadable: \[0\] is 7; give a task"):
        parse_confined(b'[7, {"from_name": 1}]', "a.json")
