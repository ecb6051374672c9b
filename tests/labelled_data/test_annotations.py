"""Annotations: what is put in comes out, and damaged bytes are refused."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_ray.labelled_data.annotations import (
    IMAGES,
    NO_CATEGORY,
    OBJECTS,
    WHOLE,
    Annotations,
    Polygon,
    Runs,
)
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.label_files import join_annotations

RINGS = st.lists(st.floats(allow_nan=False), min_size=6, max_size=10)
SIDES = st.integers(0, 2**31 - 1)
PARTS = st.builds(Polygon, RINGS, st.lists(RINGS, max_size=2)) | st.builds(
    Runs, st.binary(max_size=9), SIDES, SIDES, st.none() | SIDES, st.none() | SIDES
)
OBJECT = st.tuples(
    st.integers(0, 2), st.integers(NO_CATEGORY, 1), st.lists(PARTS, max_size=3), st.booleans()
)


def make_annotations() -> Annotations:
    builder = AnnotationsBuilder()
    cell, fibre = builder.add_category("cell", 1), builder.add_category("fibre")
    for number in range(3):
        builder.add_image(f"ü{number}.png", places=["x", "y"] * number, size=(8, 6))
    builder.add_object(0, cell, [Polygon([0, 0, 5, 0, 5, 5], [[1, 1, 2, 1, 2, 2]])], label="a")
    builder.add_object(2, fibre, [Runs(b"0h1", 6, 8)], label="b", is_ignored=True)
    builder.add_object(2, NO_CATEGORY, [], label="c", error="no outline")
    builder.left_out["keypoints"] += 3
    builder.notes.append("a note")
    return builder.build()


def list_objects(found: Annotations) -> list[list[dict[str, Any]]]:
    return [found.objects_of(row) for row in range(len(found.images))]


def assert_same(found: Annotations, expected: Annotations) -> None:
    assert found.categories == expected.categories
    assert (found.images, found.objects) == (expected.images, expected.objects)
    assert (found.left_out, found.notes) == (dict(expected.left_out), expected.notes)


@given(st.lists(OBJECT, max_size=6))
def test_what_is_put_in_comes_out(objects: Sequence[Any]) -> None:
    builder = AnnotationsBuilder()
    for name in ("a.png", "b.png", "c.png"):
        builder.add_image(name)
    for name in ("cell", "fibre"):
        builder.add_category(name)
    for image, category, parts, is_ignored in objects:
        builder.add_object(image, category, parts, label="x", is_ignored=is_ignored)
    annotations = builder.build()
    assert_same(Annotations.from_bytes(annotations.to_bytes()), annotations)
    for image, found in enumerate(list_objects(annotations)):
        expected = [each for each in objects if each[0] == image]
        assert [each["category"] for each in found] == [each[1] for each in expected]
        assert [each["is_ignored"] for each in found] == [each[3] for each in expected]
        for each, (_, _, parts, _) in zip(found, expected, strict=True):
            rings = [
                ring
                for part in parts
                for ring in ([part.outer, *part.holes] if isinstance(part, Polygon) else [[]])
            ]
            assert [row["points"] for row in each["parts"]] == rings
            runs = [part for part in parts if isinstance(part, Runs)]
            rows = [row for row in each["parts"] if not row["points"]]
            assert [row["counts"] for row in rows] == [part.counts for part in runs]
            assert [row["left"] for row in rows] == [
                WHOLE if part.left is None else part.left for part in runs
            ]


def test_annotations_survive_their_bytes() -> None:
    found = make_annotations()
    assert_same(Annotations.from_bytes(found.to_bytes()), found)
    assert found.objects_of(2)[1]["error"] == "no outline"
    empty = AnnotationsBuilder().build()
    assert_same(Annotations.from_bytes(empty.to_bytes()), empty)


def test_images_that_are_never_described_are_left_out_with_their_objects() -> None:
    builder = AnnotationsBuilder()
    rows = [builder.reserve_image() for _ in range(4)]
    for row in rows:
        builder.add_object(row, NO_CATEGORY, [], label=f"object {row}")
    builder.describe_image(rows[3], "d.png")
    builder.describe_image(rows[1], "b.png")
    builder.describe_image(rows[2], "b.png")
    builder.merge_image(rows[2], rows[1])
    found = builder.build()
    assert found.images["name"].to_pylist() == ["b.png", "d.png"]
    labels = [[each["label"] for each in objects] for objects in list_objects(found)]
    assert labels == [["object 1", "object 2"], ["object 3"]]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (Polygon([1, 2, "8"]), "the coordinate '8' is not a number"),
        (Polygon([1, 2, None]), "the coordinate None"),
        (Polygon([1, 2, 3], [[1, {}]]), r"the coordinate {}"),
        (Polygon([10**400]), "the coordinate 1000"),
        (Runs(b"", 2**40, 1), "the coordinate of run lengths"),
        (Runs(b"", "a", 1), "the coordinate of run lengths"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_costs_its_object(part: Any, what: str) -> None:
    builder = AnnotationsBuilder()
    image = builder.add_image("a.png")
    builder.add_object(image, NO_CATEGORY, [Polygon([0, 1]), part], label="x")
    builder.add_object(image, NO_CATEGORY, [Polygon([0, 1])], label="y")
    bad, good = builder.build().objects_of(0)
    assert bad["parts"] == []
    assert bad["error"].startswith(what)
    assert [row["points"] for row in good["parts"]] == [[0, 1]]


def test_categories_of_one_name_are_joined_over_files() -> None:
    first, second = make_annotations(), AnnotationsBuilder()
    second.add_category("fibre", 7), second.add_category("cell", 9)
    image = second.add_image("z.png")
    for category in (0, 1, NO_CATEGORY):
        second.add_object(image, category, [], label=f"z{category}")
    second.left_out["keypoints"] += 2
    second.left_out["boxes"] += 1
    second.notes += ["a note", "another"]
    found = join_annotations([first, second.build(), AnnotationsBuilder().build()])
    assert [each.name for each in found.categories] == ["cell", "fibre"]
    assert found.categories[0].id == 1
    assert found.images["name"].to_pylist() == ["ü0.png", "ü1.png", "ü2.png", "z.png"]
    assert list_objects(found)[:3] == [
        [each | {"image": row} for each in objects]
        for row, objects in enumerate(list_objects(first))
    ]
    assert [each["category"] for each in found.objects_of(3)] == [1, 0, NO_CATEGORY]
    assert found.left_out == {"keypoints": 5, "boxes": 1}
    assert found.notes == ("a note", "another")
    assert_same(Annotations.from_bytes(found.to_bytes()), found)


def test_no_annotations_can_be_joined() -> None:
    found = join_annotations([])
    assert (found.images.schema, found.objects.schema) == (IMAGES, OBJECTS)


def test_damaged_bytes_are_refused_or_valid() -> None:
    whole = make_annotations().to_bytes()
    outcomes = {"read": 0, "refused": 0}
    for seed in range(1500):
        rng, data = random.Random(seed), bytearray(whole)
        if seed % 5 == 0:
            data = data[: rng.randrange(len(data))]
        for _ in range(rng.randrange(0 if seed % 5 == 0 else 1, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, *b'9"[]{}'))
        try:
            found = Annotations.from_bytes(data)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert len(list_objects(found)) == len(found.images)
        found.to_bytes()
    assert min(outcomes.values()) > 100


def replace_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(
        place, table.schema.field(name), pa.array(values, table.schema.field(name).type)
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("image", [0, 3, 2], "an object refers to a row of image that does not exist"),
        ("image", [0, -1, 2], "refers to a row of image"),
        ("image", [0, None, 2], "values are missing"),
        ("category", [0, 2, 1], "refers to a row of category that does not exist"),
        ("category", [0, -2, 1], "refers to a row of category"),
        ("label", ["a", None, "c"], "values are missing"),
        ("parts", [None, [], []], "values are missing"),
        ("parts", [[None], [], []], "values are missing"),
        ("parts", [[{"points": [None]}], [], []], "values are missing"),
    ],
)
def test_rows_that_do_not_fit_each_other_are_refused(
    column: str, values: Any, message: str
) -> None:
    found = make_annotations()
    damaged = Annotations(
        found.categories, found.images, replace_column(found.objects, column, values)
    )
    with pytest.raises(ValueError, match=message):
        Annotations.from_bytes(damaged.to_bytes())


def test_a_million_points_are_stored_as_numbers() -> None:
    builder = AnnotationsBuilder()
    image, category = builder.add_image("a.png"), builder.add_category("cell")
    for number in range(1000):
        builder.add_object(image, category, [Polygon([float(number)] * 1000)], label="x")
    found = builder.build()
    assert found.objects.nbytes < 9_000_000
    assert np.array_equal(found.objects_of(0)[999]["parts"][0]["points"], [999.0] * 1000)
