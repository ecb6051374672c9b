"""Values of mask files: ids as they are, colours as numbers that no id has.

| file | value of a pixel |
|---|---|
| grey, or colours whose channels are equal | the grey value |
| palette | the index; with two colours of which only the second is black, that one is 0 |
| white-is-zero | the grey value that is shown; in ImageJ's files, the sample |
| colours, also in a GIF | `COLOUR + 0xRRGGBB`; for a grey pixel, its grey value |
| alpha that varies | 0 where nothing is drawn, else as above; for drawn black, `COLOUR` |

If the meaning of colours is known (`ColourTable`), files are read by their colours: a known colour
becomes its value, black becomes 0, and any other `COLOUR + 0xRRGGBB`, greys too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.flags import COLOUR, MAX_CLASS_ID
from unet_ray.imaging.codecs.raster import Raster, check_not_empty

MOST_COLOURS = 2**16
"""Largest number of colours whose meaning can be given."""
_MOST_IN_FILE = 4096
"""Largest number of unknown colours in one file. Interpolated masks and photographs have more, and
each colour would be counted for each file."""
_BLOCK_PX = 2**20
"""Pixels that are converted at once, so that temporary arrays stay small."""
_IGNORED_INDEX = 255
"""Index of pixels that are not counted, as in Pascal VOC."""


@dataclass(frozen=True)
class ColourTable:
    """Mask values of the colours in the masks of a set."""

    colours: Mapping[int, int]
    """Colour 0xRRGGBB → mask value, for at most MOST_COLOURS colours."""
    indices: Mapping[int, int] = field(default_factory=dict)
    """Grey value → mask value, for files of a single channel that hold no colour of `colours`."""

    def to_json(self) -> list[list[tuple[int, int]]]:
        """Return the table as values that JSON can hold."""
        return [list(self.colours.items()), list(self.indices.items())]

    @staticmethod
    def from_json(found: list[list[tuple[int, int]]]) -> ColourTable:
        """Make a table from the result of `to_json`."""
        return ColourTable(dict(found[0]), dict(found[1]))


def read_mask_values(raster: Raster, table: ColourTable | None = None) -> NDArray[Any]:
    """Return the values of a mask file, HW, of an integer type.

    Args:
        raster: Samples of the file.
        table: Meaning of colours; None: it is not known.

    Raises:
        ImageError: `unsupported` samples, which no mask can have.
    """
    if raster.palette is not None:
        return _read_indices(raster.samples[:, :, 0], raster.palette, table)
    samples, alpha = raster.samples, None
    if raster.has_alpha:
        samples, alpha = samples[:, :, :-1], samples[:, :, -1]
    check_not_empty(samples.shape)
    if raster.inverted and not (raster.is_imagej and table is None):
        samples = _invert(samples, raster.bits)
    samples = _check_whole(samples)
    drawn = None if alpha is None else _find_drawn(samples, alpha)
    if samples.shape[2] == 4 and (samples[:, :, 3] == samples[0, 0, 3]).all():
        samples = samples[:, :, :3]  # a fourth channel that is the same everywhere is unused
    is_grey = bool((samples[:, :, 1:] == samples[:, :, :1]).all())
    if is_grey and table is None:
        grey = samples[:, :, 0]
        if drawn is None:
            return grey
        values = np.where(drawn, grey, 0)
        is_black = drawn & (grey == 0)  # drawn black becomes a colour, since 0 is background
        return np.where(is_black, np.uint32(COLOUR), values) if is_black.any() else values
    if samples.shape[2] not in (1, 3):
        raise ImageError(
            "unsupported",
            f"a mask of {samples.shape[2]} channels; save one id per pixel, or a mask per class in "
            "class folders",
        )
    if table and samples.shape[2] == 1 and raster.bits >= 8:
        indices = {grey * 0x010101: value for grey, value in table.indices.items()}
        table = ColourTable(indices | dict(table.colours))
    return _read_colours(_scale_to_bytes(samples, raster.bits), drawn, table)


def _read_indices(
    indices: NDArray[Any], palette: NDArray[np.uint8], table: ColourTable | None
) -> NDArray[Any]:
    """Return palette indices, or the values of their colours if those are known.

    Indices whose colour is transparent become 0. If index 0 is drawn beside them, the values are
    colours instead.
    """
    if table is None and palette.shape[1] == 3:
        # programs that optimise palettes number colours in the order in which they occur: a drawing
        # may have white or a colour first, and black, its background, second
        is_black_second = bool(palette[0].any() and not palette[1].any())
        return 1 - indices if is_black_second and indices.max(initial=0) == 1 else indices
    used = np.flatnonzero(np.bincount(indices.ravel())).tolist()
    if used[-1] >= len(palette):
        raise ImageError(
            "unreadable", f"palette index {used[-1]}, but the palette has {len(palette)} colours"
        )
    alpha = palette[used, 3] if palette.shape[1] == 4 else np.full(len(used), 255)
    if alpha.any():
        is_drawn = 2 * alpha.astype(np.int64) >= alpha.max()
        drawn = np.array(used)[is_drawn].tolist()
    else:
        drawn = [] if len(used) == 1 else used
    if table is None and (drawn == used or 0 not in drawn):
        values = {index: index for index in drawn}
    else:
        red, green, blue = palette[:, :3].astype(np.uint32).T
        colours = (red << 16 | green << 8 | blue).tolist()
        values = {index: _find_value(index, colours[index], table) for index in drawn}
    lookup = np.zeros(len(palette), np.uint32)
    lookup[list(values)] = list(values.values())
    return _narrow(lookup)[indices]


def _find_value(index: int, rgb: int, table: ColourTable | None) -> int:
    """Return the value of a drawn palette index of a colour."""
    if table is None:
        grey = rgb & 0xFF
        return grey if rgb and rgb == grey * 0x010101 else COLOUR + rgb
    if rgb in table.colours:
        return table.colours[rgb]
    if index == _IGNORED_INDEX:
        return index
    return COLOUR + rgb if rgb else 0


def _invert(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return samples of a file in which zero is white as if zero were black."""
    if samples.dtype.kind != "u":
        raise ImageError(
            "unsupported", f"white-is-zero samples of type {samples.dtype}; save as 8 or 16 bits"
        )
    inverted: NDArray[Any] = (2**bits - 1) - samples
    return inverted


def _check_whole(samples: NDArray[Any]) -> NDArray[Any]:
    """Return samples as integers.

    Raises:
        ImageError: A sample is larger than an id can be, or a float that is not an id; it is named.
    """
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind == "b":
        return samples.astype(np.uint8)
    if kind in "iu" and (size < 4 or samples.dtype == np.int32):
        return samples
    if kind not in "iuf":
        raise ImageError("unsupported", f"mask samples of type {samples.dtype}; save integers")
    whole = samples if kind in "iu" else np.empty(samples.shape, np.int32)
    for rows in _split_rows(samples.shape):
        block = samples[rows]
        if kind == "f":
            block = block.astype(np.float64)
            is_id = (block >= 0) & (block <= MAX_CLASS_ID) & (block == np.floor(block))
        else:
            is_id = block <= MAX_CLASS_ID
        if not is_id.all():
            row, column, _ = np.argwhere(~is_id)[0].tolist()
            raise _refuse_sample(samples, rows.start + row, column)
        if kind == "f":
            whole[rows] = block
    return whole


def _refuse_sample(samples: NDArray[Any], row: int, column: int) -> ImageError:
    """Return the error of a sample that is not an id."""
    is_share = samples.dtype.kind == "f" and samples.min() >= 0 and samples.max() <= 1
    remedy = "threshold probabilities" if is_share else "save ids as integers"
    channels = samples[row, column].tolist()
    found = next(
        value for value in channels if not (0 <= value <= MAX_CLASS_ID and value == int(value))
    )
    return ImageError(
        "unsupported",
        f"the mask value {found:.10g} at row {row}, column {column} (from 0); masks hold whole "
        f"numbers from 0 to {MAX_CLASS_ID}: {remedy}",
    )


def _find_drawn(samples: NDArray[Any], alpha: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where something is drawn, HW; None if alpha is the same everywhere.

    A pixel is drawn if its alpha is at least half of the largest in the file: edges may be soft,
    and brushes half transparent. A file of one colour, transparent everywhere, has no drawn pixel.
    """
    low, high = alpha.min(), alpha.max()
    if low < high:
        return np.asarray(alpha >= high / 2)
    if high == 0 and (samples == samples[:1, :1]).all():
        return np.zeros(alpha.shape, np.bool_)
    return None


def _scale_to_bytes(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return samples of colours as 8 bits each.

    Raises:
        ImageError: They have more.
    """
    if samples.dtype == np.uint8:
        return samples if bits >= 8 else samples.astype(np.uint16) * 255 // (2**bits - 1)
    low = int(samples.min())
    high = int(samples.max())
    if low >= 0 and high <= 255:
        return samples
    if samples.dtype == np.uint16 and not (samples % 257).any():
        return samples // 257
    raise ImageError(
        "unsupported",
        f"samples from {low} to {high}, but colours in masks range from 0 to 255; save colours "
        "with 8 bits per channel, or ids as one grey channel",
    )


def _read_colours(
    samples: NDArray[Any], drawn: NDArray[np.bool_] | None, table: ColourTable | None
) -> NDArray[Any]:
    """Return the values of colours (HWC, 0 to 255); the smallest type that holds them.

    Raises:
        ImageError: There are more colours than a mask can have.
    """
    values = np.empty(samples.shape[:2], np.uint32)
    seen = np.empty(0, np.uint32)
    for rows in _split_rows(samples.shape):
        channels = np.moveaxis(samples[rows], 2, 0)
        red, green, blue = np.broadcast_to(channels, (3, *channels.shape[1:]))
        rgb = np.zeros(red.shape, np.uint32)
        for channel in (red, green, blue):
            rgb = rgb << np.uint32(8) | channel.astype(np.uint32)
        if table is None:
            is_grey = (red == green) & (green == blue)
            block = np.where(is_grey, rgb & 0xFF, rgb | COLOUR)
            if drawn is not None:  # drawn black is a colour like any other
                block[rgb == 0] = COLOUR
        else:
            block = _look_up(rgb, table.colours)
        if drawn is not None:
            block[~drawn[rows]] = 0
        values[rows] = block
        seen = _list_values(np.append(seen, _list_values(block)))
        if np.count_nonzero(seen >= COLOUR) > _MOST_IN_FILE:
            raise ImageError(
                "unsupported",
                f"a mask of more than {_MOST_IN_FILE} colours: it was interpolated (by resizing or "
                "JPEG) or is a photograph; masks hold one colour per class: resize them with "
                "nearest neighbour and save them as PNG",
            )
    return _narrow(values, int(seen.max()))


def _look_up(rgb: NDArray[np.uint32], colours: Mapping[int, int]) -> NDArray[np.uint32]:
    """Return the values of colours: the given ones, 0 for black, else `COLOUR + 0xRRGGBB`."""
    known = {0: 0} | dict(colours)
    keys = np.array(sorted(known), np.uint32)
    values = np.array([known[key] for key in keys.tolist()], np.uint32)
    place = np.minimum(np.searchsorted(keys, rgb), len(keys) - 1)
    return np.where(keys[place] == rgb, values[place], rgb | np.uint32(COLOUR))


def _split_rows(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of rows that hold about _BLOCK_PX pixels each."""
    rows = max(1, _BLOCK_PX // shape[1])
    for top in range(0, shape[0], rows):
        yield slice(top, top + rows)


def _list_values(block: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the values of a block, each once; only those where a run begins are sorted.

    `np.unique` loads a module when it is first used, which the decoder's child process cannot.
    """
    flat = block.ravel()
    begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    found = np.sort(np.append(flat[:1], flat[begins]))
    return found[np.append(True, found[1:] != found[:-1])]


def _narrow(values: NDArray[np.uint32], largest: int | None = None) -> NDArray[Any]:
    """Return values as the smallest unsigned type that holds them."""
    largest = int(values.max()) if largest is None else largest
    return values.astype(np.min_scalar_type(largest), copy=False)
