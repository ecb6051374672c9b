"""Windows of large labelled images against the same images decoded whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.mask import encode

from unet_ray.errors import ImageError
from unet_ray.flags import ClassSpec
from unet_ray.imaging.geometry import Box
from unet_ray.labelled_data.annotations import Polygon, Runs
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.drawing import Drawing, _clip_runs
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.image_facts import describe_image
from unet_ray.labelled_data.labelled_set import LabelledSet, LabelOptions
from unet_ray.labelled_data.labelled_window import LabelledWindow, cut_large_images
from unet_ray.labelled_data.readers import FileReader
from unet_ray.labelled_data.statistics import compute_statistics
from unet_ray.training.record import list_labelled_files

HEIGHT, WIDTH = 300, 420
SQUARE = [(40, 60), (40, 200), (170, 230), (160, 50)]
"""Corners of an object, (row, column)."""


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number in range(1, 40):
        top, left = rng.integers(0, HEIGHT - 20), rng.integers(0, WIDTH - 20)
        ids[top : top + 17, left : left + 14] = 300 * number
    return image, ids


def write_set(folder: Path, form: str) -> LabelledSet:
    """Write a large image and a small one with masks in one of several forms."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    image, ids = draw(rng)
    tifffile.imwrite(folder / "images/large.tif", image, tile=(64, 64), compression="zlib")
    Image.fromarray(image[:90, :80]).save(folder / "images/small.png")
    masks = str(folder / "masks")
    if form == "coco":
        masks = str(folder / "labels.json")
        outline = [float(at) for row, column in SQUARE for at in (column, row)]
        hole = [250.0, 20.0, 400.0, 20.0, 400.0, 280.0, 250.0, 280.0]
        annotations = [
            {"id": number, "image_id": image_id, "category_id": 1, "segmentation": [points]}
            for number, (image_id, points) in enumerate([(1, outline), (1, hole), (2, outline)], 1)
        ]
        sizes = {"large.tif": (HEIGHT, WIDTH), "small.png": (90, 80)}
        annotations[2]["segmentation"] = [[5.0, 5.0, 60.0, 5.0, 60.0, 80.0]]
        coco = {
            "images": [
                {"id": number, "file_name": name, "height": size[0], "width": size[1]}
                for number, (name, size) in enumerate(sizes.items(), 1)
            ],
            "categories": [{"id": 1, "name": "cell"}],
            "annotations": annotations,
        }
        Path(masks).write_text(json.dumps(coco))
        return find_labelled(str(folder / "images"), masks, LabelOptions())
    small = ids[:90, :80]
    if form == "png":
        Image.fromarray(ids).save(folder / "masks/large.png")
    elif form == "palette":
        packed = (ids // 300).astype(np.uint8)
        paletted = Image.fromarray(packed, "P")
        paletted.putpalette([*range(256)] * 3)
        paletted.save(folder / "masks/large.tif")
        small = packed[:90, :80]
    else:
        tiled = {"tile": (32, 48)} if form == "tiled" else {}
        tifffile.imwrite(folder / "masks/large.tif", ids, **tiled)
    Image.fromarray(small).save(folder / "masks/small.png")
    return find_labelled(str(folder / "images"), masks, LabelOptions(kind="instances"))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("form", ["tiled", "strips", "png", "palette", "coco"])
def test_windows_are_parts_of_the_whole(tmp_path: Path, form: str) -> None:
    labelled = write_set(tmp_path, form)
    assert labelled == cut_large_images(labelled)  # none of these images is large
    cut = cut_large_images(labelled, whole_px=10_000, side_px=100)
    assert cut.notes[-1] == (
        "1 of 2 images have more than 10000 px: they are read in 12 windows of at least 100² px, "
        "each counted as an image"
    )
    windows = [item for item in cut.items if isinstance(item, LabelledWindow)]
    assert len(windows) == 12
    assert len(cut.items) == 13
    assert len(set(cut.names)) == 2
    whole = FileReader(labelled.access, labelled.items).read(0)
    reader = FileReader(cut.access, cut.items)
    seen = np.zeros((HEIGHT, WIDTH), int)
    for index, item in enumerate(cut.items):
        if not isinstance(item, LabelledWindow):
            continue
        box, part = item.window, reader.read(index)
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        seen[rows, columns] += 1
        assert np.array_equal(part.image, whole.image[rows, columns])
        assert len(part.masks) == len(whole.masks)
        for found, expected in zip(part.masks, whole.masks, strict=True):
            assert np.array_equal(found, expected[rows, columns])
    assert (seen == 1).all()


def test_a_crop_fits_in_a_window(tmp_path: Path) -> None:
    labelled = write_set(tmp_path, "tiled")
    cut = cut_large_images(labelled, crop_px=150, whole_px=10_000, side_px=100)
    sizes = {
        (item.window.height, item.window.width)
        for item in cut.items
        if isinstance(item, LabelledWindow)
    }
    assert sizes == {(150, 150), (150, 270)}


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    labelled = write_set(tmp_path, "tiled")
    tifffile.imwrite(tmp_path / "masks/large.tif", np.ones((HEIGHT, WIDTH + 1), np.uint16))
    cut = cut_large_images(labelled, whole_px=10_000, side_px=100)
    with pytest.raises(ImageError, match="421×300"):
        FileReader(cut.access, cut.items).read(0)


def test_a_window_without_a_pixel_is_no_error(tmp_path: Path) -> None:
    labelled = write_set(tmp_path, "tiled")
    image = np.full((HEIGHT, WIDTH), 7.0, np.float32)
    image[:150, :120] = np.nan
    tifffile.imwrite(tmp_path / "images/large.tif", image, tile=(64, 64))
    cut = cut_large_images(labelled, whole_px=10_000, side_px=100)
    reader = FileReader(cut.access, cut.items)
    facts = [describe_image(reader, index, [], 16)[0] for index in range(12)]
    assert [each.is_absent for each in facts] == [True] + 11 * [False]
    assert not any(each.error for each in facts)
    assert [each.is_usable for each in facts] == [False] + 11 * [True]
    assert [each.has_no_data for each in facts[:6]] == [False, True, False, False, True, True]


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("form", ["tiled", "coco"])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_statistics_of_windows_add_up_to_those_of_the_image(tmp_path: Path, form: str) -> None:
    labelled = write_set(tmp_path, form)
    cut = cut_large_images(labelled, whole_px=10_000, side_px=100)
    whole, parts = compute_statistics(labelled), compute_statistics(cut)
    assert parts.values.pixels == whole.values.pixels
    assert len(parts.usable) == 13
    files, files_of_windows = (
        list_labelled_files(some, found) for some, found in ((labelled, whole), (cut, parts))
    )
    assert files.keys() == files_of_windows.keys()
    for name, file in files_of_windows.items():
        assert not file.differs(files[name])
    assert files_of_windows["images/large.tif"].sha256 is None
    assert files_of_windows["images/small.png"].sha256


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_runs_of_a_window_are_those_of_the_image_in_it(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.random((height, width)) < rng.random()
    flat = whole.T.ravel()
    steps = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    runs = steps.reshape(-1, 2)
    top, left = rng.integers(0, height), rng.integers(0, width)
    bottom, right = rng.integers(top + 1, height + 1), rng.integers(left + 1, width + 1)
    window = Box(int(top), int(left), int(bottom), int(right))
    found = np.zeros(window.height * window.width, bool)
    for first, end in _clip_runs(runs, height, window):
        assert not found[first:end].any()
        found[first:end] = True
    expected = whole[top:bottom, left:right]
    assert np.array_equal(found.reshape(window.width, window.height).T, expected)


def test_windows_follow_the_options_of_their_set(tmp_path: Path) -> None:
    """Masks of another size are scaled where that is asked for."""
    labelled = write_set(tmp_path, "strips")
    half = np.arange(HEIGHT * WIDTH // 4, dtype=np.uint16).reshape(HEIGHT // 2, WIDTH // 2) % 1000
    tifffile.imwrite(tmp_path / "masks/large.tif", half)
    access = replace(labelled.access, options=replace(labelled.access.options, rescale=True))
    cut = cut_large_images(replace(labelled, access=access), whole_px=10_000, side_px=100)
    whole = FileReader(access, labelled.items).read(0).masks[0]
    part = FileReader(access, cut.items).read(5)
    assert np.array_equal(part.masks[0], whole[100:200, 100:200])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_a_window_of_a_drawing_is_a_part_of_the_whole(seed: int) -> None:
    """Outlines with holes, run lengths of boxes, crowds and labels of another size."""
    rng = np.random.default_rng(seed)
    builder = AnnotationsBuilder()
    drawn = (40, 60) if rng.random() < 0.5 else (80, 120)
    image = builder.add_image("a.png", size=drawn)
    for number in range(int(rng.integers(1, 12))):
        outer, hole = ((rng.random((4, 2)) * (70, 50) - 5).round(1).ravel().tolist() for _ in "12")
        counts = bytes(encode((rng.random((9, 7)) < 0.5).astype(np.uint8, order="F"))["counts"])
        box = Runs(counts, height=9, width=7, top=20, left=30)
        parts = [box] if rng.random() < 0.3 else [Polygon(outer, [hole]), Polygon(hole)]
        category = builder.find_category("ab"[number % 2] if seed % 2 else "a")
        is_ignored = bool(rng.random() < 0.2)
        builder.add_object(image, category, parts, label=str(number), is_ignored=is_ignored)
    annotations = builder.build()
    classes = tuple(ClassSpec(n, each.name) for n, each in enumerate(annotations.categories, 1))
    drawing = Drawing(annotations, classes, {n: n for n in range(len(classes))})
    whole = drawing.draw(0, (80, 120))
    for window in (Box(0, 0, 80, 120), Box(10, 20, 50, 90), Box(79, 0, 80, 1)):
        part = drawing.draw(0, (80, 120), window)
        for found, expected in zip(part, whole, strict=True):
            assert np.array_equal(
                found, expected[window.top : window.bottom, window.left : window.right]
            )


def test_an_object_far_outside_costs_the_image_in_each_window() -> None:
    builder = AnnotationsBuilder()
    image = builder.add_image("a.png", size=(80, 120))
    category = builder.add_category("a")
    far = Polygon([1e6, 1, 1e6 + 9, 1, 1e6, 9])
    for part in (Polygon([1, 1, 9, 1, 9, 9]), far):
        builder.add_object(image, category, [part], label="it")
    drawing = Drawing(builder.build(), (ClassSpec(1, "a"),), {0: 0})
    with pytest.raises(ImageError, match="farther than 120 px"):
        drawing.draw(0, (80, 120), Box(40, 40, 60, 60))
