"""The decode stage, from plan to pixels: it reads files and decodes them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.image_sources.content_hash import hash_read
from unet_ray.image_sources.encoded import read_encoded
from unet_ray.imaging.channels import take_channels, take_pages
from unet_ray.imaging.codecs.decode import TIFF_SUFFIXES
from unet_ray.imaging.codecs.range_file import PlaneFile
from unet_ray.imaging.codecs.sandbox import process_decoder
from unet_ray.imaging.resampling import find_factors
from unet_ray.limits import WHOLE_BYTES, WHOLE_PIXELS
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.prefetch import ahead, reading_pool
from unet_ray.segmentation.stages.columns import pixel_table, read_records
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.storage.listing import path_suffix

_READS = (8, 32)
"""Lowest and highest number of files that are read concurrently: a store answers after 50 to
200 ms, decoding takes 5."""
_READ_BYTES = 2**27
"""Bytes of files that are read concurrently, unless the lowest number of files has more."""
_READ_S = 300.0
"""Longest time that reading a file may take (s): a remote store gives up sooner by itself, but a
network mount without its server never does."""

_RUNS = set[str]()
"""Runs for which this process has described its decoder."""


def describe_new_decoder(run_id: str) -> str:
    """Return the measures that confine this process's decoder, the first time that a run asks.

    Args:
        run_id: Id of the run.

    Returns:
        Names separated by commas; `nothing` if there are none, empty if the run asked before.
    """
    if run_id in _RUNS:
        return ""
    _RUNS.add(run_id)
    try:
        return ", ".join(process_decoder().confinement) or "nothing"
    except (ImageError, OSError):  # it does not start; the next image reports why
        return ""


@dataclass(frozen=True)
class Decode:
    """Reads and decodes each image of a plan, and yields tables of PIXELS of a bounded size."""

    reading: ImageReading
    """Settings by which images are read."""
    preprocessing: Preprocessing
    block_bytes: int
    """Decoded bytes at which a table is handed on."""

    def __call__(self, plan: pa.Table) -> Iterator[pa.Table]:
        """Decode the images of a table in its order while the next ones are read."""
        records = read_records(plan)
        largest = max([1, *(record.source.stored_bytes for record in records)])
        reads = int(np.clip(_READ_BYTES // largest, *_READS))
        # sizes in a manifest may be wrong: no file may take more than was planned for
        limit = min(max(largest, _READ_BYTES // reads), WHOLE_BYTES)
        read = partial(self._read, limit)
        pending: list[tuple[ImageRecord, NDArray[Any] | None]] = []
        pending_bytes = 0
        with reading_pool(reads) as pool:
            for record, data in ahead(pool, read, records, reads, (_READ_S, _give_up)):
                # the reads ran concurrently
                record = replace(record, read_s=record.read_s / min(reads, len(records)))
                pixels = None
                if data is not None:
                    record, pixels = self._decode_or_fail(record, data)
                    pending_bytes += 0 if pixels is None else pixels.nbytes
                pending.append((record, pixels))
                if pending_bytes >= self.block_bytes:
                    yield pixel_table(pending)
                    pending, pending_bytes = [], 0
        if pending:
            yield pixel_table(pending)

    def _read(
        self, limit: int, record: ImageRecord
    ) -> tuple[ImageRecord, bytes | PlaneFile | None]:
        """Return an image's record and its file, or the page of it.

        The second is None for a large image, and if reading fails.
        """
        source = record.source
        if source.stored_bytes > WHOLE_BYTES:
            return record, None
        started = time.perf_counter()
        try:
            place = take_pages(source.place, self.reading.channels)
        except ImageError as error:
            return record.fail(error, "decode"), None
        try:
            # an empty etag means that the file was not seen in the listing: comparing refuses it
            etag = source.etag if self.reading.check_etags or not source.etag else None
            data = read_encoded(self.reading.access, source.file_uri, place, etag, limit)
        except Exception as error:
            return record if _is_too_large(error) else record.fail(error, "read"), None
        if isinstance(data, bytes):
            source = replace(source, size=len(data))  # a manifest may say otherwise
        content_hash = hash_read(data) if self.reading.keep_hash else None
        read_s = time.perf_counter() - started
        return replace(record, source=source, content_hash=content_hash, read_s=read_s), data

    def _decode_or_fail(
        self, record: ImageRecord, data: bytes | PlaneFile
    ) -> tuple[ImageRecord, NDArray[Any] | None]:
        """Return an image's record and its pixels, HWC; None if it failed or is a large one."""
        started, pixels = time.perf_counter(), None
        try:
            record, pixels = self._decode_whole(record, data)
        except Exception as error:
            error = _blame_name(error, record.source.file_uri)
            record = record if _is_too_large(error) else record.fail(error, "decode")
        return replace(record, decode_s=time.perf_counter() - started), pixels

    def _decode_whole(
        self, record: ImageRecord, data: bytes | PlaneFile
    ) -> tuple[ImageRecord, NDArray[Any]]:
        decoded = process_decoder().decode(data, WHOLE_PIXELS, self.reading.lossy_samples)
        decoded = take_channels(decoded, record.source.place, self.reading.channels)
        image = self.preprocessing.check(decoded.samples, decoded.valid)
        if self.reading.pixel_size_um is not None:  # raises if it cannot be resampled
            find_factors(decoded.pixel_size_um, self.reading.pixel_size_um)
        return record.with_decoded(decoded, image.shape[2]), np.ascontiguousarray(image)


def _blame_name(error: Exception, uri: str) -> Exception:
    """Return the error, made clearer for a TIFF of several images without the suffix of one."""
    is_stack = isinstance(error, ImageError) and error.error_type == "changed"
    if not is_stack or path_suffix(uri) in TIFF_SUFFIXES:
        return error
    return ImageError("unsupported", "a TIFF of several images; give it the suffix .tif")


def _give_up(record: ImageRecord) -> tuple[ImageRecord, None]:
    """Return the record of an image whose file is still being read."""
    error = ImageError("network", f"reading it took longer than {_READ_S:.0f} s")
    return record.fail(error, "read"), None


def _is_too_large(error: Exception) -> bool:
    """Tell whether an error means that the predict stage must read the image in windows."""
    return isinstance(error, ImageError) and error.error_type == "too_large"
