"""Reading of label files, one for a whole set or one per image; child processes parse them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from queue import LifoQueue
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.errors import ImageError, InputError
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.labelled_data.annotations import NO_CATEGORY, Annotations
from unet_ray.labelled_data.annotations_builder import AnnotationsBuilder
from unet_ray.labelled_data.formats import parsing
from unet_ray.storage.backends.s3 import CONNECTIONS
from unet_ray.storage.file_entry import FileEntry
from unet_ray.storage.storage import Storage

_TIME_LIMIT_S = 3600.0
"""Time limit for one label file (s); a file of a million objects takes some 30 s."""
_MEMORY_LIMIT_BYTES = 8 * 2**30
"""Limit of the address space of the child (bytes): enough for several million objects."""
_PIECE = 2**22
"""Bytes of a file that are held in memory at once."""
_HELD_BYTES = 2**24
"""Largest file of a single image that is read as a whole before it is parsed (bytes)."""
_CHILDREN = 4
"""Largest number of child processes that parse files of single images."""


@dataclass(frozen=True)
class LabelFile:
    """A label file and its annotations."""

    entry: FileEntry
    annotations: Annotations
    sha256: str
    """SHA-256 of its content."""


def read_label_file(file: Storage, arguments: dict[str, Any], named: str) -> LabelFile:
    """Read a label file for a whole set.

    Args:
        file: Storage at the URI of the file.
        arguments: Arguments of `parsing.answer` beside the name.
        named: Flag and URI, for messages.

    Raises:
        InputError: The file cannot be read or used; the message names the place in it.
    """
    try:
        entry = file.entry()
    except OSError:
        raise InputError(f"{named}: there is no such file, or no permission to read it") from None
    decoder = _make_decoder()
    try:
        return _parse(decoder, file, entry, arguments)
    except ImageError as error:
        raise InputError(f"{named}: {error.message}") from None
    finally:
        decoder.close()


def read_label_folder(
    root: Storage, entries: Sequence[FileEntry], arguments: dict[str, Any]
) -> list[LabelFile]:
    """Read a folder of label files, each about one image.

    A file that cannot be used becomes an image with an error.

    Args:
        root: Storage that opens the files.
        entries: The files.
        arguments: Arguments of `parsing.answer` beside the name.
    """
    free: LifoQueue[Decoder] = LifoQueue()
    with ExitStack() as stack:
        for _ in range(min(_CHILDREN, len(entries))):
            decoder = _make_decoder()
            stack.callback(decoder.close)
            free.put(decoder)
        pool = stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        return [*pool.map(partial(_read_one, free, root, arguments), entries)]


def _read_one(
    free: LifoQueue[Decoder], root: Storage, arguments: dict[str, Any], entry: FileEntry
) -> LabelFile:
    """Read a file of `read_label_folder`, with one of the decoders that are free."""
    file = root.at(entry.uri)
    try:
        # read before taking a decoder: stores are slow, and decoders are few
        held = file.read() if entry.size <= _HELD_BYTES else None
        decoder = free.get()
        try:
            return _parse(decoder, file, entry, arguments, held=held)
        finally:
            free.put(decoder)
    except (ImageError, OSError) as error:
        reason = error.message if isinstance(error, ImageError) else f"it cannot be read: {error}"
        builder = AnnotationsBuilder()
        builder.add_image(entry.path.rpartition(".")[0], error=f"{entry.path}: {reason}")
        return LabelFile(entry, builder.build(), "")


def join_annotations(all_of: Sequence[Annotations]) -> Annotations:
    """Join the annotations of several files.

    Categories with the same name become one category, with its first id.

    Args:
        all_of: Annotations of each file.
    """
    builder = AnnotationsBuilder()
    left_out = Counter[str]()
    notes: dict[str, None] = {}
    images, objects = [], []
    num_images = 0
    for each in all_of:
        rows = [builder.find_category(category.name, category.id) for category in each.categories]
        row_of = np.array([*rows, NO_CATEGORY], np.int32)  # index -1, NO_CATEGORY, is the last
        image_rows = each.objects["image"].to_numpy() + num_images
        category_rows = row_of[each.objects["category"].to_numpy()]
        moved = _replace_column(each.objects, "image", image_rows)
        objects.append(_replace_column(moved, "category", category_rows))
        images.append(each.images)
        num_images += len(each.images)
        left_out.update(each.left_out)
        notes |= dict.fromkeys(each.notes)
    empty = builder.build()
    return Annotations(
        categories=empty.categories,
        images=pa.concat_tables([empty.images, *images]).combine_chunks(),
        objects=pa.concat_tables([empty.objects, *objects]).combine_chunks(),
        left_out=dict(left_out),
        notes=tuple(notes),
    )


def _replace_column(table: pa.Table, name: str, values: NDArray[np.int32]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, pa.array(values, pa.int32()))


def _make_decoder() -> Decoder:
    return Decoder(_TIME_LIMIT_S, _MEMORY_LIMIT_BYTES, module=parsing.__name__)


def _parse(
    decoder: Decoder,
    file: Storage,
    entry: FileEntry,
    arguments: dict[str, Any],
    held: bytes | None = None,
) -> LabelFile:
    """Parse a file in a decoder.

    Args:
        decoder: Child process that parses the file.
        file: Storage at the URI of the file.
        entry: The file.
        arguments: Arguments of `parsing.answer` beside the name.
        held: Content of the file, if it was read already.

    Raises:
        ImageError: The file cannot be used.
    """
    size = entry.size if held is None else len(held)
    sha256 = hashlib.sha256()

    def read() -> Iterator[bytes]:
        """Yield the content of the file; the decoder has been told its size."""
        nonlocal sha256
        sha256 = hashlib.sha256()
        rest = size
        with file.open() if held is None else nullcontext(BytesIO(held)) as source:
            while rest and (piece := source.read(min(_PIECE, rest))):
                sha256.update(piece)
                rest -= len(piece)
                yield piece
        if rest:
            raise ImageError("changed", "the file became shorter while it was read")

    try:
        data = decoder.call(arguments | {"name": entry.path}, size, read)
        return LabelFile(entry, Annotations.from_bytes(data), sha256.hexdigest())
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ImageError("unreadable", "the reply of its parser is not annotations") from error
