"""Dataset statistics: each labelled image that cannot be used is counted with its reason."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import encode_pillow, encode_tiff
from unet_ray.errors import InputError
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.image_facts import ImageFacts, describe_image
from unet_ray.labelled_data.labelled_set import LabelOptions
from unet_ray.labelled_data.readers import FileReader
from unet_ray.labelled_data.statistics import DatasetStatistics, compute_statistics
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.storage.storage import Storage

NO_SIZE = b"II*\0\x08\0\0\0\x01\0\x06\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"
"""TIFF whose directory states neither width nor height."""
MASK = np.arange(64, dtype=np.uint8).reshape(8, 8) // 32


@pytest.mark.usefixtures("ray_local")
def test_images_without_pixels_and_with_absurd_samples_are_counted(tmp_path: Path) -> None:
    folder, image = Storage.of(str(tmp_path)), np.zeros((8, 8), np.float32)
    files = {"good": encode_tiff(image), "no-size": NO_SIZE}
    for name, sample in (("large", 1e20), ("nodata", -3.4e38)):
        image[3, 4] = sample
        files[name] = encode_tiff(image)
    for name, data in files.items():
        folder.write(f"images/{name}.tif", data)
        folder.write(f"masks/{name}.png", encode_pillow(MASK))
    labelled = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    found = compute_statistics(labelled)
    assert [Path(found.facts[index].uri).stem for index in found.usable] == ["good", "large"]
    found = found.exclude_extremes(Preprocessing("float32", (0.0,), (1.0,)))
    errors = {Path(facts.uri).stem: facts.error for facts in found.facts}
    assert errors["good"] is None
    for name, reason in (
        ("large", "unsupported: a sample of 1e+20 in channel 1"),
        ("no-size", "unreadable: samples of shape (0, 0, 1)"),
        ("nodata", "unsupported: a sample of -3.4e+38; the limit is 1.3e+30"),
    ):
        assert str(errors[name]).startswith(reason)
    assert found.check_readable(0.75)[0].startswith("3 of 4 labelled images cannot be used")
    with pytest.raises(InputError, match="3 of 4 labelled images cannot be used, more than"):
        found.check_readable(0.5)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("decode_once", [False, True])
def test_pixels_that_are_not_there_are_in_no_statistic(tmp_path: Path, decode_once: bool) -> None:
    folder = Storage.of(str(tmp_path))
    heights = np.linspace(5, 9, 64, dtype=np.float32).reshape(8, 8)
    marked, turned = heights.copy(), np.ascontiguousarray(heights[:, ::-1])
    marked[:3] = -9999
    turned[:3] = np.nan
    gdal = [(42113, 2, 0, "-9999", True)]
    empty = np.full((8, 8), np.nan, np.float32)
    images = {
        "empty": encode_tiff(empty),
        "marked": encode_tiff(marked, extratags=gdal),
        "nan": encode_tiff(turned),
    }
    for name, data in images.items():
        folder.write(f"images/{name}.tif", data)
        folder.write(f"masks/{name}.png", encode_pillow(MASK))
    labelled = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    found = compute_statistics(labelled, decode_once=decode_once)
    assert found.facts[0].error == "unsupported: all pixels of the image are missing"
    for facts, image in zip(found.facts[1:], (marked[3:], turned[3:]), strict=True):
        assert facts.low == (image.min(),)
        assert facts.high == (image.max(),)
        assert np.isin(facts.samples, image).all()
    constants = found.preprocessing_of("range", found.usable)
    assert constants.offset[0] == pytest.approx((heights[3:].min() + 9) / 2)
    assert found.exclude_extremes(constants).usable == (1, 2)


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("decode_once", [False, True])
def test_statistics_of_an_image_come_back_from_the_tasks_as_they_were_found(
    tmp_path: Path, decode_once: bool
) -> None:
    folder, rng = Storage.of(str(tmp_path)), np.random.default_rng(0)
    for name in ("a", "b"):
        image = rng.integers(0, 256, (40, 50, 3), np.uint8)
        folder.write(f"images/{name}.png", encode_pillow(image))
        folder.write(f"masks/{name}.png", encode_pillow(np.kron(MASK, np.ones((5, 5), np.uint8))))
    folder.write("images/c.png", b"no image")
    folder.write("masks/c.png", encode_pillow(MASK))
    folder.write("masks/b.png", encode_pillow(np.ones((40, 50), np.uint8)))
    labelled = find_labelled(f"{tmp_path}/images", f"{tmp_path}/masks", LabelOptions())
    found = compute_statistics(labelled, decode_once, count_objects=True)
    files = FileReader(labelled.access, labelled.items)
    assert len(found.facts) == 3
    for index, facts in enumerate(found.facts):
        encoded = labelled.items[index].read_encoded(labelled.access)
        expected, _ = describe_image(files, index, encoded, len(facts.samples), True)
        ours, theirs = vars(facts), vars(expected)
        assert np.array_equal(ours.pop("samples"), theirs.pop("samples"))
        assert ours == theirs


@pytest.mark.usefixtures("ray_local")
def test_an_image_with_a_bad_annotation_is_counted_and_the_annotation_named(tmp_path: Path) -> None:
    """Its numbers would take 3 GB in two seconds, or show what lay in memory."""
    folder, names = Storage.of(str(tmp_path)), ("far", "good", "short")
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    segmentations = ([[2, 2, 1e9, 2, 6, 6]], [square], {"size": [8, 8], "counts": [5, 5]})
    document = {
        "categories": [{"id": 1, "name": "cell"}],
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(names)],
        "annotations": [
            {"id": 100 + i, "image_id": i, "category_id": 1, "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations)
        ],
    }
    for name in names:
        folder.write(f"images/{name}.png", encode_pillow(MASK))
    folder.write("labels.json", json.dumps(document).encode())
    found = compute_statistics(
        find_labelled(f"{tmp_path}/images", f"{tmp_path}/labels.json", LabelOptions())
    )
    errors = {Path(facts.uri).stem: facts.error for facts in found.facts}
    assert errors["good"] is None
    assert str(errors["far"]).startswith("unreadable: annotation 100: the coordinate 1e+09 is far")
    assert str(errors["short"]).startswith(
        "unreadable: annotation 102: run lengths that fill 10 px"
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(0.5, 1.0), (0.25, 1.0), (0.5, 3.0)], (0.5, 1.0)),
        ([(0.5, 0.5), (0.25, 0.25)], (0.375, 0.375)),
        ([(0.5, 0.5), None], (0.5, 0.5)),
        ([(0.5, 0.5), None, None], None),
        ([None], None),
    ],
)
def test_the_pixel_size_of_a_set_is_the_median_where_half_of_the_images_state_theirs(
    sizes: list[tuple[float, float] | None], expected: tuple[float, float] | None
) -> None:
    reader: Any = FileReader
    facts = tuple(ImageFacts(uri="i", mask_uri="m", pixel_size_um=size) for size in sizes)
    statistics = DatasetStatistics(facts, reader, decoded_once=False)
    assert statistics.find_pixel_size(range(len(sizes))) == expected
    assert statistics.find_pixel_size(statistics.usable[:1]) == sizes[0]
