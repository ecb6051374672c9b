"""Pairing by names: every mask has the image of its name, or the set is refused."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.errors import InputError
from unet_ray.labelled_data.pairing.affixes import remove_suffix
from unet_ray.labelled_data.pairing.pairs import (
    Pairing,
    looks_like_folders,
    pair_class_folders,
    pair_files,
)
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.listing import Listing
from unet_ray.storage.storage import Storage


def make_listing(root: str, *paths: str) -> Listing:
    entries = tuple(FileEntry(path, f"{root}/{path}", "", 1) for path in sorted(paths))
    return Listing(Storage.of(root), entries, 0)


def pair(images: str, masks: str, affix: str | None = None) -> Pairing:
    """Pair names that are separated by spaces."""
    return pair_files(
        make_listing("/images", *images.split()), make_listing("/masks", *masks.split()), affix
    )


def show(pairing: Pairing) -> dict[str, str]:
    return {each.image.path: each.masks[0].path for each in pairing.pairs}


@pytest.mark.parametrize(
    ("images", "masks", "note"),
    [
        ("1.jpg 2.png", "1.png 2.png", None),
        ("a/1.jpg b/1.jpg", "a/1.png b/1.png", None),
        ("1.ome.tif 2.OME.TIFF", "1.png 2.nii.gz", None),
        ("1.JPG 2.JPG", "1.PNG 2.PNG", None),
        ("u\u0308.jpg", "\u00fc.png", None),
        ("001.jpg 002.jpg", "001_mask.png 002_mask.png", "masks are called IMAGE_mask"),
        ("001.jpg 002.jpg", "001_masks.png 002_masks.png", "masks are called IMAGE_masks"),
        ("001.jpg 002.jpg", "001-mask.png 002-mask.png", "masks are called IMAGE-mask"),
        ("001.jpg 002.jpg", "001mask.png 002mask.png", "masks are called IMAGEmask"),
        ("001.jpg 002.jpg", "001_seg.png 002_seg.png", "masks are called IMAGE_seg"),
        ("a.jpg b.jpg", "a_segmentation.png b_segmentation.png", "masks are called IMAGE_seg"),
        ("a.jpg b.jpg", "mask_a.png mask_b.png", "masks are called mask_IMAGE"),
        ("a.jpg b.jpg", "a_final_v2.png b_final_v2.png", "masks are called IMAGE_final_v2"),
        ("a.jpg b.jpg", "gt_a_v2.png gt_b_v2.png", "masks are called gt_IMAGE_v2"),
        ("a.tif b.tif", "a_cp_masks.png b_cp_masks.png", "masks are called IMAGE_cp_masks"),
        ("c1_0000.png c2_0000.png", "c1.png c2.png", "images are called MASK_0000"),
        ("img_1.png img_2.png", "mask_1.png mask_2.png", "called mask_NAME, their images img_NAME"),
        ("img_1_0000.png img_2_0000.png", "gt_1.png gt_2.png", "their images img_NAME_0000"),
        ("00.jpg 01.jpg", "00.jpg.png 01.jpg.png", "masks have the whole name of their images"),
        ("x/00.jpg y/01.jpg", "00.png 01.png", "masks have the names of their images, in other f"),
        ("x/00.jpg y/01.jpg", "m/00_m.png m/01_m.png", "called IMAGE_m, whatever their folders"),
        (
            "s1/image.png s2/image.png",
            "s1/mask.png s2/mask.png",
            "masks are called NAMEmask, their",
        ),
    ],
)
def test_each_way_of_pairing_is_found_and_said(images: str, masks: str, note: str | None) -> None:
    pairing = pair(images, masks)
    assert (pairing.orphans, pairing.unlabelled) == ((), ())
    assert [*show(pairing)] == images.split()
    assert [*show(pairing).values()] == masks.split()
    assert len(pairing.notes) == (note is not None)
    assert note is None or note in pairing.notes[0]


def test_images_without_masks_are_left_out_and_masks_without_images_counted() -> None:
    pairing = pair("1.jpg 2.jpg 3.jpg", "1.png 2.png 9.png")
    assert show(pairing) == {"1.jpg": "1.png", "2.jpg": "2.png"}
    assert [entry.path for entry in pairing.unlabelled] == ["3.jpg"]
    assert pairing.orphans == ("9.png",)
    pairing = pair("1.jpg 2.jpg 3.jpg", "1_mask.png 2_mask.png")
    assert [entry.path for entry in pairing.unlabelled] == ["3.jpg"]


@pytest.mark.parametrize(
    ("images", "masks", "affix", "pairs"),
    [
        ("1.jpg 2.jpg", "1_m.png 2_m.png overview.png", "_m", 2),
        ("1.jpg 2.jpg", "m_1.png m_2.png x.png", "m_", 2),
        ("1.jpg 2.jpg", "a_1_b.png a_2_b.png x.png", "a_*_b", 2),
        ("1.jpg 2.jpg 3.jpg", "1_m.png 2_m.png 1_weights.png", "_m", 2),
        ("d/1.jpg d/2.jpg", "1_m.png 2_m.png 7_m.png", "_m", 2),
    ],
)
def test_an_affix_that_not_all_masks_have_is_given_by_hand(
    images: str, masks: str, affix: str, pairs: int
) -> None:
    with pytest.raises(InputError, match="give --mask-affix"):
        pair(images, masks)
    pairing = pair(images, masks, affix)
    assert len(pairing.pairs) == pairs
    rest = len(masks.split()) - pairs - len(pairing.orphans)
    note = [f"skipped {rest} files of --masks without --mask-affix {affix}"] * (rest > 0)
    assert [*pairing.notes][: len(note)] == note


@pytest.mark.parametrize(
    ("images", "masks", "affix", "message"),
    [
        ("1.jpg", "2.png", None, "no mask in /masks has the name of an image in /images: 2.png, 1"),
        ("1.jpg 2.jpg", "10.png 20.png", None, "no mask .* has the name"),
        ("1.jpg 11.jpg", "01.png 011.png", None, "no mask .* has the name"),
        ("p1_1.jpg p1_2.jpg", "p2_1.png p2_2.png", None, "no mask .* has the name"),
        ("image.jpg", "mask.png", None, "no mask .* has the name"),
        ("a1.jpg", "b2.png", None, "no mask .* has the name"),
        ("4.jpg 4.png", "4.png", None, "4.jpg and 4.png share the mask 4.png; keep one"),
        ("4.jpg", "4.png 4.tif", None, "4.png and 4.tif are masks of 4.jpg; keep one"),
        ("1.jpg", "1.png", "_m", "--mask-affix _m: no mask has it, for instance 1.png"),
        (
            "x_1.png x_2.png",
            "b_1_2.png",
            None,
            "paired in two ways: .*give --mask-affix, or rename",
        ),
    ],
)
def test_names_that_do_not_say_the_pairs_are_refused(
    images: str, masks: str, affix: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        pair(images, masks, affix)
    assert "\n" not in str(error.value)


# --- masks beside their images


def pair_within(names: str, affix: str | None = None) -> dict[str, str]:
    listing = make_listing("/data", *names.split())
    return show(pair_files(listing, listing, affix))


@pytest.mark.parametrize(
    "names",
    [
        "1.jpg 1_mask.png 2.jpg 2_mask.png",
        "1.png 1_mask.png 2.png 2_mask.png",
        "mask_1.png 1.png mask_2.png 2.png",
        "1.jpg 1.png 2.jpg 2.png",
        "a/1.png a/1_gt.png b/2.png b/2_gt.png c/3.png",
    ],
)
def test_masks_may_lie_beside_their_images(names: str) -> None:
    for image, mask in pair_within(names).items():
        is_mask = any(word in mask for word in ("mask", "gt")) or mask.endswith(".png")
        assert is_mask
        assert "mask" not in image
        assert "gt" not in image
        assert PurePosixPath(image).stem in mask
    assert len(pair_within(names)) == 2


def test_masks_beside_their_images_whose_names_say_nothing_are_refused() -> None:
    for names in ("1.png 2.png 3.png", "a.png b.tif"):
        with pytest.raises(InputError, match="hold the same files, and their names do not say"):
            pair_within(names)
    assert pair_within("1.png 1x.png 2.png 2x.png", "x") == {"1.png": "1x.png", "2.png": "2x.png"}


def test_masks_in_a_folder_of_the_images_are_no_images() -> None:
    images = make_listing("/data", "1.png", "2.png", "masks/1.png", "masks/2.png")
    masks = Listing(
        Storage.of("/data/masks"),
        tuple(FileEntry(e.path[6:], e.uri, "", 1) for e in images.entries[2:]),
        0,
    )
    pairing = pair_files(images, masks)
    assert show(pairing) == {"1.png": "1.png", "2.png": "2.png"}
    assert pairing.unlabelled == ()
    assert pairing.notes == ("2 files are taken as masks, not images",)


# --- a folder per class


def test_a_folder_per_class_is_recognised() -> None:
    images = make_listing("/images", "1.png", "2.png")
    masks = make_listing("/masks", "leaf/1.png", "spot/1.png", "leaf/2.png", "spot/2.png")
    assert looks_like_folders(images, masks)
    pairing = pair_class_folders(images, masks, [])
    assert [mask.uri for mask in pairing.pairs[0].masks] == [
        "/masks/leaf/1.png",
        "/masks/spot/1.png",
    ]
    with pytest.raises(InputError, match=r"no folder for stem \(there are leaf, spot\)"):
        pair_class_folders(images, masks, ["leaf", "stem"])


def test_an_image_with_masks_of_some_classes_only_cannot_be_used() -> None:
    images = make_listing("/images", "1.png", "2.png", "3.png")
    masks = make_listing("/masks", "leaf/1.png", "spot/1.png", "leaf/2.png", "leaf/9.png")
    pairing = pair_class_folders(images, masks, ["leaf", "spot"])
    assert [each.image.path for each in pairing.pairs] == ["1.png"]
    assert [entry.path for entry in pairing.unlabelled] == ["3.png"]
    assert pairing.orphans == ("leaf/9.png",)
    assert pairing.incomplete == ("2.png: it has masks of other classes, but none in spot",)


def test_masks_in_class_folders_may_have_an_affix() -> None:
    images = make_listing("/images", "1.png", "2.png")
    masks = make_listing("/masks", "leaf/1_m.png", "leaf/2_m.png", "spot/1_m.png", "spot/2_m.png")
    assert pair_class_folders(images, masks, []).notes == ("masks are called IMAGE_m",)
    masks = make_listing("/masks", *(entry.path for entry in masks.entries), "spot/x.png")
    pairing = pair_class_folders(images, masks, [], "_m")
    assert len(pairing.pairs) == 2


# --- for any names

STEMS = st.lists(
    st.text("ab01_-", min_size=1, max_size=6).filter(lambda stem: stem not in (".", "..")),
    min_size=1,
    max_size=6,
    unique=True,
)
AFFIXES = st.sampled_from(["", "_mask", "mask", "a", "_a", "1", "_1", "b_", "0_", "_0000", "ab01"])


@given(STEMS, AFFIXES, AFFIXES, AFFIXES, st.booleans())
def test_any_names_with_any_affix_pair_exactly_or_are_refused(
    stems: list[str], before: str, after: str, of_images: str, has_others: bool
) -> None:
    """All masks have an image; then no pair is wrong, whatever the names look like."""
    true = {f"{stem}{of_images}.jpg": f"{before}{stem}{after}.png" for stem in stems}
    try:
        pairing = pair_files(make_listing("/images", *true), make_listing("/masks", *true.values()))
    except InputError:
        return
    if pairing.orphans:  # only equal names, and some of them have none
        assert pairing.notes == ()
        equal = {remove_suffix(name) for name in true}
        assert all(remove_suffix(m.path) in equal for p in pairing.pairs for m in p.masks)
        return
    assert show(pairing) == true


@given(STEMS, AFFIXES)
def test_an_affix_that_is_given_pairs_exactly(stems: list[str], affix: str) -> None:
    if not affix:
        return
    true = {f"{stem}.jpg": f"{stem}{affix}.png" for stem in stems}
    masks = make_listing("/masks", *true.values(), "other.png")
    pairing = pair_files(make_listing("/images", *true), masks, f"*{affix}")
    assert show(pairing) == true


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_a_number_is_never_cut(numbers: list[int], other: int) -> None:
    for pattern in ("{n}", "a{n}", "{n}_b", "a_{n}_{n}"):
        images = [pattern.format(n=n) + ".jpg" for n in numbers]
        for mask in (
            pattern.replace("{n}", f"{{n}}{other}"),
            pattern.replace("{n}", f"{other}{{n}}"),
        ):
            masks = [mask.format(n=n) + ".png" for n in numbers]
            try:
                pairing = pair_files(make_listing("/i", *images), make_listing("/m", *masks))
            except InputError:
                continue
            assert pairing.notes == ()
            for each in pairing.pairs:
                assert remove_suffix(each.image.path) == remove_suffix(each.masks[0].path)


def test_long_names_with_many_parts_pair_at_once() -> None:
    """The affixes that two single files have in common are many."""
    name = "_".join(str(n) for n in range(60))
    assert len(pair(f"{name}.jpg", f"{name}_mask.png").pairs) == 1
    with pytest.raises(InputError, match="no mask"):
        pair(f"a_{name}_a.jpg", f"b_{name[::-1]}_b.png")
