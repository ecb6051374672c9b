import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_ray.imaging.geometry import Box, mirrored, read_box
from unet_ray.imaging.tiling import cut_tiles
from unet_ray.imaging.tiling_config import InputSizes


def cut(output_chw: np.ndarray, box: Box) -> np.ndarray:
    return output_chw[:, box.top : box.bottom, box.left : box.right]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_a_pointwise_network_gives_the_whole_image_back(
    height: int, width: int, depth: int, tile: int, valid: bool
) -> None:
    """The cores of tiles cover the image once: each pixel is written once, from itself."""
    multiple = 2 ** max(1, depth)
    margin = 6 * multiple - 4 if valid else 0
    reach = InputSizes(multiple, margin)
    image = np.arange(height * width).reshape(height, width, 1)
    whole = np.zeros((1, height, width), int)
    for piece in cut_tiles(height, width, reach, tile * multiple, multiple, whole_tiles=depth):
        read = read_box(image, piece.read, mirror=valid)
        assert read.shape[:2] == (piece.read.height, piece.read.width)
        output = read[margin : len(read) - margin, margin : read.shape[1] - margin].transpose(
            2, 0, 1
        )
        core = piece.core
        whole[:, core.top : core.bottom, core.left : core.right] += cut(
            output + 1, piece.wanted(margin)
        )
    assert np.array_equal(whole[0], image[:, :, 0] + 1)


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(0, 20),
    st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_box_filter_is_exact_where_the_context_covers_it(
    size: tuple[int, int], depth: int, tile: int, more_context: int, radius: int, valid: bool
) -> None:
    """Tiles and whole image are equal bit by bit.

    Padded filters see zeros beyond the frame, unpadded ones the mirrored image.
    """
    multiple = 2**depth
    margin = 6 * multiple - 4 if valid else 0
    reach = InputSizes(multiple, margin)
    radius = min(radius, margin) if valid else radius
    context = (-(-radius // multiple) + more_context) * multiple
    image = np.random.default_rng(radius).integers(0, 1000, (*size, 1))

    def network(read: np.ndarray) -> np.ndarray:
        padded = np.pad(read[:, :, 0], radius)
        sums = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2).sum((2, 3))
        return sums[margin : len(sums) - margin, margin : sums.shape[1] - margin][None]

    (whole,) = cut_tiles(*size, reach, 4096, context)
    expected = cut(network(read_box(image, whole.read, mirror=valid)), whole.wanted(margin))
    assert expected.shape == (1, *size)
    for piece in cut_tiles(*size, reach, tile * multiple, context, whole_tiles=radius % 3):
        found = cut(network(read_box(image, piece.read, mirror=valid)), piece.wanted(margin))
        core = piece.core
        assert np.array_equal(found, expected[:, core.top : core.bottom, core.left : core.right])


def test_mirroring_repeats_as_often_as_needed() -> None:
    assert mirrored(-2, 5, 3).tolist() == [2, 1, 0, 1, 2, 1, 0]
    assert mirrored(-3, 4, 1).tolist() == [0] * 7


def test_tiles_of_the_docstring_example() -> None:
    pieces = list(cut_tiles(1000, 1000, InputSizes(16, 0), 512, 112))
    assert [
        (p.core.top, p.core.bottom, p.read.top, p.read.bottom) for p in pieces if p.core.left == 0
    ] == [
        (0, 512, 0, 624),
        (512, 1000, 400, 1008),
    ]


def test_an_image_of_up_to_two_tiles_stays_in_one_piece() -> None:
    same, valid = InputSizes(16, 0), InputSizes(16, 92)
    for one, more in (((1080, 1920), (1080, 1952)), ((5, 131_072), (5, 131_073))):
        (whole,) = cut_tiles(*one, same, 1024, 112, whole_tiles=2)
        assert whole.core == Box(0, 0, *one)
        assert whole.read == Box(0, 0, *map(same.input_size, one))
        assert len(list(cut_tiles(*more, same, 1024, 112, whole_tiles=2))) > 1
    assert len(list(cut_tiles(1024, 2048, valid, 1024, 96, whole_tiles=2))) == 1
    # a flat image is mostly margins, and what is read counts
    assert len(list(cut_tiles(5, 20_000, valid, 1024, 96, whole_tiles=2))) > 1
