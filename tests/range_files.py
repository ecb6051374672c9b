"""Files in memory that are read in ranges."""

from collections.abc import Callable, Sequence

from unet_ray.imaging.codecs.range_file import Fetch, RangeFile


def fetch_of(data: bytes, asked: Callable[[int, int], None] = lambda *_: None) -> Fetch:
    """Return what gives ranges of data; `asked` is told (offset, size) of each before."""

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        for offset, size in ranges:
            asked(offset, size)
        return [data[offset : offset + size] for offset, size in ranges]

    return fetch


def file_of(
    data: bytes, asked: Callable[[int, int], None] = lambda *_: None, size: int | None = None
) -> RangeFile:
    """Return data as a file that says that it has so many bytes; those that it has not are missing."""
    return RangeFile(fetch_of(data, asked), len(data) if size is None else size)
