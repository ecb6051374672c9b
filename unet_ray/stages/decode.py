"""Plan → pixels: files read and decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from unet_ray.archive.image_files import read_file
from unet_ray.archive.storage import Storage
from unet_ray.errors import ImageError
from unet_ray.imaging.decoder import Decoder
from unet_ray.imaging.windows import WHOLE_BYTES, WHOLE_PIXELS
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.stages.ahead import ahead
from unet_ray.stages.columns import PIXELS, failure, table_with

_READ_THREADS = 8
_NO_PIXELS: dict[str, Any] = {"pixels": None, "decode_s": 0.0}
"""Of a failed image, or without an error of a large one: whoever predicts that reads it in windows."""


@cache
def _decoder() -> Decoder:
    """Return this process's decoder; its child ends with the process."""
    return Decoder()


@dataclass(frozen=True)
class Decode:
    """Reads and decodes each image of a plan; yields tables of PIXELS of a bounded size."""

    access: Storage
    preprocessing: Preprocessing
    check_etags: bool
    """Whether the plan's etags are the store's: a file with another one has changed since."""
    block_bytes: int
    """Decoded pixels that go on together, at least."""

    def __call__(self, plan: Any) -> Iterator[Any]:
        """Decode images in the order of the plan, several files at a time."""
        files = [list(rows) for _, rows in groupby(plan.to_pylist(), key=lambda row: row["file_uri"])]
        pending: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for rows in ahead(pool, self._decode_file, files, _READ_THREADS):
                pending += rows
                if sum(0 if row["pixels"] is None else row["pixels"].nbytes for row in pending) >= self.block_bytes:
                    yield table_with(pending, PIXELS, "pixels")
                    pending = []
        if pending:
            yield table_with(pending, PIXELS, "pixels")

    def _decode_file(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Read a file once and decode those of its pages that the plan wants."""
        if rows[0]["image_bytes"] > WHOLE_BYTES:
            return [row | _NO_PIXELS for row in rows]
        started = time.perf_counter()
        try:
            data = read_file(self.access, rows[0]["file_uri"], rows[0]["image_etag"] if self.check_etags else None)
        except Exception as error:
            return [row | failure(error, "read") | _NO_PIXELS for row in rows]
        read_s = (time.perf_counter() - started) / len(rows)
        return [self._decode(row, data, read_s) for row in rows]

    def _decode(self, row: dict[str, Any], data: bytes, read_s: float) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            image = self.preprocessing.check(_decoder().decode(data, row["page"], WHOLE_PIXELS))
            height, width, channels = image.shape
            found = {"height": height, "width": width, "channels": channels, "pixels": np.ascontiguousarray(image)}
        except Exception as error:
            is_large = isinstance(error, ImageError) and error.error_type == "too_large"
            found = _NO_PIXELS | ({} if is_large else failure(error, "decode"))
        return row | found | {"decode_s": read_s + time.perf_counter() - started}
