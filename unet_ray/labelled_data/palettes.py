"""Colours of mask values in palettes, which must be the same in all masks of a set.

Paint programs and PNG optimisers number the colours of each file anew. Indices then have no
meaning: 1 is a leaf in one mask and a symptom in the next.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from unet_ray.errors import InputError

Colours = Iterable[tuple[int, int]]
"""Pairs (mask value, colour 0xRRGGBB)."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 8
"""Length and name of a chunk."""
_CHECKSUM_BYTES = 4
_MOST_CHUNKS = 64
"""Number of chunks that are searched for a palette."""


def list_colours(png: bytes, values: Collection[int]) -> list[tuple[int, int]]:
    """Return the colours that a PNG with a palette gives to its mask values.

    Args:
        png: Content of a file of any form.
        values: Values of its mask, as the decoder returns them.

    Returns:
        Pairs (mask value, colour 0xRRGGBB); empty for a file without a palette, or with transparent
        colours, which the decoder interprets itself.
    """
    palette = _find_palette(png)
    colours = []
    for start in range(0, len(palette) // 3 * 3, 3):
        colours.append(int.from_bytes(palette[start : start + 3], "big"))
    if len(colours) > 1 and colours[0] and not colours[1] and set(values) == {0, 1}:
        colours[:2] = colours[1::-1]  # the decoder swaps the two
    found = [value for value in sorted(values) if 0 <= value < len(colours)]
    return [(value, colours[value]) for value in found]


def _find_palette(png: bytes) -> bytes:
    """Return the palette of a PNG, three bytes per colour; empty if `list_colours` needs none."""
    if not png.startswith(_SIGNATURE):
        return b""
    at, palette = len(_SIGNATURE), b""
    for _ in range(_MOST_CHUNKS):
        size = int.from_bytes(png[at : at + 4], "big")
        name = png[at + 4 : at + 8]
        content = at + _HEADER_BYTES
        if name == b"IDAT":
            return palette
        if name in (b"tRNS", b""):
            break
        if name == b"PLTE":
            palette = png[content : content + size]
        at = content + size + _CHECKSUM_BYTES
    return b""


def check_same_colours(files: Iterable[tuple[str, Colours]], compared: Collection[int]) -> None:
    """Check that each mask value has one colour in all palettes of a set.

    Args:
        files: URI of each mask, and the colours of its values.
        compared: Values that matter.

    Raises:
        InputError: A value has two colours.
    """
    first: dict[int, tuple[int, str]] = {}
    for uri, colours in files:
        for value, colour in colours:
            if value not in compared:
                continue
            before, where = first.setdefault(value, (colour, uri))
            if before != colour:
                raise InputError(
                    f"the palettes of the masks differ: {value} is #{before:06x} in {where}, "
                    f"#{colour:06x} in {uri}, so indices do not identify classes; give colours, as "
                    "in --classes leaf=#307020,symptom=#c03030, or save ids as grey values"
                )
