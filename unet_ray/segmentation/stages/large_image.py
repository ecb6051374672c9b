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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unet_ray.errors import ImageError
from unet_ray.image_sources.content_hash import hash_stored
from unet_ray.image_sources.encoded import open_encoded
from unet_ray.image_sources.image_files import check_unchanged
from unet_ray.imaging.channels import take_channels, take_pages
from unet_ray.imaging.codecs.alpha import AlphaCounts
from unet_ray.imaging.codecs.decoded_image import DecodedImage
from unet_ray.imaging.codecs.range_file import RangeFile
from unet_ray.imaging.codecs.sandbox import Decoder
from unet_ray.imaging.geometry import Box
from unet_ray.imaging.regions.merge import RegionMerger
from unet_ray.imaging.regions.regions import find_beside_no_data
from unet_ray.imaging.regions.tile_regions import TileRegions, find_tile_regions
from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.imaging.tiling import Tile
from unet_ray.limits import MAX_PIXELS_PER_BYTE
from unet_ray.network.devices import as_image_error, is_device_lost
from unet_ray.network.predictor import (
    Predictor,
    clear_missing,
)
from unet_ray.network.resampled_predictor import ResampledPredictor, TilePixels
from unet_ray.prefetch import ahead
from unet_ray.segmentation.stages.columns import (
    MASK_ROWS,
    REGION_ROWS,
    nested_list,
    probability_table,
    with_measured,
)
from unet_ray.segmentation.stages.image_reading import ImageReading
from unet_ray.segmentation.stages.image_record import ImageRecord
from unet_ray.segmentation.stages.measure import Measure

_AHEAD = 2
"""Number of windows that are read ahead, and of tiles that may wait to be measured."""
_CONCURRENT_IMAGES = 2
"""Large images per process: one is read and measured while the other is predicted."""
_STORE_ERRORS = ("network", "missing", "denied", "archived", "changed")
"""Types of errors that are of the stage `read`, wherever they come up."""


@dataclass(frozen=True)
class PredictLarge:
    """Predicts and measures images in windows.

    Args:
        reading: Settings by which images are read.
        predictor: Predictor that cuts images into tiles and runs the network.
        measure: Stage that turns prob_u8 into rows.
        post: Function that is called with numbers of tiles, (done, to do) since the last call.
    """

    reading: ImageReading
    predictor: Predictor
    measure: Measure
    post: Callable[[int, int], None]
    _places: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(_CONCURRENT_IMAGES)
    )

    def __call__(self, record: ImageRecord) -> pa.Table:
        """Return an image's row of PROBABILITIES, with its masks and regions or its error."""
        with self._places:
            return self._predict(_LargeImage(self, record))

    def _predict(self, image: _LargeImage) -> pa.Table:
        try:
            image.work()
            masks = nested_list([image.masks()], MASK_ROWS)
            regions = nested_list([image.regions()], REGION_ROWS)
        except Exception as error:
            if is_device_lost(error):
                raise
            is_of_store = isinstance(error, ImageError) and error.error_type in _STORE_ERRORS
            stage = "read" if is_of_store else image.failed_at
            return self._table(image.record.fail(as_image_error(error), stage))
        finally:
            image.close()
        return with_measured(self._table(image.record), masks, regions)

    def _table(self, record: ImageRecord) -> pa.Table:
        record = replace(record, batch_divisor=self.predictor.batch_divisor)
        return probability_table([(record, None)])


@dataclass(frozen=True)
class _TileValid:
    """Valid pixels of a tile."""

    extended: NDArray[np.bool_]
    """Valid pixels of the core and its halo, HW."""
    beside_no_data: NDArray[np.bool_]
    """Pixels of the core that share a side with an invalid pixel, HW."""

    @staticmethod
    def of(
        windows: list[tuple[Box, NDArray[np.bool_]]], tile: Tile, height: int, width: int
    ) -> _TileValid:
        """Return the valid pixels of a tile, from those of its windows.

        Args:
            windows: Windows that may have invalid pixels, each with its valid pixels. Together with
                the fully valid windows they hold the extended core and, unless it ends at the
                image's edge, a pixel around it.
            tile: The tile.
            height: Height of the image (px).
            width: Width of the image (px).
        """
        around = tile.extended.grown(1, height, width)
        valid = np.ones((around.height, around.width), bool)
        for box, valid_hw in windows:
            shared = around.clipped(box)
            _cut(valid, around, shared)[:] = _cut(valid_hw, box, shared)
        beside = find_beside_no_data(valid)
        return _TileValid(_cut(valid, around, tile.extended), _cut(beside, around, tile.core))


def _cut(array_hw: NDArray[np.bool_], box: Box, part: Box) -> NDArray[np.bool_]:
    """Return a part of the image from an array that covers `box`."""
    return array_hw[
        part.top - box.top : part.bottom - box.top, part.left - box.left : part.right - box.left
    ]


@dataclass
class _LargeImage:
    """State of one image while its tiles are processed."""

    config: PredictLarge
    record: ImageRecord
    """Record of the image so far; the threads that work on it replace it in turn."""
    failed_at: str = "measure"
    """Stage that failed."""
    decoder: Decoder = field(default_factory=Decoder)
    mask_rows: list[dict[str, Any]] = field(default_factory=list)
    mergers: list[RegionMerger] = field(default_factory=list)
    alpha: AlphaCounts | None = None
    """Alpha of the cores that were read; None: the image has none."""
    _replacing: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        """Predict and measure every tile; again if alpha turns out to leave out no pixel."""
        reading, source = self.config.reading, self.record.source
        etag = source.etag if reading.check_etags else None
        with self._at("decode"):
            place = take_pages(source.place, reading.channels)
        file = open_encoded(reading.access, source.file_uri, place, etag)
        self._note(source=replace(source, size=file.size))
        self._work_through(file, is_opaque=False)
        if self.alpha is not None:
            with self._at("decode"):
                self.alpha.check()
            self._note(note="; ".join(self.alpha.notes) or None)
            height, width = self.record.size
            if self.alpha.is_opaque and self.record.valid_pixels != height * width:
                self._work_through(file, is_opaque=True)
        if reading.keep_hash and self.record.content_hash is None:
            with self._at("decode"):
                self._note(content_hash=hash_stored(reading.access, source.file_uri, place, etag))
        if reading.check_etags:
            check_unchanged(reading.access, source.file_uri, source.etag)

    def _work_through(self, file: RangeFile, is_opaque: bool) -> None:
        """Predict and measure every tile.

        Args:
            file: File of the image.
            is_opaque: True if the image's alpha is known to leave out no pixel.
        """
        config = self.config
        with self._at("decode"):
            height, width = self.decoder.open(file, is_opaque, config.reading.lossy_samples)
            if height * width > MAX_PIXELS_PER_BYTE * file.size:
                size = f"{width}×{height} px out of {file.size} bytes"
                raise ImageError("too_large", f"{size}: a decompression bomb")
        self._note(height=height, width=width, valid_pixels=0)
        self.mask_rows = []
        self.mergers = [
            RegionMerger(height, width, config.measure.max_regions) for _ in config.measure.classes
        ]
        resampling = self._find_resampling()
        tiles = self.predictor.tiles(resampling)
        config.post(0, len(tiles))
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as measuring:
            read = partial(self._read, resampling)
            windows, predictor = ahead(reading, read, tiles, _AHEAD), config.predictor
            predicted = ahead(predictor.lanes, self._predict, windows, predictor.lane_count)
            for measured in ahead(measuring, self._measure, predicted, _AHEAD):
                self._keep(measured)
                config.post(1, 0)

    @property
    def predictor(self) -> ResampledPredictor:
        """Predictor of tiles of the image's own pixels."""
        return ResampledPredictor(self.config.predictor)

    def _find_resampling(self) -> Resampling:
        """Return how the image is resampled for the network."""
        size, wanted_um = self.record.size, self.config.reading.pixel_size_um
        with self._at("decode"):
            own_um = self.decoder.window(Box(0, 0, 1, 1)).pixel_size_um if wanted_um else None
            return Resampling.to_pixel_size(*size, own_um, wanted_um)

    def _read(
        self, resampling: Resampling, tile: Tile
    ) -> tuple[Tile, TilePixels, _TileValid | None]:
        """Return the pixels of a tile, and which of them are valid; None: all are."""
        masks: list[tuple[Box, NDArray[np.bool_]]] = []
        uncounted = tile.core

        def read(box: Box) -> Pixels:
            """Read a window, and count alpha in the part that no earlier window of the tile had."""
            nonlocal uncounted
            part = uncounted.clipped(box)  # windows of a tile go down the image, and may overlap
            window = self._window(box, part)
            uncounted = replace(uncounted, top=max(uncounted.top, part.bottom))
            if window.valid is not None:
                masks.append((box, window.valid))
            samples = self.config.predictor.preprocessing.check(window.samples, window.valid)
            return Pixels(samples, window.valid)

        with self._at("decode"), self._timed("decode_s"):
            pixels = self.predictor.read_tile(read, tile, resampling)
        return tile, pixels, _TileValid.of(masks, tile, *self.record.size) if masks else None

    def _window(self, box: Box, counted: Box) -> DecodedImage:
        """Return a window of the image, and count alpha in a part of it."""
        has_counted = counted.height > 0 and counted.width > 0
        window = self.decoder.window(box, counted if has_counted else None)
        if window.alpha is not None and has_counted:
            self.alpha = window.alpha if self.alpha is None else self.alpha + window.alpha
        window = take_channels(window, self.record.source.place, self.config.reading.channels)
        self._note(channels=window.samples.shape[2], pixel_size_um=window.pixel_size_um)
        return window

    def _predict(
        self, window: tuple[Tile, TilePixels, _TileValid | None]
    ) -> tuple[Tile, NDArray[np.uint8], _TileValid | None]:
        tile, pixels, valid = window
        with self._at("predict"), self._timed("predict_s", self.config.predictor.lane_count):
            prob_u8 = self.predictor.predict_tile(pixels, tile)
        clear_missing(prob_u8, None if valid is None else valid.extended)
        return tile, prob_u8, valid

    def _measure(
        self, predicted: tuple[Tile, NDArray[np.uint8], _TileValid | None]
    ) -> list[tuple[dict[str, Any], TileRegions]]:
        tile, prob_u8_khw, valid = predicted
        measure, size, found = self.config.measure, self.record.size, []
        beside = None if valid is None else valid.beside_no_data
        self._add(
            "valid_pixels",
            tile.core.height * tile.core.width
            if valid is None
            else int(valid.extended[tile.inner].sum()),
        )
        with self._at("measure"), self._timed("measure_s"):
            for index in range(len(measure.classes)):
                mask, separated = measure.postprocessing.cut(index, prob_u8_khw, tile.inner)
                row = measure.mask_row(self.record.source.uri, index, mask, tile.core)
                prob_u8 = np.ascontiguousarray(prob_u8_khw[index][tile.inner])
                regions = find_tile_regions(separated, prob_u8, tile.core, *size, beside)
                found.append((row, regions))
        return found

    def _keep(self, measured: list[tuple[dict[str, Any], TileRegions]]) -> None:
        for merger, (mask_row, regions) in zip(self.mergers, measured, strict=True):
            self.mask_rows.append(mask_row)
            merger.add(regions)

    def masks(self) -> pa.Table:
        """Return the image's MASK_ROWS, class by class and tile by tile."""
        ordered = sorted(self.mask_rows, key=lambda row: (row["class_id"], row["top"], row["left"]))
        return pa.Table.from_pylist(ordered, schema=MASK_ROWS)

    def regions(self) -> pa.Table:
        """Return the image's REGION_ROWS."""
        with self._timed("measure_s"):
            measure = self.config.measure
            # the regions of a class are freed before those of the next class take as much memory
            rules = measure.postprocessing.rules
            found = (self.mergers.pop(0).regions(rule.filter) for rule in rules)
            return measure.region_rows(self.record.source.uri, found)

    def _note(self, **found: Any) -> None:
        """Set fields of the record."""
        with self._replacing:
            self.record = replace(self.record, **found)

    def _add(self, name: str, amount: float) -> None:
        """Add to a field of the record that is a sum."""
        with self._replacing:
            self.record = replace(self.record, **{name: getattr(self.record, name) + amount})

    @contextmanager
    def _at(self, stage: str) -> Iterator[None]:
        """Remember the stage of an error, because stages run concurrently."""
        try:
            yield
        except Exception:
            self.failed_at = stage
            raise

    @contextmanager
    def _timed(self, name: str, concurrency: int = 1) -> Iterator[None]:
        """Add the seconds of the `with` block to a field of the record."""
        started = time.perf_counter()
        yield
        self._add(name, (time.perf_counter() - started) / concurrency)

    def close(self) -> None:
        """End the decoder's child process."""
        self.decoder.close()
