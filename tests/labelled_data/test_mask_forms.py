"""Sets of masks as people have them: each form is read, or refused with a remedy that works.

Masks go the whole way, without Ray: decoder's child, counts of values, labelling, targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.builders import encode_pillow, encode_tiff
from unet_ray.errors import ImageError, InputError
from unet_ray.flags import parse_classes, parse_mask_value
from unet_ray.imaging.codecs.decode import IMAGE_SUFFIXES
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.labels.labelling import find_labelling
from unet_ray.imaging.labels.mask_values import add_up, mask_values
from unet_ray.imaging.labels.notes import labelling_notes
from unet_ray.labelled_data.colours import find_colour_map
from unet_ray.storage.listing import list_files

SHAPE = (48, 64)


def draw_ids() -> list[NDArray[np.uint8]]:
    """Return four masks of the ids 0 to 2; one is empty, one holds a single class."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    leaf, symptom = np.hypot(y - 20, x - 20) < 11, np.hypot(y - 25, x - 48) < 8
    both = np.where(symptom, 2, leaf).astype(np.uint8)
    return [both, both[:, ::-1].copy(), leaf.astype(np.uint8), np.zeros(SHAPE, np.uint8)]


IDS = draw_ids()
LEAVES = [(ids > 0).astype(np.uint8) for ids in IDS]
COLOURS = np.array([[0, 0, 0], [48, 112, 32], [192, 48, 48], [224, 224, 192]], np.uint8)
LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nleaf:48,112,32::\n"
LABEL_MAP += "symptom:192,48,48::\n"
FLAGS = "leaf=#307020,symptom=#c03030"
Encode = Callable[[NDArray[np.uint8]], bytes]


@dataclass(frozen=True)
class Flags:
    """What a user gives beside the masks."""

    classes: str | None = None
    kind: str | None = None
    background: int | str = 0
    ignored: int | str | None = 255
    label_map: str | None = None


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def read_set(
    decoder: Decoder, folder: Path, files: Sequence[bytes], flags: Flags
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Return the targets of each mask, and the notes; raise InputError or ImageError."""
    (folder / "masks").mkdir(exist_ok=True)
    for index, data in enumerate(files):
        (folder / "masks" / f"{index}.png").write_bytes(data)
    if flags.label_map is not None:
        (folder / "labelmap.txt").write_text(flags.label_map)
    masks = list_files(str(folder / "masks"), IMAGE_SUFFIXES, "--masks")
    classes, kind = parse_classes(flags.classes), flags.kind
    background = parse_mask_value(flags.background, "--background-value") or 0
    ignored = parse_mask_value(flags.ignored, "--ignore-value")
    found = find_colour_map(masks, classes, kind, background, ignored)  # type: ignore[arg-type]
    table = found.table if found else None
    values = [decoder.decode_label(data, table=table) for data in files]
    pairs = [[*mask_values(mask).items()] for mask in values]
    counted = add_up([(some, "masks/0.png") for some in pairs])
    labelling = find_labelling(
        counted,
        found.classes if found else classes,
        kind,  # type: ignore[arg-type]
        background,
        ignored,
    )
    notes = [*(found.notes if found else ())]
    notes += labelling_notes(counted, labelling, len(files), [[some] for some in pairs])
    return [labelling.targets([mask]) for mask in values], notes


def check_classes(targets: list[NDArray[np.uint8]]) -> None:
    for ids, found in zip(IDS, targets, strict=True):
        assert np.array_equal(found, np.stack([ids == 1, ids == 2]))


def check_leaves(targets: list[NDArray[np.uint8]]) -> None:
    for leaf, found in zip(LEAVES, targets, strict=True):
        assert np.array_equal(found, leaf[None])


def in_colours(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return COLOURS[ids]


def as_palette(ids: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(ids)
    image.putpalette(COLOURS.ravel().tolist() + [224, 224, 192] * 252)
    return image


def on_transparent(ids: NDArray[np.uint8], *channels: int) -> Image.Image:
    mask = np.zeros((*ids.shape, len(channels) + 1), np.uint8)
    mask[ids > 0] = (*channels, 255)
    return Image.fromarray(mask, "LA" if len(channels) == 1 else "RGBA")


def draw_colours(ids: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.dstack([in_colours(ids), np.where(ids > 0, 255, 0)]).astype(np.uint8))


def grey_if_empty(ids: NDArray[np.uint8]) -> bytes:
    """Encode a mask as programs do that save the smallest form."""
    return encode_pillow(in_colours(ids) if ids.any() else ids)


CLASSES: dict[str, tuple[Encode, Flags]] = {
    "grey ids": (encode_pillow, Flags("leaf,symptom")),
    "ids in three equal channels": (
        lambda ids: encode_pillow(np.dstack([ids] * 3)),
        Flags("leaf,symptom"),
    ),
    "ids with opaque alpha": (
        lambda ids: encode_pillow(Image.fromarray(np.dstack([ids, ids * 0 + 255]), "LA")),
        Flags("leaf,symptom"),
    ),
    "ids on transparent": (
        lambda ids: encode_pillow(
            Image.fromarray(np.dstack([ids, np.where(ids, 255, 0).astype(np.uint8)]), "LA")
        ),
        Flags("leaf,symptom"),
    ),
    "float32": (lambda ids: encode_tiff(ids.astype(np.float32)), Flags("leaf,symptom")),
    "float64": (lambda ids: encode_tiff(ids.astype(np.float64)), Flags("leaf,symptom")),
    "uint32": (lambda ids: encode_tiff(ids.astype(np.uint32)), Flags("leaf,symptom")),
    "int64": (lambda ids: encode_tiff(ids.astype(np.int64)), Flags("leaf,symptom")),
    "white is zero": (
        lambda ids: encode_tiff(255 - ids, photometric="miniswhite"),
        Flags("leaf,symptom"),
    ),
    "gif": (lambda ids: encode_pillow(ids, "GIF"), Flags("leaf,symptom")),
    "palette": (lambda ids: encode_pillow(as_palette(ids)), Flags("leaf,symptom")),
    "palette in a BMP": (lambda ids: encode_pillow(as_palette(ids), "BMP"), Flags("leaf,symptom")),
    "colours, flags": (lambda ids: encode_pillow(in_colours(ids)), Flags(FLAGS)),
    "colours, flags, another order": (
        lambda ids: encode_pillow(in_colours(np.array([0, 2, 1], np.uint8)[ids])),
        Flags("leaf=#c03030,symptom=#307020"),
    ),
    "colours, label map": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags(label_map=LABEL_MAP),
    ),
    "colours, label map, names": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags("leaf,symptom", label_map=LABEL_MAP),
    ),
    "colours, label map, empty masks are grey": (grey_if_empty, Flags(label_map=LABEL_MAP)),
    "colours of a palette, label map": (
        lambda ids: encode_pillow(as_palette(ids)),
        Flags(label_map=LABEL_MAP),
    ),
    "colours of a GIF, label map": (
        lambda ids: encode_pillow(as_palette(ids), "GIF"),
        Flags(label_map=LABEL_MAP),
    ),
    "colours with opaque alpha": (
        lambda ids: encode_pillow(Image.fromarray(in_colours(ids)).convert("RGBA")),
        Flags(FLAGS),
    ),
    "colours on transparent": (lambda ids: encode_pillow(draw_colours(ids)), Flags(FLAGS)),
    "colours of 16 bits": (
        lambda ids: imagecodecs.png_encode(in_colours(ids).astype(np.uint16) * 257),
        Flags(FLAGS),
    ),
    "colours in a TIFF": (lambda ids: encode_tiff(in_colours(ids)), Flags(FLAGS)),
    "colours in a BMP": (lambda ids: encode_pillow(in_colours(ids), "BMP"), Flags(FLAGS)),
    "colours in a lossless WebP": (
        lambda ids: encode_pillow(in_colours(ids), "WEBP", lossless=True),
        Flags(FLAGS),
    ),
    "line numbers, label map": (encode_pillow, Flags(label_map=LABEL_MAP)),
    "ids, and a label map that does not count": (
        encode_pillow,
        Flags("leaf=1,symptom=2", label_map="x:1,2,3::\n"),
    ),
    "white background": (
        lambda ids: encode_pillow(np.where(ids[..., None] > 0, in_colours(ids), 255).astype("u1")),
        Flags(FLAGS, background="#ffffff"),
    ),
    "ids in the blue channel": (
        lambda ids: encode_pillow(np.dstack([ids * 0, ids * 0, ids])),
        Flags("leaf=#000001,symptom=#000002"),
    ),
}


@pytest.mark.parametrize("form", CLASSES)
def test_classes_are_read(decoder: Decoder, tmp_path: Path, form: str) -> None:
    encode, flags = CLASSES[form]
    targets, _ = read_set(decoder, tmp_path, [*map(encode, IDS)], flags)
    check_classes(targets)


BINARY: dict[str, tuple[Encode, Flags]] = {
    "0 and 255": (lambda leaf: encode_pillow(leaf * 255), Flags()),
    "one bit": (lambda leaf: encode_pillow(Image.fromarray(leaf > 0)), Flags()),
    "one bit, TIFF": (lambda leaf: encode_pillow(Image.fromarray(leaf > 0), "TIFF"), Flags()),
    "one bit, fax": (
        lambda leaf: encode_pillow(Image.fromarray(leaf > 0), "TIFF", compression="group4"),
        Flags(),
    ),
    "booleans": (lambda leaf: encode_tiff(leaf > 0), Flags()),
    "0 and 65535": (
        lambda leaf: imagecodecs.png_encode(leaf.astype(np.uint16) * 65535),
        Flags(),
    ),
    "0 and 1 as floats": (lambda leaf: encode_tiff(leaf.astype(np.float16)), Flags()),
    "GIF, black and white": (lambda leaf: encode_pillow(leaf * 255, "GIF"), Flags()),
    "JPEG": (
        lambda leaf: encode_pillow(leaf * 255, "JPEG", quality=95),
        Flags(kind="binary"),
    ),
    "red on black": (lambda leaf: encode_pillow(leaf[..., None] * COLOURS[2]), Flags()),
    "red on white": (
        lambda leaf: encode_pillow(np.where(leaf[..., None] > 0, COLOURS[2], 255).astype("u1")),
        Flags(),
    ),
    "red on blue": (
        lambda leaf: encode_pillow(
            np.where(leaf[..., None] > 0, COLOURS[2], [0, 0, 200]).astype("u1")
        ),
        Flags(),
    ),
    "white on transparent": (
        lambda leaf: encode_pillow(on_transparent(leaf, 255, 255, 255)),
        Flags(),
    ),
    "red on transparent": (lambda leaf: encode_pillow(on_transparent(leaf, 200, 0, 0)), Flags()),
    "black on transparent": (lambda leaf: encode_pillow(on_transparent(leaf, 0, 0, 0)), Flags()),
    "grey on transparent": (lambda leaf: encode_pillow(on_transparent(leaf, 90)), Flags()),
    "all white, alpha is the mask": (
        lambda leaf: encode_pillow(
            Image.fromarray(np.dstack([np.full((*SHAPE, 3), 255, np.uint8), leaf * 255]))
        ),
        Flags(),
    ),
    "inverted, as is said": (
        lambda leaf: encode_pillow((1 - leaf) * 255),
        Flags(background=255),
    ),
    "black on white": (lambda leaf: encode_pillow(255 - leaf * 255), Flags("leaf=#000000")),
    "one colour of a label map": (
        lambda leaf: encode_pillow(leaf[..., None] * COLOURS[1]),
        Flags(label_map="leaf:48,112,32::\n"),
    ),
}


@pytest.mark.parametrize("form", BINARY)
def test_binary_masks_are_read(decoder: Decoder, tmp_path: Path, form: str) -> None:
    encode, flags = BINARY[form]
    targets, _ = read_set(decoder, tmp_path, [*map(encode, LEAVES)], flags)
    check_leaves(targets)


def blur(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask in colours with edges as bilinear resizing makes them."""
    image = Image.fromarray(in_colours(ids))
    small = image.resize((SHAPE[1] // 2, SHAPE[0] // 2), Image.Resampling.BILINEAR)
    return np.asarray(small.resize(SHAPE[::-1], Image.Resampling.BILINEAR))


def with_void(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ids with a row that is not counted, 3."""
    found = ids.copy()
    found[:2] = 3
    return found


REFUSED: dict[str, tuple[Encode, Flags, str, Flags]] = {
    "colours": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags(),
        "hold 3 colours: .*--classes NAME=#307020,NAME=#c03030 .*labelmap.txt",
        Flags(FLAGS),
    ),
    "colours, names": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags("leaf,symptom"),
        "--classes leaf=#307020,symptom=#c03030",
        Flags(label_map=LABEL_MAP),
    ),
    "colours of a GIF": (
        lambda ids: encode_pillow(as_palette(ids), "GIF"),
        Flags("leaf,symptom"),
        "--classes leaf=#307020,symptom=#c03030",
        Flags(FLAGS),
    ),
    "ids in one channel": (
        lambda ids: encode_pillow(np.dstack([ids * 0, ids * 0, ids])),
        Flags("leaf,symptom"),
        "only the channel blue.*--classes leaf=#000001,symptom=#000002",
        Flags("leaf=#000001,symptom=#000002"),
    ),
    "a colour that is not named": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags("leaf=#307020,other=#010101"),
        "colours without a class: #c03030",
        Flags(FLAGS),
    ),
    "a colour that the label map does not have": (
        lambda ids: encode_pillow(in_colours(ids)),
        Flags(label_map="background:0,0,0::\nleaf:48,112,32::\n"),
        "colours without a class: #c03030 .*known ones are leaf=#307020; name them",
        Flags(label_map=LABEL_MAP),
    ),
    "a white background": (
        lambda ids: encode_pillow(np.where(ids[..., None] > 0, in_colours(ids), 255).astype("u1")),
        Flags(FLAGS),
        "--background-value '#ffffff' if that is the background",
        Flags(FLAGS, background="#ffffff"),
    ),
    "ids stretched to 16 bits": (
        lambda ids: imagecodecs.png_encode(ids.astype(np.uint16) * 257),
        Flags("leaf,symptom"),
        "--classes leaf=257,symptom=514",
        Flags("leaf=257,symptom=514"),
    ),
    "ids beside a label map of another order": (
        encode_pillow,
        Flags("leaf,symptom", label_map="symptom:192,48,48::\nleaf:48,112,32::\n"),
        "#010101 .*if grey values are ids rather than colours, give them: --classes leaf=1,symp",
        Flags("leaf=1,symptom=2"),
    ),
    "below 0": (
        lambda ids: encode_tiff(np.where(ids, ids.astype(np.int16), -1)),
        Flags(),
        "values below 0: -1 .*--background-value -1",
        Flags("leaf,symptom", background=-1),
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_refused_is_read_with_the_remedy(
    decoder: Decoder, tmp_path: Path, form: str
) -> None:
    encode, flags, message, remedy = REFUSED[form]
    files = [*map(encode, IDS)]
    with pytest.raises(InputError, match=message) as error:
        read_set(decoder, tmp_path, files, flags)
    assert "\n" not in str(error.value)
    targets, _ = read_set(decoder, tmp_path, files, remedy)
    check_classes(targets)


@pytest.mark.parametrize("name", ["palette", "colours", "colours, remedy"])
def test_the_void_of_voc_is_not_counted(decoder: Decoder, tmp_path: Path, name: str) -> None:
    ids = [*map(with_void, IDS)]
    if name == "palette":
        files = [
            encode_pillow(as_palette(np.where(mask == 3, 255, mask).astype("u1"))) for mask in ids
        ]
        flags = Flags("leaf,symptom")
    else:
        files = [encode_pillow(in_colours(mask)) for mask in ids]
        flags = Flags(FLAGS, ignored="#e0e0c0")
        with pytest.raises(InputError, match="give --ignore-value '#e0e0c0' to leave out"):
            read_set(decoder, tmp_path, files, Flags(FLAGS))
    targets, notes = read_set(decoder, tmp_path, files, flags)
    for mask, found in zip(ids, targets, strict=True):
        assert np.array_equal(found == 255, np.stack([mask == 3] * 2))
        assert np.array_equal(found == 1, np.stack([mask == 1, mask == 2]))
    assert "and are not counted" in notes[-1]


@pytest.mark.parametrize("kind", ["resized", "JPEG"])
@pytest.mark.parametrize("flags", [Flags(), Flags(FLAGS), Flags(label_map=LABEL_MAP)])
def test_interpolated_colours_are_refused_with_their_cause(
    decoder: Decoder, tmp_path: Path, kind: str, flags: Flags
) -> None:
    if kind == "JPEG":
        files = [encode_pillow(in_colours(ids), "JPEG", quality=98) for ids in IDS]
    else:
        files = [encode_pillow(blur(ids)) for ids in IDS]
    with pytest.raises(InputError, match="interpolation .resizing or JPEG. produces such colours"):
        read_set(decoder, tmp_path, files, flags)


def test_inverted_masks_are_noted(decoder: Decoder, tmp_path: Path) -> None:
    small = [leaf[:, :12] * 0 for leaf in LEAVES]
    for mask in small[:3]:
        mask[5, 5] = 1
    files = [encode_pillow((1 - leaf) * 255) for leaf in small]
    _, (note,) = read_set(decoder, tmp_path, files, Flags())
    assert note.endswith("if the masks are inverted, give --background-value 255")
    targets, notes = read_set(decoder, tmp_path, files, Flags(background=255))
    assert all(np.array_equal(found[0], leaf) for found, leaf in zip(targets, small, strict=True))
    assert not any("inverted" in note for note in notes)


def test_a_colour_per_object_needs_its_kind(decoder: Decoder, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ids = (np.arange(SHAPE[0])[:, None] // 8 * 8 + np.arange(SHAPE[1]) // 8).astype(np.uint8) % 30
    colours = rng.integers(1, 256, (30, 3), dtype=np.uint8)
    colours[0] = 0
    files = [encode_pillow(colours[ids])]
    with pytest.raises(InputError, match="if each object has its own colour, give --mask-kind ins"):
        read_set(decoder, tmp_path, files, Flags())
    (found,), _ = read_set(decoder, tmp_path, files, Flags(kind="instances"))
    assert np.array_equal(found[0], ids > 0)


def test_probabilities_are_named(decoder: Decoder, tmp_path: Path) -> None:
    files: list[Any] = [encode_tiff((leaf * 0.7).astype(np.float32)) for leaf in LEAVES]
    with pytest.raises(ImageError, match="the mask value 0.69999.* threshold probabilities"):
        read_set(decoder, tmp_path, files, Flags())
