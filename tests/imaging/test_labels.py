import numpy as np
import pytest

from unet_ray.errors import InputError
from unet_ray.imaging.crops import count_crops, random_crop
from unet_ray.imaging.labels import ClassSpec, Labelling, MaskValues, find_labelling, parse_classes
from unet_ray.imaging.metrics import IGNORED

TWO = parse_classes("leaf,symptom")
ONE = parse_classes("nucleus")


def values(*found: int) -> MaskValues:
    return MaskValues({v: 10 for v in found}, {v: 1 for v in found})


def test_parse_classes() -> None:
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
def test_kinds_are_inferred(found: tuple[int, ...], classes: tuple[ClassSpec, ...], kind: str) -> None:
    assert find_labelling(values(*found), classes, None, 0, 255).kind == kind


@pytest.mark.parametrize(
    ("found", "classes", "kind", "message"),
    [
        ((0, 1, 2), (), None, "may be classes or objects: give --classes"),
        (tuple(range(0, 256, 3)), (), None, "may be classes or objects"),  # anti-aliased edges
        ((0,), (), None, "nothing to learn"),
        ((0, 1, 2, 3), TWO, None, r"beyond the classes: 3 \(10 px in 1 masks\)"),
        ((0, 5), TWO, None, "beyond the classes: 5"),
        ((0, 128, 255), (), "binary", "binary masks hold two values, these 3"),
        ((0, 1), (), "classes", "need --classes"),
        ((0, 1, 255), parse_classes("a=1,b=255"), None, "--ignore-value 255 is also a class"),
        ((0, 255), TWO, "classes", "no mask holds a pixel of leaf=1, symptom=2"),
    ],
)
def test_masks_that_cannot_be_told_are_refused(
    found: tuple[int, ...], classes: tuple[ClassSpec, ...], kind: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_labelling(values(*found), classes, kind, 0, 255)  # type: ignore[arg-type]


def test_instances_keep_an_ignore_value_that_was_given() -> None:
    ids = values(*range(300), 65535)
    assert find_labelling(ids, (), "instances", 0, 65535).ignored == 65535
    assert find_labelling(ids, (), "instances", 0, 255).ignored is None  # the default is an id like any other


def test_masks_in_class_folders_are_two_valued_each() -> None:
    mixed = MaskValues({0: 9, 1: 9, 255: 9}, {0: 2, 1: 1, 255: 1}, most_distinct=2)
    assert find_labelling(mixed, TWO, "folders", 0, 255).kind == "folders"
    with pytest.raises(InputError, match="one of them holds 3"):
        find_labelling(MaskValues(mixed.pixels, mixed.masks, 3), TWO, "folders", 0, 255)


def test_targets_of_each_kind() -> None:
    mask = np.array([[0, 1, 2, 255]])
    assert Labelling("classes", TWO, 0, 255).targets([mask]).tolist() == [
        [[0, 1, 0, IGNORED]],
        [[0, 0, 1, IGNORED]],
    ]
    assert Labelling("binary", ONE, 0, None, 255).targets([mask]).tolist() == [[[0, 0, 0, 1]]]
    assert Labelling("instances", ONE).targets([mask]).tolist() == [[[0, 1, 1, 1]]]
    assert Labelling("folders", TWO).targets([mask, mask * 0]).tolist() == [[[0, 1, 1, 1]], [[0, 0, 0, 0]]]


def test_crops_cover_the_area_once_and_pad_small_images() -> None:
    assert (count_crops(1024, 2048, 256), count_crops(100, 100, 256)) == (32, 1)
    image = np.arange(24).reshape(4, 6, 1)
    crop, targets = random_crop(image, np.ones((1, 4, 6), np.uint8), 8, 2, np.random.default_rng(0))
    assert crop.shape == (12, 12, 1)
    assert np.array_equal(crop[2:6, 2:8], image)
    assert (targets[0, :4, :6] == 1).all()
    assert (targets[0, 4:] == IGNORED).all()
