"""Pages of TIFF stacks are found, and each is read without the others."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.builders import make_fetch
from unet_ray.errors import ImageError
from unet_ray.image_sources.sources import ImageSource, expand_stacks, header_decoders
from unet_ray.imaging.codecs.decode import decode_image
from unet_ray.imaging.codecs.image_place import ImagePlace, PagePlace
from unet_ray.imaging.codecs.range_file import PlaneFile, RangeFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.codecs.tiff import find_images
from unet_ray.imaging.codecs.tiff_directories import fetch_directories
from unet_ray.imaging.codecs.windows import open_windows
from unet_ray.imaging.geometry import Box
from unet_ray.segmentation.stages.columns import plan_table, read_records
from unet_ray.storage.storage import Storage

PAGES = np.random.default_rng(0).integers(0, 60_000, (6, 120, 173), np.uint16)
WRITERS: dict[str, dict[str, Any]] = {
    "samples together, directories behind": {},
    "page after page": {"contiguous": False},
    "big endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True, "contiguous": False},
    "BigTIFF, big endian": {"bigtiff": True, "byteorder": ">"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "TYX"}},
    "strips": {"rowsperstrip": 7, "contiguous": False},
    "strips, deflate": {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (64, 48), "contiguous": False},
}


def written(name: str, pages: np.ndarray = PAGES, **more: Any) -> bytes:
    """Return a stack as the writer of that name in `WRITERS` writes it."""
    options, buffer = {"photometric": "minisblack"} | WRITERS.get(name, {}) | more, io.BytesIO()
    kind = {
        key: options.pop(key) for key in ("byteorder", "bigtiff", "imagej", "ome") if key in options
    }
    with tifffile.TiffWriter(buffer, **kind) as writer:
        if "contiguous" in options:
            for page in pages:
                writer.write(page, **options)
        else:
            writer.write(pages, **options)
    return buffer.getvalue()


def pillow_stack() -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(page) for page in PAGES)
    first.save(buffer, "tiff", save_all=True, append_images=others, compression="tiff_lzw")
    return buffer.getvalue()


def page_file(
    data: bytes, place: ImagePlace, ranges: Sequence[tuple[int, int]]
) -> tuple[PlaneFile, list[int]]:
    """Return a page with these ranges of its file, and the sizes of what else is fetched."""
    fetched: list[int] = []

    fetch = make_fetch(data, lambda _, size: fetched.append(size))
    pieces = [(offset, data[offset : offset + size]) for offset, size in ranges]
    return PlaneFile(fetch, pieces, place), fetched


@pytest.mark.parametrize(
    "data", [*map(written, WRITERS), pillow_stack()], ids=[*WRITERS, "libtiff"]
)
def test_a_page_is_read_from_its_own_ranges(data: bytes) -> None:
    """Here and in the decoder's child, whole and in windows; missing ranges are fetched."""
    places, decoder = find_images(io.BytesIO(data)), Decoder()
    assert len(places) == len(PAGES)
    for page, place in zip(PAGES, places, strict=True):
        assert sum(size for _, size in place.ranges) <= place.size + 2**17
        for ranges in (place.ranges, ()):
            for decode in (decode_image, decoder.decode):
                file, fetched = page_file(data, place, ranges)
                np.testing.assert_array_equal(decode(file).samples[:, :, 0], page)
                assert bool(fetched) == (not ranges)
        file, _ = page_file(data, place, ())
        np.testing.assert_array_equal(
            open_windows(file).read(Box(30, 40, 99, 173)).samples[:, :, 0], page[30:99, 40:]
        )
        assert decoder.open(page_file(data, place, ())[0]) == page.shape
        np.testing.assert_array_equal(
            decoder.window(Box(3, 4, 9, 17)).samples[:, :, 0], page[3:9, 4:17]
        )
    decoder.close()


def test_pages_whose_samples_are_scattered_are_read_all_the_same() -> None:
    """The strips of two pages alternate in the file."""
    data = bytearray(written("strips", PAGES[:2]))
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        (first, second) = ([*page.dataoffsets] for page in tiff.pages)
        tags = [page.tags["StripOffsets"].valueoffset for page in tiff.pages]
        sizes = tiff.pages[0].databytecounts
    strips = [
        [bytes(data[at : at + size]) for at, size in zip(each, sizes, strict=True)]
        for each in (first, second)
    ]
    end = len(data)
    for index, (one, other) in enumerate(zip(*strips, strict=True)):
        for tag, strip in zip(tags, (one, other), strict=True):
            struct.pack_into("<I", data, tag + 4 * index, len(data))
            data += strip + bytes(2**17)
    places = find_images(io.BytesIO(bytes(data)))
    assert [place.ranges for place in places] == [[], []]
    assert len(data) > end
    for page, place in zip(PAGES[:2], places, strict=True):
        file, fetched = page_file(bytes(data), place, place.ranges)
        np.testing.assert_array_equal(decode_image(file).samples[:, :, 0], page)
        assert fetched


def test_pages_of_a_stack_are_images_and_thumbnails_are_not() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(PAGES[0])
        writer.write(PAGES[0][::2, ::2], subfiletype=1)
        writer.write(PAGES[1])
    data = buffer.getvalue()
    _, place = find_images(io.BytesIO(data))
    np.testing.assert_array_equal(
        decode_image(page_file(data, place, ())[0]).samples[:, :, 0], PAGES[1]
    )
    with pytest.raises(ImageError, match="a file of 2 images") as error:
        decode_image(data)
    assert error.value.error_type == "changed"  # not for good: the next run lists its pages


def test_a_chain_of_directories_that_loops_ends() -> None:
    data = bytearray(written("page after page", PAGES[:2]))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * entries)[0]
    entries = struct.unpack_from("<H", data, second)[0]
    struct.pack_into("<I", data, second + 2 + 12 * entries, first)
    assert len(find_images(io.BytesIO(bytes(data)))) == 2


def test_a_stack_cut_short_is_an_error_of_the_pages_that_are_gone() -> None:
    data = written("page after page")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        cut = data[: tiff.pages[5].dataoffsets[0] + 100]
    *whole, last = find_images(io.BytesIO(cut))
    for page, place in zip(PAGES, whole, strict=False):
        np.testing.assert_array_equal(
            decode_image(page_file(cut, place, place.ranges)[0]).samples[:, :, 0], page
        )
    with pytest.raises(ImageError, match="unreadable"):
        decode_image(page_file(cut, last, last.ranges)[0])


@pytest.mark.parametrize("kind", ["imagej", "shaped"])
def test_images_without_a_directory_are_not_left_out_silently(kind: str) -> None:
    """ImageJ writes stacks beyond 4 GiB in this way."""
    data = written("ImageJ" if kind == "imagej" else "", truncate=True)
    assert len(find_images(io.BytesIO(data))) == 1
    with pytest.raises(
        ImageError, match="unsupported: 6 images, but only the first has a directory"
    ):
        decode_image(data)


def test_every_page_of_a_scanimage_stack_is_an_image() -> None:
    data = written("", description="state.configPath = 1", software="SI.LINE", metadata=None)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        assert tiff.is_scanimage
    assert len(find_images(io.BytesIO(data))) == len(PAGES)


HOSTILE: dict[str, tuple[int, int, int, bytes]] = {  # tag, its type, count and value
    "bytes beyond 2^63": (279, 16, 1, struct.pack("<Q", 2**63 + 5)),
    "NaN bytes": (279, 12, 1, struct.pack("<d", np.nan)),
    "bytes below zero": (279, 17, 1, struct.pack("<q", -(2**63))),
    "bytes that are text": (279, 2, 4, b"abcd"),
    "offset beyond 2^63": (273, 16, 1, struct.pack("<Q", 2**63 + 5)),
    "infinite offset": (273, 12, 1, struct.pack("<d", np.inf)),
    "offset below zero": (273, 17, 1, struct.pack("<q", -100)),
    "offset that is text": (273, 2, 4, b"abcd"),
    "a value of exabytes": (305, 16, 2**60, struct.pack("<Q", 8)),
}


@pytest.mark.parametrize("entry", HOSTILE.values(), ids=list(HOSTILE))
def test_a_damaged_directory_costs_its_page_only(entry: tuple[int, int, int, bytes]) -> None:
    """Its numbers still fit into the plan's columns."""
    data = bytearray(written("BigTIFF", PAGES[:3]))
    tag, kind, count, value = entry
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        tags = tiff.pages[1].tags
        place = (tags.get(tag) or tags[282]).offset
    struct.pack_into("<HHQ8s", data, place, tag, kind, count, value)
    places = find_images(io.BytesIO(bytes(data)))
    sources = [ImageSource("a.tif", place.key, "1", len(data), 3, place) for place in places]
    assert [record.source for record in read_records(plan_table(sources))] == sources
    for index in (0, 2):
        file, _ = page_file(bytes(data), places[index], places[index].ranges)
        np.testing.assert_array_equal(decode_image(file).samples[:, :, 0], PAGES[index])
    file, _ = page_file(bytes(data), places[1], places[1].ranges)
    if tag == 273:
        with pytest.raises(ImageError, match="unreadable"):
            decode_image(file)
    else:  # the size of samples that are not compressed needs no telling
        np.testing.assert_array_equal(decode_image(file).samples[:, :, 0], PAGES[1])


def test_values_that_no_decoder_needs_are_not_read_with_a_page() -> None:
    notes = [(65000, 7, 2**22, bytes(2**22), True)]
    data = written("page after page", PAGES[:2], extratags=notes)
    for page, place in zip(PAGES, find_images(io.BytesIO(data)), strict=False):
        assert sum(size for _, size in place.ranges) < 2**20
        np.testing.assert_array_equal(
            decode_image(page_file(data, place, place.ranges)[0]).samples[:, :, 0], page
        )


def test_what_the_first_page_says_of_all_pages_holds_for_each() -> None:
    """IndicaLabs' 32 bits are floats, which only the first page tells by its software."""
    pages = np.random.default_rng(0).random((3, 40, 50), np.float32)
    data = bytearray(
        written("page after page", pages, software="IndicaLabsImageWriter", metadata=None)
    )
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        for index, page in enumerate(tiff.pages):
            struct.pack_into("<H", data, page.tags["SampleFormat"].offset, 65001)
            if index:
                struct.pack_into("<H", data, page.tags["Software"].offset, 65002)
    places = find_images(io.BytesIO(bytes(data)))
    for page, place in zip(pages, places, strict=True):
        file, _ = page_file(bytes(data), place, place.ranges)
        np.testing.assert_array_equal(decode_image(file).samples[:, :, 0], page)


def test_a_stack_that_planning_could_not_read_is_not_called_changed() -> None:
    """A changed file would be tried again by each run. A file without its last pointer is read."""
    data = written("samples together, directories behind")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        last = tiff.pages[5].offset
    with pytest.raises(ImageError, match="unreadable"):
        decode_image(data[: last + 20])
    single = written("", PAGES[:1])
    with tifffile.TiffFile(io.BytesIO(single)) as tiff:
        page = tiff.pages[0]
        assert page.offset < page.dataoffsets[0]
    # the directory at the end, without its pointer to a next one
    moved = bytearray(single + single[page.offset : page.offset + 2 + 12 * len(page.tags)])
    struct.pack_into("<I", moved, 4, len(single))
    np.testing.assert_array_equal(decode_image(bytes(moved)).samples[:, :, 0], PAGES[0])


TEXTS = [
    '{"shape": null}',
    '{"shape": "round"}',
    '{"shape": [6, 64, 64]',
    '{"cell": {"shape": [6, 120, 173]}}',
]


@pytest.mark.parametrize("text", [*TEXTS, "ImageJ=1.53t\nimages=\n", "ImageJ=1.53t\nimages=many\n"])
def test_descriptions_may_hold_anything(text: str) -> None:
    data = written("", PAGES[:1], description=text, metadata=None) + bytes(10**6)
    np.testing.assert_array_equal(decode_image(data).samples[:, :, 0], PAGES[0])


def test_the_log_of_tifffile_is_silent_while_we_read_and_as_it_was_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    damaged = bytearray(written("page after page"))
    damaged[-40:] = b"\xff" * 40
    log = logging.getLogger("tifffile")
    log.setLevel(logging.DEBUG)
    try:
        with contextlib.suppress(ImageError):
            decode_image(bytes(damaged))
        assert log.level == logging.DEBUG
        assert not [record for record in caplog.records if record.name == "tifffile"]
    finally:
        log.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def opened(data: bytes, head: int = 4096) -> RangeFile:
    """Return a file of which planning has read the beginning."""
    return RangeFile(make_fetch(data), len(data), [(0, data[:head])])


@pytest.mark.parametrize("name", WRITERS)
def test_a_child_finds_the_pages_whose_directories_were_fetched(
    decoder: Decoder, name: str
) -> None:
    data = written(name)
    held, directories = fetch_directories(opened(data, 64))
    assert directories == len(PAGES)
    assert decoder.find_images(held) == find_images(io.BytesIO(data))


def test_directories_are_fetched_before_the_child_is_asked() -> None:
    """The child would wait for each of them; a store answers late."""
    data, asked = written("page after page", np.zeros((9, 400, 400), np.uint8)), list[int]()
    fetch = make_fetch(data, lambda at, _: asked.append(at))
    file = RangeFile(fetch, len(data), [(0, data[:4096])])
    held, _ = fetch_directories(file)
    fetched = len(asked)
    assert fetched >= 8
    find_images(held)
    assert len(asked) == fetched


@given(st.integers(0, 2**32), st.sampled_from(sorted(WRITERS)), st.integers(0, 2000))
def test_the_search_for_directories_ends_whatever_a_file_holds(
    seed: int, name: str, end: int
) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(written(name, PAGES[:2, :5, :5]), np.uint8)[: 4 + end].copy()
    places = rng.integers(4, len(data), rng.integers(0, 9)) if len(data) > 4 else []
    data[places] = rng.integers(0, 256, len(places))
    held, directories = fetch_directories(opened(data.tobytes(), 8))
    assert 0 <= directories <= len(data)
    assert all(data.tobytes()[at:].startswith(piece) for at, piece in held.pieces)


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"\x89PNG", b"II*\0\xff\xff\xff\xff"])
def test_what_is_no_tiff_has_no_directories(data: bytes) -> None:
    _, directories = fetch_directories(opened(data))
    assert directories == 0


def test_planning_leaves_the_reading_of_directories_to_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stack.tif").write_bytes(written("strips"))
    (tmp_path / "single.tif").write_bytes(written("strips", PAGES[:1]))
    monkeypatch.setattr(tifffile, "TiffFile", None)
    monkeypatch.setattr(tifffile, "TiffPage", None)
    archive = Storage.of(str(tmp_path))
    with header_decoders() as decoders:
        sources = [*expand_stacks(decoders, archive, archive.entries())]
    assert sorted((Path(s.file_uri).name, s.key.page) for s in sources) == [
        ("single.tif", None),
        *(("stack.tif", number) for number in range(1, 7)),
    ]


def one_directory(tags: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """Return a directory of a TIFF: tags of (code, type, count, value), then what follows it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def tags_that_share_an_array() -> bytes:
    """88 KB of which the tags make 4,000 arrays of 10,000 numbers, several gigabytes in Python."""
    tags = 4000
    first = 8 + 2 + 12 * tags + 4
    size = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (259, 3, 1, 1)]
    shared = [(273, 4, 10_000, first)] * (tags - len(size))
    return b"II*\0" + struct.pack("<I", 8) + one_directory([*size, *shared]) + bytes(40_000)


def directories_that_overlap() -> bytes:
    """400 directories, 24 bytes apart, of 16 arrays of 100,000 numbers each."""
    count, body = 400, bytearray()
    values = 8 + 24 * count + 2 + 12 * 16 + 4
    data = bytearray(values + 400_000)
    data[:8] = b"II*\0" + struct.pack("<I", 8)
    for index in range(count):
        at = 8 + 24 * index
        body = one_directory([(273, 4, 100_000, values)] * 16)
        struct.pack_into("<H", data, at, 16)
        data[at + 2 : at + 2 + 22] = body[2:24]
    return bytes(data)


def pages_that_share_their_samples(pages: int = 3000) -> bytes:
    """8 KB of samples that all pages refer to."""
    side, at, parts = 180, 8, [b""]
    samples = 8 + pages * (2 + 12 * 9 + 4)
    for index in range(pages):
        following = at + 2 + 12 * 9 + 4
        tags = [(256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, 8), (259, 3, 1, 1)]
        tags += [(262, 3, 1, 1), (273, 4, 1, samples), (277, 3, 1, 1), (278, 3, 1, side)]
        tags += [(279, 4, 1, side * side)]
        parts.append(one_directory(tags, following if index + 1 < pages else 0))
        at = following
    return b"II*\0" + struct.pack("<I", 8) + b"".join(parts) + bytes(side * side)


def pages_without_samples() -> bytes:
    """A stack of 20 pages of 4 gigapixels that compresses to next to nothing."""
    pages = written("strips, deflate", np.zeros((20, 8, 8), np.uint8))
    data = bytearray(pages)
    with tifffile.TiffFile(io.BytesIO(pages)) as tiff:
        for page in tiff.pages:
            for name in ("ImageWidth", "ImageLength"):
                struct.pack_into("<HI", data, page.tags[name].offset + 2, 4, 1)
                struct.pack_into("<I", data, page.tags[name].offset + 8, 65_000)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tags_that_share_an_array(), r"directories that overlap: \d+ bytes of tags in a file of"),
        (directories_that_overlap(), r"directories that overlap: \d+ bytes of tags in a file of"),
        (pages_that_share_their_samples(), "3000 pages that share their samples: 97200000 bytes"),
        (pages_without_samples(), "20 pages of 84500000000 px in a file of .* than 300 px per"),
    ],
    ids=["shared arrays", "overlapping directories", "shared samples", "no samples"],
)
def test_a_small_file_does_not_make_much_work(
    decoder: Decoder, tmp_path: Path, data: bytes, message: str
) -> None:
    """It is one image for planning, and decoding it is its error, once and for all."""
    assert len(data) < 10**6
    with pytest.raises(ImageError, match=f"unreadable: {message}"):
        decoder.find_images(opened(data))
    with pytest.raises(ImageError, match=f"unreadable: {message}"):
        decoder.decode(data)
    (tmp_path / "bomb.tif").write_bytes(data)
    archive = Storage.of(str(tmp_path))
    with header_decoders() as decoders:
        (source,) = expand_stacks(decoders, archive, archive.entries())
    assert source.place is None


def test_pages_may_share_what_little_they_share() -> None:
    """A blank page of a microscope takes no space of its own."""
    assert len(find_images(io.BytesIO(pages_that_share_their_samples(4)))) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"header": "00"},
        {"header": "x"},
        {"index": -1},
        {"index": None},
        {"ranges": [[0, 5]]},
        {"ranges": [[90, 11]]},
        {"ranges": [[5, -1]]},
        {"ranges": [[5, 1]] * 17},
        {"size": None},
    ],
    ids=str,
)
def test_a_place_from_another_process_is_checked(change: dict[str, Any]) -> None:
    place = PagePlace(bytes(8), 0, 20, ((10, 20), (40, 9)))
    assert PagePlace.from_json(place.to_json(), 100) == place
    with pytest.raises((ValueError, TypeError)):
        PagePlace.from_json(place.to_json() | change, 100)
