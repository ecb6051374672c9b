"""What a run made of a case, held beside what is true of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy import ndimage

from tests.engine.image_zoo.cases import Case, Image, Mask
from tests.engine.image_zoo.models import MODELS

Row = dict[str, Any]
Region = tuple[str, int, tuple[float, ...], bool]
"""Class, area, box (left, top, right, bottom), and whether it ends at missing pixels."""


@dataclass(frozen=True)
class Tables:
    """The tables of a run: images, regions, and the area of each class in `masks`, by image.

    `said` is what the run logged, and its summary.
    """

    images: dict[str, Row]
    regions: dict[str, list[Row]]
    areas: dict[str, Counter[str]]
    said: str = ""

    @staticmethod
    def read(folder: str, said: str = "") -> Tables:
        """Read the tables below a folder."""

        def rows(table: str) -> list[Row]:
            """Return the rows of a table without outlines."""
            query = f"select * from '{folder}/{table}/*/*.parquet'"
            return duckdb.sql(query).to_arrow_table().to_pylist()

        images = rows("images")
        done = [row["image_uri"] for row in images if row["error_type"] is None]
        assert len(done) == len(set(done)), "an image was done twice"
        ordered = sorted(images, key=lambda row: row["error_type"] is None)  # done ones stay
        found = Tables({row["image_uri"]: row for row in ordered}, {}, {}, said)
        for row in rows("regions"):
            found.regions.setdefault(row["image_uri"], []).append(row)
        for row in rows("masks"):
            areas = found.areas.setdefault(row["image_uri"], Counter())
            areas[row["class_name"]] += row["area"]
        return found

    def of_folder(self, folder: Path | str) -> dict[str, Row]:
        """Return the rows of the images in a folder, by name."""
        head = f"{folder}/"
        return {
            uri.removeprefix(head): row for uri, row in self.images.items() if uri.startswith(head)
        }


def expect_regions(image: Image, channels: int) -> Counter[Region]:
    """Return the regions of an image, found by SciPy in its marks."""
    assert image.marks is not None
    marks = np.repeat(image.marks, channels if image.marks.shape[2] == 1 else 1, axis=2)
    valid = np.ones(marks.shape[:2], bool) if image.valid is None else image.valid
    found: Counter[Region] = Counter()
    for channel in range(channels):
        for word, mark in (("bright", 1), ("dark", -1)):
            mask = (marks[:, :, channel] == mark) & valid
            for number in range(1, ndimage.label(mask, np.ones((3, 3)))[1] + 1):
                region = ndimage.label(mask, np.ones((3, 3)))[0] == number
                found[describe_region(f"{word}{channel}", region, valid)] += 1
    return found


def describe_region(name: str, region: Mask, valid: Mask) -> Region:
    """Return class, area, box and rim of a region."""
    rows, columns = np.nonzero(region)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    beside = ndimage.binary_dilation(region)  # shares a side
    return name, int(region.sum()), tuple(map(float, box)), bool((beside & ~valid).any())


def judge(case: Case, folder: Path | str, tables: Tables) -> list[str]:
    """Return what is wrong with the rows of a case that is read, in words."""
    rows = tables.of_folder(folder)
    done = {name: row for name, row in rows.items() if row["error_type"] is None}
    wrong = [f"{name}: no such image" for name in done if name not in case.images]
    for name, image in case.images.items():
        if name in done and image.marks is None:
            wrong.append(f"{name}: done, must be an error")
        elif name in done:
            wrong += [f"{name}: {words}" for words in judge_image(case, image, tables, done[name])]
        elif image.marks is not None and not case.may_refuse:
            error = rows[name]["error"] if name in rows else f"no row; there are {sorted(rows)}"
            wrong.append(f"{name}: {error}")
    if case.note and case.note not in tables.said:
        wrong.append(f"the run does not say {case.note!r}")
    failed = [name for name in rows if name not in done]
    if done.keys() != case.images.keys() and not failed:
        wrong.append(f"images {sorted(done)}, must be {sorted(case.images)}")
    if failed and not wrong and not case.may_refuse and set(failed) - set(case.images):
        wrong.append(f"{failed[0]}: {rows[failed[0]]['error']}")
    return wrong


def judge_image(case: Case, image: Image, tables: Tables, row: Row) -> list[str]:
    """Return what is wrong with the row of an image that was done."""
    assert image.marks is not None
    wrong = []
    height, width = image.marks.shape[:2]
    if (row["height"], row["width"]) != (height, width):
        wrong.append(f"{row['height']}×{row['width']} px, must be {height}×{width}")
    counted = height * width if image.valid is None else int(image.valid.sum())
    if row["valid_pixels"] != counted:
        wrong.append(f"valid_pixels {row['valid_pixels']}, must be {counted}")
    size = row["pixel_size_x_um"], row["pixel_size_y_um"]
    expected_size = image.pixel_size or (None, None)
    if size != (expected_size if None in expected_size else pytest.approx(expected_size, rel=1e-4)):
        wrong.append(f"pixel size {size}, must be {expected_size}")
    expected = expect_regions(image, MODELS[case.model][1])
    found = Counter(
        (
            each["class_name"],
            each["area"],
            tuple(each["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")),
            each["touches_no_data"],
        )
        for each in tables.regions.get(row["image_uri"], [])
    )
    if found != expected:
        wrong.append(f"regions {sorted(found - expected)}, must be {sorted(expected - found)}")
    if row["region_count"] != expected.total():
        wrong.append(f"region_count {row['region_count']}, must be {expected.total()}")
    areas: Counter[str] = Counter()
    for (name, area, *_), count in expected.items():
        areas[name] += area * count
    if +tables.areas.get(row["image_uri"], Counter()) != areas:
        wrong.append("the masks have other areas than the regions")
    return wrong


def judge_refusal(case: Case, folder: Path | str, tables: Tables) -> list[str]:
    """Return what is wrong with the rows of a case that is refused, in words."""
    assert case.refusal is not None
    rows = tables.of_folder(folder)
    wrong = [f"{name}: silently done" for name, row in rows.items() if row["error_type"] is None]
    for file in case.files:
        if not any(name == file or name.startswith(f"{file}#") for name in rows):
            wrong.append(f"{file}: no row")
    for name, row in rows.items():
        if row["error_type"] and not re.search(case.refusal.word, row["error"]):
            wrong.append(f"{name}: {row['error']!r} does not say {case.refusal.word!r}")
        elif row["error_type"] not in (None, case.refusal.error_type):
            wrong.append(f"{name}: {row['error_type']}, must be {case.refusal.error_type}")
        elif row["error_type"] and any(
            flag not in row["error"] for flag in case.refusal.flags if flag.startswith("--")
        ):
            wrong.append(f"{name}: {row['error']!r} does not name {case.refusal.flags[0]}")
    return wrong


def write_files(folder: Path | str, files: Mapping[str, bytes]) -> None:
    """Write the files of a case."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
