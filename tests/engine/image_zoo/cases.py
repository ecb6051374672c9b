"""The table of cases, scenes of discs whose truth is known, and what all builders use.

A scene is an array of marks: 1 where a disc is bright, −1 where one is dark, 0 on the ground. The
models of the zoo (`models.py`) find bright and dark discs of each channel exactly, so that another
order of axes or channels, another scale, an inverted image or a value that marks missing data gives
other regions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Marks = NDArray[np.int8]
"""HWC; 1: bright, 0: ground, −1: dark."""
Mask = NDArray[np.bool_]
"""HW; True: the pixel is there."""

HEIGHT, WIDTH = 40, 52
"""Size of most images (px): sides differ, and the width is not a multiple of 8."""

LEVELS: dict[str, tuple[int, int, int]] = {
    "bool": (0, 0, 1),
    "uint8": (10, 100, 200),
    "uint16": (60, 2000, 4000),
    "uint32": (100, 1000, 2000),
    "uint64": (100, 1000, 2000),
    "int8": (-100, 0, 100),
    "int16": (-200, 1000, 2000),
    "int32": (-200, 1000, 2000),
    "int64": (-200, 1000, 2000),
    "float16": (-200, 1000, 2000),
    "float32": (-200, 1000, 2000),
    "float64": (-200, 1000, 2000),
}
"""Samples of a dark, a ground and a bright pixel, of each type."""


@dataclass(frozen=True)
class Image:
    """What is true of one image of a file."""

    marks: Marks | None
    """Marks in the channels that the model sees; one channel stands for all. None: the image has to
    end as an error."""
    valid: Mask | None = None
    """Pixels that are there; None: all."""
    pixel_size: tuple[float, float] | None = None
    """µm, x and y."""


@dataclass(frozen=True)
class Refusal:
    """How a file is refused, and what the message tells people to do."""

    word: str
    """Part of the message, a regular expression."""
    error_type: str = "unsupported"
    flags: tuple[str, ...] = ()
    """Flags with which the file has to be read."""
    files: Mapping[str, bytes] | None = None
    """Files that have to be read instead, where the message asks for other files."""


@dataclass(frozen=True)
class Case:
    """Files of one folder, and the images that they hold."""

    files: Mapping[str, bytes]
    """Content of each file, by name."""
    images: Mapping[str, Image]
    """Images, by the name of the file and what the tables add to it."""
    model: str = "u8x3"
    """Name of the model in `models.py`."""
    flags: tuple[str, ...] = ()
    """Flags of `segment`."""
    refusal: Refusal | None = None
    """How the files are refused; `images` is then what the remedy has to give."""
    may_refuse: bool = False
    """True if an error is as good as the images: the file is damaged, or says two things."""
    note: str | None = None
    """Part of what the run says of the file, where it is read with a choice."""


CASES: dict[str, Callable[[], Case]] = {}
"""What builds each case, by name."""


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    """Register a function that builds a case, under its name."""
    assert build.__name__ not in CASES
    CASES[build.__name__] = build
    return build


def one(
    data: bytes,
    marks: Marks | None,
    model: str = "u8x3",
    *,
    valid: Mask | None = None,
    pixel_size: tuple[float, float] | None = None,
    suffix: str = "tif",
    **more: Any,
) -> Case:
    """Return a case of one file that holds one image."""
    name = f"image.{suffix}"
    return Case({name: data}, {name: Image(marks, valid, pixel_size)}, model, **more)


def several(
    data: bytes,
    images: Mapping[str, Marks | None],
    model: str = "u8x3",
    *,
    valid: Mapping[str, Mask] | None = None,
    **more: Any,
) -> Case:
    """Return a case of one TIFF file with several images, by what the tables add to its name."""
    valid = valid or {}
    found = {f"image.tif#{key}": Image(marks, valid.get(key)) for key, marks in images.items()}
    return Case({"image.tif": data}, found, model, **more)


def refused(case: Case, word: str, *flags: str, **more: Any) -> Case:
    """Return the case as one that is refused without the flags, which the message names."""
    return replace(case, refusal=Refusal(word, flags=flags, **more))


# --- scenes


def draw(seed: int, channels: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Marks:
    """Draw discs that do not touch: one to three bright ones, and a dark one, in each channel."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    marks = np.zeros((height, width, channels), np.int8)
    for channel in range(channels):
        cells = rng.permutation(6)
        for place, cell in enumerate(cells[: 2 + rng.integers(3)]):
            y = (cell // 3 + 0.5) * height / 2 + rng.uniform(-1, 1)
            x = (cell % 3 + 0.5) * width / 3 + rng.uniform(-1, 1)
            disc = np.hypot(rows - y, columns - x) < rng.uniform(0.15, 0.33) * height / 2
            marks[disc, channel] = -1 if place == 0 else 1
    return marks


def draw_stack(*shape: int, channels: int = 1, seed: int = 0) -> Marks:
    """Draw a scene for each place of a stack; (*shape, H, W, channels)."""
    scenes = [draw(1000 * seed + place, channels) for place in range(int(np.prod(shape)))]
    return np.stack(scenes).reshape(*shape, HEIGHT, WIDTH, channels)


def paint(marks: Marks, dtype: str = "uint8") -> NDArray[Any]:
    """Return samples for marks, with noise of 2 % of what parts ground from bright."""
    levels = LEVELS[dtype]
    samples = np.asarray(levels, np.float64)[marks + 1]
    if dtype != "bool":
        noise = 0.02 * (levels[2] - levels[1])
        samples += np.random.default_rng(0).uniform(-noise, noise, marks.shape)
    return samples.round().astype(dtype)


def first(marks: Marks, axis: int = -1) -> Marks:
    """Return the only channel, without its axis."""
    assert marks.shape[axis] == 1
    return marks.squeeze(axis)


def channels_first(samples: NDArray[Any]) -> NDArray[Any]:
    """Move the channels in front of rows and columns."""
    return np.ascontiguousarray(np.moveaxis(samples, -1, -3))


def wedge(height: int = HEIGHT, width: int = WIDTH) -> Mask:
    """Return where an image is there whose upper left corner is missing; the rim cuts discs."""
    rows, columns = np.mgrid[:height, :width]
    return columns + 1.5 * rows > 30


# --- TIFF files


def tiff(*pages: NDArray[Any], **options: Any) -> bytes:
    """Return a TIFF file of pages, without metadata of tifffile's own."""
    return tiff_of(*({"data": page} for page in pages), **options)


def tiff_of(*pages: dict[str, Any], **options: Any) -> bytes:
    """Return a TIFF file of pages, each with options of its own.

    Args:
        pages: Arguments of `TiffWriter.write`.
        options: Arguments of all pages; `byteorder` and `bigtiff` go to the writer.
    """
    buffer = io.BytesIO()
    opened = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    with tifffile.TiffWriter(buffer, **opened) as writer:
        for page in pages:
            arguments = {"metadata": None, "contiguous": False, "photometric": "minisblack"}
            writer.write(**(arguments | options | page))
    return buffer.getvalue()


def tiff_with(data: NDArray[Any], **options: Any) -> bytes:
    """Return a TIFF file as `tifffile.imwrite` makes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, data, **options)
    return buffer.getvalue()


@dataclass
class RawTiff:
    """A TIFF file of pages in one strip each, byte by byte, for what no library writes."""

    pages: list[tuple[list[tuple[int, int, int, bytes]], bytes]] = field(default_factory=list)

    def add(self, data: bytes, tags: dict[int, tuple[str, Any]], repeated: Any = ()) -> None:
        """Add a page.

        Args:
            data: Content of its strip.
            tags: Type (B: bytes, s: text, H: 16 bits, I: 32 bits) and values of each tag.
            repeated: More tags, which may have numbers that are there before.
        """
        self.pages.append(([pack_tag(*each) for each in [*tags.items(), *repeated]], data))

    def to_bytes(self) -> bytes:
        """Return the file."""
        file = bytearray(b"II*\0\0\0\0\0")
        link = 4
        for tags, data in self.pages:
            strip = len(file)
            file += data + b"\0" * (-len(data) % 2)
            own = [pack_tag(273, ("I", [strip])), pack_tag(279, ("I", [len(data)]))]
            entries = b""
            for code, kind, count, value in sorted(tags + own, key=lambda tag: tag[0]):
                if len(value) > 4:
                    place = len(file)
                    file += value + b"\0" * (-len(value) % 2)
                    value = place.to_bytes(4, "little")
                head = code.to_bytes(2, "little") + kind.to_bytes(2, "little")
                entries += head + count.to_bytes(4, "little") + value.ljust(4, b"\0")
            file[link : link + 4] = len(file).to_bytes(4, "little")
            link = len(file) + 2 + len(entries)
            file += (len(entries) // 12).to_bytes(2, "little") + entries + b"\0" * 4
        return bytes(file)


def pack_tag(code: int, typed: tuple[str, Any]) -> tuple[int, int, int, bytes]:
    """Return number, type, count and bytes of a tag."""
    letter, values = typed
    if letter in "Bs":
        content = values.encode() + b"\0" if letter == "s" else bytes(values)
        return code, 2 if letter == "s" else 1, len(content), content
    kind, size = {"H": (3, 2), "I": (4, 4)}[letter]
    return code, kind, len(values), b"".join(int(v).to_bytes(size, "little") for v in values)


def plain_tags(
    height: int = HEIGHT, width: int = WIDTH, bits: int = 8, photometric: int = 1
) -> dict[int, tuple[str, Any]]:
    """Return the tags of an uncompressed page of one sample per pixel."""
    return {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits]),
        259: ("H", [1]),
        262: ("H", [photometric]),
        277: ("H", [1]),
        278: ("I", [height]),
    }
