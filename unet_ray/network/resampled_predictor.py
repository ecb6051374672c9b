"""Prediction at another pixel size than the image's own.

    image ─▶ resampled image ─▶ tiles ─▶ network ─▶ probabilities of the resampled image
                                                 ─▶ probabilities of the image's own pixels

The resampled image is never whole in memory. Each tile computes the part that the network reads,
and predicts as many pixels around its core as resampling back needs. A pixel of the image belongs
to the tile whose core, in the resampled image, holds the pixel's centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_ray.imaging.geometry import Box, fold_box
from unet_ray.imaging.resampling import Pixels, Resampling
from unet_ray.imaging.tiling import Tile
from unet_ray.network.predictor import Predictor

_BAND_PIXELS = 2**22
"""Pixels of the image that are read at a time, 12 to 50 MB. A tile may need far more of them if the
resampled image is coarser."""

ReadPixels = Callable[[Box], Pixels]
"""Function that reads a box inside the image; samples as `Preprocessing.check` returns them."""


@dataclass(frozen=True)
class TilePixels:
    """Pixels that the network reads for a tile."""

    samples: NDArray[Any]
    """Samples of the tile's `read` box; (H, W, C)."""
    valid: NDArray[np.bool_] | None
    """True where a pixel of the tile's `predicted` box is valid; (H, W). None: all are."""
    resampling: Resampling


class ResampledPredictor:
    """A predictor of images that are resampled for the network, each in its own way.

    The results are those of the image's own pixels. If a resampling changes nothing, they equal the
    predictor's bit for bit.

    Args:
        predictor: Predictor of images that are not resampled.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict_timed(
        self, images: Sequence[Pixels], resamplings: Sequence[Resampling]
    ) -> tuple[list[NDArray[np.uint8]], float]:
        """Predict images and measure the computing time.

        Args:
            images: Images; samples as `Preprocessing.check` returns them.
            resamplings: Resampling of each image.

        Returns:
            prob_u8 of each image's own pixels, (num_classes, H, W) uint8, and the computing time,
            as of `Predictor.predict_timed` (s).
        """
        pairs = list(zip(images, resamplings, strict=True))
        plain = [image.samples for image, resampling in pairs if resampling.is_identity]
        found, seconds = self.predictor.predict_timed(plain) if plain else ([], 0.0)
        done = iter(found)
        outputs = []
        jobs = []
        for image, resampling in pairs:
            if resampling.is_identity:
                outputs.append(next(done))
                continue
            height, width = image.samples.shape[:2]
            output = self.predictor.blank(height, width)
            outputs.append(output)
            for tile in self._cut(resampling, halo=0):
                job = _Job(
                    predictor=self,
                    tile=tile,
                    resampling=resampling,
                    image=image,
                    output_khw=output,
                )
                jobs.append(job)
        if jobs:
            seconds += self.predictor.run(jobs, rounded=False)
        return outputs, seconds

    def tiles(self, resampling: Resampling) -> list[Tile]:
        """Return the tiles of an image, row by row, each with the configured halo.

        The boxes `read` and `predicted` are those of the resampled image, `core` and `extended`
        those of the image.

        Args:
            resampling: Resampling of the image.
        """
        return self._cut(resampling, self.predictor.config.halo)

    def _cut(self, resampling: Resampling, halo: int) -> list[Tile]:
        height, width = resampling.resampled_size
        if resampling.is_identity:
            return self.predictor.cut(height, width, halo)
        # If the resampled image is coarser, a tile has fewer pixels, so that it never covers more
        # of the image than without resampling.
        # One more pixel is read, to find out whether regions touch no data.
        around = resampling.halo(halo + 1)
        tiles = self.predictor.cut(height, width, around, resampling.coarseness)
        mapped = []
        for tile in tiles:
            core = resampling.centred(tile.core)
            if core.height > 0 and core.width > 0:
                extended = core.grown(halo, resampling.rows.size, resampling.columns.size)
                mapped.append(replace(tile, core=core, extended=extended))
        return mapped

    def read_tile(self, read: ReadPixels, tile: Tile, resampling: Resampling) -> TilePixels:
        """Read the pixels that the network needs for a tile.

        Args:
            read: Function that reads a box of the image.
            tile: Tile of the image.
            resampling: Resampling of the image.

        Returns:
            Pixels with context.
        """
        height, width = resampling.resampled_size
        if resampling.is_identity:
            samples = self.predictor.read_tile(lambda box: read(box).samples, height, width, tile)
            return TilePixels(samples, None, resampling)
        mirror = self.predictor.network.config.margin > 0
        inside, rows, columns = fold_box(tile.read, height, width, mirror)
        pixels = _read_resampled(read, inside, resampling)
        valid = pixels.valid
        if valid is not None:
            # as in images that are not resampled: 0 after normalisation
            pixels.samples[~valid] = self.predictor.preprocessing.offset
            valid = valid[_slices(tile.predicted, inside)]
        return TilePixels(pixels.samples[rows][:, columns], valid, resampling)

    def predict_tile(self, pixels: TilePixels, tile: Tile) -> NDArray[np.uint8]:
        """Predict a tile in the calling thread.

        Args:
            pixels: Pixels that `read_tile` returned for the tile.
            tile: Tile to predict.

        Returns:
            prob_u8 of the tile's core and halo in the image; (num_classes, H, W) uint8.
        """
        if pixels.resampling.is_identity:
            return self.predictor.predict_tile(pixels.samples, tile)
        found = self.predictor.predict_tile(pixels.samples, tile, rounded=False)
        return _resample_back(found, pixels.valid, tile, pixels.resampling)


@dataclass
class _Job:
    """A tile of an image that is in memory."""

    predictor: ResampledPredictor
    tile: Tile
    resampling: Resampling
    image: Pixels
    output_khw: NDArray[np.uint8]
    _valid: NDArray[np.bool_] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self) -> NDArray[Any]:
        read = self.predictor.read_tile(self.image.cut, self.tile, self.resampling)
        self._valid = read.valid
        return read.samples

    def keep(self, found_khw: NDArray[Any]) -> None:
        core = self.tile.core
        prob_u8 = _resample_back(found_khw, self._valid, self.tile, self.resampling)
        self.output_khw[:, core.top : core.bottom, core.left : core.right] = prob_u8


def _read_resampled(read: ReadPixels, box: Box, resampling: Resampling) -> Pixels:
    """Compute a box of the resampled image band by band."""
    bands = []
    for band in resampling.bands(box, _BAND_PIXELS):
        pixels = read(resampling.needed(band))
        bands.append(resampling.resample(pixels, band))
    if len(bands) == 1:
        return bands[0]
    samples = np.concatenate([band.samples for band in bands])
    if all(band.valid is None for band in bands):
        return Pixels(samples, None)
    valid = np.ones(samples.shape[:2], bool)
    top = 0
    for pixels in bands:
        bottom = top + len(pixels.samples)
        if pixels.valid is not None:
            valid[top:bottom] = pixels.valid
        top = bottom
    return Pixels(samples, valid)


def _resample_back(
    found_khw: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    tile: Tile,
    resampling: Resampling,
) -> NDArray[np.uint8]:
    """Return prob_u8 of a tile's core and halo in the image.

    Args:
        found_khw: 255·probability of the tile's `predicted` box, in the resampled image.
        valid: Valid pixels of that box; None: all are valid.
        tile: The tile.
        resampling: Resampling of the image.

    Returns:
        prob_u8, rounded once; 0 where no resampled pixel is valid; (K, H, W).
    """
    needed = resampling.inverse.needed(tile.extended)
    part = _slices(needed, tile.predicted)
    samples = found_khw[:, *part].transpose(1, 2, 0)
    pixels = Pixels(samples, None if valid is None else valid[part])
    own = resampling.inverse.resample(pixels, tile.extended, least=0).samples
    return np.rint(np.clip(own, 0, 255)).astype(np.uint8).transpose(2, 0, 1)


def _slices(box: Box, origin: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box in an array that holds the box `origin`."""
    assert origin.top <= box.top <= box.bottom <= origin.bottom
    assert origin.left <= box.left <= box.right <= origin.right
    top = box.top - origin.top
    left = box.left - origin.left
    return slice(top, top + box.height), slice(left, left + box.width)
