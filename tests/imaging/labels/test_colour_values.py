"""What the colours of masks mean, as far as the whole set shows it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.flags import COLOUR, ClassSpec, parse_classes, parse_mask_value, show_value
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.imaging.labels.mask_values import MaskValues, add_up, mask_values
from unet_ray.imaging.labels.notes import labelling_notes

RED, GREEN, WHITE, VOID = (COLOUR + rgb for rgb in (0xC03030, 0x307020, 0xFFFFFF, 0xE0E0C0))
SCATTERED = [COLOUR + 0x9E3779 * i % 2**24 for i in range(1, 60)]
TWO = parse_classes("leaf=#307020,symptom=#c03030")
ONE = parse_classes("symptom=#c03030")


def count(pixels: dict[int, int], most_distinct: int = 0) -> MaskValues:
    return MaskValues(pixels, dict.fromkeys(pixels, 2), most_distinct)


def find(
    pixels: dict[int, int],
    classes: str | None = None,
    kind: str | None = None,
    background: int | str = 0,
    ignored: int | str | None = 255,
) -> Labelling:
    return find_labelling(
        count(pixels),
        parse_classes(classes),
        kind,  # type: ignore[arg-type]
        parse_mask_value(background, "--background-value") or 0,
        parse_mask_value(ignored, "--ignore-value"),
    )


def draw(labelling: Labelling, *values: int) -> list[list[int]]:
    """Return the targets of a row of pixels, a list per class."""
    (mask,) = [np.array([values], np.int64)]
    return labelling.targets([mask])[:, 0].tolist()


# --- colours of unknown meaning


@pytest.mark.parametrize(
    ("pixels", "background"),
    [
        ({0: 10, RED: 90}, 0),  # black, however few pixels it has
        ({255: 60, RED: 40}, 255),  # the more frequent
        ({255: 40, RED: 60}, RED),
        ({GREEN: 40, RED: 60}, RED),
        ({0: 60, COLOUR: 40}, 0),  # black on transparent
    ],
)
def test_two_colours_are_a_class_and_its_background(
    pixels: dict[int, int], background: int
) -> None:
    labelling = find(pixels)
    (other,) = set(pixels) - {background}
    assert (labelling.kind, labelling.background) == ("binary", background)
    assert draw(labelling, background, other) == [[0, 1]]


@pytest.mark.parametrize("given", [RED, "#c03030"])
def test_the_background_of_two_colours_may_be_given(given: int | str) -> None:
    labelling = find({GREEN: 90, RED: 10}, background=given)
    assert draw(labelling, GREEN, RED) == [[1, 0]]
    labelling = find({255: 10, RED: 90}, background="#ffffff")
    assert draw(labelling, 255, RED) == [[0, 1]]


def test_the_note_on_two_colours_says_how_to_turn_them_round() -> None:
    pixels = {255: 60, RED: 40}
    labelling = find(pixels, "leaf")
    (note,) = labelling_notes(count(pixels), labelling, 2)
    assert note == (
        "the masks hold two colours whose meaning is not given: #c03030 (40 px) is taken as the "
        "class leaf, #ffffff (60 px) as the background; to swap them, give --classes leaf=#ffffff"
    )
    # as the decoder reads them with that flag: white is the class, red is unknown
    turned = {1: 60, RED: 40}
    labelling = find(turned, "leaf=#ffffff")
    assert draw(labelling, 1, RED) == [[1, 0]]
    assert labelling_notes(count(turned), labelling, 2) == [
        "#c03030 (40 px in 2 masks) is the background: no pixel is black"
    ]


def test_the_note_on_black_drawings() -> None:
    pixels = {0: 60, COLOUR: 40}
    assert labelling_notes(count(pixels), find(pixels), 2) == [
        "the masks are black on transparent: black is the class object"
    ]


@pytest.mark.parametrize(
    ("pixels", "classes", "kind", "message"),
    [
        (
            {0: 80, RED: 15, GREEN: 5},
            None,
            None,
            "hold 3 colours: 0 .80 px in 2 masks., #c03030 .15 .*, #307020 .5 px.*; give --classes "
            "NAME=#c03030,NAME=#307020 with a name for each colour .black is background., or a "
            "labelmap.txt .* or --mask-kind instances",
        ),
        ({0: 8, RED: 1, GREEN: 5}, "leaf,symptom", None, "--classes leaf=#307020,symptom=#c03030"),
        ({0: 8, RED: 1}, "leaf,symptom", None, "hold 2 colours: .*--classes leaf=#c03030 with"),
        ({0: 8, RED: 1}, "leaf", "classes", "hold 2 colours"),
        ({0: 8, RED: 1, 128: 5}, None, "binary", "hold 3 colours: .*#808080"),
        ({0: 8, RED: 2, VOID: 5}, None, None, "NAME=#c03030 --ignore-value '#e0e0c0' with a name"),
        ({RED: 8}, None, None, "all masks hold only #c03030 .8 px"),
        (
            {0: 9000, RED: 900} | {COLOUR + 0x040101 * i: 2 for i in range(20, 29)},
            None,
            None,
            r"interpolation \(resizing or JPEG\) produces such colours, here 9 with 0.181 % of",
        ),
        (
            {0: 9000} | {SCATTERED[i]: 20 for i in range(30)},
            None,
            None,
            "31 colours: .*too many for classes; if each object has its own colour",
        ),
        (
            {0: 9} | {COLOUR + i: 5 for i in range(1, 5)},
            None,
            None,
            "only the channel blue, which looks like ids in that channel: save it as a grey",
        ),
        (
            {0: 9} | dict.fromkeys(SCATTERED[:39], 5),
            None,
            None,
            "40 colours: .*too many for classes; if each object has .*as in COCO panoptic",
        ),
    ],
)
def test_more_colours_are_refused_with_the_ways_to_name_them(
    pixels: dict[int, int], classes: str | None, kind: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find(pixels, classes, kind)


def test_a_colour_per_object_is_an_id() -> None:
    pixels = {0: 80, 128: 3, 255: 2, RED: 15, GREEN: 5}
    labelling = find(pixels, kind="instances")
    mask = np.array([[0, 128, RED, GREEN, 255]], np.uint32)
    objects = labelling.objects([mask], 0)
    assert len(np.unique(objects)) == 5
    assert (objects != 0).tolist() == [[False, True, True, True, True]]
    assert labelling_notes(count(pixels), labelling, 2) == []


def test_the_void_of_voc_is_no_object_if_that_is_said() -> None:
    pixels = {0: 80, RED: 15, VOID: 5}
    (note,) = labelling_notes(count(pixels), find(pixels, kind="instances"), 2)
    assert note.endswith("if they are VOC's void, give --ignore-value '#e0e0c0'")
    labelling = find(pixels, kind="instances", ignored="#e0e0c0")
    assert draw(labelling, 0, RED, VOID) == [[0, 1, 255]]
    (note,) = labelling_notes(count(pixels), labelling, 2)
    assert note.startswith("5 % of the pixels, in 2 of 2 masks, have the --ignore-value #e0e0c0")


def test_class_folders_may_have_a_colour_per_class() -> None:
    pixels = {0: 80, 255: 5, RED: 10, GREEN: 5}
    labelling = find_labelling(
        count(pixels, most_distinct=2), parse_classes("a,b"), "folders", 0, 255
    )
    masks = [np.array([[0, 255]]), np.array([[RED, 0]])]
    assert labelling.targets(masks).tolist() == [[[0, 1]], [[1, 0]]]
    with pytest.raises(InputError, match="one of them holds 3 colours: .* nearest neighbour"):
        find_labelling(count(pixels, most_distinct=3), parse_classes("a,b"), "folders", 0, 255)


# --- colours of known meaning


def test_known_colours_are_classes() -> None:
    for pixels in ({0: 8, 1: 2, 2: 1}, {0: 8, 1: 2}, {0: 8, 1: 1, 2: 1, 255: 1}):
        labelling = find_labelling(count(pixels), TWO, None, 0, 255)
        assert (labelling.kind, labelling.classes) == ("classes", TWO)
    assert draw(labelling, 0, 1, 2, 255) == [[0, 1, 0, 255], [0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("pixels", "classes", "message"),
    [
        (
            {0: 80, 1: 10, WHITE: 4, VOID: 1},
            TWO,
            "colours without a class: #ffffff .4 px in 2 masks., #e0e0c0 .1 px.*known ones are "
            "leaf=#307020, symptom=#c03030; .*--ignore-value '#e0e0c0'",
        ),
        (
            {1: 80, 2: 10, WHITE: 4},
            TWO,
            "--background-value '#ffffff' if that is the background, or give --ignore-value '#fff",
        ),
        ({0: 80, 1: 10, RED + 1: 4}, ONE, "#c03031 .* name them in --classes or in the label map"),
        (
            {0: 80, COLOUR + 0x010101: 4, COLOUR + 0x020202: 3},
            TWO,
            "if grey values are ids rather than colours, give them: --classes leaf=1,symptom=2",
        ),
        (
            {0: 9000, 1: 900} | {COLOUR + 0x040101 * i: 2 for i in range(20, 29)},
            ONE,
            "interpolation .* produces such colours, here 9",
        ),
        ({0: 80}, TWO, "no mask holds a pixel of leaf=1, symptom=2"),
    ],
)
def test_unknown_colours_are_named_with_their_pixels(
    pixels: dict[int, int], classes: tuple[ClassSpec, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_labelling(count(pixels), classes, None, 0, 255)


def test_the_remedies_for_unknown_colours_work() -> None:
    """With --background-value, the decoder gets the colour as well, and gives 0."""
    labelling = find_labelling(count({0: 4, 1: 80, 2: 10}), TWO, None, WHITE, 255)
    assert draw(labelling, 0, 1, 2) == [[0, 1, 0], [0, 0, 1]]
    labelling = find_labelling(count({0: 4, 1: 80, 2: 10, VOID: 3}), TWO, None, 0, VOID)
    assert draw(labelling, 0, 1, 2, VOID) == [[0, 1, 0, 255], [0, 0, 1, 255]]


def test_notes_on_known_colours() -> None:
    pixels = count({1: 80, 2: 10})
    (note,) = labelling_notes(pixels, find_labelling(pixels, TWO, None, 0, 255), 2)
    assert note.startswith("no pixel of the masks is black, so every pixel belongs to a class; if")
    pixels = count({0: 1, 1: 80, 2: 10})
    (note,) = labelling_notes(pixels, find_labelling(pixels, TWO, None, 0, VOID), 2)
    assert note == "no pixel has the --ignore-value #e0e0c0"


@pytest.mark.parametrize("kind", ["binary", "instances", "folders"])
def test_colours_are_for_masks_of_the_kind_classes(kind: str) -> None:
    with pytest.raises(InputError, match=f"--mask-kind {kind}, but the classes have colours"):
        find({0: 8, 1: 2}, "a=#ff0000", kind)


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=5, unique=True))
def test_flags_name_colours_as_masks_hold_them(colours: list[int]) -> None:
    text = ",".join(f"c{i}=#{rgb:06x}" for i, rgb in enumerate(colours))
    specs = parse_classes(text)
    assert [spec.id for spec in specs] == [*range(1, len(colours) + 1)]
    for spec, rgb in zip(specs, colours, strict=True):
        assert spec.colour == show_value(COLOUR + rgb)
        assert parse_mask_value(spec.colour, "--ignore-value") == COLOUR + rgb


# --- values without colours


def test_ids_below_0_are_named() -> None:
    for kind in (None, "instances"):
        with pytest.raises(InputError, match=r"values below 0: -1 \(4 px.*give --ignore-value -1"):
            find({-1: 4, 0: 80, 1: 2, 2: 3}, kind=kind)
    labelling = find({-1: 4, 0: 80, 1: 2, 2: 3}, kind="instances", ignored=-1)
    assert draw(labelling, -1, 0, 2) == [[255, 0, 1]]
    labelling = find({-1: 4, 0: 80, 1: 2}, kind="instances", background=-1)
    assert draw(labelling, -1, 0, 1) == [[0, 1, 1]]


def test_ids_that_were_stretched_to_16_bits_are_refused_with_their_values() -> None:
    with pytest.raises(InputError, match="NAME=257,NAME=514 .* like the 8-bit ids 1, 2 stretched"):
        find({0: 80, 257: 4, 514: 3})
    with pytest.raises(InputError, match="give --classes leaf=257,symptom=514, or save the masks"):
        find({0: 80, 257: 4, 514: 3}, "leaf,symptom")
    labelling = find({0: 80, 257: 4, 514: 3}, "leaf=257,symptom=514")
    assert draw(labelling, 0, 257, 514) == [[0, 1, 0], [0, 0, 1]]
    assert find({0: 80, 65535: 4}).kind == "binary"


@given(st.lists(st.sampled_from([0, 1, 255, RED, GREEN]), min_size=1, max_size=40))
def test_values_are_counted(values: list[int]) -> None:
    for dtype in (np.uint32, np.int64):
        found = mask_values(np.array([values], dtype))
        assert found == {value: values.count(value) for value in values}


# --- inverted masks


def note_inverted(labelling: Labelling, *images: list[list[tuple[int, int]]]) -> list[str]:
    values = add_up([(mask, "a.png") for masks in images for mask in masks])
    if not images:
        values = count({0: 1, 255: 1})
    notes = labelling_notes(values, labelling, len(images), images)
    return [note for note in notes if "inverted" in note]


def test_masks_that_look_inverted_are_noted_with_the_remedy() -> None:
    one = (ClassSpec(1, "leaf"),)
    full, half = [[(0, 4), (255, 96)]], [[(0, 50), (255, 50)]]
    binary = Labelling("binary", one, 0, None, 128)
    assert note_inverted(binary, full, full, half) == [
        "class leaf covers more than 95% of the pixels in 2 of 3 images; if the masks are "
        "inverted, give --background-value 255"
    ]
    assert note_inverted(binary, full, half) == []
    assert note_inverted(binary, [[(0, 5), (255, 95)]]) == []
    assert note_inverted(binary) == []
    colours = Labelling("binary", one, 0, None, (RED + 1) // 2)
    (note,) = note_inverted(colours, [[(0, 4), (RED, 96)]])
    assert note.endswith("give --classes leaf=#000000")
    classes = Labelling("classes", one, 0, 255)
    (note,) = note_inverted(classes, [[(0, 4), (1, 96)]])
    assert note.endswith("give --background-value 1 --classes leaf=0")
    folders = Labelling("folders", (*one, ClassSpec(2, "b")), 0, None, 128)
    (note,) = note_inverted(folders, [half[0], full[0]], [half[0], full[0]])
    assert note.startswith("class b covers more than 95%")
    assert note.endswith("give --background-value 255")
    instances = Labelling("instances", one, 0, None)
    assert note_inverted(instances, [[(1, 100)]]) == []
