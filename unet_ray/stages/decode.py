"""Plan → pixels: files read and decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from unet_ray.archive.storage import Storage
from unet_ray.encoded_images import read_encoded
from unet_ray.errors import ImageError
from unet_ray.imaging.decoder import Decoder
from unet_ray.imaging.windows import WHOLE_BYTES, WHOLE_PIXELS
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.stages.ahead import ahead
from unet_ray.stages.columns import PIXELS, failure, place_of, table_with

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
        """Decode images in the order of the plan, several at a time."""
        pending: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            for row in ahead(pool, self._decoded, plan.to_pylist(), _READ_THREADS):
                pending.append(row)
                if sum(0 if row["pixels"] is None else row["pixels"].nbytes for row in pending) >= self.block_bytes:
                    yield table_with(pending, PIXELS, "pixels")
                    pending = []
        if pending:
            yield table_with(pending, PIXELS, "pixels")

    def _decoded(self, row: dict[str, Any]) -> dict[str, Any]:
        place = place_of(row)
        if (row["image_bytes"] if place is None else place.size) > WHOLE_BYTES:
            return row | _NO_PIXELS
        started = time.perf_counter()
        uri, etag = row["file_uri"], row["image_etag"] if self.check_etags else None
        stage = "read"
        try:
            data = read_encoded(self.access, uri, place, etag)
            stage = "decode"
            image = self.preprocessing.check(_decoder().decode(data, WHOLE_PIXELS))
            height, width, channels = image.shape
            found = {"height": height, "width": width, "channels": channels, "pixels": np.ascontiguousarray(image)}
        except Exception as error:
            is_large = isinstance(error, ImageError) and error.error_type == "too_large" and stage == "decode"
            found = _NO_PIXELS | ({} if is_large else failure(error, stage))
        return row | found | {"decode_s": time.perf_counter() - started}
