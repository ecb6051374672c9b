"""Images that EXIF turns, and masks of other sizes: what fits is taken, what does not is said."""

from pathlib import Path

import numpy as np
import pytest

from tests.builders import encode_pillow
from unet_ray.errors import ImageError, InputError
from unet_ray.flags import ClassSpec, MaskFrame
from unet_ray.imaging.codecs.decode import turn_upright
from unet_ray.labelled_data.alignment import (
    Fit,
    LabelledArrays,
    check_fit,
    choose_size,
    settle_frame,
    stored_size,
)
from unet_ray.labelled_data.annotations import Polygon
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.drawing import Drawing
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.labelled_set import LabelAccess, LabelledImage, LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.labelled_data.statistics import compute_statistics
from unet_ray.storage.storage import Storage

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 255, (6, 10, 3), np.uint8)
MASK = (STORED[:, :, 0] > 127).astype(np.uint8)
"""Mask of the samples as they are stored: each pixel says whether red is bright there."""
ORIENTATION = 0x0112
ALL = range(1, 9)


def encode_turned(samples: np.ndarray, orientation: int) -> bytes:
    """Return a PNG with an EXIF orientation."""
    from PIL import Image

    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode_pillow(samples, exif=exif)


def write_set(folder: Path, *pairs: tuple[bytes, bytes]) -> tuple[str, str]:
    storage = Storage.of(str(folder))
    for number, (image, mask) in enumerate(pairs):
        storage.write(f"images/{number}.png", image)
        storage.write(f"masks/{number}.png", mask)
    return f"{folder}/images", f"{folder}/masks"


def read_set(uris: tuple[str, str], options: LabelOptions, frame: MaskFrame) -> FileReader:
    labelled = find_labelled(*uris, options)
    return FileReader(labelled.access, labelled.items, frame)


@pytest.mark.parametrize("frame", ["shown", "stored"])
@pytest.mark.parametrize("orientation", ALL)
def test_masks_of_both_frames_lie_on_what_they_show(
    tmp_path: Path, orientation: int, frame: MaskFrame
) -> None:
    mask = MASK if frame == "stored" else turn_upright(MASK, orientation)
    uris = write_set(tmp_path, (encode_turned(STORED, orientation), encode_pillow(mask)))
    image, (found,), _ = read_set(uris, LabelOptions(), frame).read(0)
    assert np.array_equal(image, turn_upright(STORED, orientation))
    assert np.array_equal(found, image[:, :, 0] > 127)


@pytest.mark.parametrize("orientation", ALL)
def test_masks_that_are_turned_themselves_are_of_no_frame(tmp_path: Path, orientation: int) -> None:
    pair = (encode_turned(STORED, orientation), encode_turned(MASK, orientation))
    uris = write_set(tmp_path, pair)
    for frame in ("shown", "stored"):
        image, (found,), _ = read_set(uris, LabelOptions(), frame).read(0)  # type: ignore[arg-type]
        assert np.array_equal(found, image[:, :, 0] > 127)


@pytest.mark.parametrize("orientation", [0, 9, 17, 255])
def test_orientations_that_do_not_exist_turn_nothing(tmp_path: Path, orientation: int) -> None:
    pair = (encode_turned(STORED, orientation), encode_pillow(MASK))
    labelled = find_labelled(*write_set(tmp_path, pair), LabelOptions())
    (item,) = labelled.items
    assert item.decode(item.read_encoded(labelled.access), labelled.access).fit == "plain"


def make_fit(shape: tuple[int, int], orientation: int, mask: tuple[int, int]) -> Fit:
    return LabelledArrays(np.zeros((*shape, 3)), [np.zeros(mask)], orientation).fit


@pytest.mark.parametrize("orientation", ALL)
def test_the_size_tells_the_frame_where_it_can(orientation: int) -> None:
    if orientation == 1:
        assert make_fit((4, 6), 1, (4, 6)) == "plain"
        return
    is_sideways = orientation > 4
    assert make_fit((4, 6), orientation, (4, 6)) == ("shown" if is_sideways else "either")
    if is_sideways:
        assert make_fit((4, 6), orientation, (6, 4)) == "stored"
    assert make_fit((5, 5), orientation, (5, 5)) == "either"
    assert stored_size((4, 6), orientation) == ((6, 4) if is_sideways else (4, 6))


@pytest.mark.parametrize(
    ("fits", "flag", "frame", "note"),
    [
        ("plain plain", None, "shown", None),
        ("plain", "stored", "stored", None),
        ("shown plain", None, "shown", "1 images are turned .*by the sizes of 1 of them.*shown"),
        ("stored stored either", None, "stored", "3 images .*by the sizes of 2 of them.*stored"),
        ("either unstated", "stored", "stored", "2 images are turned .*; --mask-frame stored"),
        ("shown stored", "shown", "shown", "2 images are turned .*; --mask-frame shown"),
    ],
)
def test_the_set_has_one_frame(
    fits: str, flag: MaskFrame | None, frame: MaskFrame, note: str | None
) -> None:
    import re

    listed = [(fit, f"{n}.jpg") for n, fit in enumerate(fits.split())]
    found, notes = settle_frame([*listed, (None, "broken.jpg")], flag, "--masks m")  # type: ignore[list-item]
    assert found == frame
    assert [bool(re.search(note or "", each)) for each in notes] == [True] * (note is not None)


@pytest.mark.parametrize(
    ("fits", "message"),
    [
        (
            "either",
            "1 images are turned by their EXIF .*, for instance 0.jpg, and may be in either",
        ),
        ("plain unstated", "1 images are turned by .*, for instance 1.jpg, and may be in either"),
        ("shown stored", r"1 masks fit the pictures as shown \(0.jpg\) and 1 as stored \(1.jpg\)"),
    ],
)
def test_where_the_sizes_do_not_tell_both_ways_are_named(fits: str, message: str) -> None:
    listed = [(fit, f"{n}.jpg") for n, fit in enumerate(fits.split())]
    with pytest.raises(InputError, match=f"--masks m: .*{message}") as error:
        settle_frame(listed, None, "--masks m")  # type: ignore[arg-type]
    assert "--mask-frame shown" in str(error.value)
    assert "--mask-frame stored" in str(error.value)


def test_a_mask_of_the_other_frame_cannot_be_used() -> None:
    for fit, frame in (("shown", "stored"), ("stored", "shown"), ("unstated", "stored")):
        with pytest.raises(ImageError, match="unreadable: .*(fit as|--mask-frame)"):
            check_fit(fit, frame)  # type: ignore[arg-type]
    for fit in ("plain", "either", "shown", "unstated"):
        check_fit(fit, "shown")  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_local")
def test_what_fits_is_taken_for_the_whole_set(tmp_path: Path) -> None:
    square = STORED[:, :6]
    pairs = [
        (encode_turned(STORED, 6), encode_pillow(MASK)),
        (encode_turned(square, 3), encode_pillow(MASK[:, :6])),
        (encode_pillow(STORED), encode_pillow(MASK)),
    ]
    labelled = find_labelled(*write_set(tmp_path, *pairs), LabelOptions())
    for decode_once in (False, True):
        found = compute_statistics(labelled, decode_once)
        assert found.usable == (0, 1, 2)
        assert "by the sizes of 1 of them, masks fit the pictures as stored" in found.notes[0]
        for index in range(3):
            image, (mask,), _ = found.reader.read(index)
            assert np.array_equal(mask, image[:, :, 0] > 127)


@pytest.mark.usefixtures("ray_local")
def test_squares_need_the_flag_and_then_read(tmp_path: Path) -> None:
    square, mask = STORED[:, :6], MASK[:, :6]
    uris = write_set(tmp_path, (encode_turned(square, 8), encode_pillow(mask)))
    with pytest.raises(InputError, match="may be in either frame; give --mask-frame shown"):
        compute_statistics(find_labelled(*uris, LabelOptions()))
    found = compute_statistics(find_labelled(*uris, LabelOptions(frame="stored")))
    image, (drawn,), _ = found.reader.read(0)
    assert np.array_equal(drawn, image[:, :, 0] > 127)


# --- label files


def make_labels(
    tmp_path: Path, orientation: int, size: tuple[int, int] | None, **options: object
) -> tuple[LabelledImage, LabelAccess]:
    """Return an image of 10×6 px as stored, and labels of its upper left quarter as stored."""
    Storage.of(str(tmp_path)).write("images/0.png", encode_turned(STORED, orientation))
    builder = AnnotationsBuilder()
    image, category = builder.add_image("0.png", size=size), builder.add_category("cell")
    builder.add_object(image, category, [Polygon([0, 0, 5, 0, 5, 3, 0, 3])], label="object")
    drawing = Drawing(builder.build(), (ClassSpec(1, "cell"),), {0: 0})
    storage = Storage.of(f"{tmp_path}/images")
    (entry,) = storage.entries()
    from unet_ray.image_sources.sources import whole_file

    item = LabelledImage(whole_file(entry), (whole_file(entry),), 0, "0" * 64)
    return item, LabelAccess(storage, storage, LabelOptions(**options), drawing)  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", ALL)
def test_labels_that_state_no_size_may_be_of_both_frames(tmp_path: Path, orientation: int) -> None:
    item, access = make_labels(tmp_path, orientation, None)
    fit = item.decode(item.read_encoded(access), access).fit
    assert fit == ("plain" if orientation == 1 else "unstated" if orientation > 4 else "either")


@pytest.mark.parametrize("size", [None, (10, 6)])
@pytest.mark.parametrize("orientation", ALL)
def test_labels_of_the_samples_as_stored_are_turned_with_them(
    tmp_path: Path, orientation: int, size: tuple[int, int] | None
) -> None:
    item, access = make_labels(tmp_path, orientation, size, frame="stored")
    image, (mask,), _ = FileReader(access, (item,), "stored").read(0)
    expected = np.zeros((6, 10), bool)
    expected[:3, :5] = True
    assert np.array_equal(image, turn_upright(STORED, orientation))
    assert np.array_equal(mask > 0, turn_upright(expected, orientation))


def test_labels_of_the_picture_as_shown_are_drawn_on_it(tmp_path: Path) -> None:
    for orientation in ALL:
        size = (6, 10) if orientation > 4 else (10, 6)
        for stated in (None, size):
            item, access = make_labels(tmp_path, orientation, stated, frame="shown")
            _, (mask,), _ = FileReader(access, (item,), "shown").read(0)
            expected = np.zeros(size[::-1], bool)
            expected[:3, :5] = True
            assert np.array_equal(mask > 0, expected)


# --- sizes


@pytest.mark.parametrize(
    ("have", "shown", "orientation", "chosen"),
    [
        ((6, 10), (6, 10), 1, (6, 10)),
        ((10, 6), (6, 10), 6, (10, 6)),
        ((300, 500), (6, 10), 1, (6, 10)),
        ((3, 5), (6, 10), 1, (6, 10)),
        ((5, 3), (6, 10), 8, (10, 6)),
        ((480, 640), (1000, 1333), 1, (1000, 1333)),
        ((1000, 1334), (480, 640), 1, (480, 640)),
    ],
)
def test_masks_of_the_same_aspect_are_scaled_if_wanted(
    have: tuple[int, int], shown: tuple[int, int], orientation: int, chosen: tuple[int, int]
) -> None:
    assert choose_size(have, shown, orientation, True, "its mask m.png") == chosen
    if have in (shown, chosen):
        assert choose_size(have, shown, orientation, False, "its mask m.png") == chosen
        return
    with pytest.raises(
        ImageError, match=r"the image has \d+×\d+ px, but its mask m.png has .*px; "
    ):
        choose_size(have, shown, orientation, False, "its mask m.png")


@pytest.mark.parametrize(
    ("have", "shown", "orientation"),
    [
        ((10, 6), (6, 10), 1),
        ((10, 6), (6, 10), 3),
        ((480, 640), (1000, 1340), 1),
        ((9, 9), (6, 10), 6),
    ],
)
def test_masks_of_another_aspect_are_not_scaled(
    have: tuple[int, int], shown: tuple[int, int], orientation: int
) -> None:
    sizes = f"the image has {shown[1]}×{shown[0]} px, but its mask m.png has {have[1]}×{have[0]} px"
    for rescale in (False, True):
        with pytest.raises(ImageError, match=f"unreadable: {sizes}$"):
            choose_size(have, shown, orientation, rescale, "its mask m.png")


def test_mask_files_are_scaled_by_nearest_neighbour(tmp_path: Path) -> None:
    large = np.repeat(np.repeat(MASK, 3, axis=0), 3, axis=1)
    uris = write_set(tmp_path, (encode_turned(STORED, 6), encode_pillow(large)))
    with pytest.raises(
        ImageError, match="has 6×10 px, but its mask .* has 30×18 px; --rescale-masks"
    ):
        read_set(uris, LabelOptions(), "stored").read(0)
    image, (found,), _ = read_set(uris, LabelOptions(rescale=True), "stored").read(0)
    assert np.array_equal(found, image[:, :, 0] > 127)
