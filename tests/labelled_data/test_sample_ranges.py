"""Ranges of samples that differ, or use little of their type, are said in one line."""

import pytest

from unet_ray.labelled_data.sample_ranges import SampleRange, note_sample_ranges


def ranges(dtype: str, *pairs: tuple[float, float]) -> list[SampleRange]:
    return [SampleRange(f"{i}.tif", dtype, *pair) for i, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("dtype", "pairs", "note"),
    [
        (
            "uint16",
            [(0, 4095), (90, 3000)],
            "the images have 16 bits, but no sample is above 4,095",
        ),
        ("uint16", [(0, 255), (0, 250)], "the images have 16 bits, but no sample is above 255"),
        ("uint16", [(0, 65535), (0, 4000)], "the ranges of the images differ by 16 times"),
        ("int16", [(-1000, 3000), (0, 100)], "the ranges of the images differ by 40 times"),
        ("float32", [(0, 1), (0.1, 0.9)], "the float samples of all images lie in 0..1"),
        ("float32", [(0, 255), (3, 250)], "the float samples of all images lie in 0..255"),
        (
            "float32",
            [(0, 1), (3, 250), (4, 250)],
            "1 images have float samples in 0..1 (for instance 0.tif), 2 in 0..255 (for instance",
        ),
        ("float32", [(-5, 500), (0, 9000)], "the ranges of the images differ by 18 times: samples"),
    ],
)
def test_a_range_that_is_worth_a_look_is_said_with_a_remedy(
    dtype: str, pairs: list[tuple[float, float]], note: str
) -> None:
    (found,) = note_sample_ranges(ranges(dtype, *pairs))
    assert found.startswith(note)
    assert "--normalise percentile" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("dtype", "pairs"),
    [
        ("uint8", [(0, 255), (0, 3)]),  # 8 bits have one scale, whatever a picture shows
        ("int8", [(-100, 100), (0, 3)]),
        ("uint16", [(0, 4096), (0, 65535)]),
        ("uint16", [(0, 65535), (7, 7)]),  # an image of one value
        ("uint16", [(7, 7)]),
        ("float32", [(-1, 1), (-0.5, 0.5)]),
        ("float32", [(0, 300), (0, 20)]),
        ("int16", [(-1000, 3000), (-900, 100)]),
    ],
)
def test_ordinary_ranges_are_not_mentioned(dtype: str, pairs: list[tuple[float, float]]) -> None:
    assert note_sample_ranges(ranges(dtype, *pairs)) == []
