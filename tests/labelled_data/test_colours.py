"""Files that give the meaning of colours, as labelling tools write them beside masks."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import encode_pillow
from unet_ray.errors import InputError
from unet_ray.flags import COLOUR, ClassSpec, parse_classes
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.labels.labelling import find_labelling
from unet_ray.imaging.labels.mask_values import add_up, mask_values
from unet_ray.labelled_data.colours import ColourMap, find_colour_map
from unet_ray.storage.listing import list_files

CVAT = """# label:color_rgb:parts:actions
background:0,0,0::
leaf:48,112,32::
symptom:192,48,48::
"""
TWO = (ClassSpec(1, "leaf"), ClassSpec(2, "symptom"))


def find(
    folder: Path,
    text: str | bytes | None,
    classes: str | None = None,
    kind: str | None = None,
    name: str = "labelmap.txt",
    masks: str = "masks",
    background: int = 0,
    ignored: int | None = 255,
) -> ColourMap | None:
    """Write a file of colours into a folder, and return the meaning of the masks below it."""
    (folder / masks).mkdir(parents=True, exist_ok=True)
    (folder / masks / "a.png").write_bytes(encode_pillow(np.zeros((2, 2), np.uint8)))
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    listing = list_files(str(folder / masks), IMAGE_SUFFIXES, "--masks")
    return find_colour_map(listing, parse_classes(classes), kind, background, ignored)  # type: ignore[arg-type]


def read(folder: Path, text: str | bytes, classes: str | None = None, **more: str) -> ColourMap:
    found = find(folder, text, classes, **more)
    assert found is not None
    return found


def test_the_label_map_of_cvat_gives_classes_and_colours(tmp_path: Path) -> None:
    found = read(tmp_path, CVAT)
    assert found.classes == TWO
    assert [spec.colour for spec in found.classes] == ["#307020", "#c03030"]
    assert found.table.colours == {0: 0, 0x307020: 1, 0xC03030: 2}
    assert found.notes == (
        f"the colours of the masks are those of {tmp_path}/labelmap.txt: leaf=#307020, "
        "symptom=#c03030",
    )


@pytest.mark.parametrize("place", [".", "masks", "masks/SegmentationClass"])
@pytest.mark.parametrize("masks", ["masks/SegmentationClass", "masks/SegmentationClass/train"])
def test_it_is_found_beside_the_masks_and_above_them(
    tmp_path: Path, place: str, masks: str
) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    found = find(tmp_path, CVAT, name=f"{place}/labelmap.txt", masks=masks)
    is_near = len(Path(masks).parts) - len(Path(place).parts) <= 2
    assert (found is not None) == is_near


def test_the_nearest_file_counts(tmp_path: Path) -> None:
    find(tmp_path, "other:9,9,9::")
    found = read(tmp_path, CVAT, name="masks/labelmap.txt")
    assert found.classes == TWO


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "\ufeff" + CVAT.replace("\n", "\r\n")),
        ("labelmap.txt", "\n  background : 0 , 0 , 0\nleaf:48,112,32:a,b:c\nsymptom:192, 48,48"),
        ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\nleaf,48,112,32\nsymptom,192,48,48\n"),
        ("class_dict.csv", " name, r, g, b\r\nleaf, 48, 112, 32\r\n\r\nsymptom, 192, 48, 48"),
        ("class_dict.csv", "R,G,B,Name\n48,112,32,leaf\n192,48,48,symptom"),
        ("label_colors.txt", "0 0 0\t\tVoid\n48 112 32 leaf\n192 48 48\tsymptom\n"),
    ],
)
def test_the_forms_of_files_of_colours(tmp_path: Path, name: str, text: str) -> None:
    found = read(tmp_path, text, name=name)
    assert found.classes == TWO
    assert {rgb: id for rgb, id in found.table.colours.items() if id} == {0x307020: 1, 0xC03030: 2}


def test_without_any_colour_they_are_those_of_voc(tmp_path: Path) -> None:
    names = ["background", *(f"c{index}" for index in range(1, 22))]
    found = read(tmp_path, "".join(f"{name}:::\n" for name in names))
    colours = [spec.colour for spec in found.classes]
    assert colours[:4] == ["#800000", "#008000", "#808000", "#000080"]
    assert colours[19:] == ["#004080", "#804080"]  # that of tvmonitor, and the next


def test_classes_choose_names_and_their_ids(tmp_path: Path) -> None:
    found = read(tmp_path, CVAT, "symptom")
    assert found.classes == (ClassSpec(1, "symptom"),)
    assert found.table.colours == {0: 0, 0x307020: 0, 0xC03030: 1}
    assert found.notes[1:] == ("pixels of leaf=#307020 belong to no class: it is not in --classes",)
    found = read(tmp_path, CVAT, "symptom,leaf")
    assert found.table.colours == {0: 0, 0x307020: 2, 0xC03030: 1}
    with pytest.raises(
        InputError, match=r"labelmap.txt gives the colours .* but no colour for root; its classes "
    ):
        find(tmp_path, CVAT, "leaf,root")


def test_names_of_no_class_are_background_or_not_counted_and_that_is_said(tmp_path: Path) -> None:
    text = "Void:0,0,0::\nleaf:1,2,3::\nignored:224,224,192::\nroot:::\nBackground:9,9,9::\n"
    found = read(tmp_path, text)
    assert found.classes == (ClassSpec(1, "leaf"),)
    assert found.table.colours == {0: 0, 0x010203: 1, 0xE0E0C0: 255, 0x090909: 0}
    assert found.notes[1:] == (
        "pixels of Void=#000000, Background=#090909 belong to no class: it is the background",
        "pixels of ignored=#e0e0c0 have the value 255, see --ignore-value",
        "pixels of root are unknown: no colour is given",
    )
    found = read(tmp_path, text, "Void,leaf")
    assert found.table.colours[0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leaf:1,2,3::\n\nleaf:1,2,4::", "labelmap.txt, line 3: the name leaf is also in line 1"),
        ("a:1,2,3::\nb:1,2,3::", "line 2: b has the colour #010203 of a .line 1.; masks cannot"),
        ("a:1,2,256::", "line 1: the colour .* is not three numbers of 0 to 255"),
        ("a:1,2," + "9" * 9000, "line 1: the colour .* is not three numbers of 0 to 255"),
        ("# x\na 1 2 3", "line 2: 'a 1 2 3' is not NAME:R,G,B:PARTS:ACTIONS"),
        ("a:1,2::", "line 1: 'a:1,2::' is not"),
        ("a\x1b]0;x:1,2,3::", r"line 1: name 'a\\x1b\]0;x': choose a text of 1 to 256 printable"),
        (":1,2,3::", "line 1: name '': choose"),
        ("", "it names no class; remove it, or give each class a line"),
        ("background:0,0,0::", "but none for a class; its classes are none"),
        (b"a\xff:1,2,3", "labelmap.txt: not UTF-8 at byte 1; save it as UTF-8"),
        ("a" * 2**20 + ":1,2,3", "larger than 1048576 bytes"),
        ("".join(f"{i}:{i >> 16},{i >> 8 & 255},{i & 255}\n" for i in range(2**16 + 1)), "than"),
    ],
)
def test_files_of_colours_that_cannot_be_used(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        find(tmp_path, text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,r,g\na,1,2", "line 1: the columns are 'name,r,g'; name,r,g,b are required"),
        ("name,r,g,b\na,1,2", "line 2: it has 3 columns, but the header has 4"),
        ("name,r,g,b\na,1,2,x", "line 2: the colour .* is not three numbers"),
        ('name,r,g,b\n"' + "a" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_tables_of_colours_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"class_dict.csv, {message}"):
        find(tmp_path, text, name="class_dict.csv")


@pytest.mark.parametrize(
    ("classes", "kind", "masks"),
    [
        ("leaf=1,symptom=2", None, "masks"),
        (None, "instances", "masks"),
        (None, "binary", "masks"),
        (None, None, "SegmentationObject"),
        (None, None, "SegmentationObject/train"),
    ],
)
def test_ids_and_other_kinds_of_masks_need_no_file(
    tmp_path: Path, classes: str | None, kind: str | None, masks: str
) -> None:
    assert find(tmp_path, CVAT, classes, kind, masks=masks) is None


def test_without_a_file_there_is_no_meaning(tmp_path: Path) -> None:
    assert find(tmp_path, None) is None
    (tmp_path / "labelmap.txt").mkdir()
    assert find(tmp_path, None) is None


def test_colours_of_flags_need_no_file(tmp_path: Path) -> None:
    void, white = COLOUR + 0xE0E0C0, COLOUR + 0xFFFFFF
    found = find(tmp_path, "no label map", "a=#010203,b=#000000", background=white, ignored=void)
    assert found is not None
    assert found.table.colours == {0x010203: 1, 0: 2, 0xFFFFFF: 0, 0xE0E0C0: void}
    for flag in ({"background": white}, {"ignored": white}):
        with pytest.raises(InputError, match="-value #ffffff is also the colour of the class a"):
            find(tmp_path, None, "a=#ffffff", **flag)  # type: ignore[arg-type]


def test_grey_files_hold_line_numbers_where_that_is_beyond_doubt(tmp_path: Path) -> None:
    assert read(tmp_path, CVAT).table.indices == {1: 1, 2: 2, 255: 255}
    assert read(tmp_path, CVAT, "leaf").table.indices == {1: 1, 2: 0, 255: 255}
    assert read(tmp_path, CVAT, "symptom,leaf").table.indices == {}
    last = "leaf:48,112,32::\nsymptom:192,48,48::\nbackground:0,0,0::\n"
    assert read(tmp_path, last).table.indices == {}
    greys = "background:0,0,0::\nleaf:1,1,1::\nsymptom:255,255,255::\n"
    assert read(tmp_path, greys).table.indices == {2: 2}


def test_masks_of_cvat_are_read_through_the_child(tmp_path: Path) -> None:
    """Colours, a mask without objects that was saved as grey, and line numbers give the same."""
    colours = np.array([[0, 0, 0], [48, 112, 32], [192, 48, 48]], np.uint8)
    ids = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    found = read(tmp_path, CVAT)
    decoder = Decoder()
    try:
        for mask in (colours[ids], ids, colours[ids * 0], ids * 0):
            values = decoder.decode_label(encode_pillow(mask), table=found.table)
            assert np.array_equal(values, ids if mask.any() else ids * 0)
            if mask.any():
                counted = add_up([(list(mask_values(values).items()), "a.png")])
                labelling = find_labelling(counted, found.classes, None, 0, 255)
                assert labelling.targets([values]).tolist() == [
                    (ids == 1).tolist(),
                    (ids == 2).tolist(),
                ]
    finally:
        decoder.close()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)
RGB = st.tuples(*[st.integers(0, 255)] * 3)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES.filter(lambda name: name[0] != "#"), RGB, min_size=1, max_size=5))
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: dict[str, tuple[int, int, int]]
) -> None:
    text = "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in lines.items())
    try:
        found = read(tmp_path_factory.mktemp("set"), text)
    except InputError:
        is_repeated = len(set(lines.values())) < len(lines)
        assert (
            is_repeated
            or any(len(name) > 256 or ":" in name for name in lines)
            or all(
                name.lower() in ("background", "bg", "void", "none", "unknown") for name in lines
            )
        )
        return
    for spec in found.classes:
        red, green, blue = lines[spec.name]
        assert found.table.colours[red << 16 | green << 8 | blue] == spec.id


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Pieces are cut out, doubled or overwritten; nothing but InputError comes of it."""
    rng = random.Random(0)
    messages = list[str]()
    for name, text in (
        ("labelmap.txt", CVAT),
        ("class_dict.csv", "name,r,g,b\nleaf,48,112,32\nsymptom,192,48,48\n"),
        ("label_colors.txt", "48 112 32 leaf\n192 48 48\tsymptom\n"),
    ):
        folder = tmp_path / name.partition(".")[0]
        for _ in range(50):
            data = bytearray(text.encode())
            at, size = rng.randrange(len(data)), rng.randrange(1, 9)
            data[at : at + size] = rng.choice(
                [b"", bytes(data[at : at + size]) * 2, rng.randbytes(size), b'"', b"\0", b":", b","]
            )
            try:
                find(folder, bytes(data), name=name)
            except InputError as error:
                messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert len(messages) > 40
