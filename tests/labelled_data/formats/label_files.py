"""Parses label files for tests, here and in the decoder's child, and shows what was read."""

from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.regions.run_lengths import decode_rle
from unet_ray.labelled_data.annotations import Annotations, LabelError
from unet_ray.labelled_data.formats.parsing import parse_labels

Parse = Callable[[bytes, str], Annotations]
"""Parses the content of a label file of a name."""
MODULE = "unet_ray.labelled_data.formats.parsing"


def parse_here(content: bytes, name: str) -> Annotations:
    """Parse a label file in this process."""
    return parse_labels(BufferedReader(BytesIO(content), 2**20), name)  # type: ignore[arg-type]


def make_confined_parser() -> Iterator[Parse]:
    """Yield a function that parses a label file in the decoder's child, a fixture of tests."""
    decoder = Decoder(module=MODULE)

    def parse(content: bytes, name: str) -> Annotations:
        answer = decoder.call({"name": name}, len(content), lambda: [content])
        return Annotations.from_bytes(answer)

    yield parse
    decoder.close()


def check_refused_or_read(content: bytes, name: str) -> None:
    """Check that a file is refused in one line, or read into something valid."""
    try:
        found = parse_here(content, name)
    except LabelError as error:
        text = str(error)
    else:
        text = ""
        Annotations.from_bytes(found.to_bytes())
    assert "\n" not in text


def list_images(found: Annotations) -> dict[str, dict[str, Any]]:
    """Return the rows of the images by their names."""
    return {row["name"]: row for row in found.images.to_pylist()}


def list_objects(found: Annotations, name: str) -> list[tuple[str | None, Any]]:
    """Return the category of each object of an image, and its parts.

    A polygon is the list of its corners, run lengths are the set of (x, y) of their pixels.
    """
    row = found.images["name"].to_pylist().index(name)
    objects = []
    for each in found.objects_of(row):
        number = each["category"]
        label = None if number < 0 else found.categories[number].name
        if each["is_ignored"]:
            label = f"ignored {label}"
        parts = [show_part(part) for part in each["parts"]]
        objects.append((label, each["error"] or (parts[0] if len(parts) == 1 else parts)))
    return objects


def show_part(part: dict[str, Any]) -> Any:
    """Return corners, or the set of the pixels of run lengths."""
    if not part["counts"]:
        return [round(number, 6) for number in part["points"]]
    inside = decode_rle(part["counts"], part["height"], part["width"])
    rows, columns = np.nonzero(inside)
    return {
        (int(x) + part["left"], int(y) + part["top"]) for x, y in zip(columns, rows, strict=True)
    }


def list_pixels(mask_hw: NDArray[Any]) -> set[tuple[int, int]]:
    """Return (x, y) of all pixels of a mask that are not 0."""
    rows, columns = np.nonzero(mask_hw)
    return {(int(x), int(y)) for x, y in zip(columns, rows, strict=True)}
