import numpy as np
import pytest

from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec, parse_classes
from unet_ray.imaging.labels.labelling import Labelling, find_labelling
from unet_ray.imaging.labels.mask_values import MaskValues
from unet_ray.imaging.labels.notes import labelling_notes
from unet_ray.imaging.labels.targets import IGNORED

TWO = parse_classes("leaf,symptom")
ONE = parse_classes("nucleus")
SOFT = {0: 9000, 255: 800} | dict.fromkeys(range(8, 248, 4), 3)
"""Pixels of two-valued masks with anti-aliased edges: 180 of 9980 px lie between."""


def values(*found: int) -> MaskValues:
    return MaskValues({v: 10 for v in found}, {v: 1 for v in found})


def counted(pixels: dict[int, int], most_distinct: int = 0) -> MaskValues:
    return MaskValues(pixels, {v: 4 if n > 100 else 2 for v, n in pixels.items()}, most_distinct)


def test_classes_are_parsed_or_refused() -> None:
    assert (ClassSpec(1, "leaf"), ClassSpec(2, "symptom")) == TWO
    assert parse_classes("a=1,b=7") == (ClassSpec(1, "a"), ClassSpec(7, "b"))
    for wrong in ("a=1,b", "a,a", "a=x", "", "a=1,b=1"):
        with pytest.raises(InputError):
            parse_classes(wrong)


@pytest.mark.parametrize(
    ("found", "classes", "kind"),
    [
        ((0, 255), (), "binary"),
        ((0, 1), ONE, "classes"),
        ((0, 255), ONE, "binary"),
        ((0, 1, 2), TWO, "classes"),
        ((0, 1, 2, 255), TWO, "classes"),
        (tuple(range(300)), (), "instances"),
        (tuple(range(60)), ONE, "instances"),
    ],
)
def test_kinds_of_masks_are_inferred(
    found: tuple[int, ...], classes: tuple[ClassSpec, ...], kind: str
) -> None:
    assert find_labelling(values(*found), classes, None, 0, 255).kind == kind


@pytest.mark.parametrize(
    ("found", "classes", "kind", "message"),
    [
        ((0, 1, 2), (), None, "may be classes or objects: give --classes"),
        (
            (0, 26, 127, 255),
            (),
            None,
            "--classes NAME=26,NAME=127 for classes .255 is the --ignore-value",
        ),
        ((7, 11, 26), (), None, "--classes NAME=7,NAME=11,NAME=26 for classes, or"),
        (tuple(range(0, 256, 3)), (), None, "may be classes or objects"),
        ((0,), (), None, "nothing to learn"),
        ((0, 1, 2, 3), TWO, None, r"without a class: 3 \(10 px in 1 mask\).*name them in"),
        (
            (1, 2, 3),
            TWO,
            None,
            "if it is 1 in these masks, give --background-value 1 --classes leaf=2,symptom=3",
        ),
        ((1, 2, 3, 4), TWO, None, "if it is 1 in these masks, give --background-value 1$"),
        (
            (1, 2),
            ONE,
            "classes",
            "if it is 1 in these masks, give --background-value 1 --classes nucleus=2",
        ),
        ((0, 5), TWO, None, "without a class: 5"),
        (
            (0, 128, 255),
            (),
            "binary",
            "two values, but these hold 3.*NAME=128, otherwise --ignore-value none",
        ),
        ((0, 1, 255), (), "binary", "--mask-kind classes --classes NAME=1, otherwise"),
        (
            (0, 9, 30),
            (),
            "binary",
            "33.3 % of the pixels lie between .* too many for anti-aliased edges .at most 10%",
        ),
        ((0, 1), (), "classes", "need --classes"),
        ((0, 1, 255), parse_classes("a=1,b=255"), None, "--ignore-value 255 is also a class"),
        (
            (0, 255),
            TWO,
            "classes",
            "no mask holds a pixel of leaf=1, symptom=2"
            ".*check --masks and --classes .255 is the --ig",
        ),
        (
            (0,),
            TWO,
            None,
            r"no mask holds a pixel of leaf"
            r".* only 0 \(10 px in 1 mask\), so there is nothing to learn",
        ),
        ((0,), (), "binary", r"only 0 \(10 px in 1 mask\), so there is nothing to learn"),
        (
            (0, 255),
            (),
            "instances",
            r"no object: all masks hold only 0 .*, so there is nothing to learn",
        ),
        (
            (0,),
            TWO,
            "folders",
            r"no class: all masks hold only 0 \(10 px in 1 mask\), so there is nothing to learn",
        ),
    ],
)
def test_masks_of_an_unclear_kind_are_refused(
    found: tuple[int, ...], classes: tuple[ClassSpec, ...], kind: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_labelling(values(*found), classes, kind, 0, 255)  # type: ignore[arg-type]


def test_instances_keep_an_ignore_value_that_was_given() -> None:
    ids = values(*range(300), 65535)
    assert find_labelling(ids, (), "instances", 0, 65535).ignored == 65535
    assert (
        find_labelling(ids, (), "instances", 0, 255).ignored is None
    )  # the default is an id like any other


def test_masks_in_class_folders_hold_two_values_each() -> None:
    mixed = MaskValues({0: 9, 1: 9, 255: 9}, {0: 2, 1: 1, 255: 1}, most_distinct=2)
    assert find_labelling(mixed, TWO, "folders", 0, 255).kind == "folders"
    with pytest.raises(InputError, match="one of them holds 3"):
        find_labelling(MaskValues(mixed.pixels, mixed.masks, 3), TWO, "folders", 0, 255)


def test_messages_name_a_mask_of_each_value() -> None:
    found = MaskValues(
        {0: 9, 1: 5, 3: 2, 4: 1}, {0: 2, 1: 2, 3: 2, 4: 1}, 4, {3: "a.png", 4: "b.png"}
    )
    with pytest.raises(
        InputError,
        match=r"3 \(2 px in 2 masks, such as a.png\), 4 \(1 px in 1 mask, such as b.png\)",
    ):
        find_labelling(found, ONE, "classes", 0, 255)


def test_anti_aliased_edges_are_refused_until_asked_for() -> None:
    soft = counted(SOFT)
    for classes in ((), ONE, parse_classes("nucleus=255")):
        with pytest.raises(
            InputError,
            match="180 px .1.8 %. in at least 2 masks lie between 0 and 255 .60 values.; give",
        ):
            find_labelling(soft, classes, None, 0, 255)
    labelling = find_labelling(soft, ONE, "binary", 0, 255)
    assert labelling.foreground == 128
    assert labelling.targets([np.array([[0, 127, 128, 255]])]).tolist() == [[[0, 0, 1, 1]]]
    assert labelling_notes(soft, labelling, 4) == [
        "masks with anti-aliased edges: 180 px (1.8 %) in at least 2 masks lie between 0 and 255; "
        "values from 128 count as nucleus"
    ]
    with pytest.raises(InputError, match="too many for anti-aliased edges"):
        find_labelling(counted(SOFT | {100: 3000}), ONE, "binary", 0, 255)
    assert find_labelling(values(0, 255), ONE, "binary", 0, 255).foreground == labelling.foreground


def test_a_few_objects_per_mask_are_not_taken_for_anti_aliased_edges() -> None:
    ids = counted({0: 90_000} | {number: 4000 // number for number in range(1, 31)})
    assert find_labelling(ids, (), None, 0, 255).kind == "instances"
    with pytest.raises(InputError, match="a value between holds more pixels than the highest, 30"):
        find_labelling(
            counted({0: 900_000} | {number: 4000 // number for number in range(1, 31)}),
            (),
            "binary",
            0,
            255,
        )


def test_interpolated_class_masks_are_refused_with_their_cause() -> None:
    found = counted({0: 9000, 26: 500, 127: 400} | {v: 2 for v in range(30, 60)})
    with pytest.raises(
        InputError,
        match=r"without a class: 30 .*, … \(30 values\).*interpolation .*0.602 % of the",
    ):
        find_labelling(found, parse_classes("a=26,b=127"), None, 0, 255)
    assert (
        find_labelling(values(0, 26, 127, 255), parse_classes("a=26,b=127"), None, 0, 255).kind
        == "classes"
    )


def test_anti_aliased_class_folders_are_thresholded() -> None:
    soft = counted(SOFT, most_distinct=60)
    labelling = find_labelling(soft, TWO, "folders", 0, 255)
    mask = np.array([[0, 100, 128, 255]])
    assert labelling.targets([mask, mask * 0]).tolist() == [[[0, 0, 1, 1]], [[0, 0, 0, 0]]]
    (note,) = labelling_notes(soft, labelling, 8)
    assert note.endswith("values from 128 count as the class")
    assert (
        find_labelling(values(0, 255), TWO, "folders", 0, 255).foreground == 128
    )  # two sets that agree
    with pytest.raises(InputError, match="threshold them, or give --ignore-value none"):
        find_labelling(
            MaskValues({0: 90, 1: 9, 255: 1}, {0: 2, 1: 1, 255: 1}, 3), TWO, "folders", 0, 255
        )


def test_class_folders_may_mix_conventions() -> None:
    mixed = MaskValues({0: 9, 1: 9, 255: 9}, {0: 2, 1: 1, 255: 1}, most_distinct=2)
    assert find_labelling(mixed, TWO, "folders", 0, 255).foreground == 1
    one, other = np.array([[0, 1]]), np.array([[0, 255]])
    assert find_labelling(mixed, TWO, "folders", 0, 255).targets([one, other]).tolist() == [
        [[0, 1]],
        [[0, 1]],
    ]
    assert find_labelling(mixed, TWO, "folders", 255, None).targets([one, other]).tolist() == [
        [[1, 1]],
        [[1, 0]],
    ]
    with pytest.raises(InputError, match="neither below nor above"):
        find_labelling(mixed, TWO, "folders", 1, None)


def test_masks_may_be_inverted() -> None:
    for kind in ("binary", "folders"):
        labelling = find_labelling(values(0, 255), ONE, kind, 255, 255)  # type: ignore[arg-type]
        assert labelling.targets([np.array([[0, 255]])]).tolist() == [[[1, 0]]]
        (note,) = labelling_notes(values(0, 255), labelling, 1)
        assert note.startswith("values below 128 count (--background-value 255) as ")
    with pytest.raises(
        InputError,
        match="--background-value 255 is also the --ignore-value; give --ignore-value none",
    ):
        find_labelling(values(0, 255), parse_classes("a=0"), None, 255, 255)


def test_notes_name_absent_classes_ignored_pixels_and_a_missing_background() -> None:
    found = MaskValues({0: 900, 1: 60, 255: 40}, {0: 400, 1: 300, 255: 12}, 3)
    labelling = find_labelling(found, TWO, None, 0, 255)
    absent, ignored = labelling_notes(found, labelling, 400)
    assert absent.startswith("class symptom=2 occurs in none of the 400 masks: ")
    assert (
        ignored
        == "4 % of the pixels, in 12 of 400 masks, have the --ignore-value 255 and are not counted"
    )
    plain = values(0, 1, 2)
    assert labelling_notes(plain, find_labelling(plain, TWO, None, 0, 255), 1) == []
    for clean in ((0, 1), (0, 255), (1, 2)):
        assert (
            labelling_notes(
                values(*clean), find_labelling(values(*clean), ONE, "binary", 0, 255), 1
            )
            == []
        )
    one_based = values(1, 2)
    (note,) = labelling_notes(one_based, find_labelling(one_based, TWO, None, 0, 255), 7)
    assert "no pixel of the masks has the background value 0" in note
    assert "give --background-value 1 and name the classes without it" in note
    (note,) = labelling_notes(
        values(*range(1, 300)), find_labelling(values(*range(1, 300)), (), None, 0, 255), 7
    )
    assert note.endswith("belongs to an object; if 1 is the background, give --background-value 1")
    (note,) = labelling_notes(values(255), find_labelling(values(255), TWO, "folders", 0, 255), 14)
    assert "every pixel belongs to a class" in note


def test_a_class_folder_without_its_class_is_noted() -> None:
    both = MaskValues({0: 30, 255: 10}, {0: 8, 255: 3}, 2, {}, (values(0, 255), values(0)))
    (note,) = labelling_notes(both, find_labelling(both, TWO, "folders", 0, 255), 4)
    assert note.startswith("class symptom occurs in none of the 4 masks: ")


def test_a_class_mask_is_where_the_target_is_one() -> None:
    mask = np.array([[0, 1, 2, 255, 7]])
    for labelling in (
        Labelling("classes", TWO, 0, 255),
        Labelling("binary", ONE, 0, None, 2),
        Labelling("instances", ONE, 0, 7),
        Labelling("folders", TWO, 0, None, 1),
    ):
        masks = [mask, mask[:, ::-1]] if labelling.kind == "folders" else [mask]
        for index, plane in enumerate(labelling.targets(masks)):
            assert np.array_equal(labelling.class_mask(masks, index), plane == 1)


def test_each_kind_of_masks_gives_its_targets() -> None:
    mask = np.array([[0, 1, 2, 255]])
    assert Labelling("classes", TWO, 0, 255).targets([mask]).tolist() == [
        [[0, 1, 0, IGNORED]],
        [[0, 0, 1, IGNORED]],
    ]
    assert Labelling("binary", ONE, 0, None, 255).targets([mask]).tolist() == [[[0, 0, 0, 1]]]
    assert Labelling("instances", ONE).targets([mask]).tolist() == [[[0, 1, 1, 1]]]
    assert Labelling("folders", TWO).targets([mask, mask * 0]).tolist() == [
        [[0, 1, 1, 1]],
        [[0, 0, 0, 0]],
    ]


def test_two_values_of_which_none_is_the_background_are_refused_with_both() -> None:
    remedy = "give --background-value 1 or 2, whichever is the background"
    with pytest.raises(InputError, match=remedy):
        find_labelling(values(1, 2), (), None, 0, 255)
    assert find_labelling(values(1, 2), (), None, 2, 255).kind == "binary"
