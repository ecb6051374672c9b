"""CVAT for images 1.1: what CVAT and datumaro write, exactly, and what is refused."""

import random
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from tests.labelled_data.formats.label_files import (
    Parse,
    check_refused_or_read,
    list_images,
    list_objects,
    list_pixels,
    make_confined_parser,
    parse_here,
)
from unet_ray.errors import ImageError
from unet_ray.labelled_data.annotations import LabelError

META = """<meta><task><id>7</id><name>leaves</name><size>2</size><mode>annotation</mode>
<labels>
<label><name>leaf</name><color>#33ddff</color><type>any</type><attributes></attributes></label>
<label><name>spot</name><color>#b83df5</color><type>polygon</type><attributes></attributes></label>
<label><name>ruler</name><color>#ff0000</color><type>rectangle</type></label>
<label><name>plant</name><color>#ff0001</color><type>skeleton</type></label>
<label><name>tip</name><color>#ff0002</color><type>any</type><parent>plant</parent></label>
</labels></task><dumped>2024-05-01 10:00:00.000000+00:00</dumped></meta>"""
TRIANGLE = "5.00,5.00;20.00,5.00;5.00,20.50"
CORNERS = [5, 5, 20, 5, 5, 20.5]

parse_confined = pytest.fixture(make_confined_parser)


def shape(tag: str, inside: str = "", **attributes: Any) -> str:
    values = {"label": "leaf", "source": "manual", "occluded": "0", "z_order": "0"}
    values |= {key: str(value) for key, value in attributes.items()}
    text = " ".join(f"{key}={quoteattr(value)}" for key, value in values.items())
    return f"<{tag} {text}>{inside}</{tag}>"


def polygon(points: str = TRIANGLE, **attributes: Any) -> str:
    return shape("polygon", points=points, **attributes)


def image(*shapes: str, name: str = "a.jpg", **attributes: Any) -> str:
    values = {"id": 0, "name": name} | attributes
    values = {"width": 64, "height": 48} | values
    text = " ".join(f"{key}={quoteattr(str(value))}" for key, value in values.items())
    return f"<image {text}>\n" + "\n".join(shapes) + "\n</image>"


def document(*elements: str, meta: str = META) -> bytes:
    parts = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    return "\n".join([*parts, meta, *elements, "</annotations>", ""]).encode()


def parse(*elements: str, meta: str = META) -> Any:
    return parse_here(document(*elements, meta=meta), "annotations.xml")


def test_polygons_keep_their_corners_labels_and_names() -> None:
    found = parse(
        image(polygon(), polygon(label="spot"), name="trees/1/a.jpg"),
        image(name="trees/2/b.jpg", id=1, width=100, height=80),
    )
    assert [each.name for each in found.categories] == ["leaf", "spot"]
    images = list_images(found)
    assert [*images] == ["trees/1/a.jpg", "trees/2/b.jpg"]
    assert (images["trees/1/a.jpg"]["width"], images["trees/1/a.jpg"]["height"]) == (64, 48)
    assert list_objects(found, "trees/1/a.jpg") == [("leaf", CORNERS), ("spot", CORNERS)]
    assert list_objects(found, "trees/2/b.jpg") == []
    assert found.left_out == {}


def write_rle(mask_hw: Any) -> str:
    """Return run lengths as CVAT writes them: along the rows, background first."""
    values = [0, *mask_hw.ravel().astype(int).tolist()]
    ends = [i for i in range(1, len(values)) if values[i] != values[i - 1]] + [len(values)]
    counts = np.diff([1, *ends]).tolist()
    return ", ".join(map(str, counts))


def test_masks_are_read_along_their_rows_at_their_place() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random(tuple(rng.integers(1, 9, 2))) < 0.5
        mask[0, 0] = True
        left, top = (int(n) for n in rng.integers(0, 30, 2))
        text = shape(
            "mask",
            rle=write_rle(mask),
            left=left,
            top=top,
            width=mask.shape[1],
            height=mask.shape[0],
        )
        ((label, pixels),) = list_objects(parse(image(text)), "a.jpg")
        assert label == "leaf"
        assert pixels == {(x + left, y + top) for x, y in list_pixels(mask)}


def test_an_empty_mask_is_counted() -> None:
    found = parse(image(shape("mask", rle="6", left=0, top=0, width=3, height=2)))
    assert list_objects(found, "a.jpg") == []
    assert found.left_out == {"masks without pixels": 1}


def test_ellipses_are_outlines_turned_clockwise() -> None:
    text = shape("ellipse", cx="30.00", cy="20.00", rx="10.00", ry="2.00", rotation="90.00")
    ((label, corners),) = list_objects(parse(image(text)), "a.jpg")
    x, y = np.array(corners[::2]), np.array(corners[1::2])
    assert label == "leaf"
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((28, 32, 10, 30), abs=0.02)
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert area == pytest.approx(np.pi * 20, rel=0.01)
    # a quarter of a right angle: the end of the long axis lies below the centre, to the right
    ((_, corners),) = list_objects(
        parse(image(shape("ellipse", cx=30, cy=20, rx=10, ry=2, rotation=45))), "a.jpg"
    )
    assert corners[:2] == pytest.approx([30 + 50**0.5, 20 + 50**0.5])


def test_shapes_without_an_inside_are_counted() -> None:
    skeleton = shape(
        "skeleton", shape("points", label="tip", outside="0", points="1,1"), label="plant"
    )
    found = parse(
        image(
            polygon(),
            shape("polyline", points="1.00,1.00;2.00,2.00"),
            shape("points", points="1.00,1.00;2.00,2.00"),
            skeleton,
            shape("cuboid", xtl1="1", ytl1="1"),
            shape("tag"),
            shape("hologram"),
        )
    )
    assert len(list_objects(found, "a.jpg")) == 1
    assert found.left_out == {
        "polylines": 1,
        "points": 1,
        "skeletons": 1,
        "cuboids": 1,
        "tags of whole images": 1,
        "shapes of unknown kinds": 1,
    }


def box(xtl: float, ytl: float, xbr: float, ybr: float, **attributes: Any) -> str:
    return shape("box", xtl=xtl, ytl=ytl, xbr=xbr, ybr=ybr, **attributes)


def test_a_box_around_an_outline_is_left_out_and_others_are_pixels_not_counted() -> None:
    found = parse(
        image(
            box(4, 5, 21, 21),
            polygon(),
            box(30, 30, 40, 40),
            box(5, 5, 20, 20, label="ruler"),
        )
    )
    assert list_objects(found, "a.jpg") == [
        ("leaf", CORNERS),
        ("ignored leaf", [30, 30, 40, 30, 40, 40, 30, 40]),
        ("ignored ruler", [5, 5, 20, 5, 20, 20, 5, 20]),
    ]
    assert found.left_out == {
        "boxes around an outline": 1,
        "boxes without an outline: their pixels are not counted": 2,
    }


def test_a_turned_box_is_turned_about_its_centre() -> None:
    found = parse(image(polygon(), box(30, 30, 40, 34, rotation="90.00")))
    assert list_objects(found, "a.jpg")[1] == ("ignored leaf", [37, 27, 37, 37, 33, 37, 33, 27])


def test_a_set_of_boxes_only_is_refused_with_what_to_draw() -> None:
    images = [image(box(1, 1, 9, 9), name=f"{i}.jpg") for i in range(3)]
    with pytest.raises(LabelError, match="3 boxes and no outlines; .*: draw polygons, masks"):
        parse(*images)


def test_higher_shapes_are_drawn_later() -> None:
    found = parse(
        image(
            polygon(z_order=2),
            polygon(z_order=-1, label="spot"),
            polygon("1,1;2,1;2,2", z_order=0),
            polygon("1,1;3,1;3,3", z_order=0),
        )
    )
    assert list_objects(found, "a.jpg") == [
        ("spot", CORNERS),
        ("leaf", [1, 1, 2, 1, 2, 2]),
        ("leaf", [1, 1, 3, 1, 3, 3]),
        ("leaf", CORNERS),
    ]


def test_a_group_with_one_label_is_one_object() -> None:
    found = parse(
        image(
            polygon("1,1;2,1;2,2", group_id=4),
            polygon(),
            polygon("5,5;6,5;6,6", group_id=4),
            polygon("7,7;8,7;8,8", group_id=4, label="spot"),
            polygon("9,9;10,9;10,10", group_id=4, z_order=1),
        )
    )
    assert list_objects(found, "a.jpg") == [
        ("leaf", [[1, 1, 2, 1, 2, 2], [5, 5, 6, 5, 6, 6]]),
        ("leaf", CORNERS),
        ("spot", [7, 7, 8, 7, 8, 8]),
        ("leaf", [9, 9, 10, 9, 10, 10]),
    ]
    assert found.left_out == {
        "groups at several heights (z_order): each height is an object of its own": 1
    }


def test_a_crowd_is_pixels_that_are_not_counted() -> None:
    crowd = shape("polygon", '<attribute name="is_crowd">true</attribute>', points=TRIANGLE)
    other = shape("polygon", '<attribute name="is_crowd">false</attribute>', points=TRIANGLE)
    found = parse(image(crowd, other))
    assert [label for label, _ in list_objects(found, "a.jpg")] == ["ignored leaf", "leaf"]
    assert found.left_out == {"crowds: their pixels are not counted": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (polygon("1,1;2,a;3,3"), "'a' is not a number"),
        (polygon("1,1;2;3,3"), "its points are '1,1;2;3,3'"),
        (polygon("1,1;nan,2;3,3"), "the number nan"),
        (polygon("1,1;1e400,2;3,3"), "the number inf"),
        (polygon(z_order="x"), "polygon has the z_order 'x'; it must be a number"),
        (shape("mask", rle="3,4", left=0, top=0, width=3, height=2), "run lengths that fill 7 px"),
        (shape("mask", rle="3,x", left=0, top=0, width=3, height=2), "its run lengths are '3,x'"),
        (
            shape("mask", rle=f"{10**30}", left=0, top=0, width=3, height=2),
            "its run lengths are '1000",
        ),
        (shape("mask", rle="-1,7", left=0, top=0, width=3, height=2), "run lengths of -1 to 7 px"),
        (shape("mask", rle="6", left=0, top=0, width=3), "mask has the height ''; it must be"),
        (shape("mask", rle="6", left=0.5, top=0, width=3, height=2), "mask has the left 0.5; it"),
        (
            shape("mask", rle="6", left=0, top=0, width=10**6, height=10**6),
            "its mask has 1000000×10",
        ),
        (shape("mask", rle="6", left=0, top=0, width=-3, height=-2), "its mask has -3×-2 px"),
        (shape("ellipse", cx=1, cy=1, rx=0, ry=4), "its radii are 0 and 4"),
        (shape("ellipse", cx=1, cy=1, rx=3), "ellipse has the ry ''; it must be a number"),
    ],
)
def test_a_shape_that_cannot_be_drawn_costs_its_image_and_is_named(text: str, message: str) -> None:
    found = parse(image(text), image(polygon(), name="b.jpg"))
    ((_, error),) = list_objects(found, "a.jpg")
    assert error.startswith(message)
    assert found.objects["label"][0].as_py() == f"{text[1:].split(' ')[0]} in line 13"
    assert list_objects(found, "b.jpg") == [("leaf", CORNERS)]


def test_an_outline_of_two_points_is_counted() -> None:
    found = parse(image(polygon("1,1;2,2")))
    assert found.left_out == {"outlines of fewer than three points": 1}


def test_an_image_may_state_no_size_but_not_a_wrong_one() -> None:
    bare = f'<image id="0" name="a.jpg">{polygon()}</image>'
    found = parse(bare, image(name="b.jpg", width="wide"), image(name="c.jpg", width=0, height=0))
    images = list_images(found)
    assert images["a.jpg"]["width"] is images["c.jpg"]["width"] is None
    assert images["b.jpg"]["error"] == "image has the width 'wide'; it must be a number"


def test_a_project_tells_images_of_one_name_apart_by_their_subsets() -> None:
    project = META.replace("task>", "project>")
    found = parse(
        image(polygon(), subset="Train", task_id=1),
        image(subset="Test", task_id=2),
        meta=project,
    )
    assert found.images["name"].to_pylist() == ["a.jpg", "a.jpg"]
    assert found.images["places"].to_pylist() == [["Train/a.jpg"], ["Test/a.jpg"]]
    assert [each.name for each in found.categories] == ["leaf", "spot"]


def test_an_image_that_is_listed_twice_is_taken_once_or_refused() -> None:
    found = parse(image(), image(polygon(), id=1), image(polygon(), id=2), image(id=3))
    assert list_objects(found, "a.jpg") == [("leaf", CORNERS)]
    assert found.left_out == {"images that are listed twice, with the same labels or none": 3}
    with pytest.raises(LabelError, match=r"line 15: a.jpg has other labels in line 12; they may"):
        parse(image(polygon()), image(polygon(label="spot"), id=1))


def test_a_job_and_a_file_without_meta_data_are_read() -> None:
    job = META.replace("task>", "job>")
    assert list_objects(parse(image(polygon()), meta=job), "a.jpg") == [("leaf", CORNERS)]
    assert list_objects(parse(image(polygon()), meta=""), "a.jpg") == [("leaf", CORNERS)]


def test_an_export_for_video_is_refused_with_the_one_that_is_read() -> None:
    track = (
        '<track id="0" label="leaf" source="manual">\n'
        + shape("polygon", points=TRIANGLE, frame=0, keyframe=1, outside=0)
        + "</track>"
    )
    message = (
        'line 12: it is an export for video, .*; export the task again, as "CVAT for images 1.1"'
    )
    with pytest.raises(LabelError, match=message):
        parse(track)
    with pytest.raises(LabelError, match='it lists no images; export the task again, as "CVAT'):
        parse()


def test_a_zip_is_refused_with_what_to_do() -> None:
    with pytest.raises(LabelError, match=r"a ZIP archive; unzip it, then give the label file"):
        parse_here(b"PK\x03\x04" + bytes(100), "export.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (document(image(polygon()))[:-60], r"line \d+, column \d+: "),
        (document("<image id='0'/>"), "line 12: the image has no name"),
        (b"<annotations><image name='a' name='b'/></annotations>", "line 1, column 30: duplicate"),
        (b"<annotations>\x00</annotations>", "line 1, column 14: not well-formed"),
        (
            b"<?xml version='1.0' encoding='koi9'?>\n<annotations><image/></annotations>",
            "line 1, column 31: unknown encoding|its encoding is not supported",
        ),
        (b"<x><annotations></annotations></x>", "line 1: the outermost element is x"),
        (b"<annotations>" + b"<a>" * 100, "line 1: it is nested too deeply"),
        (b"<annotations>" + b"</annotations>x", "line 1, column 28: "),
    ],
)
def test_what_is_no_such_xml_is_refused_with_its_place(content: bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        parse_here(content, "annotations.xml")


def test_entities_are_refused() -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    for inside in (laughs, '<!ENTITY l9 SYSTEM "file:///etc/passwd">', ""):
        content = f"<!DOCTYPE annotations [<!ENTITY l0 'ha'>{inside}]>\n".encode()
        content += document(image(polygon(), name="&l9;")).partition(b"\n")[2]
        with pytest.raises(LabelError, match=r"line 1: it has a document type .*; remove it"):
            parse_here(content, "annotations.xml")


def test_other_encodings_are_read() -> None:
    text = document(image(polygon(label="Blätter"))).decode()
    for encoding, name in (("utf-16", "utf-16"), ("latin-1", "iso-8859-1")):
        content = text.replace('encoding="utf-8"', f'encoding="{name}"').encode(encoding)
        assert list_objects(parse_here(content, "a.xml"), "a.jpg") == [("Blätter", CORNERS)]


def test_a_large_file_is_read_in_pieces() -> None:
    images = [image(polygon(), name=f"{i}.jpg") for i in range(8_000)]
    found = parse(*images)
    assert (len(found.images), len(found.objects)) == (8_000, 8_000)


@pytest.mark.slow
def test_an_element_that_would_fill_the_memory_is_refused() -> None:
    many = b"<annotations><image name='a'>" + b"<x/>" * (2**20 + 1)
    with pytest.raises(LabelError, match="line 1: more than 1048576 elements in one image"):
        parse_here(many, "a.xml")
    with pytest.raises(LabelError, match="line 1: an element has more than 134217728 bytes"):
        parse_here(b"<annotations><meta>" + b" " * (2**27 + 2**21), "a.xml")


def test_a_damaged_file_is_refused_or_read() -> None:
    mask = shape("mask", rle="1, 2, 3", left=4, top=5, width=3, height=2)
    ellipse = shape("ellipse", cx=9, cy=9, rx=3, ry=2, rotation=30, group_id=2)
    whole = document(image(polygon(), mask, ellipse, box(1, 2, 3, 4)), image(name="b.jpg"))
    rng = random.Random(5)
    for _ in range(2_000):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                del content[at:]
            elif kind == 1:
                content[at : at + rng.randint(0, 9)] = rng.choice(
                    [b"", b"-", b"9" * 12, b"nan", b"1e308", b"\xff", b'"', b"<", b"&lt;"]
                )
            elif kind == 2:
                content[at:at] = content[rng.randrange(len(content)) :][: rng.randint(1, 80)]
            else:
                content[at] = rng.randrange(256)
            if not content:
                break
        check_refused_or_read(bytes(content), "annotations.xml")


def test_the_decoders_child_reads_it(parse_confined: Parse) -> None:
    mask = shape("mask", rle="0, 6", left=4, top=5, width=3, height=2)
    found = parse_confined(document(image(polygon(), mask)), "annotations.xml")
    assert [label for label, _ in list_objects(found, "a.jpg")] == ["leaf", "leaf"]
    with pytest.raises(ImageError, match="unreadable: line 1: it has a document type"):
        parse_confined(b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations></annotations>", "a.xml")


def test_an_encoding_whose_table_the_child_cannot_open_is_no_fault_of_ours(
    parse_confined: Parse,
) -> None:
    for name in ("windows-1251", "koi8-r", "mac-cyrillic"):
        content = document(image(polygon())).replace(b"utf-8", name.encode(), 1)
        with pytest.raises(ImageError, match="unreadable: .* encoding"):
            parse_confined(content, "a.xml")
    content = document(image(polygon(label="Blätter"))).decode().replace("utf-8", "windows-1252", 1)
    found = parse_confined(content.encode("cp1252"), "a.xml")
    assert list_objects(found, "a.jpg") == [("Blätter", CORNERS)]
