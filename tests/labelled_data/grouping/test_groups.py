"""Groups that `--group-by` asks for, and what is said of those that are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.builders import encode_pillow, encode_tiff
from unet_ray.errors import InputError
from unet_ray.flags import ClassSpec
from unet_ray.labelled_data.find_labelled import find_labelled
from unet_ray.labelled_data.grouping.groups import Grouping, find_grouping
from unet_ray.labelled_data.labelled_set import LabelOptions

PIXELS = np.zeros((4, 4), np.uint8)


def write_set(folder: Path, names: list[str]) -> None:
    """Write images and masks of these names."""
    for name in names:
        for kind in ("images", "masks"):
            file = folder / kind / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_pillow(PIXELS))


def group(
    folder: Path, group_by: int | str | None = None, columns: dict[str, Any] | None = None
) -> Grouping:
    """Return the groups of the set in a folder, or of a manifest of it with more columns."""
    images = f"{folder}/images"
    if columns is not None:
        uris = sorted(str(file.relative_to(images)) for file in Path(images).rglob("*.png"))
        images = f"{images}/m.parquet"
        pq.write_table(pa.table({"image_uri": uris} | columns), images)
    options = LabelOptions(classes=(ClassSpec(1, "cell"),))
    return find_grouping(group_by, find_labelled(images, f"{folder}/masks", options), images)


NAMES = ["a/s1/1.png", "a/s1/2.png", "a/s2/1.png", "b/s1/1.png"]


@pytest.mark.parametrize(
    ("group_by", "groups"),
    [
        (-1, ("a/s1", "a/s1", "a/s2", "b/s1")),
        ("-2", ("a", "a", "a", "b")),
        (1, ("a", "a", "a", "b")),
        ("2", ("a/s1", "a/s1", "a/s2", "b/s1")),
        (r"s\d", ("s1", "s1", "s2", "s1")),
        (r"^(\w)/s(\d)", ("a/1", "a/1", "a/2", "b/1")),
        ("none", tuple(NAMES)),
        (None, tuple(NAMES)),
    ],
)
def test_groups_are_folders_or_what_an_expression_finds(
    tmp_path: Path, group_by: int | str | None, groups: tuple[str, ...]
) -> None:
    write_set(tmp_path, NAMES)
    assert group(tmp_path, group_by).groups == groups


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        (-4, "--group-by -4: 4 of 4 files have no folder at that level, the first is a/s1/1.png;"),
        (-3, "--group-by -3: all 4 images are in one group, .; group by something"),
        (0, "--group-by 0: give -1 for the folder of each file"),
        ("(", "--group-by ( is neither none, nor a level of folders"),
        ("^a/", "--group-by ^a/: 1 of 4 files do not match this regular expression"),
        ("", "--group-by : 4 of 4 files do not match"),
        ("(x)?", "--group-by (x)?: 4 of 4 files do not match"),
        ("png", "--group-by png: all 4 images are in one group, png;"),
    ],
)
def test_what_does_not_group_all_images_is_refused(
    tmp_path: Path, group_by: int | str, message: str
) -> None:
    write_set(tmp_path, NAMES)
    with pytest.raises(InputError) as error:
        group(tmp_path, group_by)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (["p", "p", "q", "r"], ("p", "p", "q", "r")),
        ([1, 1, 2, 3], ("1", "1", "2", "3")),
        ([1.0, 1.0, 2.5, 3.0], ("1", "1", "2.5", "3")),
        (pa.array([7, 7, 8, 8]).dictionary_encode(), ("7", "7", "8", "8")),
        (pa.array(["p", "q", "p", "q"]).dictionary_encode(), ("p", "q", "p", "q")),
    ],
    ids=str,
)
def test_groups_are_the_values_of_a_column_of_the_manifest(
    tmp_path: Path, values: Any, groups: tuple[str, ...]
) -> None:
    write_set(tmp_path, NAMES)
    assert group(tmp_path, "patient", {"patient": values}).groups == groups


@pytest.mark.parametrize(
    ("group_by", "columns", "message"),
    [
        ("patient", {"patient": ["p", None, "q", "q"]}, "1 of 4 files have no value in that"),
        ("patient", {"patient": [1.0, float("nan"), 2, 2]}, "1 of 4 files have no value in that"),
        (
            "patient",
            {"patient": [[1], [1], [2], [2]]},
            "the column patient of the manifest has the type list",
        ),
        ("s.", {"s.": ["p", "p", "q", "q"]}, "write (?:s.) for the expression, or rename the"),
        (
            "-1",
            {"-1": ["p", "p", "q", "q"]},
            "has a meaning of its own, but is also a column of the",
        ),
        (
            "none",
            {"none": ["p", "p", "q", "q"]},
            "has a meaning of its own, but is also a column of",
        ),
    ],
)
def test_columns_that_do_not_group_or_that_mean_two_things_are_refused(
    tmp_path: Path, group_by: str, columns: dict[str, Any], message: str
) -> None:
    write_set(tmp_path, NAMES)
    with pytest.raises(InputError) as error:
        group(tmp_path, group_by, columns)
    assert message in str(error.value)


def test_pages_of_a_file_are_one_group_whatever_is_asked_for(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in ("a", "b"):
            (tmp_path / kind / f"{name}.tif").write_bytes(encode_tiff(PIXELS, PIXELS, PIXELS))
    for group_by in (None, "none", "^."):
        found = group(tmp_path, group_by)
        assert len(found.groups) == 6
        assert [*dict.fromkeys(found.groups[:3])] == [found.groups[0]]
        assert found.count == 2
    assert group(tmp_path).by == "file"


def test_what_is_found_is_said_with_an_example_and_the_way_out(tmp_path: Path) -> None:
    write_set(tmp_path, [f"s{slide}_x{x}_y0.png" for slide in range(5) for x in (0, 512)])
    few = group(tmp_path)
    assert few.by == "image"
    (note,) = few.notes
    assert "--group-by keeps them together; names look like those of tiles" in note
    assert "(5 groups of 10 images, for example s0_x0_y0.png with s0_x512_y0.png)" in note
    write_set(tmp_path, [f"s{slide}_x{x}_y0.png" for slide in range(5, 10) for x in (0, 512)])
    guessed = group(tmp_path)
    assert guessed.count == 10
    (note,) = guessed.notes
    assert "10 groups of 20 images, for example s0_x0_y0.png with s0_x512_y0.png" in note
    assert "--group-by none makes each image its own group" in note
    assert group(tmp_path, "none").notes == ()
