"""YOLO text files and the files that name their classes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.labelled_data.formats.parsed import (
    damage_bytes,
    list_ignored,
    list_objects,
    parse,
)
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import Annotations, Category, LabelError

TRIANGLE = "0 0.1 0.2 0.5 0.25 0.3 0.75"
CORNERS = [0.1, 0.2, 0.5, 0.25, 0.3, 0.75]
BOX = "1 0.5 0.4 0.2 0.4"
BOX_CORNERS = [0.4, 0.2, 0.6, 0.2, 0.6, 0.6, 0.4, 0.6]
NO_OUTLINE = "boxes without an outline: their pixels are not counted"


def names_of(content: Any, name: str) -> dict[int | None, str]:
    found = parse(content, name)
    assert len(found.images) == 0
    return {each.id: each.name for each in found.categories}


def test_a_line_is_a_class_and_a_polygon() -> None:
    found = parse(f"{TRIANGLE}\n7 0 0 1 0 1 1 0.5 0.5 0 1\n", "train/a.txt")
    assert list_objects(found) == [
        ("0", [CORNERS]),
        ("7", [[0, 0, 1, 0, 1, 1, 0.5, 0.5, 0, 1]]),
    ]
    assert found.categories == (Category("0", 0), Category("7", 7))
    (image,) = found.images.to_pylist()
    assert (image["name"], image["places"]) == ("train/a", [])
    assert (image["width"], image["is_normalised"]) == (None, True)
    assert [each["label"] for each in found.objects_of(0)] == ["line 1", "line 2"]
    assert (found.left_out, found.notes) == ({}, ())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("labels/train/a.txt", ["images/train/a"]),
        ("train/labels/a.txt", ["train/images/a"]),
        ("labels/labels/a.b.txt", ["labels/images/a.b"]),
        ("a.txt", []),
        ("labels.txt", []),
    ],
)
def test_images_are_where_yolo_looks_for_them(name: str, place: list[str]) -> None:
    (image,) = parse(TRIANGLE, name).images.to_pylist()
    assert (image["name"], image["places"]) == (name.removesuffix(".txt"), place)


@pytest.mark.parametrize(
    "content",
    [
        TRIANGLE,
        f"{TRIANGLE}\n",
        f"{TRIANGLE}\r\n",
        f"{TRIANGLE}\r",
        f"\ufeff{TRIANGLE}\n\n",
        f"\n \t\n  {TRIANGLE}  \t\n",
        TRIANGLE.replace(" ", "\t"),
        TRIANGLE.replace(" ", "   "),
        f"# classes: leaf\n{TRIANGLE} # the first\n",
        TRIANGLE.replace("0 0.1", "0.0 .1", 1),
        TRIANGLE.replace("0 0.1", "+0 1e-1", 1),
        f"{TRIANGLE}\n".encode("utf-16"),
        f"{TRIANGLE}\n{TRIANGLE}\n",
    ],
)
def test_ways_in_which_programs_write_lines(content: Any) -> None:
    found = parse(content, "a.txt")
    assert list_objects(found) == [("0", [CORNERS])]
    assert set(found.left_out) <= {"repeated lines"}


def test_lines_end_by_carriage_returns_too() -> None:
    found = parse(f"{TRIANGLE}\r1{TRIANGLE[1:]}\r", "a.txt")
    assert [name for name, _ in list_objects(found)] == ["0", "1"]


@pytest.mark.parametrize("content", ["", "\n", " \r\n", "\ufeff", "# nothing here\n"])
def test_a_blank_file_is_an_image_without_objects(content: str) -> None:
    found = parse(content, "a.txt")
    assert (len(found.images), len(found.objects)) == (1, 0)


def test_boxes_are_pixels_that_are_not_counted() -> None:
    found = parse(f"{BOX}\n{TRIANGLE}\n", "a.txt")
    assert list_objects(found) == [("0", [CORNERS])]
    (((*corners,),),) = list_ignored(found)
    assert corners == pytest.approx(BOX_CORNERS)
    assert found.left_out == {NO_OUTLINE: 1}


def test_boxes_without_area_are_left_out() -> None:
    found = parse("1 0.5 0.4 0 0.4\n", "a.txt")
    assert (len(found.objects), found.left_out) == (0, {"boxes without area": 1})


def test_outlines_of_fewer_than_three_points_are_left_out() -> None:
    found = parse(f"0 0.5 0.5\n{TRIANGLE}\n", "a.txt")
    assert found.left_out == {"outlines of fewer than three points": 1}


def test_confidences_at_the_ends_of_all_lines_are_left_out() -> None:
    found = parse(f"{TRIANGLE} 0.874\n{BOX} 0.5\n", "a.txt")
    assert list_objects(found) == [("0", [CORNERS])]
    assert found.left_out == {"confidences": 2, NO_OUTLINE: 1}


def test_numbers_of_tracks_at_the_ends_of_lines_are_left_out() -> None:
    found = parse(f"{TRIANGLE} 12\n", "a.txt")
    assert list_objects(found) == [("0", [CORNERS])]
    assert found.left_out == {"numbers of tracks": 1}


@pytest.mark.parametrize(
    ("line", "number"), [("0.4 0.3 2", 1), ("0.4 0.3 2 0.5 0.5 0", 2), ("0.4 0.3 1 0.5 0.5 2", 2)]
)
def test_keypoints_are_no_outlines(line: str, number: int) -> None:
    found = parse(f"{BOX} {line}\n", "a.txt")
    assert list_objects(found) == []
    assert found.left_out == {"keypoints": number, NO_OUTLINE: 1}


def test_a_polygon_along_the_edges_of_the_image_is_none_of_keypoints() -> None:
    whole = "0 0 0 1 0 1 1 0 1 0 0"
    assert len(list_objects(parse(whole, "a.txt"))) == 1


def test_outlines_that_may_be_turned_boxes_are_counted() -> None:
    """A box of four corners and a polygon of four corners are written alike."""
    turned, drawn = "0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5", "0 0.5 0.1 0.9 0.5 0.5 0.7 0.1 0.5"
    found = parse(f"{turned}\n{drawn}\n", "a.txt")
    assert len(list_objects(found)) == 2
    text = "outlines that are boxes, upright or turned: taken as outlines"
    assert found.left_out == {text: 1}


def test_outlines_may_leave_the_image() -> None:
    found = parse("0 -0.2 0.1 1.3 0.1 0.5 0.5\n1 -0.002 0.1 1.001 0.1 0.5 0.5\n", "a.txt")
    assert list_objects(found)[0] == ("0", [[-0.2, 0.1, 1.3, 0.1, 0.5, 0.5]])
    assert found.left_out == {"outlines that leave the image: cut off at its edge": 1}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "3 780 588 778 590 772 590 772 593",
            "line 2 has the coordinate 780, perhaps in pixels or per cent;",
        ),
        ("0 12.5 40 60.2 40 50 88", "line 2 has the coordinate 88, perhaps in pixels or per cent;"),
        (
            "0 0.5 -3 0.5 0.5 0.7 0.5",
            "line 2 has the coordinate -3, perhaps in pixels or per cent;",
        ),
        ("leaf 0.1 0.2 0.5 0.25 0.3 0.75", "line 2: the class is 'leaf', which is not a number"),
        ("0.1 0.2 0.5 0.25 0.3 0.75", "line 2: the class is 0.1; give a whole number from 0"),
        ("-1 0.1 0.2 0.5 0.25 0.3 0.75", "line 2: the class is -1; give a whole number from 0"),
        ("3000000000 0.1 0.2 0.5 0.25 0.3 0.7", "line 2: the class is 3000000000; give a whole"),
        ("0,1 0,2 0,5 0,25", "line 2: the class is '0,1', which is not a number; write decimal"),
        ("0 0.1 0.2 0.5 nan 0.3 0.75", "line 2: a coordinate is 'nan', which is not a number"),
        ("0 0.1 0.2 0.5 1_0 0.3 0.75", "line 2: a coordinate is '1_0', which is not a number"),
        ("0 0.1 0.2 0.5 ٣ 0.3 0.75", "line 2: a coordinate is '٣', which is not a number"),
        ("0 0.1 0.2 0.5\x0c0.4 0.3 0.75", "line 2: a coordinate is '0.5\\x0c0.4', which"),
        (
            "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9 plane 0",
            "line 2: a coordinate is 'plane', which is not a number",
        ),
        ("0", "line 2: no outline follows the class"),
        ("0 0.1 0.2 0.5 0.25 0.3", "line 2 has 5 numbers after the class, line 1 has 6: a number"),
        ("0 0.1 0.2 0.5", "line 2 has 3 numbers after the class, line 1 has 6: a number is miss"),
        ("1 0.1 0.1 0.8 0.9", "line 2 has four numbers: as centre, width and height, they are a b"),
        (
            "1 0.5 0.5 -0.2 0.1",
            "line 2 has four numbers: as centre, width and height, they are a b",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused_with_its_line(
    line: str, error: str
) -> None:
    with pytest.raises(LabelError) as caught:
        parse(f"{TRIANGLE}\n{line}\n", "a.txt")
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


def test_odd_numbers_in_all_lines_that_are_no_confidences_are_refused() -> None:
    with pytest.raises(LabelError, match="line 1 has 7 numbers after the class, which are not pai"):
        parse(f"{TRIANGLE} 1.5\n", "a.txt")
    with pytest.raises(LabelError, match="line 1 has 3 numbers after the class"):
        parse("0 0.1 0.2 0.3\n", "a.txt")


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(LabelError, match="not UTF-8 text after line 0; save it as UTF-8"):
        parse(f"# Blätter\n{TRIANGLE}\n".encode("latin-1"), "a.txt")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.roboflow.txt", "\nField - v1\n====\n\nThis dataset was exported\n"),
        ("train.txt", "data/obj_train_data/a b.jpg\ndata/obj_train_data/b.PNG\n"),
    ],
)
def test_texts_that_exports_put_beside_labels_are_no_images(name: str, content: str) -> None:
    found = parse(content, name)
    assert (len(found.images), found.left_out) == (0, {"text files that hold no labels": 1})


DATA_YAML = """\
# Ultralytics
path: ../datasets/field
train: images/train
val: images/val
nc: 2
names: ['leaf', "leaf spot"]

roboflow:
  workspace: field
"""


@pytest.mark.parametrize(
    "content",
    [
        DATA_YAML,
        DATA_YAML.replace("\n", "\r\n"),
        "\ufeff" + DATA_YAML,
        "names:\n  0: leaf\n  1: leaf spot\n",
        "names: {0: leaf, 1: 'leaf spot'}\nnc: 2.0\n",
        "names:\n- leaf\n- leaf spot  # brown\ntrain: C:\\data\\train\n",
        '{"names": ["leaf", "leaf spot"], "nc": 2}',
    ],
)
def test_a_data_yaml_names_the_classes(content: str) -> None:
    assert names_of(content, "data.yaml") == {0: "leaf", 1: "leaf spot"}


def test_names_are_taken_as_they_stand() -> None:
    """YAML itself would make truth values, numbers and dates of them."""
    content = "names: [no, yes, 1, 1.10, null, 2024-01-01, ~]\n"
    assert [*names_of(content, "data.yaml").values()] == [
        "no",
        "yes",
        "1",
        "1.10",
        "null",
        "2024-01-01",
        "~",
    ]


def test_numbers_of_classes_may_have_gaps() -> None:
    assert names_of("names:\n  3: leaf\n  7: stem\n", "dataset.yml") == {3: "leaf", 7: "stem"}


@pytest.mark.parametrize("names", ["", "names:\n", "names: ~\n"])
def test_a_data_yaml_without_names_is_noted(names: str) -> None:
    found = parse(f"nc: 3\n{names}", "data.yaml")
    assert found.categories == ()
    assert found.notes == ("data.yaml has no names: classes are called by their numbers",)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\n"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (BOMB, "line 2: aliases are not read; write out what it stands for"),
        ("names: [a, b]\nnc: 3\n", "line 2: nc is '3', but there are 2 names; correct one of them"),
        ("names: leaf\n", "line 1: names is 'leaf'; give a list"),
        ("names: [a, [b]]\n", "line 1: the name of a class is not text"),
        ("names:\n  0: a\n  0: b\n", "line 3: a class has the number '0'; give each class"),
        ("names:\n  a: 0\n", "line 2: a class has the number 'a'; give each class a whole number"),
        ("names:\n  99999999999: a\n", "line 2: a class has the number '99999999999'"),
        ("names: ['']\n", "line 1: the name of a class is not text"),
        ("train: x\n", "not a data.yaml: it has neither names nor nc"),
        ("- names\n", "not a data.yaml: it does not hold keys and values"),
        ("", "not a data.yaml: it does not hold keys and values"),
        ("nc: 1\nnames: [a\n", "line 3: not valid YAML: "),
        ('path: "C:\\data"\nnames: [a]\n', "line 1: not valid YAML: "),
        ("names: [a]\n--- \nnames: [b]\n", "line 2: not valid YAML: "),
        ("names: !!python/object/apply:os.system ['id']\n", None),
        ("[" * 5000, "not a data.yaml: it is nested too deeply"),
        (
            "kpt_shape: [17, 3]\nnames: [a]\n",
            "line 1: kpt_shape means that the label files hold key",
        ),
        ('names: ["\\U99999999"]\n', "not valid YAML: "),
        ("names: [\x01]\n", "not valid YAML: "),
        (b"names: [\xff]\n", "not UTF-8 text; save it as UTF-8"),
        ("# " + "x" * 2**20, "the YAML has more than 1048576 bytes"),
    ],
)
def test_a_data_yaml_that_is_none_is_refused(content: Any, error: str | None) -> None:
    if error is None:  # tags are not obeyed
        assert names_of(content, "data.yaml") == {0: "id"}
        return
    with pytest.raises(LabelError) as caught:
        parse(content, "data.yaml")
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["classes.txt", "labels/classes.txt", "obj.names", "Classes.TXT"])
def test_class_files_have_a_name_on_each_line(name: str) -> None:
    assert names_of("leaf\r\nleaf spot \r\n7\n\n\n", name) == {0: "leaf", 1: "leaf spot", 2: "7"}


def test_a_blank_line_among_names_is_refused() -> None:
    with pytest.raises(LabelError, match="line 2 is blank, so the numbers of the classes"):
        parse("leaf\n\nstem\n", "classes.txt")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 99),
            st.lists(st.floats(0, 1, allow_subnormal=False), min_size=10, max_size=40),
        ),
        max_size=6,
    )
)
def test_what_is_written_is_read(lines: list[tuple[int, list[float]]]) -> None:
    rows = [(number, [0.3, *values[: len(values) // 2 * 2 - 1]]) for number, values in lines]
    rows = [row for row in rows if len(row[1]) % 3 != 1]  # those that might be keypoints
    text = "".join(f"{number} {' '.join(map(repr, values))}\n" for number, values in rows)
    unique = list(dict.fromkeys((str(number), tuple(values)) for number, values in rows))
    found = list_objects(parse(text, "a.txt"))
    assert [(name, tuple(values)) for name, (values,) in found] == unique


def test_damaged_files_are_refused_or_read() -> None:
    numbers = random.Random(7)
    for name, content in (
        ("a.txt", f"{TRIANGLE} 0.5\n{BOX} 0.5\n"),
        ("a.txt", f"\ufeff{TRIANGLE}\r\n{BOX} 0.5 0.4 2 0.1 0.1 0\r\n"),
        ("data.yaml", DATA_YAML),
        ("data.yaml", "names:\n  0: leaf\n  1: leaf spot\n"),
        ("classes.txt", "leaf\nstem\n"),
    ):
        for _ in range(400):
            try:
                damaged = damage_bytes(content.encode(), numbers)
                Annotations.from_bytes(parse(damaged, name).to_bytes())
            except LabelError:
                continue


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", f"{TRIANGLE}\n{BOX}\n".encode()),
        ("a.txt", f"{TRIANGLE}\n".encode("utf-16")),
        ("data.yaml", DATA_YAML.encode()),
        ("obj.names", b"leaf\nstem\n"),
    ],
)
def test_the_confined_child_reads_the_same(name: str, content: bytes) -> None:
    decoder = Decoder(module="unet_ray.labelled_data.formats.parsing")
    try:
        answer = decoder.call({"name": name}, len(content), lambda: [content])
    finally:
        decoder.close()
    assert bytes(answer) == parse(content, name).to_bytes()
