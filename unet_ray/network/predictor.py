"""Prediction: images in, probabilities per class out.

A predictor cuts images into tiles and batches, and runs the network's forward pass on a device.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unet_ray.errors import ImageError, one_line
from unet_ray.imaging.geometry import Box, read_box, read_frame
from unet_ray.imaging.tiling import Tile, cut_tiles
from unet_ray.network.config import PredictorConfig, effective_context, up_to_multiple
from unet_ray.network.cuda_graphs import BatchGraphs
from unet_ray.network.devices import is_out_of_memory
from unet_ray.network.preprocessing import Preprocessing
from unet_ray.network.unet import UNet

_Shape = tuple[int, int, Box]
"""Shape that all tiles of a batch share: height and width of the pixels that are read (px), and the
part of the output that is computed."""

_BATCH_PIXELS_GPU = 2 * 2**20
"""Pixels of one batch on a GPU. An H200 is as fast with 4 images of 512² px as with 64, and short
batches waste less. On a CPU a batch is one tile, which is as fast and needs the least memory."""
_MAX_BATCH = 64
"""Largest number of tiles in a batch."""
_LANES_GPU = 3
"""Lanes on a GPU. While one computes, the pixels and results of the others are copied between host
and device."""
_WHOLE_TILES = 2
"""Largest size, in tiles, of an image that is predicted in one piece. Each cut costs its context
twice: a third of the work for camera frames of 1920×1080 px."""
_LANE_BYTES = 3 * 2**30
"""Memory that the activations of all lanes may take on a CPU (bytes)."""
_ACTIVATIONS = 10
"""Activations that one forward pass holds at a time, in planes per channel of the first level;
approximate, measured."""


class TileJob(Protocol):
    """A tile to predict, which knows where its pixels are and where its result goes."""

    @property
    def tile(self) -> Tile:
        """The tile."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the samples."""

    def read(self) -> NDArray[Any]:
        """Return the pixels that the network reads; (H, W, C)."""

    def keep(self, found_khw: NDArray[Any]) -> None:
        """Store the network's output for `tile.predicted`; the array is valid only in this call."""


@dataclass(frozen=True)
class _ArrayJob:
    """A tile of an image that is in memory."""

    tile: Tile
    image_hwc: NDArray[Any]
    output_khw: NDArray[np.uint8]
    mirror: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.image_hwc.dtype

    def read(self) -> NDArray[Any]:
        return read_box(self.image_hwc, self.tile.read, self.mirror)

    def keep(self, found_khw: NDArray[Any]) -> None:
        core = self.tile.core
        self.output_khw[:, core.top : core.bottom, core.left : core.right] = found_khw


class Predictor:
    """A network that is ready to predict images of any size.

    Args:
        network: Trained network; a copy of it is prepared for inference.
        preprocessing: Preprocessing of its training.
        config: Tiles, device and arithmetic.
    """

    def __init__(
        self, network: UNet, preprocessing: Preprocessing, config: PredictorConfig
    ) -> None:
        self.preprocessing = preprocessing
        self.config = config
        self._unet = network.config
        self._tile = up_to_multiple(config.tile, self._unet.multiple)
        self._context = effective_context(self._unet, config)
        self._most = 1 if config.device == "cpu" else _MAX_BATCH
        self._whole_tiles = self._limit_whole_tiles(config)
        self.lane_count = self._count_lanes(config)
        threads = torch.get_num_threads()
        if config.threads:
            threads = max(1, config.threads // self.lane_count)
        self._device = torch.device("cpu")
        if config.device == "cuda":
            # The GPU chosen in this thread is unknown in a lane, which is another thread.
            self._device = torch.device("cuda", torch.cuda.current_device())
        self.lanes = ThreadPoolExecutor(
            self.lane_count, "lane", _start_lane, (self._device, threads)
        )
        """Threads that forward passes run in; all callers share them. On a CPU several tiles with
        few threads each are faster than one tile with many threads, which wait for each other after
        every layer. On a GPU each lane has its own stream."""
        self._graphs: BatchGraphs | None = None
        """CUDA graphs of each lane; None on a CPU."""
        self.batch_divisor = 1
        """Divisor of the batch size; doubled whenever memory runs out."""
        self._halving = threading.Lock()
        self._dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        self.network = self._place(_fold(network))
        """Network with batch normalisation folded, on its device and in its precision."""
        if config.device == "cuda":
            self.network = self._fuse_if_possible(self.network)
            self._graphs = BatchGraphs(self._device)
            # The lanes' streams do not wait for the stream that copied the weights. Waiting for the
            # whole device instead would spoil a graph that a lane of another predictor captures.
            torch.cuda.current_stream().synchronize()

    def _place(self, network: UNet) -> UNet:
        return network.to(self._device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def _fuse_if_possible(self, network: UNet) -> UNet:
        """Fuse layers of the network; return it unchanged if the kernels cannot be built."""
        try:
            from unet_ray.network.fused_unet import FusedUNet

            fused = self._place(FusedUNet(network))
            side = self._unet.input_sizes.input_size(1)
            shape = 1, self._unet.in_channels, side, side
            blank = torch.zeros(shape, dtype=self._dtype, device=self._device)
            fused(blank.contiguous(memory_format=torch.channels_last))
        except Exception as error:  # whatever a lack of Triton, its C compiler or cuDNN raises
            warnings.warn(
                f"the network runs unfused, a third slower: {one_line(error)}", stacklevel=2
            )
            return network
        return fused

    def _count_lanes(self, config: PredictorConfig) -> int:
        if config.device == "cuda":
            return _LANES_GPU
        if not config.threads:
            return 1
        side = self._tile + 2 * max(self._context, self._unet.margin)
        largest_px = max(side**2, self._whole_tiles * self._frame_pixels)
        return max(1, min(config.threads, _LANE_BYTES // self._bytes(largest_px)))

    def _limit_whole_tiles(self, config: PredictorConfig) -> int:
        """Return the largest number of tiles of an image that is predicted in one piece.

        It is 0 if tiles are not exact, or if such an image does not fit into memory.
        """
        is_exact = self._unet.margin > 0 or self._context >= self._unet.exact_context
        activations_bytes = self._bytes(_WHOLE_TILES * self._frame_pixels)
        fits = config.device == "cuda" or activations_bytes <= _LANE_BYTES
        return _WHOLE_TILES if is_exact and fits else 0

    @property
    def _frame_pixels(self) -> int:
        return self._unet.input_sizes.input_size(self._tile) ** 2

    def _bytes(self, pixels: int) -> int:
        """Estimate the memory of the activations for a number of pixels on a CPU (bytes)."""
        return _ACTIVATIONS * 4 * self._unet.base_channels * pixels

    def predict(self, images: Sequence[NDArray[Any]]) -> list[NDArray[np.uint8]]:
        """Predict images.

        Tiles share a batch only if they have the same shape, the same sample type, and the same
        position within the pixels that are read.

        Args:
            images: Images as `Preprocessing.check` returns them; (H, W, C) each.

        Returns:
            prob_u8 = round(255·probability) of each image; (num_classes, H, W) uint8.
        """
        return self.predict_timed(images)[0]

    def predict_timed(
        self, images: Sequence[NDArray[Any]]
    ) -> tuple[list[NDArray[np.uint8]], float]:
        """Predict images and measure the computing time.

        Args:
            images: Images as `Preprocessing.check` returns them; (H, W, C) each.

        Returns:
            The result of `predict`, and the time that all lanes together need for it, without time
            spent waiting (s).
        """
        outputs = []
        jobs = []
        for image in images:
            height, width = image.shape[:2]
            output = self.blank(height, width)
            outputs.append(output)
            for tile in self.cut(height, width, halo=0):
                jobs.append(_ArrayJob(tile, image, output, self._unet.margin > 0))
        return outputs, self.run(jobs)

    def blank(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return an array for the prob_u8 of an image; (num_classes, H, W) uint8."""
        return np.empty((self._unet.num_classes, height, width), np.uint8)

    def run(self, jobs: Sequence[TileJob], rounded: bool = True) -> float:
        """Predict tiles in all lanes; those of the same shape and sample type share batches.

        Args:
            jobs: Tiles, each of which reads its pixels and keeps its result.
            rounded: False: results are 255·probability in float32 instead of prob_u8.

        Returns:
            The computing time, as of `predict_timed` (s).
        """
        groups: dict[tuple[Any, _Shape], list[TileJob]] = defaultdict(list)
        for job in jobs:
            groups[job.dtype, self._batch_shape(job.tile)].append(job)
        work: list[tuple[_Shape, list[TileJob]]] = []
        for (_, shape), members in groups.items():
            size = self._batch_size(shape)
            for first in range(0, len(members), size):
                work.append((shape, members[first : first + size]))
        predict_some = partial(self._predict_some, rounded=rounded)
        shapes = [shape for shape, _ in work]
        batches = [batch for _, batch in work]
        seconds = sum(self.lanes.map(predict_some, shapes, batches))
        return seconds / self.lane_count

    def _predict_some(self, shape: _Shape, jobs: Sequence[TileJob], rounded: bool) -> float:
        """Predict tiles of one shape in batches that fit into memory.

        Returns:
            The time that it took (s).

        Raises:
            ImageError: The network's output for a tile is not finite.
        """
        started = time.perf_counter()
        while jobs:
            size = self._batch_size(shape)
            batch = jobs[:size]
            reads = [job.read() for job in batch]
            try:
                found = self._forward(reads, size, shape[2], rounded)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    self._whole_tiles = 0  # another try will cut the image into tiles
                    raise
                with self._halving:
                    if self._batch_size(shape) >= size:  # else another lane has halved it
                        self._halve(size)
                continue
            for job, prob_u8 in zip(batch, found, strict=False):
                job.keep(self._crop_to_wanted(prob_u8, job.tile, shape))
            jobs = jobs[size:]
        return time.perf_counter() - started

    def tiles(self, height: int, width: int) -> list[Tile]:
        """Return the tiles of an image, row by row, each with the configured halo.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).
        """
        return self.cut(height, width, self.config.halo)

    def cut(self, height: int, width: int, halo: int, shrink: float = 1) -> list[Tile]:
        """Return the tiles of an image, row by row.

        Args:
            height: Height of the image (px).
            width: Width of the image (px).
            halo: Pixels around the core of a tile that are predicted with it (px).
            shrink: Divisor of the configured side of a tile, from 1.
        """
        tiles = cut_tiles(
            height=height,
            width=width,
            sizes=self._unet.input_sizes,
            tile=up_to_multiple(ceil(self._tile / shrink), self._unet.multiple),
            context=self._context,
            halo=halo,
            whole_tiles=self._whole_tiles,
        )
        return list(tiles)

    def read_tile(
        self, read: Callable[[Box], NDArray[Any]], height: int, width: int, tile: Tile
    ) -> NDArray[Any]:
        """Read the pixels that the network needs for a tile.

        Args:
            read: Function that reads a box inside the image, as `Preprocessing.check` returns it.
            height: Height of the image (px).
            width: Width of the image (px).
            tile: Tile of the image.

        Returns:
            Pixels with context; (H, W, C) of the image's dtype.
        """
        return read_frame(read, height, width, tile.read, mirror=self._unet.margin > 0)

    def predict_tile(
        self, pixels_hwc: NDArray[Any], tile: Tile, rounded: bool = True
    ) -> NDArray[Any]:
        """Predict a tile in the calling thread.

        Args:
            pixels_hwc: Pixels that `read_tile` returned for the tile.
            tile: Tile to predict.
            rounded: False: return 255·probability in float32 instead of prob_u8.

        Returns:
            prob_u8 of the tile's core and halo; (num_classes, H, W) uint8.
        """
        shape = self._batch_shape(tile)
        found = self._forward([pixels_hwc], 1, shape[2], rounded)[0]
        return self._crop_to_wanted(found, tile, shape).copy()

    def _batch_shape(self, tile: Tile) -> _Shape:
        """Return the shape that a tile shares with the tiles that can be in its batch.

        The part to compute is the tile's core and halo, extended to the pooling grid. Unpadded
        networks read just what their output needs, so the part is the whole output.
        """
        height, width = tile.read.height, tile.read.width
        margin, multiple = self._unet.margin, self._unet.multiple
        if margin:
            return height, width, Box(0, 0, height - 2 * margin, width - 2 * margin)
        return height, width, tile.wanted(margin).on_grid(multiple)

    def _crop_to_wanted(self, prob_u8_khw: NDArray[Any], tile: Tile, shape: _Shape) -> NDArray[Any]:
        """Cut a tile's core and halo out of the part that was computed for its shape."""
        box = tile.wanted(self._unet.margin)
        _, _, part = shape
        rows = slice(box.top - part.top, box.bottom - part.top)
        columns = slice(box.left - part.left, box.right - part.left)
        return prob_u8_khw[:, rows, columns]

    def _batch_size(self, shape: _Shape) -> int:
        height, width, _ = shape
        pixels = _BATCH_PIXELS_GPU // self.batch_divisor
        return max(1, min(self._most, pixels // (height * width)))

    def _halve(self, size: int) -> None:
        """Limit batches to half of a size from now on, as it would not fit the next time either."""
        self.batch_divisor *= 2
        self._most = size // 2
        if self._graphs:
            self._graphs = BatchGraphs(self._device)  # graphs of larger batches hold memory
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(
        self, reads: list[NDArray[Any]], batch_size: int, wanted: Box, rounded: bool
    ) -> NDArray[Any]:
        """Run the network on pixels of equal shape.

        Args:
            reads: Pixels of the tiles; (H, W, C) each.
            batch_size: Fixed size of the batch; blank tiles fill a short one.
            wanted: Part of the output to return.
            rounded: False: return 255·probability in float32 instead of prob_u8.

        Returns:
            prob_u8 of the wanted part; (batch_size, num_classes, H, W) uint8. The array is valid
            until the next forward pass in this thread.

        Raises:
            ImageError: The network's output is not finite.
        """
        shape = batch_size, *reads[0].shape
        dtype = torch.from_numpy(np.empty(0, reads[0].dtype)).dtype
        compute = self._quantize if rounded else self._infer
        graph = self._graphs.of(compute, (shape, dtype, wanted, rounded)) if self._graphs else None
        if graph:
            batch = graph.pixels
        else:
            batch = torch.empty(shape, dtype=dtype, pin_memory=self._graphs is not None)
        for place, read in zip(batch.numpy(), reads, strict=False):
            place[:] = read
        batch[len(reads) :] = 0
        if graph:
            prob_u8, sums = graph()
        else:
            on_device = batch.to(self._device, non_blocking=True)
            results = compute(on_device, wanted)
            copies = [result.to("cpu", non_blocking=True) for result in results]
            if self._device.type == "cuda":
                torch.cuda.current_stream().synchronize()  # waits for both copies
            prob_u8, sums = [copy.numpy() for copy in copies]
        if not np.isfinite(sums[: len(reads)]).all():
            # Samples that are too large were refused before, so the model or the machine is to
            # blame. The error is `internal`, so that the next run tries again.
            raise ImageError(
                "internal",
                "the network's output is NaN or infinite; weights or samples are too large for its "
                "arithmetic",
            )
        return prob_u8

    def _quantize(self, batch_nhwc: Tensor, wanted: Box) -> tuple[Tensor, Tensor]:
        """Return prob_u8 of the wanted part of a batch, and the sum of logits of each tile."""
        scaled, sums = self._infer(batch_nhwc, wanted)
        return scaled.round_().to(torch.uint8), sums

    def _infer(self, batch_nhwc: Tensor, wanted: Box) -> tuple[Tensor, Tensor]:
        """Return 255·probability of the wanted part of a batch, and the sum of logits of each tile.

        Everything is on the device. A sum is finite only if all of its logits are; prob_u8 does not
        show this, because NaN becomes 0.
        """
        images = batch_nhwc.permute(0, 3, 1, 2)
        inputs = self.preprocessing.apply(images).to(self._dtype, memory_format=torch.channels_last)
        logits = self.network(inputs, wanted).float()
        sums = logits.sum(dim=(1, 2, 3))
        return logits.sigmoid_().mul_(255), sums


def _start_lane(device: torch.device, threads: int) -> None:
    """Set a thread up as a lane.

    This is not a method, because a lane that holds its predictor would keep it alive.
    """
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))


def clear_missing(
    prob_u8_khw: NDArray[np.uint8], valid_hw: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """Set the probabilities of invalid pixels to 0, and return all.

    Args:
        prob_u8_khw: Probabilities, changed in place.
        valid_hw: Valid pixels; None: all are valid.
    """
    if valid_hw is not None:
        prob_u8_khw[:, ~valid_hw] = 0
    return prob_u8_khw


def _fold(network: UNet) -> UNet:
    """Copy a network for inference, with batch normalisation folded into the convolutions."""
    folded = UNet(network.config)
    folded.load_state_dict(network.state_dict())
    folded.eval()
    for level in [*folded.contracting, *folded.expansive]:
        assert isinstance(level, nn.Sequential)
        for index in range(len(level) - 1):
            convolution, norm = level[index], level[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                level[index] = fuse_conv_bn_eval(convolution, norm)
                level[index + 1] = nn.Identity()
    return folded
