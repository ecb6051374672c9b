"""The chain of directories of a TIFF file, read with hard bounds before any library follows it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

import tifffile

from unet_ray.errors import ImageError
from unet_ray.imaging.codecs.range_file import RangeFile
from unet_ray.limits import MAX_PAGES

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHARED = 4
"""Largest multiple of a file's size that its directories, or its pages, refer to. Pages may share
values and samples; a few bytes that thousands of tags or pages share are an attack."""
VALUE_BYTES = 2**20
"""Largest value of a tag that is read with its page (bytes); no decoder needs a longer one."""
_MOST_TAGS = 4096
"""Largest number of tags of a directory; tifffile refuses more."""
_TYPE_BYTES = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
"""Type of a tag → size of one value (bytes)."""
_DIRECTORY_BYTES = 2**16
"""Bytes that are fetched at the start of a directory: a store takes as long for fewer."""
_MOST_PIECES = 64
"""Largest number of pieces of a file that are fetched for its directories."""


def fetch_directories(file: RangeFile) -> tuple[RangeFile, int]:
    """Fetch the beginnings of a TIFF's directories, so that their reader waits for no store.

    Only the places of directories are read, in a bounded number of small steps, so that this may
    be done for untrusted files in any process; `tiff.find_images` may not.

    Args:
        file: TIFF file.

    Returns:
        The same file with the pieces that were fetched, and the number of directories: 0 if it is
        no TIFF, and at least 2 if that many were found before the search was given up.
    """
    pieces = list(file.pieces)
    seen: set[int] = set()

    def view(offset: int, size: int) -> bytes:
        """Return bytes of the file; raise ValueError if that takes too many pieces."""
        for start, held in reversed(pieces):
            if start <= offset and offset + size <= start + len(held):
                return held[offset - start : offset - start + size]
        if len(pieces) == _MOST_PIECES:
            raise ValueError(f"more than {_MOST_PIECES} pieces")
        (held,) = file.fetch([(offset, min(_DIRECTORY_BYTES, file.size - offset))])
        pieces.append((offset, held))
        return held[:size]

    magic = file.pieces[0][1][:4]
    if magic in TIFF_MAGIC:
        order = "<" if magic[:2] == b"II" else ">"
        is_big = 43 in magic[2:]
        at, entry_bytes = (8, 20) if is_big else (4, 12)
        pointer = struct.Struct(order + ("Q" if is_big else "I"))
        count = struct.Struct(order + ("Q" if is_big else "H"))
        with suppress(struct.error, ValueError):  # damaged, or of very many directories far apart
            while len(seen) < MAX_PAGES:
                (offset,) = pointer.unpack(view(at, pointer.size))
                if not 0 < offset < file.size or offset in seen:
                    break
                seen.add(offset)
                (num_entries,) = count.unpack(view(offset, count.size))
                at = offset + count.size + num_entries * entry_bytes
                if at >= file.size:
                    break
    return RangeFile(file.fetch, file.size, pieces, _DIRECTORY_BYTES), len(seen)


def iterate_directories(tiff: tifffile.TiffFile) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of each directory (bytes), checked before its values are read.

    Iteration ends where the chain of directories loops; tifffile would follow the loop forever.

    Raises:
        ImageError: `too_large` for too many pages; `unreadable` if directories and their values
            overlap so much that reading them would take many times what the file holds.
    """
    file, kind = tiff.filehandle, tiff.tiff
    entry = struct.Struct(tiff.byteorder + ("HHQ8x" if tiff.is_bigtiff else "HHI4x"))
    at = kind.offsetsize  # 4, or 8 in a BigTIFF
    seen: set[int] = set()
    read = 0
    limit = SHARED * file.size + VALUE_BYTES
    while True:
        file.seek(at)
        found = file.read(kind.offsetsize)
        offset = int.from_bytes(found, "little" if tiff.byteorder == "<" else "big")
        # the end of the file ends the chain too
        if len(found) < kind.offsetsize or not offset or offset in seen:
            return
        if len(seen) == MAX_PAGES:
            raise ImageError("too_large", f"more than {MAX_PAGES} pages; split the stack")
        seen.add(offset)
        file.seek(offset)
        (entries,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
        at = offset + kind.tagnosize + entries * kind.tagsize
        data = file.read(min(entries, _MOST_TAGS) * entry.size)
        tags = entry.iter_unpack(data[: len(data) // entry.size * entry.size])
        sizes = [count * _TYPE_BYTES.get(tag_type, 0) for _, tag_type, count in tags]
        # values that exceed the file are not counted: they are not read either
        read += at - offset + sum(size for size in sizes if size <= file.size)
        if read > limit:
            raise ImageError(
                "unreadable",
                f"directories that overlap: {read} bytes of tags in a file of {file.size} bytes",
            )
        yield offset, at
