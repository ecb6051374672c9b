"""Groups that names of files tell: those of programs are found, those of collections are not."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.labelled_data.grouping.names import guess_groups

WELLS = [f"{row}{column}" for row in "ABC" for column in range(1, 5)]
"""Twelve wells, as some programs write them."""
PADDED = [f"{row}{column:02}" for row in "ABC" for column in range(1, 5)]
STARTS = range(0, 2048, 512)

GROUPED = {
    "offsets with letters": ["s{}_x{}_y{}.png", range(12), STARTS, STARTS],
    "offsets with capitals": ["s{}-X{}Y{}.tif", range(12), STARTS, STARTS],
    "offsets, y first": ["s{}_y{}_x{}_w512_h512.png", range(12), STARTS, STARTS],
    "offsets": ["slide {}-{}-{}.tif", range(12), STARTS, STARTS],
    "offsets in a folder per slide": ["slide{}/{}_{}.png", range(12), STARTS, STARTS],
    "rows and columns": ["s{}_r{:02}_c{:02}.png", range(12), range(3), range(3)],
    "rows and columns in words": ["s{}-row{}-col{}.png", range(12), range(3), range(3)],
    "a grid": ["ortho{}_{}_{}.tif", range(12), range(1, 4), range(1, 4)],
    "numbered tiles": ["s{}_tile_{:04}.png", range(12), range(9)],
    "numbered tiles in folders": ["s{}/tile_{:04}.png", range(12), range(9)],
    "QuPath": ["slide.v{} [x={},y={},w=512,h=512].png", range(12), STARTS, STARTS],
    "QuPath at another scale": ["s{} [d=3.9,x={},y={},w=9,h=9].tif", range(12), STARTS, STARTS],
    "DeepZoom": ["slide{}_files/12/{}_{}.jpeg", range(12), range(3), range(2)],
    "DOTA": ["P{:04}__1.0__{}___{}.png", range(12), STARTS, STARTS],
    "edges of tiles": ["P{0:04}_{1}_{2}_{1}_{2}.png", range(12), [0, 7], [800, 899]],
    "frames": ["clip{}_frame{:04}.png", range(12), range(9)],
    "frames in folders": ["clip{}/frame_{:06}.PNG", range(12), range(9)],
    "frames by number": ["video{}_{:06}.png", range(12), range(0, 90, 10)],
    "frames by number in folders": ["video{}/{:05}.png", range(12), range(9)],
    "times": ["pos{}_t{:03}.tif", range(12), range(9)],
    "times and depths": ["pos{}_z{}_t{:03}.ome.tif", range(12), range(3), range(3)],
    "Micro-Manager": [
        "img_channel000_position{:03}_time{:09}_z000.tif",
        range(12),
        range(9),
    ],
    "slices": ["brain{}_slice{}.png", range(12), range(9)],
    "images of a patient": ["P{:03}_{:02}.png", range(12), range(4)],
    "Opera": ["r{:02}c{:02}f{:02}p01-ch1sk1fk1fl1.tiff", range(1, 4), range(1, 5), range(1, 5)],
    "ImageXpress": ["plate_{}_s{}_w1E4F0.TIF", PADDED, range(4)],
    "a plate whose name looks like a well": ["P1_{}_s{}_w1.TIF", PADDED, range(4)],
    "CellVoyager": ["AssayPlate_{}_T0001F{:03}L01A01Z01C01.tif", PADDED, range(4)],
    "Incucyte": ["VID1_{}_1_{:02}d00h00m.tif", WELLS, range(4)],
    "Cellomics": ["MFGTMP_1_{}f{:02}d0.TIF", PADDED, range(4)],
    "IN Cell": ["{} - 01(fld {} wv DAPI).tif", "ABCDEFGHIJKL", range(4)],
    "folders of wells": ["Well {}/{}.tif", PADDED, ["a", "b", "c"]],
}
"""Pattern and the values that fill it; those that come first make the groups: twelve."""


@pytest.mark.parametrize("what", GROUPED)
def test_names_that_programs_write_tell_groups(what: str) -> None:
    pattern, *values = GROUPED[what]
    filled = [*product(*values)]
    num_first = 2 if what == "Opera" else 1
    names = [str(pattern).format(*parts) for parts in filled]
    guess = guess_groups(names)
    assert guess
    assert guess.is_accepted
    groups = dict.fromkeys(parts[:num_first] for parts in filled)
    expected = [[*groups].index(parts[:num_first]) for parts in filled]
    found = [[*dict.fromkeys(guess.groups)].index(group) for group in guess.groups]
    assert found == expected
    assert len(set(found)) == 12


CHANCE = random.Random(0)
CLASSES = [
    "airplane",
    "airport",
    "beach",
    "bridge",
    "chapel",
    "church",
    "cloud",
    "desert",
    "dune",
    "farm",
    "forest",
    "golf",
]
INDEPENDENT = {
    "digests": [f"{CHANCE.randrange(16**64):064x}.png" for _ in range(664)],
    "short digests": [f"{CHANCE.randrange(16**10):010x}.png" for _ in range(400)],
    "numbers": [f"{number}.jpg" for number in range(1, 613)],
    "numbers of a camera": [f"DSC{number:05}.JPG" for number in range(400)],
    "one numbered series": [f"img_{number:04}.png" for number in range(664)],
    "times of a phone": [
        f"IMG_202301{CHANCE.randrange(1, 30):02}_{CHANCE.randrange(10**6):06}.jpg"
        for _ in range(400)
    ],
    "dates": [f"2023-{month:02}-{day:02}.jpg" for month in range(1, 13) for day in range(1, 29)],
    "classes": [f"{name}_{number:03}.jpg" for name in CLASSES for number in range(40)],
    "folders of classes": [f"{name}/{name}{number}.jpg" for name in CLASSES for number in range(9)],
    "ImageNet": [
        f"n{synset:08}/n{synset:08}_{CHANCE.randrange(20_000)}.JPEG"
        for synset in range(12)
        for _ in range(40)
    ],
    "COCO": [f"COCO_train2014_{CHANCE.randrange(10**6):012}.jpg" for _ in range(400)],
    "VOC": [f"{CHANCE.randrange(2007, 2012)}_{CHANCE.randrange(10**4):06}.jpg" for _ in range(400)],
    "a picture of each well": [
        f"{row}{column:02}.tif" for row in "ABCDEFGH" for column in range(12)
    ],
    "numbers that no integer is read from": [f"a1_{number}{'7' * 6000}" for number in range(20)],
    "nothing": [],
}


@pytest.mark.parametrize("what", INDEPENDENT)
def test_names_of_independent_images_tell_no_groups(what: str) -> None:
    guess = guess_groups(INDEPENDENT[what])
    assert not guess or not guess.is_accepted


def test_few_or_large_groups_are_not_taken_unasked() -> None:
    few = [f"leaf{leaf}_x{x}_y0.png" for leaf in range(9) for x in range(0, 4096, 512)]
    guess = guess_groups(few)
    assert guess
    assert not guess.is_accepted  # nine groups
    large = few + [f"big_x{x}_y{y}.png" for x in range(40) for y in range(3)]
    guess = guess_groups(large)
    assert guess
    assert len(set(guess.groups)) == 10
    assert not guess.is_accepted  # one has 120 of 192 images


def test_names_without_the_rule_of_the_others_are_groups_of_their_own() -> None:
    tiles = [f"s{slide}_tile{tile}.png" for slide in range(12) for tile in range(4)]
    guess = guess_groups([*tiles, "overview.png", "other.png"])
    assert guess
    assert guess.groups[-2:] == ("overview.png", "other.png")


@given(st.lists(st.text("aA1_-x y/.zt[]=,", max_size=12), max_size=30))
def test_any_names_give_groups_of_whole_files(names: list[str]) -> None:
    guess = guess_groups(names)
    if guess:
        assert len(guess.groups) == len(names)
        assert len(dict(zip(names, guess.groups, strict=True)).values()) == len(set(names))
        assert len({*zip(names, guess.groups, strict=True)}) == len(set(names))
