import io
from collections.abc import Sequence
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.builders import encode_pillow, make_range_file
from unet_ray.errors import ImageError
from unet_ray.imaging.codecs import tiff_windows, window_reader
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.range_file import RangeFile
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box

HEIGHT, WIDTH = 300, 421
TIFFS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 48)},
    "tiles, deflate, predictor": {"tile": (64, 64), "compression": "zlib", "predictor": True},
    "tiles, planar": {"tile": (64, 64), "planarconfig": "separate"},
    "tiles, jpeg": {"tile": (64, 64), "compression": "jpeg"},
    "strips": {"rowsperstrip": 7},
    "strips, lzw": {"rowsperstrip": 32, "compression": "lzw"},
    "one strip": {"rowsperstrip": HEIGHT},
    "one strip, planar": {"rowsperstrip": HEIGHT, "planarconfig": "separate"},
    "one strip, zstd": {"rowsperstrip": HEIGHT, "compression": "zstd"},
    "big": {"tile": (64, 64), "bigtiff": True},
    "big endian": {"rowsperstrip": HEIGHT, "byteorder": ">"},
}


def scene(dtype: str, channels: int) -> NDArray[Any]:
    y, x, c = np.mgrid[:HEIGHT, :WIDTH, :channels]
    values = (x * 3 + y * 2 + c * 50 + (x * y) // 7) % 250
    return (values * (257 if dtype == "uint16" else 1)).astype(dtype)


def tiff(
    image: NDArray[Any], byteorder: str | None = None, bigtiff: bool = False, **options: Any
) -> bytes:
    buffer = io.BytesIO()
    colours = "rgb" if image.shape[2] == 3 else "minisblack"
    if image.shape[2] > 1:
        options.setdefault("planarconfig", "contig")
    stored = np.moveaxis(image, 2, 0) if options.get("planarconfig") == "separate" else image
    with tifffile.TiffWriter(buffer, byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(
            stored[..., 0] if image.shape[2] == 1 else stored, photometric=colours, **options
        )
    return buffer.getvalue()


def assert_windows_are_the_image(data: bytes) -> None:
    expected = decode_image(data).samples
    reader = open_windows(make_range_file(data))
    assert (reader.height, reader.width) == expected.shape[:2]
    rng = np.random.default_rng(0)
    boxes = [
        Box(y, x, min(y + 100, HEIGHT), min(x + 130, WIDTH))
        for y in range(0, HEIGHT, 70)
        for x in (0, 90, 300)
    ]
    for _ in range(20):  # in any order
        top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        boxes.append(
            Box(top, left, int(rng.integers(top, HEIGHT)) + 1, int(rng.integers(left, WIDTH)) + 1)
        )
    for box in boxes:
        window = reader.read(box).samples
        assert window.dtype == expected.dtype
        np.testing.assert_array_equal(window, expected[box.top : box.bottom, box.left : box.right])


@pytest.mark.parametrize("options", TIFFS.values(), ids=list(TIFFS))
@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", 3), ("uint8", 1), ("uint16", 5), ("float32", 2)]
)
def test_windows_of_a_tiff_are_those_of_the_whole(
    options: dict[str, Any], dtype: str, channels: int
) -> None:
    if options.get("compression") == "jpeg" and (dtype, channels) not in (
        ("uint8", 3),
        ("uint8", 1),
    ):
        pytest.skip("JPEG holds 8-bit grey and RGB")
    if options.get("planarconfig") and channels == 1:
        pytest.skip("one plane")
    options = options | ({"predictor": dtype != "float32"} if "predictor" in options else {})
    assert_windows_are_the_image(tiff(scene(dtype, channels), **options))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: encode_pillow(scene("uint8", 3), "JPEG", quality=90), id="jpeg"),
        pytest.param(
            lambda: encode_pillow(scene("uint8", 3), "JPEG", progressive=True),
            id="progressive jpeg",
        ),
        pytest.param(lambda: encode_pillow(scene("uint8", 1), "JPEG"), id="grey jpeg"),
        pytest.param(lambda: encode_pillow(scene("uint8", 3), "PNG"), id="png"),
        pytest.param(lambda: imagecodecs.png_encode(scene("uint16", 3)), id="16-bit png"),
        pytest.param(
            lambda: imagecodecs.png_encode(scene("uint16", 1)[..., 0]), id="16-bit grey png"
        ),
        pytest.param(
            lambda: encode_pillow(
                np.dstack([scene("uint8", 3), np.full((HEIGHT, WIDTH), 255, np.uint8)]), "PNG"
            ),
            id="alpha",
        ),
        pytest.param(
            lambda: encode_pillow(scene("uint8", 3), "WEBP", lossless=True), id="webp, whole"
        ),
        pytest.param(lambda: tiff(255 - scene("uint8", 1), tile=(64, 64)), id="grey tiff"),
    ],
)
def test_windows_of_other_formats_are_those_of_the_whole(data: Any) -> None:
    assert_windows_are_the_image(data())


def test_level_0_of_a_pyramid_is_the_image() -> None:
    image, buffer = scene("uint8", 3), io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        writer.write(image, subifds=1, tile=(64, 64), photometric="rgb")
        writer.write(image[::2, ::2], subfiletype=1, tile=(64, 64), photometric="rgb")
    assert_windows_are_the_image(buffer.getvalue())


def test_a_window_reads_only_the_tiles_that_it_meets() -> None:
    """Only the header and the tiles that a window meets are read.

    Tiles close together are one range, and all ranges are fetched side by side.
    """
    data, requests, calls = tiff(np.tile(scene("uint8", 3), (8, 8, 1)), tile=(128, 128)), [], []

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        calls.append(len(ranges))
        requests.extend(size for _, size in ranges)
        return [data[offset : offset + size] for offset, size in ranges]

    reader = open_windows(RangeFile(fetch, len(data)))
    requests.clear()
    calls.clear()
    reader.read(Box(1000, 1000, 1200, 1200))
    assert calls == [3]  # three rows of tiles, a range each
    assert sum(requests) == 9 * 128 * 128 * 3  # 3×3 tiles of RGB
    requests.clear()
    reader.read(Box(1000, 1050, 1150, 1200))
    assert not requests  # the tiles were kept


def test_a_window_asks_for_a_bounded_size_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_windows, "SEGMENT_BYTES", 300_000)
    image, calls = np.tile(scene("uint8", 3), (8, 8, 1)), []
    data = tiff(image, tile=(128, 128))

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        calls.append(sum(size for _, size in ranges))
        return [data[offset : offset + size] for offset, size in ranges]

    window = open_windows(RangeFile(fetch, len(data))).read(Box(1000, 1000, 1500, 1200)).samples
    assert np.array_equal(window, image[1000:1500, 1000:1200])
    assert len(calls) > 3
    assert max(calls) <= 300_000


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: tiff(scene("uint8", 3), tile=(64, 64))[:-20_000], id="tiles cut off"),
        pytest.param(
            lambda: tiff(scene("uint8", 3), rowsperstrip=64, compression="zlib")[:200],
            id="header cut off",
        ),
        pytest.param(lambda: encode_pillow(scene("uint8", 3), "JPEG")[:-5000], id="jpeg cut off"),
        pytest.param(lambda: encode_pillow(scene("uint8", 3), "PNG")[:-50], id="png cut off"),
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: b"GIF89a nothing", id="no gif"),
    ],
)
def test_damaged_files_are_errors(data: Any) -> None:
    content = data()

    def read_all() -> None:
        reader = open_windows(make_range_file(content))
        for top in range(0, reader.height, 50):
            reader.read(Box(top, 0, min(top + 50, reader.height), reader.width))

    with pytest.raises(ImageError) as caught:
        read_all()
    assert caught.value.error_type == "unreadable"


def test_strips_and_images_that_are_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(scene("uint8", 3), rowsperstrip=HEIGHT, compression="zlib")
    monkeypatch.setattr(tiff_windows, "SEGMENT_BYTES", 10_000)
    with pytest.raises(ImageError, match="save the image with smaller ones"):
        open_windows(make_range_file(data))
    monkeypatch.setattr(window_reader, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="images up to 1000 px"):
        open_windows(make_range_file(data))
