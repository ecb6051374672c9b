"""The path of one large image, tile by tile: windows → prob_u8 → rows. It is never whole in memory.

    windows (a thread reads them from the decoder's child process)
      ─▶ network
      ─▶ run lengths and regions of tiles (a thread)
      ─▶ merged regions

Only small things are kept: run lengths, finished regions, and regions that touch a seam.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.image_sources.encoded import open_encoded
from unet_ray.image_sources.image_files import check_unchanged
from unet_ray.imaging.codecs.raster import MAX_PIXELS_PER_BYTE
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.merge import RegionMerger
from unet_ray.imaging.regions.tile_regions import TileRegions, find_tile_regions
from unet_ray.imaging.tiling import Tile
from unet_ray.network.predictor import Predictor, as_image_error, is_device_lost
from unet_ray.prefetch import ahead
from unet_ray.segmentation.stages.columns import PROBABILITIES, failure, image_place
from unet_ray.segmentation.stages.measure import Measure, nested_list
from unet_ray.storage.storage import Storage
from unet_ray.tables.schemas import MASKS, REGIONS

_AHEAD = 2
"""Number of windows that are read ahead, and of tiles that may wait to be measured."""
_CONCURRENT_IMAGES = 2
"""Large images that one process works on: one is read and measured while the other computes."""
_STORE_ERRORS = ("network", "missing", "denied", "changed")


@dataclass(frozen=True)
class PredictLarge:
    """Predicts and measures images in windows.

    Args:
        access: Storage that opens the URIs of the images.
        predictor: Predictor that cuts images into tiles and runs the network.
        measure: Stage that turns prob_u8 into rows.
        check_etags: True if the plan's etags are those of the store.
        post: Function that is called with tiles, (done, to do) since the last call.
    """

    access: Storage
    predictor: Predictor
    measure: Measure
    check_etags: bool
    post: Callable[[int, int], None]
    _places: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(_CONCURRENT_IMAGES)
    )

    def __call__(self, row: dict[str, Any]) -> Any:
        """Return an image's row of PROBABILITIES, with its masks and regions or its error."""
        with self._places:
            return self._predict(_LargeImage(self, row))

    def _predict(self, image: _LargeImage) -> Any:
        try:
            image.work()
            found = {
                "masks": nested_list([image.masks()], MASKS),
                "regions": nested_list([image.regions()], REGIONS),
            }
        except Exception as error:
            if is_device_lost(error):
                raise
            image.row |= failure(as_image_error(error), _name_stage(error, image.failed_at))
            found = {}
        finally:
            image.close()
        image.row |= {"batch_divisor": self.predictor.batch_divisor}
        plain = pa.Table.from_pylist([image.row], schema=PROBABILITIES)
        for name, rows in found.items():
            plain = plain.set_column(
                PROBABILITIES.get_field_index(name), PROBABILITIES.field(name), rows
            )
        return plain


def _name_stage(error: Exception, stage: str) -> str:
    return "read" if isinstance(error, ImageError) and error.error_type in _STORE_ERRORS else stage


@dataclass
class _LargeImage:
    """State of one image while its tiles are processed."""

    config: PredictLarge
    row: dict[str, Any]
    failed_at: str = "measure"
    """Stage that failed."""
    decoder: Decoder = field(default_factory=Decoder)
    mask_rows: list[dict[str, Any]] = field(default_factory=list)
    mergers: list[RegionMerger] = field(default_factory=list)
    _adding: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        """Predict and measure every tile."""
        config, row = self.config, self.row
        row |= {"predict_s": 0.0, "measure_s": 0.0}
        etag = row["image_etag"] if config.check_etags else None
        file = open_encoded(config.access, row["file_uri"], image_place(row), etag)
        row |= {"image_bytes": file.size}
        with self._at("decode"):
            height, width = self.decoder.open(file)
            if height * width > MAX_PIXELS_PER_BYTE * row["image_bytes"]:
                size = f"{width}×{height} px out of {row['image_bytes']} bytes"
                raise ImageError("too_large", f"{size}: a decompression bomb")
        row |= {"height": height, "width": width}
        self.mergers = [
            RegionMerger(height, width, config.measure.max_regions) for _ in config.measure.classes
        ]
        tiles = config.predictor.tiles(height, width)
        config.post(0, len(tiles))
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as measuring:
            windows, predictor = ahead(reading, self._read, tiles, _AHEAD), config.predictor
            predicted = ahead(predictor.lanes, self._predict, windows, predictor.lane_count)
            for measured in ahead(measuring, self._measure, predicted, _AHEAD):
                self._keep(measured)
                config.post(1, 0)
        if config.check_etags:
            check_unchanged(config.access, row["file_uri"], row["image_etag"])

    def _read(self, tile: Tile) -> tuple[Tile, NDArray[Any]]:
        with self._at("decode"), self._timed("decode_s"):
            pixels = self.config.predictor.read_tile(
                self._window, self.row["height"], self.row["width"], tile
            )
        return tile, pixels

    def _window(self, box: Box) -> NDArray[Any]:
        window = self.decoder.window(box)
        self.row["channels"] = window.samples.shape[2]
        return self.config.predictor.preprocessing.check(window.samples)

    def _predict(self, window: tuple[Tile, NDArray[Any]]) -> tuple[Tile, NDArray[np.uint8]]:
        tile, pixels = window
        predictor = self.config.predictor
        with self._at("predict"), self._timed("predict_s", predictor.lane_count):
            prob_u8 = predictor.predict_tile(pixels, tile)
        return tile, prob_u8

    def _measure(
        self, predicted: tuple[Tile, NDArray[np.uint8]]
    ) -> list[tuple[dict[str, Any], TileRegions]]:
        tile, prob_u8_khw = predicted
        measure, size, found = self.config.measure, (self.row["height"], self.row["width"]), []
        with self._at("measure"), self._timed("measure_s"):
            for index in range(len(measure.classes)):
                mask, separated = measure.rule.cut(index, prob_u8_khw, tile.inner)
                row = measure.mask_row(self.row["image_uri"], index, mask, tile.core)
                prob_u8 = np.ascontiguousarray(prob_u8_khw[index][tile.inner])
                found.append((row, find_tile_regions(separated, prob_u8, tile.core, *size)))
        return found

    def _keep(self, measured: list[tuple[dict[str, Any], TileRegions]]) -> None:
        for merger, (mask_row, regions) in zip(self.mergers, measured, strict=True):
            self.mask_rows.append(mask_row)
            merger.add(regions)

    def masks(self) -> Any:
        """Return the rows of the masks table, class by class and tile by tile."""
        ordered = sorted(self.mask_rows, key=lambda row: (row["class_id"], row["top"], row["left"]))
        return pa.Table.from_pylist(ordered, schema=MASKS)

    def regions(self) -> Any:
        """Return the rows of the regions table."""
        with self._timed("measure_s"):
            measure = self.config.measure
            found = [
                merger.regions(limits)
                for merger, limits in zip(self.mergers, measure.rule.least, strict=True)
            ]
            return measure.region_rows(self.row["image_uri"], found)

    @contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        """Remember the stage of an error, as stages run concurrently."""
        try:
            yield
        except Exception:
            self.failed_at = stage
            raise

    @contextmanager
    def _timed(self, column: str, concurrency: int = 1) -> Iterator[None]:
        started = time.perf_counter()
        yield
        with self._adding:
            self.row[column] += (time.perf_counter() - started) / concurrency

    def close(self) -> None:
        """End the decoder's child process."""
        self.decoder.close()
